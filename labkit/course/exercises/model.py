"""Exercises of the lesson on your own model: a training loop, and paths whose training differs from coding."""

from __future__ import annotations

import copy
import math
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from labkit import adoption, schedules, schemes, surrogates
from labkit.course.exercises.base import Answer, Exercise
from labkit.statistics import Array

Scheme = schemes.QuantizationScheme

# model.loop: a training loop for an adopted model


def train(model: Any, batches: list[Tensor], optimizer: torch.optim.Optimizer, lmbda: float) -> list[float]:
    """Train for one step per batch and return the losses."""
    from labkit import set_temperature

    losses = []
    model.train()
    for step, x in enumerate(batches):
        set_temperature(model, model.scheme.temperature(step, len(batches)))
        output = model(x)
        bits = -sum(torch.log2(p).sum() for p in output["likelihoods"].values())
        loss = bits / x[:, 0].numel() + lmbda * 255**2 * torch.mean((output["x_hat"] - x) ** 2)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def _adopted_model(seed: int) -> tuple[nn.Module, list[Tensor], float]:
    """Return a tiny factorized prior whose scheme draws no noise, so a loop has only one right result."""
    from compressai.models import FactorizedPrior

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = FactorizedPrior(4, 6).eval()
        with torch.no_grad():
            model.g_a[-1].weight.mul_(
                60
            )  # spreads latents over several integers, and makes the reconstruction depend on them
            model.g_s[0].weight.mul_(5)
            model.g_s[-1].bias.fill_(0.5)
        batches = list(torch.rand(4, 2, 3, 32, 32))
    soft = schemes.QuantizationScheme(
        surrogates.get("soft"), surrogates.get("soft"), temperature=schedules.exponential(1.0, 0.05)
    )
    return adoption.adopt(model, soft), batches, (0.002, 0.004, 0.008)[seed % 3]


def _losses_of(answer: Answer, model: nn.Module, batches: list[Tensor], lmbda: float) -> Array:
    """Return the losses of a loop on a copy of the model. The later losses depend on its updates."""
    model = copy.deepcopy(model)
    weights = [p for name, p in model.named_parameters() if not name.endswith("quantiles")]
    losses = answer(model, batches, torch.optim.SGD(weights, lr=1e-4), lmbda)
    return np.array([float(loss) for loss in losses])


def _losses_by_hand(model: Any, batches: list[Tensor], lmbda: float) -> list[float]:
    """Compute the same steps without training mode and optimizer: surrogate, likelihood and descent by hand."""
    model = copy.deepcopy(model).eval()
    weights = [p for name, p in model.named_parameters() if not name.endswith("quantiles")]
    bottleneck = model.entropy_bottleneck
    medians = bottleneck.quantiles[:, 0, 1].detach()[:, None, None]
    losses = []
    for i, x in enumerate(batches):
        alpha = 0.05 ** (-i / (len(batches) - 1))  # 1/τ rises from 1 to 20
        y = model.g_a(x) - medians
        middle = torch.floor(y).detach() + 0.5
        y_tilde = middle + torch.tanh(alpha * (y - middle)) / (2 * math.tanh(alpha / 2)) + medians
        chance, _, _ = bottleneck._likelihood(y_tilde.transpose(0, 1).reshape(y.size(1), 1, -1))
        nats = -chance.clamp(min=1e-9).log().sum()
        squares = (model.g_s(y_tilde) - x).square().sum() / x.numel()
        loss = nats / math.log(2) / (len(x) * x.size(2) * x.size(3)) + lmbda * 65025 * squares
        losses.append(loss.item())
        with torch.no_grad():
            for weight, slope in zip(weights, torch.autograd.grad(loss, weights), strict=True):
                weight.sub_(1e-4 * slope)
    return losses


def _wrong_loop(
    set_each_step: bool = True, training: bool = True, clear: bool = True, peak: float = 255.0, update: bool = True
) -> Answer:
    """Return a loop with one mistake."""

    def loop(model: Any, batches: list[Tensor], optimizer: torch.optim.Optimizer, lmbda: float) -> list[float]:
        from labkit import set_temperature

        losses = []
        model.train(training)
        for step, x in enumerate(batches):
            if set_each_step:
                set_temperature(model, model.scheme.temperature(step, len(batches)))
            output = model(x)
            bits = -sum(torch.log2(p).sum() for p in output["likelihoods"].values())
            loss = bits / x[:, 0].numel() + lmbda * peak**2 * torch.mean((output["x_hat"] - x) ** 2)
            if clear:
                optimizer.zero_grad()
            loss.backward()
            if update:
                optimizer.step()
            losses.append(loss.item())
        return losses

    return loop


# model.paths: paths on which training differs from coding


def parts(scheme: Scheme, temperature: float) -> list[bool]:
    """Return, for each path, whether training reads other values than the coder's ⌊y − μ⌉ + μ."""
    y, mean = 5 * torch.randn(1, 8, 32, 32), torch.rand(1, 8, 32, 32)
    coded = torch.round(y - mean) + mean
    answers = []
    for hyper in (False, True):
        for seen in scheme.quantize(y, mean, temperature, hyper=hyper):
            answers.append(not torch.allclose(seen, coded, atol=1e-4))
    return answers


def _scheme(seed: int) -> tuple[Scheme, float]:
    schemes_by_seed = (
        schemes.annealed(),
        schemes.QuantizationScheme(
            surrogates.get("uq"), surrogates.get("soft"), surrogates.get("sr"), surrogates.get("ds")
        ),
        schemes.straight_through(zero_center=False),
    )
    return schemes_by_seed[seed % 3], (0.5, 0.2, 1.0)[seed % 3]


def _as_numbers(answer: Answer, scheme: Scheme, temperature: float) -> Array:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return np.array([float(bool(each)) for each in answer(scheme, temperature)])


def _parts_by_name(scheme: Scheme, temperature: float) -> list[float]:
    """Decide by name: three surrogates round in the forward pass, and the center must match the coder's."""
    on_paths = (scheme.rate, scheme.distortion, scheme.hyper_rate, scheme.hyper_distortion)
    return [float(not scheme.zero_center or each.name not in ("round", "ste", "ds")) for each in on_paths]


def _integers_will_do(scheme: Scheme, temperature: float) -> list[bool]:
    y = 5 * torch.randn(1, 8, 32, 32)
    paths = [seen for hyper in (False, True) for seen in scheme.quantize(y, None, temperature, hyper=hyper)]
    return [not torch.allclose(seen, torch.round(seen), atol=1e-4) for seen in paths]


def _only_noise_counts(scheme: Scheme, temperature: float) -> list[bool]:
    return [each.random for each in (scheme.rate, scheme.distortion, scheme.hyper_rate, scheme.hyper_distortion)]


def _forgets_the_center(scheme: Scheme, temperature: float) -> list[bool]:
    return parts(scheme.replace(zero_center=True), temperature)


def _all_of_them(scheme: Scheme, temperature: float) -> list[bool]:
    return [True] * 4


EXERCISES = (
    Exercise(
        key="model.loop",
        title="A loop of your own",
        difficulty=2,
        importance=3,
        minutes=12,
        hints=(
            "The model arrives in evaluation mode, in which the scheme has no effect.",
            "Each step has five parts: temperature, forward pass, loss, gradient, update. Gradients of the step before "
            "must be cleared.",
            "The temperature of a step is model.scheme.temperature(step, steps), where the first step is 0. "
            "lk.training.rate_distortion(output, batch, lmbda).total is the loss.",
        ),
        answer=train,
        cases=_adopted_model,
        oracle=_losses_by_hand,
        probe=_losses_of,
        tolerance=3e-4,
        misconceptions={
            _wrong_loop(
                set_each_step=False
            ): "Your temperature stays at the first value of the schedule. Set it again at every step.",
            _wrong_loop(
                training=False
            ): "Your model is in evaluation mode, in which the scheme has no effect. Call model.train() first.",
            _wrong_loop(clear=False): "Gradients of earlier steps accumulate. Clear them before each backward().",
            _wrong_loop(
                peak=1.0
            ): "Your error is on the scale 0 to 1, where it has almost no weight. λ multiplies 255² · MSE.",
            _wrong_loop(update=False): "All losses are those of the initial weights. The optimizer never makes a step.",
        },
    ),
    Exercise(
        key="model.paths",
        title="Where training differs from coding",
        difficulty=2,
        importance=2,
        minutes=10,
        hints=(
            "Draw some latents y and means that are not integers, of shape (1, channels, H, W).",
            "scheme.quantize(y, mean, temperature, hyper=False) returns the values that the rate path and the "
            "distortion path read.",
            "Compare each of the four results with torch.round(y - mean) + mean.",
        ),
        answer=parts,
        cases=_scheme,
        oracle=_parts_by_name,
        probe=_as_numbers,
        misconceptions={
            _forgets_the_center: "Look at zero_center. Without it training rounds y, but the coder still rounds y − μ.",
            _integers_will_do: "A value can be an integer and still differ: stochastic surrogates often choose the "
            "neighboring integer.",
            _only_noise_counts: "Surrogates without noise can differ too: soft rounding draws no noise and does not "
            "round.",
            _all_of_them: "Some paths agree: ste and ds round in the forward pass.",
        },
    ),
)

"""Exercises of lesson 09: a loop for an adopted model, where training parts from coding, a resumed schedule."""

from __future__ import annotations

import copy
import math

import numpy as np
import torch
from torch import Tensor

from labkit.course.exercises import Exercise

# 09.1: a loop of one's own


def train(model, batches, optimizer, lmbda):
    """One step for each batch: temperature, loss, gradient, update. The losses, one a step."""
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


def _adopted_model(seed: int) -> tuple[torch.nn.Module, list[Tensor], float]:
    """A tiny factorized prior whose scheme draws no noise, so that a loop has one right result."""
    from compressai.models import FactorizedPrior

    from labkit import adoption, schedules, schemes, surrogates

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = FactorizedPrior(4, 6).eval()
        with torch.no_grad():
            model.g_a[-1].weight.mul_(60)  # latents over several integers, on which x̂ depends
            model.g_s[0].weight.mul_(5)
            model.g_s[-1].bias.fill_(0.5)
        batches = list(torch.rand(4, 2, 3, 32, 32))
    soft = schemes.QuantizationScheme(
        surrogates.get("soft"), surrogates.get("soft"), temperature=schedules.exponential(1.0, 0.05)
    )
    return adoption.adopt(model, soft), batches, (0.002, 0.004, 0.008)[seed % 3]


def _losses_of(answer, model: torch.nn.Module, batches: list[Tensor], lmbda: float) -> np.ndarray:
    """The losses that a loop returns, on a copy of the model; its parameters show in the later ones."""
    model = copy.deepcopy(model)
    weights = [p for name, p in model.named_parameters() if not name.endswith("quantiles")]
    losses = answer(model, batches, torch.optim.SGD(weights, lr=1e-4), lmbda)
    return np.array([float(loss) for loss in losses])


def _losses_by_hand(model, batches, lmbda):
    """The same steps without modules' modes or an optimizer: surrogate, likelihood and descent written out."""
    model = copy.deepcopy(model).eval()
    weights = [p for name, p in model.named_parameters() if not name.endswith("quantiles")]
    bottleneck = model.entropy_bottleneck
    medians = bottleneck.quantiles[:, 0, 1].detach()[:, None, None]
    losses = []
    for i, x in enumerate(batches):
        alpha = 0.05 ** (-i / (len(batches) - 1))  # 1/τ, from 1 to 20
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


def _wrong_loop(set_each_step=True, training=True, clear=True, peak=255.0, update=True):
    """A loop with one thing amiss."""

    def loop(model, batches, optimizer, lmbda):
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


def _temperature_set_once(model, batches, optimizer, lmbda):
    return _wrong_loop(set_each_step=False)(model, batches, optimizer, lmbda)


def _evaluation_mode(model, batches, optimizer, lmbda):
    return _wrong_loop(training=False)(model, batches, optimizer, lmbda)


def _gradients_pile_up(model, batches, optimizer, lmbda):
    return _wrong_loop(clear=False)(model, batches, optimizer, lmbda)


def _unit_scale(model, batches, optimizer, lmbda):
    return _wrong_loop(peak=1.0)(model, batches, optimizer, lmbda)


def _never_updates(model, batches, optimizer, lmbda):
    return _wrong_loop(update=False)(model, batches, optimizer, lmbda)


# 09.2: where training parts from coding


def parts(scheme, temperature):
    """For each path, whether training reads anything else than the coder's ⌊y − μ⌉ + μ."""
    y, mean = 5 * torch.randn(1, 8, 32, 32), torch.rand(1, 8, 32, 32)
    coded = torch.round(y - mean) + mean
    answers = []
    for hyper in (False, True):
        for seen in scheme.quantize(y, mean, temperature, hyper=hyper):
            answers.append(not torch.allclose(seen, coded, atol=1e-4))
    return answers


def _scheme(seed: int) -> tuple:
    from labkit import schemes, surrogates

    made = (
        schemes.annealed(),
        schemes.QuantizationScheme(
            surrogates.get("uq"), surrogates.get("soft"), surrogates.get("sr"), surrogates.get("ds")
        ),
        schemes.straight_through(zero_center=False),
    )
    return made[seed % 3], (0.5, 0.2, 1.0)[seed % 3]


def _as_numbers(answer, scheme, temperature) -> np.ndarray:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return np.array([float(bool(each)) for each in answer(scheme, temperature)])


def _parts_by_name(scheme, temperature):
    """Three of the surrogates round going forward; and they agree with the coder where they stand around its center."""
    surrogates = (scheme.rate, scheme.distortion, scheme.hyper_rate, scheme.hyper_distortion)
    return [float(not scheme.zero_center or each.name not in ("round", "ste", "ds")) for each in surrogates]


def _integers_will_do(scheme, temperature):
    y = 5 * torch.randn(1, 8, 32, 32)
    paths = [seen for hyper in (False, True) for seen in scheme.quantize(y, None, temperature, hyper=hyper)]
    return [not torch.allclose(seen, torch.round(seen), atol=1e-4) for seen in paths]


def _only_noise_counts(scheme, temperature):
    return [each.random for each in (scheme.rate, scheme.distortion, scheme.hyper_rate, scheme.hyper_distortion)]


def _forgets_the_center(scheme, temperature):
    return parts(scheme.replace(zero_center=True), temperature)


def _all_of_them(scheme, temperature):
    return [True] * 4


# 09.3: the temperature after a kill


def temperature_after(done, steps, start, end):
    """Of the step after `done` of `steps`: it has the number `done`, counted from 0, and the last has steps − 1."""
    return start * (end / start) ** (done / (steps - 1))


def _killed_run(seed: int) -> tuple[int, int, float, float]:
    rng = np.random.default_rng(seed)
    steps = int(rng.integers(40, 80))
    return int(rng.integers(10, 30)), steps, float(rng.uniform(0.5, 1)), float(rng.uniform(0.03, 0.1))


def _by_equal_factors(done, steps, start, end):
    """All temperatures of the run, which are spaced evenly on a logarithmic scale; then the one with that number."""
    return np.geomspace(start, end, steps)[done]


def _starts_over(done, steps, start, end):
    return start


def _the_step_before(done, steps, start, end):
    return start * (end / start) ** ((done - 1) / (steps - 1))


def _one_step_too_far(done, steps, start, end):
    return start * (end / start) ** ((done + 1) / (steps - 1))


def _never_arrives(done, steps, start, end):
    return start * (end / start) ** (done / steps)


def _in_a_straight_line(done, steps, start, end):
    return start + (end - start) * done / (steps - 1)


EXERCISES = (
    Exercise(
        key="09.1",
        title="A loop of your own",
        difficulty=2,
        importance=3,
        minutes=12,
        clue="Five things happen at each step: temperature, forward, loss, gradient, update. The model arrives in "
        "evaluation mode, and model.scheme.temperature(step, steps) is the schedule.",
        answer=train,
        cases=_adopted_model,
        oracle=_losses_by_hand,
        probe=_losses_of,
        tolerance=3e-4,
        misconceptions={
            _temperature_set_once: "Your temperature stays at the schedule's first value: set it anew at every step.",
            _evaluation_mode: "Your model is in evaluation mode, where no scheme has a say: model.train().",
            _gradients_pile_up: "Gradients of earlier steps pile up: clear them before each backward().",
            _unit_scale: "Your error is on the scale 0 to 1, where it hardly weighs: λ goes with 255² · MSE.",
            _never_updates: "The losses are those of the first weights throughout: the optimizer never makes a step.",
        },
    ),
    Exercise(
        key="09.2",
        title="Where training parts from coding",
        difficulty=2,
        importance=2,
        minutes=10,
        clue="Ask the scheme: scheme.quantize(y, mean, temperature, hyper=False) returns what the rate path and the "
        "distortion path read. Compare with torch.round(y - mean) + mean, for a mean that is no integer.",
        answer=parts,
        cases=_scheme,
        oracle=_parts_by_name,
        probe=_as_numbers,
        misconceptions={
            _forgets_the_center: "Look at zero_center: without it training rounds y, and the coder still y − μ.",
            _integers_will_do: "An integer is not yet the right one: stochastic surrogates often take the neighbor.",
            _only_noise_counts: "Not only noise makes a difference: soft rounding has none, and does not round.",
            _all_of_them: "Some paths agree: going forward, straight-through is rounding, and so is ds.",
        },
    ),
    Exercise(
        key="09.3",
        title="The temperature after a kill",
        difficulty=1,
        importance=2,
        minutes=6,
        clue="Steps are counted from 0, so the first one after the kill has the number `done`, and the last one of all "
        "the number steps − 1. The factor from one step to the next is always the same.",
        answer=temperature_after,
        cases=_killed_run,
        oracle=_by_equal_factors,
        tolerance=1e-4,
        misconceptions={
            _starts_over: "Your schedule starts over after the kill. It goes on: the step's number decides.",
            _the_step_before: "This is the temperature of the last step that was made, not of the next one.",
            _one_step_too_far: "This is the temperature one step later: counted from 0, the next one is `done`.",
            _never_arrives: "With this, the last step would not reach the end: from the first to the last there are "
            "steps − 1 intervals.",
            _in_a_straight_line: "This is a straight line. An exponential schedule falls by equal factors.",
        },
    ),
)

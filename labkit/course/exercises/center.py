"""Exercises of the lesson on zero-center quantization: the noisier path, the partial stop, and the gradient of μ."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from labkit import surrogates
from labkit.analysis import mean_training
from labkit.course.exercises.base import Answer, Exercise
from labkit.statistics import Array

Staircase = Callable[[Tensor], Tensor]

# center.noisier: the temperatures at which the distortion's gradient of μ is noisier than the rate's


def noisier_path() -> float:
    """Compare the variances of both paths' gradients by quadrature, at every temperature of the slider."""
    from dataclasses import replace

    from labkit import analysis, surrogates

    code = analysis.ScalarCode(analysis.sources.gaussian(), gain=0.5, mean=0.25)
    only_rate, only_distortion = replace(code, lmbda=0.0), replace(code, rate=lambda y, mean, scale: 0 * y)
    rate = analysis.gradient_risk(only_rate, "aun", "mean", batch_sizes=1)["std"][0]
    soft = surrogates.get("soft", noise=True)
    table = analysis.gradient_risk(only_distortion, soft, "mean", (0.1, 0.15, 0.2, 0.3, 0.5, 1.0), batch_sizes=1)
    return float(max(table["temperature"][table["std"] > rate]))


def _noisier_by_sampling() -> float:
    """Draw samples and noise as the panel does."""
    schemes = mean_training.schemes_of_ways(surrogates.get("soft", noise=True))
    moments = {tau: mean_training.gradient_moments(schemes, tau)[1, :2, 1] for tau in (0.1, 0.15, 0.2, 0.3, 0.5, 1.0)}
    return max(tau for tau, (rate, distortion) in moments.items() if distortion > rate)


def _of_the_start() -> float:
    return 0.2


def _clearly_above() -> float:
    return 0.3


def _lowest() -> float:
    return 0.1


def _first_below() -> float:
    return 1.0


# center.partial_stop: zero-center quantization with a partial stop-gradient


def quantize(y: Tensor, mean: Tensor, surrogate: Staircase) -> tuple[Tensor, Tensor]:
    """Return ỹ for the rate and for the distortion, both quantized around μ, which is a constant in the second."""
    fixed = mean.detach()
    return surrogate(y - mean) + mean, surrogate(y - fixed) + fixed


def _latents(seed: int) -> tuple[Tensor, Tensor, Staircase]:
    rng = np.random.default_rng(seed)
    y, mean = (torch.from_numpy(rng.uniform(-3, 3, 8)) for _ in range(2))
    sharpness = float(rng.uniform(0.3, 0.9))

    def surrogate(t: Tensor) -> Tensor:  # a smooth staircase whose slope is not 1
        return t - sharpness * torch.sin(2 * torch.pi * t) / (2 * torch.pi)

    return y, mean, surrogate


def _values_and_gradients(answer: Answer, y: Tensor, mean: Tensor, surrogate: Staircase) -> Array:
    """Return ỹ and the gradients of Σ ỹ² with respect to y and μ for each path, with shape (6, latents)."""
    y, mean = y.clone().requires_grad_(), mean.clone().requires_grad_()
    paths = answer(y, mean, surrogate)
    if not (isinstance(paths, tuple | list) and len(paths) == 2 and all(isinstance(p, Tensor) for p in paths)):
        raise TypeError("the function must return two tensors: ỹ for the rate and ỹ for the distortion")
    rows = []
    for quantized in paths:
        rows.append(quantized.detach())
        gradients: tuple[Any, ...] = (None, None)
        if quantized.requires_grad:
            loss = quantized.square().sum()
            gradients = torch.autograd.grad(loss, (y, mean), retain_graph=True, allow_unused=True)
        rows += [torch.zeros_like(quantized) if each is None else each for each in gradients]
    return torch.stack([row.detach() for row in rows]).numpy()


def _by_differences(y: Tensor, mean: Tensor, surrogate: Staircase, h: float = 1e-05) -> Array:
    """Compute the same by central differences. The distortion sends no gradient to μ."""

    def around(y: Tensor, center: Tensor) -> Any:
        return (surrogate(y - center) + center).numpy()

    value = around(y, mean)
    by_y = (around(y + h, mean) ** 2 - around(y - h, mean) ** 2) / (2 * h)
    by_mean = (around(y, mean + h) ** 2 - around(y, mean - h) ** 2) / (2 * h)
    return np.stack([value, by_y, by_mean, value, by_y, np.zeros_like(value)])


def _rounds_y_itself(y: Tensor, mean: Tensor, surrogate: Staircase) -> tuple[Tensor, Tensor]:
    return surrogate(y), surrogate(y)


def _never_stops(y: Tensor, mean: Tensor, surrogate: Staircase) -> tuple[Tensor, Tensor]:
    return surrogate(y - mean) + mean, surrogate(y - mean) + mean


def _stops_both(y: Tensor, mean: Tensor, surrogate: Staircase) -> tuple[Tensor, Tensor]:
    fixed = mean.detach()
    return surrogate(y - fixed) + fixed, surrogate(y - fixed) + fixed


def _stops_the_rate(y: Tensor, mean: Tensor, surrogate: Staircase) -> tuple[Tensor, Tensor]:
    fixed = mean.detach()
    return surrogate(y - fixed) + fixed, surrogate(y - mean) + mean


def _stops_before(y: Tensor, mean: Tensor, surrogate: Staircase) -> tuple[Tensor, Tensor]:
    return surrogate(y - mean) + mean, surrogate(y - mean.detach()) + mean


def _stops_after(y: Tensor, mean: Tensor, surrogate: Staircase) -> tuple[Tensor, Tensor]:
    return surrogate(y - mean) + mean, surrogate(y - mean) + mean.detach()


def _detaches_all(y: Tensor, mean: Tensor, surrogate: Staircase) -> tuple[Tensor, Tensor]:
    return surrogate(y - mean) + mean, (surrogate(y - mean) + mean).detach()


def _does_not_add_back(y: Tensor, mean: Tensor, surrogate: Staircase) -> tuple[Tensor, Tensor]:
    return surrogate(y - mean), surrogate(y - mean.detach())


def _residual_for_the_rate(y: Tensor, mean: Tensor, surrogate: Staircase) -> tuple[Tensor, Tensor]:
    fixed = mean.detach()
    return surrogate(y - mean), surrogate(y - fixed) + fixed


# center.gradient: the gradient that reaches μ


def derivative_by_mean(temperature: float) -> tuple[float, float]:
    """Return the mean and variance of ∂ỹ/∂μ = 1 − slope; the slope is 1/τ with probability τ and 0 otherwise."""
    return 0.0, 1 / temperature - 1


def _temperature(seed: int) -> tuple[float]:
    return (float(np.random.default_rng(seed).uniform(0.12, 0.9)),)


def _by_autograd(temperature: float) -> Array:
    """Differentiate ỹ = q(y − μ) + μ with autograd, for latents that fill a bin evenly."""
    sua = surrogates.get("sua", gradient="expected")
    y = (torch.arange(200_000, dtype=torch.float64) + 0.5) / 200_000
    mean = torch.zeros_like(y, requires_grad=True)
    (sua(y - mean, temperature, generator=torch.Generator().manual_seed(0)) + mean).sum().backward()
    derivative = mean.grad
    assert derivative is not None
    return np.array([derivative.mean(), derivative.var(correction=0)])


def _of_the_slope(temperature: float) -> tuple[float, float]:
    return 1.0, 1 / temperature - 1


def _mean_square_of_the_slope(temperature: float) -> tuple[float, float]:
    return 0.0, 1 / temperature


def _only_where_steep(temperature: float) -> tuple[float, float]:
    return 1 - 1 / temperature, 0.0


def _as_if_slope_one(temperature: float) -> tuple[float, float]:
    return 0.0, 0.0


def _standard_deviation(temperature: float) -> tuple[float, float]:
    return 0.0, (1 / temperature - 1) ** 0.5


# center.variance: the variance of a gradient before and after the stop


def variance_ratio(before: Tensor, after: Tensor) -> Tensor:
    """Sum the variances over draws (the first axis) over all latents, and divide the sum after by the sum before."""
    return after.var(0).sum() / before.var(0).sum()


def _drawn_gradients(seed: int) -> tuple[Tensor, Tensor]:
    rng = np.random.default_rng(seed)
    latents = int(rng.integers(5, 12))
    signal = rng.normal(0, 3, latents)  # differs between latents, but is not noise
    spread = rng.uniform(0.5, 4, latents)
    before = signal + spread * rng.normal(size=(int(rng.integers(5, 8)), latents))
    after = signal + 0.3 * spread * rng.normal(size=(int(rng.integers(9, 14)), latents))
    return torch.from_numpy(before), torch.from_numpy(after)


def _by_pairs(before: Tensor, after: Tensor) -> float:
    """Compute each variance as half the mean squared distance between two different draws."""

    def half_squared_distance(gradients: Tensor) -> float:
        draws = gradients.numpy()
        pairs = [np.sum((a - b) ** 2) for i, a in enumerate(draws) for b in draws[:i]]
        return float(np.mean(pairs)) / 2

    return half_squared_distance(after) / half_squared_distance(before)


def _of_everything(before: Tensor, after: Tensor) -> Tensor:
    return after.var() / before.var()


def _over_latents(before: Tensor, after: Tensor) -> Tensor:
    return after.var(1).sum() / before.var(1).sum()


def _upside_down(before: Tensor, after: Tensor) -> Tensor:
    return before.var(0).sum() / after.var(0).sum()


def _of_deviations(before: Tensor, after: Tensor) -> Tensor:
    return (after.var(0).sum() / before.var(0).sum()).sqrt()


def _mean_of_ratios(before: Tensor, after: Tensor) -> Tensor:
    return (after.var(0) / before.var(0)).mean()


def _divided_by_n(before: Tensor, after: Tensor) -> Tensor:
    return after.var(0, correction=0).sum() / before.var(0, correction=0).sum()


EXERCISES = (
    Exercise(
        key="center.noisier",
        title="The noisier path",
        difficulty=1,
        importance=2,
        minutes=6,
        hints=(
            "The upper right plot has a bar for each path. Look at the bars for quantizing y − μ, without the stop.",
            "The text below the plots gives both variances. Move τ upwards, and note when their order changes.",
            "The rate's variance stays at about 6, because the noise on its path has no temperature. Find the last τ "
            "at which the distortion's variance is above 6.",
        ),
        answer=noisier_path,
        oracle=_noisier_by_sampling,
        misconceptions={
            _of_the_start: "The panel starts at this temperature. A higher one still has the same order.",
            _clearly_above: "At 0.3 it has nine times the rate's variance. It is still larger at a higher τ.",
            _lowest: "At this temperature the variance is largest. Find the highest one at which it is still above the "
            "rate's.",
            _first_below: "At 1.0 the order has changed: the distortion's variance is below the rate's.",
        },
    ),
    Exercise(
        key="center.partial_stop",
        title="Zero-center quantization with a partial stop",
        difficulty=2,
        importance=3,
        minutes=10,
        hints=(
            "Write Q(y − μ) + μ for both paths first. How often does μ occur in it?",
            "On the distortion path, both occurrences of μ must be constants. On the rate path, neither is.",
            "mean.detach() has the value of μ but sends no gradient back. Use it twice, on one path only.",
        ),
        answer=quantize,
        cases=_latents,
        oracle=_by_differences,
        probe=_values_and_gradients,
        misconceptions={
            _rounds_y_itself: "The values are those of y quantized around 0. Quantize y − μ, then add μ back.",
            _does_not_add_back: "You return the quantized residual. Add μ back on both paths.",
            _residual_for_the_rate: "You return the residual for the rate. Add μ back there too, without a stop.",
            _never_stops: "The values are right, but the distortion still sends a gradient to μ. Nothing is stopped.",
            _stops_both: "You also stopped μ on the rate path. The stop is partial: μ learns from the rate.",
            _stops_the_rate: "You stopped the wrong path. Remove the gradient of the distortion, and keep that of the "
            "rate.",
            _stops_before: "You detached μ in one place only. Now ∂ỹ/∂μ is 1 instead of 1 − slope. It must be 0.",
            _stops_after: "You detached μ in one place only. Now ∂ỹ/∂μ is −slope instead of 1 − slope. It must be 0.",
            _detaches_all: "You detached all of ỹ, so the distortion sends no gradient to y either. Detach only μ.",
        },
    ),
    Exercise(
        key="center.gradient",
        title="The gradient that reaches μ",
        difficulty=2,
        importance=2,
        minutes=10,
        hints=(
            "With which probability is a latent that is uniform in its bin within τ/2 of a half-integer?",
            "The probability is τ. So ∂ỹ/∂μ is 1 − 1/τ with probability τ, and 1 otherwise.",
            "Average the two values with their probabilities, then their squares. The mean is 0.",
        ),
        answer=derivative_by_mean,
        cases=_temperature,
        oracle=_by_autograd,
        misconceptions={
            _of_the_slope: "These are the mean and the variance of the slope. ∂ỹ/∂μ is 1 − slope, because μ is added "
            "back.",
            _mean_square_of_the_slope: "1/τ is the mean square of the slope. A variance is the mean square around the "
            "mean.",
            _only_where_steep: "This is ∂ỹ/∂μ for latents with slope 1/τ. For all others the slope is 0 and ∂ỹ/∂μ is "
            "1.",
            _as_if_slope_one: "This is right for slope 1 everywhere. Here the slope is 1/τ for some latents and 0 for "
            "others.",
            _standard_deviation: "The mean is right, but the second number is the standard deviation. Return the "
            "variance.",
        },
    ),
    Exercise(
        key="center.variance",
        title="The variance before and after the stop",
        difficulty=2,
        importance=2,
        minutes=8,
        hints=(
            "Along which of the two axes does only the noise change?",
            "It is the first axis. tensor.var takes an axis and divides by the number of draws minus 1.",
            "Take the variance over the draws for each latent, add up over the latents, and only then divide.",
        ),
        answer=variance_ratio,
        cases=_drawn_gradients,
        oracle=_by_pairs,
        misconceptions={
            _of_everything: "You pooled all numbers. Latents also differ in their mean gradient, and that difference "
            "is not noise.",
            _over_latents: "This is the variance between latents. Noise is the change from draw to draw.",
            _upside_down: "The ratio is inverted. Divide the variance after the stop by the variance before it.",
            _of_deviations: "This is the ratio of standard deviations. Use variances, since variances add up.",
            _mean_of_ratios: "You averaged the ratios of single latents. Add up the variances first, then divide once.",
            _divided_by_n: "You divided by n. The mean comes from the same n draws, so divide by n − 1.",
        },
    ),
)

"""Exercises of lesson 07: zero-center quantization with a partial stop, what reaches μ, the variance of a gradient."""

from __future__ import annotations

import numpy as np
import torch

from labkit import surrogates
from labkit.course.exercises import Exercise

# 07.1: zero-center quantization with a partial stop-gradient


def quantize(y, mean, surrogate):
    """ỹ for the rate and ỹ for the distortion, around μ; on the second path μ is a constant, in both of its places."""
    fixed = mean.detach()
    return surrogate(y - mean) + mean, surrogate(y - fixed) + fixed


def _latents(seed: int) -> tuple:
    rng = np.random.default_rng(seed)
    y, mean = (torch.from_numpy(rng.uniform(-3, 3, 8)) for _ in range(2))
    sharpness = float(rng.uniform(0.3, 0.9))

    def surrogate(t):  # a smooth staircase, whose slope is not 1
        return t - sharpness * torch.sin(2 * torch.pi * t) / (2 * torch.pi)

    return y, mean, surrogate


def _values_and_gradients(answer, y, mean, surrogate) -> np.ndarray:
    """Of each path its ỹ, and the gradient of Σ ỹ² by y and by μ: (6, latents)."""
    y, mean = y.clone().requires_grad_(), mean.clone().requires_grad_()
    found = answer(y, mean, surrogate)
    if not (isinstance(found, tuple | list) and len(found) == 2 and all(isinstance(f, torch.Tensor) for f in found)):
        raise TypeError("the answer should be two tensors: ỹ for the rate, ỹ for the distortion")
    rows = []
    for quantized in found:
        rows.append(quantized.detach())
        gradients: tuple = (None, None)
        if quantized.requires_grad:
            loss = quantized.square().sum()
            gradients = torch.autograd.grad(loss, (y, mean), retain_graph=True, allow_unused=True)
        rows += [torch.zeros_like(quantized) if each is None else each for each in gradients]
    return torch.stack([row.detach() for row in rows]).numpy()


def _by_differences(y, mean, surrogate, h: float = 1e-5) -> np.ndarray:
    """The same by central differences, with no gradient for the μ that the distortion may not move."""

    def around(y, center):
        return (surrogate(y - center) + center).numpy()

    value = around(y, mean)
    by_y = (around(y + h, mean) ** 2 - around(y - h, mean) ** 2) / (2 * h)
    by_mean = (around(y, mean + h) ** 2 - around(y, mean - h) ** 2) / (2 * h)
    return np.stack([value, by_y, by_mean, value, by_y, np.zeros_like(value)])


def _rounds_y_itself(y, mean, surrogate):
    return surrogate(y), surrogate(y)


def _never_stops(y, mean, surrogate):
    return surrogate(y - mean) + mean, surrogate(y - mean) + mean


def _stops_both(y, mean, surrogate):
    fixed = mean.detach()
    return surrogate(y - fixed) + fixed, surrogate(y - fixed) + fixed


def _stops_the_rate(y, mean, surrogate):
    fixed = mean.detach()
    return surrogate(y - fixed) + fixed, surrogate(y - mean) + mean


def _stops_before(y, mean, surrogate):
    return surrogate(y - mean) + mean, surrogate(y - mean.detach()) + mean


def _stops_after(y, mean, surrogate):
    return surrogate(y - mean) + mean, surrogate(y - mean) + mean.detach()


def _detaches_all(y, mean, surrogate):
    return surrogate(y - mean) + mean, (surrogate(y - mean) + mean).detach()


def _does_not_add_back(y, mean, surrogate):
    return surrogate(y - mean), surrogate(y - mean.detach())


def _residual_for_the_rate(y, mean, surrogate):
    fixed = mean.detach()
    return surrogate(y - mean), surrogate(y - fixed) + fixed


# 07.2: what reaches μ


def derivative_by_mean(temperature):
    """Slope 1/τ with probability τ, else 0: ∂ỹ/∂μ = 1 − slope has the mean 0 and the mean square 1/τ − 1."""
    return 0.0, 1 / temperature - 1


def _temperature(seed: int) -> tuple[float]:
    return (float(np.random.default_rng(seed).uniform(0.12, 0.9)),)


def _by_autograd(temperature: float) -> np.ndarray:
    """∂ỹ/∂μ of ỹ = q(y − μ) + μ for latents spread evenly over a bin, as back-propagation returns it."""
    sua = surrogates.get("sua", gradient="expected")
    y = (torch.arange(200_000, dtype=torch.float64) + 0.5) / 200_000
    mean = torch.zeros_like(y, requires_grad=True)
    (sua(y - mean, temperature, generator=torch.Generator().manual_seed(0)) + mean).sum().backward()
    derivative = mean.grad
    assert derivative is not None
    return np.array([derivative.mean(), derivative.var(correction=0)])


def _of_the_slope(temperature):
    return 1.0, 1 / temperature - 1


def _mean_square_of_the_slope(temperature):
    return 0.0, 1 / temperature


def _only_where_steep(temperature):
    return 1 - 1 / temperature, 0.0


def _as_if_slope_one(temperature):
    return 0.0, 0.0


def _standard_deviation(temperature):
    return 0.0, (1 / temperature - 1) ** 0.5


# 07.3: the variance, before and after


def variance_ratio(before, after):
    """Variances over the draws, the first axis, added up over the latents; the second sum over the first."""
    return after.var(0).sum() / before.var(0).sum()


def _drawn_gradients(seed: int) -> tuple:
    rng = np.random.default_rng(seed)
    latents = int(rng.integers(5, 12))
    signal = rng.normal(0, 3, latents)  # differs from latent to latent, and is no noise
    spread = rng.uniform(0.5, 4, latents)
    before = signal + spread * rng.normal(size=(int(rng.integers(5, 8)), latents))
    after = signal + 0.3 * spread * rng.normal(size=(int(rng.integers(9, 14)), latents))
    return torch.from_numpy(before), torch.from_numpy(after)


def _by_pairs(before: torch.Tensor, after: torch.Tensor) -> float:
    """A variance is half the mean squared distance between two different draws."""

    def half_squared_distance(gradients: torch.Tensor) -> float:
        draws = gradients.numpy()
        pairs = [np.sum((a - b) ** 2) for i, a in enumerate(draws) for b in draws[:i]]
        return float(np.mean(pairs)) / 2

    return half_squared_distance(after) / half_squared_distance(before)


def _of_everything(before, after):
    return after.var() / before.var()


def _over_latents(before, after):
    return after.var(1).sum() / before.var(1).sum()


def _upside_down(before, after):
    return before.var(0).sum() / after.var(0).sum()


def _of_deviations(before, after):
    return (after.var(0).sum() / before.var(0).sum()).sqrt()


def _mean_of_ratios(before, after):
    return (after.var(0) / before.var(0)).mean()


def _divided_by_n(before, after):
    return after.var(0, correction=0).sum() / before.var(0, correction=0).sum()


EXERCISES = (
    Exercise(
        key="07.1",
        title="Zero-center quantization with a partial stop",
        difficulty=2,
        importance=3,
        minutes=10,
        clue="μ stands in two places of each path. mean.detach() has the value of μ and sends no gradient back.",
        answer=quantize,
        cases=_latents,
        oracle=_by_differences,
        probe=_values_and_gradients,
        misconceptions={
            _rounds_y_itself: "The values are those of y quantized around 0. Quantize y − μ, then add μ back.",
            _does_not_add_back: "You return the quantized residual: add μ back, on both paths.",
            _residual_for_the_rate: "For the rate you return the residual: add μ back there, too, without a stop.",
            _never_stops: "The values are right, but the distortion still sends a gradient into μ: nothing is stopped.",
            _stops_both: "You stopped μ on the rate path, too. The stop is partial: the rate has to teach μ.",
            _stops_the_rate: "You stopped the wrong path: the distortion's gradient is to go, the rate's to stay.",
            _stops_before: "You detached μ in one place only. Now ∂ỹ/∂μ is 1 instead of 1 − slope; it should be 0.",
            _stops_after: "You detached μ in one place only. Now ∂ỹ/∂μ is −slope instead of 1 − slope; it should be 0.",
            _detaches_all: "You detached all of ỹ, so the distortion no longer reaches y either. Detach only μ.",
        },
    ),
    Exercise(
        key="07.2",
        title="What reaches μ",
        difficulty=2,
        importance=2,
        minutes=10,
        clue="With which probability is the slope 1/τ? Then 1 − slope has two values: average it, and its square.",
        answer=derivative_by_mean,
        cases=_temperature,
        oracle=_by_autograd,
        misconceptions={
            _of_the_slope: "These are mean and variance of the slope. ∂ỹ/∂μ is 1 − slope, since μ is added back.",
            _mean_square_of_the_slope: "1/τ is the mean square of the slope. A variance is taken around the mean.",
            _only_where_steep: "That is ∂ỹ/∂μ where the slope is 1/τ. Elsewhere the slope is 0, and ∂ỹ/∂μ is 1.",
            _as_if_slope_one: "So it would be for slope 1 everywhere. Here the slope is 1/τ for some latents, else 0.",
            _standard_deviation: "The mean is right; the second number is the standard deviation. Give the variance.",
        },
    ),
    Exercise(
        key="07.3",
        title="The variance, before and after",
        difficulty=2,
        importance=2,
        minutes=8,
        clue="Over which of the two axes does only the noise change? tensor.var takes an axis, and divides by n − 1.",
        answer=variance_ratio,
        cases=_drawn_gradients,
        oracle=_by_pairs,
        misconceptions={
            _of_everything: "You pooled all numbers. Latents differ in their mean gradient, too, and that is no noise.",
            _over_latents: "This is the spread from latent to latent. Noise is what changes from draw to draw.",
            _upside_down: "The ratio is upside down: asked for is the variance after, over the variance before.",
            _of_deviations: "This is the ratio of standard deviations. Variances are what adds up.",
            _mean_of_ratios: "You averaged each latent's own ratio. Add the variances up first, then divide once.",
            _divided_by_n: "You divided by n. Around a mean from the same n draws, a variance is divided by n − 1.",
        },
    ),
)

"""Exercises of the lesson on gradient risk: a temperature, the exact slope, two variances, and an expected gradient."""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

import labkit as lk
from labkit import surrogates
from labkit.analysis import exact_gradient, gaussian_bits, worked_example
from labkit.course.exercises.base import Exercise, Numbers, value_and_gradient
from labkit.statistics import Array

Loss = Callable[[Array, Array, float], Any]  # function of symbols, samples and a gain
Bits = Callable[[Tensor], Tensor]
TEMPERATURES = (0.1, 0.15, 0.25, 0.35, 0.5, 0.7, 1.0)  # values of the panel's slider

# risk.best_temperature: the temperature with the lowest risk at n = 1024


def best_temperature() -> Numbers:
    """Return the temperature on the slider with the lowest risk for batches of 1024."""
    code = lk.analysis.worked_example.code(0.5)
    slider = (0.1, 0.15, 0.25, 0.35, 0.5, 0.7, 1.0)
    risk = lk.analysis.gradient_risk(code, "sua", "gain", slider, 1024)
    return risk["temperature"][risk["risk"].idxmin()]


@functools.cache
def _moments() -> Array:
    """Return squared bias and variance of one sample's gradient at each temperature, from half of the source."""
    code, surrogate = worked_example.code(0.5), surrogates.get("sua")
    sums = [list(worked_example.partial_moments(code, surrogate, tau))[-1] for tau in TEMPERATURES]
    mean, square = np.array(sums).T
    return np.stack([(mean - exact_gradient(code)) ** 2, square - mean**2])


def _least_risk() -> float:
    bias_squared, variance = _moments()
    return TEMPERATURES[int((bias_squared + variance / 1024).argmin())]


def _least_bias() -> float:
    return TEMPERATURES[int(_moments()[0].argmin())]


def _least_variance() -> float:
    return TEMPERATURES[int(_moments()[1].argmin())]


# risk.exact_slope: the exact slope


def exact_slope(g: float, x: Array, loss: Loss, loss_slope: Loss) -> Numbers:
    """Return the derivative of the loss at the boundaries plus its derivative within the cells."""
    k = np.arange(-20, 20)
    boundary = (k + 0.5) / g
    density = np.exp(-(boundary**2) / 2) / np.sqrt(2 * np.pi) / g
    jump = loss(k + 1, boundary, g) - loss(k, boundary, g)
    within = loss_slope(np.round(g * x), x, g).mean()
    return (density * jump * boundary).sum() + within


def _code(seed: int) -> tuple[float, Array, Loss, Loss]:
    """Return a gain, quantiles of a standard normal, and an asymmetric loss whose decoder depends on the gain."""
    rng = np.random.default_rng(seed)
    g, tilt, more, lmbda = rng.uniform(0.4, 0.7), rng.uniform(0.3, 0.8), rng.uniform(1, 3), rng.uniform(4, 8)
    quantiles = torch.distributions.Normal(0.0, 1.0).icdf((torch.arange(100_000, dtype=torch.float64) + 0.5) / 100_000)

    def loss(k: Array, x: Array, g: float) -> Any:
        return 0.5 + tilt * k + more * np.abs(k) + lmbda * (k / g - x) ** 2

    def loss_slope(k: Array, x: Array, g: float) -> Any:
        return -2 * lmbda * (k / g - x) * k / g**2

    return float(g), quantiles.numpy(), loss, loss_slope


def _slope_by_difference(g: float, x: Array, loss: Loss, loss_slope: Loss) -> Numbers:
    """Return a finite difference of the average loss, which is integrated cell by cell."""
    nodes, weights = np.polynomial.legendre.leggauss(24)

    def average(gain: float) -> float:
        k = np.arange(-8, 9)[:, None]
        inside = (k + nodes / 2) / gain
        mass = np.exp(-(inside**2) / 2) / math.sqrt(2 * math.pi) * weights / (2 * gain)
        return float((mass * loss(k, inside, gain)).sum())

    h = 1e-4
    return (average(g + h) - average(g - h)) / (2 * h)


def _slope(
    g: float,
    x: Array,
    loss: Loss,
    loss_slope: Loss,
    *,
    jump_sign: float = 1.0,
    moved: bool = True,
    of_x: bool = False,
    in_y: bool = False,
    within: bool = True,
) -> Numbers:
    """Return the slope with at most one mistake."""
    k = np.arange(-20, 20)
    boundary = (k + 0.5) / g
    density = np.exp(-(boundary**2) / 2) / np.sqrt(2 * np.pi) / (1.0 if of_x else g)
    place = k + 0.5 if in_y else boundary
    jump = jump_sign * (loss(k + 1, place, g) - loss(k, place, g))
    across = (density * jump * (place if moved else 1.0)).sum()
    return across + (_only_within(g, x, loss, loss_slope) if within else 0.0)


def _only_within(g: float, x: Array, loss: Loss, loss_slope: Loss) -> Numbers:
    return loss_slope(np.round(g * x), x, g).mean()


# risk.total_variance: both parts of the variance from a few draws per photograph


def two_parts(gradients: Array) -> tuple[Numbers, Numbers]:
    """Subtract the contribution of the noise from the variance of the means."""
    draws = gradients.shape[1]
    noise = gradients.var(axis=1, ddof=1).mean()
    return gradients.mean(axis=1).var(ddof=1) - noise / draws, noise


def _photographs(seed: int) -> tuple[Array]:
    rng = np.random.default_rng(seed)
    draws = int(rng.integers(2, 5))
    means = rng.normal(2.0, rng.uniform(6, 10), (4000, 1))
    return (means + rng.normal(0.0, rng.uniform(12, 20), (4000, draws)),)


def _parts_by_pairs(gradients: Array) -> tuple[float, float]:
    """Compare two draws at a time: their noise is independent, but their photograph is the same."""
    pairs = list(itertools.combinations(gradients.T, 2))
    data = float(np.mean([np.cov(one, other)[0, 1] for one, other in pairs]))
    return data, float(np.mean([np.mean((one - other) ** 2) / 2 for one, other in pairs]))


def _means_as_they_are(gradients: Array) -> tuple[Numbers, Numbers]:
    return gradients.mean(axis=1).var(ddof=1), gradients.var(axis=1, ddof=1).mean()


def _divides_by_the_draws(gradients: Array) -> tuple[Numbers, Numbers]:
    noise = gradients.var(axis=1).mean()
    return gradients.mean(axis=1).var() - noise / gradients.shape[1], noise


def _takes_all_the_noise_away(gradients: Array) -> tuple[Numbers, Numbers]:
    noise = gradients.var(axis=1, ddof=1).mean()
    return gradients.mean(axis=1).var(ddof=1) - noise, noise


def _exchanged(gradients: Array) -> tuple[Numbers, Numbers]:
    return two_parts(gradients)[::-1]


def _total_for_noise(gradients: Array) -> tuple[Numbers, Numbers]:
    return two_parts(gradients)[0], gradients.var(ddof=1)


def _deviations(gradients: Array) -> tuple[Numbers, Numbers]:
    data, noise = two_parts(gradients)
    return np.sqrt(data), np.sqrt(noise)


# risk.expected_rate: the rate for sampled noise, with the mean derivative over all noise


def expected_rate(bits: Bits, y: Tensor, u: Tensor) -> Tensor:
    """Return bits(y + u) with the derivative bits(y + ½) − bits(y − ½)."""
    slope = (bits(y + 0.5) - bits(y - 0.5)).detach()
    return bits(y + u).detach() + slope * (y - y.detach())


def _rates(seed: int) -> tuple[Bits, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    y = 3 * torch.randn(40, dtype=torch.float64, generator=generator)
    scale = 0.4 + torch.rand((), dtype=torch.float64, generator=generator)

    def bits(latents: Tensor) -> Tensor:
        return gaussian_bits(latents, torch.zeros_like(latents), scale)

    return bits, y, torch.rand(40, dtype=torch.float64, generator=generator) - 0.5


def _mean_over_many_draws(bits: Bits, y: Tensor, u: Tensor) -> Tensor:
    """Average central differences of the bits over noise that fills its interval evenly."""
    draws = (torch.arange(500, dtype=torch.float64) + 0.5) / 500 - 0.5
    noisy, h = y + draws[:, None], 1e-5
    return torch.stack([bits(y + u), ((bits(noisy + h) - bits(noisy - h)) / (2 * h)).mean(0)])


def _sampled_derivative(bits: Bits, y: Tensor, u: Tensor) -> Tensor:
    return bits(y + u)


def _both_derivatives(bits: Bits, y: Tensor, u: Tensor) -> Tensor:
    return bits(y + u) + (bits(y + 0.5) - bits(y - 0.5)).detach() * (y - y.detach())


def _no_derivative(bits: Bits, y: Tensor, u: Tensor) -> Tensor:
    return bits(y + u).detach()


def _value_without_noise(bits: Bits, y: Tensor, u: Tensor) -> Tensor:
    return bits(y).detach() + (bits(y + 0.5) - bits(y - 0.5)).detach() * (y - y.detach())


def _downhill(bits: Bits, y: Tensor, u: Tensor) -> Tensor:
    return bits(y + u).detach() + (bits(y - 0.5) - bits(y + 0.5)).detach() * (y - y.detach())


def _difference_itself(bits: Bits, y: Tensor, u: Tensor) -> Tensor:
    return bits(y + 0.5) - bits(y - 0.5)


def _derivative_at_y(bits: Bits, y: Tensor, u: Tensor) -> Tensor:
    rate = bits(y)
    return bits(y + u).detach() + rate - rate.detach()


EXERCISES = (
    Exercise(
        key="risk.best_temperature",
        title="The best temperature of a batch",
        difficulty=1,
        importance=2,
        minutes=6,
        hints=(
            "The right plot of the panel shows the risk at every temperature of the slider, for the current n.",
            "Find the lowest point of the solid curve. Hold the pointer over it to read its τ.",
            "Two neighboring points differ little. The line below the panel gives the risk at the current τ in digits: "
            "compare it for the two candidates.",
        ),
        answer=best_temperature,
        oracle=_least_risk,
        misconceptions={
            _least_bias: "This temperature has the lowest bias. At n = 1024 its variance/n is still larger than what "
            "it saves.",
            _least_variance: "This temperature has the lowest variance. At n = 1024 its squared bias is already too "
            "large: check that n is 1024 and not 64.",
        },
    ),
    Exercise(
        key="risk.exact_slope",
        title="The exact slope of a whole codec",
        difficulty=3,
        importance=3,
        minutes=15,
        hints=(
            "The slope has two parts: one from samples that change their symbol, and one from samples that keep it.",
            "The first part is a sum over the boundaries x = (k + ½)/g, as in the derivation above. The second is a "
            "mean over the samples.",
            "A term of the sum is the density of y at k + ½, times the jump of the loss from k to k + 1, times ∂y/∂g. "
            "The mean is that of loss_slope, with the symbol of each sample.",
        ),
        answer=exact_slope,
        cases=_code,
        oracle=_slope_by_difference,
        tolerance=5e-3,  # a finite difference over the samples is also a right answer
        misconceptions={
            partial(
                _slope, jump_sign=-1.0
            ): "The jump has the wrong sign. When y = g x rises above k + ½, the loss of symbol k + 1 "
            "replaces that of symbol k.",
            partial(
                _slope, moved=False
            ): "The factor ∂y/∂g = x is missing. Samples far from zero cross their boundaries faster.",
            partial(
                _slope, of_x=True
            ): "You used the density of x. The crossings need the density of y = g x, which is the density "
            "of x times 1/g.",
            partial(
                _slope, in_y=True
            ): "You used y = k + ½ in place of x. The sample at that boundary is x = (k + ½)/g.",
            partial(
                _slope, within=False
            ): "These are the boundary crossings alone. The decoder depends on the gain, so the loss "
            "also changes within the cells. Add the mean of loss_slope.",
            _only_within: "This is the result of autograd, the change at fixed symbols. The crossings are missing.",
        },
    ),
    Exercise(
        key="risk.total_variance",
        title="Two parts from a few draws",
        difficulty=2,
        importance=3,
        minutes=12,
        hints=(
            "At a fixed photograph only the noise varies. So the noise part is the mean of the variances over draws.",
            "The mean over the draws of a photograph has less noise than one draw, but not none. How much is left?",
            "The variance of these means is the data part plus the noise part divided by the number of draws.",
        ),
        answer=two_parts,
        cases=_photographs,
        oracle=_parts_by_pairs,
        tolerance=5e-3,
        misconceptions={
            _means_as_they_are: "Your noise part is right. The variance of the means still contains the noise part "
            "divided by the number of draws.",
            _divides_by_the_draws: "NumPy's var divides by the number of draws, which is too small a variance for few "
            "draws. Use ddof=1.",
            _takes_all_the_noise_away: "You subtracted the noise of one draw. The mean of m draws has 1/m of it.",
            _exchanged: "These are the right numbers in the other order. Return the data part first.",
            _total_for_noise: "Your second number is the total variance. The noise part is the variance at a fixed "
            "photograph.",
            _deviations: "These are standard deviations. Return variances, whose sum is the total.",
        },
    ),
    Exercise(
        key="risk.expected_rate",
        title="Write the remedy",
        difficulty=3,
        importance=3,
        minutes=15,
        hints=(
            "The value and the gradient come from different expressions. Detach what should have no gradient.",
            "y − y.detach() is zero and has the derivative 1. Multiply it by the slope that you want.",
            "The slope is the difference of the bits at the two ends of the interval that y + u can reach.",
        ),
        answer=expected_rate,
        cases=_rates,
        oracle=_mean_over_many_draws,
        probe=lambda answer, bits, y, u: value_and_gradient(lambda leaf: answer(bits, leaf, u), y),
        misconceptions={
            _sampled_derivative: "The value is right, but this is the derivative at the drawn u. Return its mean over "
            "all u.",
            _both_derivatives: "Two derivatives are added: that of bits(y + u) and the mean. Detach the value.",
            _no_derivative: "The value is right, but no gradient reaches y.",
            _value_without_noise: "The gradient is right. The value must be bits(y + u), with the noise.",
            _downhill: "The gradient has the wrong sign. It is the bits at the upper end minus those at the lower end.",
            _difference_itself: "This returns the mean derivative as the value. It must be the gradient, and the value "
            "bits(y + u).",
            _derivative_at_y: "This is the derivative at y. The mean over u differs from it, because the bits are not "
            "a parabola.",
        },
    ),
)

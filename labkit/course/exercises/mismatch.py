"""Exercises of the lesson on mismatch: mismatch from samples, the rate of noise, and a temperature for a mismatch."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from torch import Tensor

import labkit as lk
from labkit.course.exercises.base import Exercise, Numbers
from labkit.statistics import Array

# mismatch.sampled: mismatch from samples


def mismatch_from_samples(y: Tensor, y_tilde: Tensor, bits: _GaussianBits, lmbda: float) -> Tensor:
    """Return the mean loss in training minus the mean loss of the rounded latents."""
    y_hat = torch.round(y)
    rate = bits(y_tilde) - bits(y_hat)
    distortion = (y_tilde - y) ** 2 - (y_hat - y) ** 2
    return torch.mean(rate + lmbda * distortion)


class _GaussianBits:
    """The bits of a latent: −log₂ of the Gaussian probability of the unit interval around it."""

    def __init__(self, sigma: float) -> None:
        self.sigma = sigma

    def __call__(self, y: Tensor | Array) -> Tensor:
        distance = torch.as_tensor(y, dtype=torch.float64).abs()
        edges = [torch.special.ndtr((side - distance) / self.sigma) for side in (0.5, -0.5)]
        return -torch.log2(edges[0] - edges[1])


def _samples(seed: int) -> tuple[Tensor, Tensor, _GaussianBits, float]:
    rng = np.random.default_rng(seed)
    sigma, temperature = rng.uniform(0.3, 0.6), rng.uniform(0.5, 1)
    y = rng.normal(0, sigma, 400)
    y_tilde = y + temperature * rng.uniform(-0.5, 0.5, y.shape)
    return torch.from_numpy(y), torch.from_numpy(y_tilde), _GaussianBits(sigma), float(rng.uniform(2, 9))


def _one_latent_at_a_time(y: Tensor, y_tilde: Tensor, bits: _GaussianBits, lmbda: float) -> float:
    """Compute each loss in a loop over latents, with error functions instead of the given code lengths."""

    def code_length(latent: float) -> float:
        low, high = ((abs(latent) + side) / (bits.sigma * math.sqrt(2)) for side in (-0.5, 0.5))
        return -math.log2((math.erfc(low) - math.erfc(high)) / 2)

    losses = {"training": 0.0, "test": 0.0}
    for latent, seen in zip(y.tolist(), y_tilde.tolist(), strict=True):
        for name, value in (("training", seen), ("test", math.floor(latent + 0.5))):
            losses[name] += code_length(value) + lmbda * (value - latent) ** 2
    return (losses["training"] - losses["test"]) / len(y)


def _test_less_training(y: Tensor, y_tilde: Tensor, bits: _GaussianBits, lmbda: float) -> Tensor:
    y_hat = torch.round(y)
    return torch.mean(bits(y_hat) - bits(y_tilde) + lmbda * ((y_hat - y) ** 2 - (y_tilde - y) ** 2))


def _test_does_not_round(y: Tensor, y_tilde: Tensor, bits: _GaussianBits, lmbda: float) -> Tensor:
    return torch.mean(bits(y_tilde) - bits(y) + lmbda * (y_tilde - y) ** 2)


def _error_against_the_rounded(y: Tensor, y_tilde: Tensor, bits: _GaussianBits, lmbda: float) -> Tensor:
    y_hat = torch.round(y)
    return torch.mean(bits(y_tilde) - bits(y_hat) + lmbda * (y_tilde - y_hat) ** 2)


def _without_lambda(y: Tensor, y_tilde: Tensor, bits: _GaussianBits, lmbda: float) -> Tensor:
    y_hat = torch.round(y)
    return torch.mean(bits(y_tilde) - bits(y_hat) + (y_tilde - y) ** 2 - (y_hat - y) ** 2)


def _training_loss_alone(y: Tensor, y_tilde: Tensor, bits: _GaussianBits, lmbda: float) -> Tensor:
    return torch.mean(bits(y_tilde) + lmbda * (y_tilde - y) ** 2)


def _summed(y: Tensor, y_tilde: Tensor, bits: _GaussianBits, lmbda: float) -> Tensor:
    y_hat = torch.round(y)
    return torch.sum(bits(y_tilde) - bits(y_hat) + lmbda * ((y_tilde - y) ** 2 - (y_hat - y) ** 2))


# mismatch.noise_rate: the rate of additive noise


def noise_rate(sigma: float) -> Numbers:
    """Return the mean of −log₂ q(ỹ), where q is the density of ỹ = y + u, by summing over a fine grid."""
    step = 0.002
    y = torch.arange(-10 * sigma - 1, 10 * sigma + 1, step, dtype=torch.float64)
    q = torch.special.ndtr((0.5 - y.abs()) / sigma) - torch.special.ndtr((-0.5 - y.abs()) / sigma)
    q = q[q > 0]
    return -(q * torch.log2(q)).sum() * step


def _scale(seed: int) -> tuple[float]:
    """Return a narrow scale, for which y + u is least Gaussian, then wide ones, for which 2.61 σ is inaccurate."""
    return (float(np.random.default_rng(seed).uniform(0.15, 0.2)) + 0.15 * seed,)


def _entropy(sigma: float, offset: float) -> float:
    """Return the bits of ⌊y⌉ for a Gaussian whose mean is an integer plus `offset`."""
    k = np.arange(-30, 31)
    edges = [0.5 * math.erfc(-(each - offset) / (sigma * math.sqrt(2))) for each in np.append(k - 0.5, 30.5)]
    p = np.diff(edges)
    return -float(np.sum(p[p > 1e-15] * np.log2(p[p > 1e-15])))


def _mean_over_the_grid(sigma: float) -> float:
    """Return the mean entropy over all positions of the grid: noise is rounding on a grid in a random position."""
    return float(np.mean([_entropy(sigma, (i + 0.5) / 64 - 0.5) for i in range(64)]))


def _rounded_rate(sigma: float) -> float:
    return _entropy(sigma, 0.0)


def _entropy_of_y(sigma: float) -> float:
    return 0.5 * math.log2(2 * math.pi * math.e * sigma**2)


def _entropy_of_a_gaussian_as_wide(sigma: float) -> float:
    return 0.5 * math.log2(2 * math.pi * math.e * (sigma**2 + 1 / 12))


def _law_of_narrow_latents(sigma: float, factor: float = 2.606) -> float:
    return factor * sigma


def _noise_rate_in_nats(sigma: float) -> float:
    return _mean_over_the_grid(sigma) * math.log(2)


def _weighted_by_the_density_of_y(sigma: float) -> float:
    y = np.linspace(-9 * sigma, 9 * sigma, 4001)
    p = np.exp(-0.5 * (y / sigma) ** 2)
    return float(p @ _GaussianBits(sigma)(y).numpy() / p.sum())


# mismatch.temperature: a temperature for a tolerated mismatch


def temperature(sigma: float, bits: float) -> float:
    """Solve bits = ½ · log₂(e)/(σ² + 1/12) · τ²/12 for τ."""
    curvature = math.log2(math.e) / (sigma**2 + 1 / 12)
    return math.sqrt(12 * bits / (curvature / 2))


def _tolerated(seed: int) -> tuple[float, float]:
    rng = np.random.default_rng(seed)
    sigma, share = rng.uniform(0.9, 1.8), rng.uniform(0.3, 0.9)
    return float(sigma), float(share**2 * math.log2(math.e) / 24 / (sigma**2 + 1 / 12))


def _temperature_by_bisection(sigma: float, bits: float) -> float:
    """Compute the exact rate mismatch of sua by a sum over latents, and solve for τ by bisection."""
    return _solved(sigma, lambda rate, _: rate, bits)


def _solved(sigma: float, quantity: Callable[[float, float], float], value: float) -> float:
    """Return the τ at which a function of sua's rate and distortion mismatch has a given value."""
    reach = 1000 * math.ceil(7 * sigma)
    y = (np.arange(-reach, reach) + 0.5) / 1000  # intervals end at integers and half-integers
    density = np.exp(-0.5 * (y / sigma) ** 2)
    density /= density.sum()
    lower = np.floor(y)
    cost = _GaussianBits(sigma)
    nearest = np.floor(y + 0.5)
    rates = [cost(each).numpy() for each in (lower, lower + 1, nearest)]
    errors = [(each - y) ** 2 for each in (lower, lower + 1, nearest)]

    def gap(tau: float) -> float:
        chance = np.clip((y - lower - 0.5) / tau + 0.5, 0, 1)
        rate, error = (float(density @ ((1 - chance) * a + chance * b - c)) for a, b, c in (rates, errors))
        return quantity(rate, error)

    low, high = 1e-3, 1.0
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if gap(middle) < value else (low, middle)
    return (low + high) / 2


def _tau(sigma: float, bits: float, factor: float = 1.0, widening: float = 1 / 12) -> float:
    return math.sqrt(24 * bits * (sigma**2 + widening) / math.log2(math.e) * factor)


def _temperature_squared(sigma: float, bits: float) -> float:
    return _tau(sigma, bits) ** 2


# mismatch.as_noise: the temperature at which sua overstates the rate as much as additive noise does, at σ = 0.2


def temperature_as_noise() -> float:
    """Bisect on samples, as in the first cell of the lesson: evenly spaced quantiles y, each with its own u."""
    n = 20_000
    y = 0.2 * torch.special.ndtri((torch.arange(n, dtype=torch.float64) + 0.5) / n)
    u = (torch.arange(n, dtype=torch.float64) * 0.6180339887498949) % 1 - 0.5
    model = torch.tensor(0.0), torch.tensor(0.2)  # mean and scale
    target = lk.analysis.gaussian_bits(y + u, *model).mean()
    low, high = 0.5, 0.7  # neighbors on the panel's slider
    for _ in range(8):
        tau = (low + high) / 2
        rate = lk.analysis.gaussian_bits(torch.round(y + tau * u), *model).mean()
        low, high = (tau, high) if rate < target else (low, tau)
    return (low + high) / 2


def _noise_gap() -> float:
    """Return the rate mismatch of noise at σ = 0.2: the mean over grid positions minus the position at the mean."""
    return _mean_over_the_grid(0.2) - _rounded_rate(0.2)


def _as_noise_by_sums() -> float:
    return _solved(0.2, lambda rate, _: rate, _noise_gap())


def _as_noise_in_distortion() -> float:
    rounded = 0.2**2 * _share_of_error()
    return _solved(0.2, lambda _, error: error, 1 / 12 - rounded)


def _share_of_error() -> float:
    """Return the squared error of rounding at σ = 0.2, relative to σ²."""
    y = (np.arange(-2000, 2000) + 0.5) / 1000
    density = np.exp(-0.5 * (y / 0.2) ** 2)
    return float(density @ (np.floor(y + 0.5) - y) ** 2 / density.sum() / 0.2**2)


def _as_noise_by_the_law() -> float:
    return _tau(0.2, _noise_gap())


def _value_above() -> float:
    return 0.7


EXERCISES = (
    Exercise(
        key="mismatch.sampled",
        title="Mismatch, from samples",
        difficulty=1,
        importance=3,
        minutes=8,
        hints=(
            "Which two losses does the definition of mismatch subtract, and in which order?",
            "Write the loss of one latent as a function of its quantized value, bits plus λ times the squared error.",
            "Call this function once with ỹ and once with ⌊y⌉. Both calls compare with the same y. Return the mean of "
            "the difference.",
        ),
        answer=mismatch_from_samples,
        cases=_samples,
        oracle=_one_latent_at_a_time,
        misconceptions={
            _test_less_training: "The sign is reversed: mismatch is training minus test.",
            _test_does_not_round: "Your test loss is that of y itself. At test time the codec rounds, and rounding "
            "adds an error.",
            _error_against_the_rounded: "Your error is between ỹ and ŷ. Training compares ỹ with y, and the test "
            "compares ŷ with y.",
            _without_lambda: "λ is missing: multiply the squared error by λ.",
            _training_loss_alone: "This is the training loss. Subtract the loss of the same latents after rounding.",
            _summed: "This is the sum over the samples. Mismatch is their mean.",
        },
    ),
    Exercise(
        key="mismatch.noise_rate",
        title="What noise charges",
        difficulty=2,
        importance=2,
        minutes=12,
        hints=(
            "The density of y + u is also what the model assigns to it. The section on narrow latents gives both.",
            "The mean of −log₂ q(ỹ) is the integral of −q log₂ q. Sum it over a fine grid, times the step.",
            "A grid from −10σ − 1 to 10σ + 1 with step 0.002 is fine enough. Remove the points where q is zero before "
            "you take the logarithm.",
        ),
        answer=noise_rate,
        cases=_scale,
        oracle=_mean_over_the_grid,
        tolerance=3e-4,  # some wrong formulas are close
        misconceptions={
            _rounded_rate: "This is the rate of the rounded latents. Return the rate that training with noise reports.",
            _entropy_of_y: "This is the differential entropy of y. Training computes the rate of y + u, whose density "
            "is wider.",
            _entropy_of_a_gaussian_as_wide: "y + u is not Gaussian. Use its density, Φ((t + ½)/σ) − Φ((t − ½)/σ).",
            _law_of_narrow_latents: "2.606 σ is an approximation for narrow latents. The integral is exact at any σ.",
            partial(
                _law_of_narrow_latents, factor=2.61
            ): "2.61 σ is an approximation for narrow latents. The integral is exact at any σ.",
            _noise_rate_in_nats: "Your rate is in nats. Bits need the logarithm to base 2.",
            _weighted_by_the_density_of_y: "You averaged over the density of y. The bits are those of y + u, so weight "
            "them by its density.",
        },
    ),
    Exercise(
        key="mismatch.temperature",
        title="A temperature for a tolerated mismatch",
        difficulty=2,
        importance=2,
        minutes=10,
        hints=(
            "Which distortion mismatch does sua have at high rate, and what does the law make of it?",
            "The distortion mismatch is τ²/12. Half the curvature of the bits times this is the rate mismatch.",
            "Set ½ κ τ²/12 equal to the tolerated bits, with κ = log₂ e/(σ² + 1/12), and solve for τ.",
        ),
        answer=temperature,
        cases=_tolerated,
        oracle=_temperature_by_bisection,
        tolerance=5e-3,
        misconceptions={
            _temperature_squared: "This is τ². Take the square root.",
            partial(
                _tau, factor=math.log2(math.e)
            ): "A factor log₂ e is missing in the curvature, because the rate is in bits and not in nats.",
            partial(_tau, factor=0.5): "The ½ of the second-order term is missing.",
            partial(
                _tau, factor=1 / 12
            ): "You used τ² as the distortion mismatch. Noise of width τ has the variance τ²/12.",
            partial(
                _tau, widening=0.0
            ): "You used the variance σ² of y. The quantized latent has the variance σ² + 1/12.",
        },
    ),
    Exercise(
        key="mismatch.as_noise",
        title="As much as noise",
        difficulty=2,
        importance=2,
        minutes=8,
        hints=(
            "Set the panel to σ = 0.2 and compare the rate in training of aun with that of sua at several τ.",
            "On the slider, sua has less mismatch than aun at one τ and more at the next. The answer lies between.",
            "Call mismatch(scalar_code(0.2), 'sua', τ) for τ in the middle of these two values, and halve the interval "
            "until two digits are fixed.",
        ),
        answer=temperature_as_noise,
        oracle=_as_noise_by_sums,
        tolerance=4e-3,
        misconceptions={
            _as_noise_in_distortion: "At this τ, sua has the distortion mismatch of noise. Compare the rates.",
            _as_noise_by_the_law: "This is the law at high rate. At σ = 0.2 its assumptions fail.",
            _value_above: "0.7 is the value of the slider above the answer. Compute between it and the value below.",
        },
    ),
)

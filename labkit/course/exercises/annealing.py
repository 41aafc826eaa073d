"""Exercises of the lesson on annealing: a temperature, the share of wrong integers, and the expected slope."""

from __future__ import annotations

import functools
import math

import numpy as np
import torch
from torch import Tensor

import labkit as lk
from labkit import surrogates
from labkit.analysis import ScalarCode, mismatch, sources
from labkit.analysis.scalar_training import best_code
from labkit.course.exercises.base import Exercise, Numbers, value_and_gradient
from labkit.statistics import Array

TEMPERATURES = (0.05, 0.07, 0.1, 0.2, 0.3, 0.45, 1.0)  # values of the panel's slider

# annealing.optimistic: the temperature at which the relaxed form understates the loss most, at λ = 6


def most_optimistic() -> Numbers:
    """Return the temperature on the slider at which the relaxed form has the lowest mismatch, at the best code."""
    codes, _ = lk.analysis.scalar_training.best_code(6.0)
    relaxed, slider = lk.surrogates.get("sua", relaxed=True), (0.05, 0.07, 0.1, 0.2, 0.3, 0.45, 1.0)
    gaps = [lk.analysis.scalar_training.mismatch_and_risk(relaxed, tau, codes, 6.0)[0] for tau in slider]
    return slider[gaps.index(min(gaps))]


@functools.cache
def _by_quadrature() -> Array:
    """Return the mismatch of the relaxed form at every temperature, integrated over source and noise."""
    gain, step, scale = (float(parameter) for parameter in best_code(6.0)[0])
    code = ScalarCode(sources.laplace(), gain, 6.0, scale=scale, step=step)
    return np.asarray(mismatch(code, surrogates.get("sua", relaxed=True), TEMPERATURES)["total"])


def _lowest_mismatch() -> float:
    return TEMPERATURES[int(_by_quadrature().argmin())]


def _smallest_mismatch() -> float:
    return TEMPERATURES[int(np.abs(_by_quadrature()).argmin())]


def _warmest() -> float:
    return max(TEMPERATURES)


# annealing.flips: the fraction of latents with ⌊y + τu⌉ ≠ ⌊y⌉


def share_off(temperature: float) -> float:
    """Average (τ/2 − t)/τ, the probability that τu crosses a boundary at distance t, over t uniform on (0, ½)."""
    return temperature / 4


def _temperature(seed: int) -> tuple[float]:
    return (float(np.random.default_rng(seed).uniform(0.2, 0.95)),)


def _lattice(points: int) -> tuple[Array, Array]:
    """Return points that fill the unit square evenly: positions of a latent in its cell, and samples of the noise."""
    i = np.arange(points)
    return (i + 0.5) / points, i * (math.sqrt(5) - 1) / 2 % 1


def _share_by_trial(temperature: float) -> float:
    y, v = (torch.from_numpy(each) for each in _lattice(200_000))
    rounded = surrogates.get("sua")(y, temperature, noise=v)
    return float((rounded != torch.round(y)).double().mean())


def _forgets_the_distance(temperature: float) -> float:
    return temperature / 2


def _all_that_noise_can_reach(temperature: float) -> float:
    return temperature


def _of_those_within_reach(temperature: float) -> float:
    return 0.25 + 0 * temperature


# annealing.expected_slope: ⌊y + τu⌉ with the derivative of its mean


def anneal(y: Tensor, temperature: float, u: Tensor) -> Tensor:
    """Round, with the derivative 1/τ within τ/2 of a cell boundary."""
    to_boundary = (y - torch.floor(y) - 0.5).abs()
    slope = ((to_boundary < temperature / 2) / temperature).detach()
    return torch.round(y + temperature * u).detach() + slope * (y - y.detach())


def _latents(seed: int) -> tuple[Tensor, float, Tensor]:
    """Return latents that are not at the ends of the slope, a temperature, and noise."""
    rng = np.random.default_rng(seed)
    temperature = float(rng.uniform(0.2, 0.45))  # below ½, so that an interval twice as wide does not fill a cell
    y = rng.uniform(-3, 3, 80)
    away = np.abs(np.abs(y - np.floor(y) - 0.5) - temperature / 2) > 0.01
    return torch.from_numpy(y[away]), temperature, torch.from_numpy(rng.uniform(-0.5, 0.5, int(away.sum())))


def _difference_of_the_mean(y: Tensor, temperature: float, u: Tensor) -> Array:
    """Return ⌊y + τu⌉ and a finite difference of its mean, the sum over boundaries of the share of u that passes."""

    def mean(latents: Array) -> Array:
        boundaries = np.arange(-8, 8) + 0.5
        passed = (latents[:, None] - boundaries + temperature / 2) / temperature  # fraction of u that passes each one
        return np.asarray(np.clip(passed, 0, 1).sum(1) - 8)

    latents, h = y.numpy(), 1e-4
    return np.stack([np.round(latents + temperature * u.numpy()), (mean(latents + h) - mean(latents - h)) / (2 * h)])


def _with_slope(y: Tensor, temperature: float, u: Tensor, slope: Tensor) -> Tensor:
    return torch.round(y + temperature * u).detach() + slope.detach() * (y - y.detach())


def _slope_one(y: Tensor, temperature: float, u: Tensor) -> Tensor:
    return _with_slope(y, temperature, u, torch.ones_like(y))


def _steep_everywhere(y: Tensor, temperature: float, u: Tensor) -> Tensor:
    return _with_slope(y, temperature, u, torch.full_like(y, 1 / temperature))


def _twice_as_wide(y: Tensor, temperature: float, u: Tensor) -> Tensor:
    return _with_slope(y, temperature, u, ((y - torch.floor(y) - 0.5).abs() < temperature) / temperature)


def _around_the_integers(y: Tensor, temperature: float, u: Tensor) -> Tensor:
    return _with_slope(y, temperature, u, ((y - torch.round(y)).abs() < temperature / 2) / temperature)


def _slope_one_at_the_boundary(y: Tensor, temperature: float, u: Tensor) -> Tensor:
    return _with_slope(y, temperature, u, ((y - torch.floor(y) - 0.5).abs() < temperature / 2).double())


def _no_gradient(y: Tensor, temperature: float, u: Tensor) -> Tensor:
    return torch.round(y + temperature * u)


def _not_rounded(y: Tensor, temperature: float, u: Tensor) -> Tensor:
    return y + temperature * u


EXERCISES = (
    Exercise(
        key="annealing.optimistic",
        title="Where the relaxed form is most optimistic",
        difficulty=1,
        importance=2,
        minutes=6,
        hints=(
            "It is the first plot, which shows the size of the mismatch at the best code for your λ.",
            "Check that λ is 6, and look at the curve of the relaxed form alone. Its mismatch is negative.",
            "The curve has a maximum between its ends. Hold the pointer over it to read the temperature.",
        ),
        answer=most_optimistic,
        oracle=_lowest_mismatch,
        misconceptions={
            _smallest_mismatch: "Here the relaxed form is closest to rounding. Find where its mismatch is largest.",
            _warmest: "For the other surrogates the warmest temperature has the largest mismatch. Look at the relaxed "
            "form.",
        },
    ),
    Exercise(
        key="annealing.flips",
        title="The share of wrong integers",
        difficulty=2,
        importance=3,
        minutes=10,
        hints=(
            "Draw one cell. Which latents can τu carry across a boundary at all?",
            "Let t be the distance from y to the nearest boundary, uniform on (0, ½). Find the probability of a "
            "crossing for a given t.",
            "Then average this probability over all t. It is zero where t is too large.",
        ),
        answer=share_off,
        cases=_temperature,
        oracle=_share_by_trial,
        misconceptions={
            _forgets_the_distance: "This is twice the share. Only half of the noise points toward the nearest "
            "boundary.",
            _all_that_noise_can_reach: "This is the share of latents that noise can move across a boundary. It moves "
            "each of them only with some probability.",
            _of_those_within_reach: "This is the probability for a latent within reach of a boundary. Only a share τ "
            "of all latents is.",
        },
    ),
    Exercise(
        key="annealing.expected_slope",
        title="Write the expected slope",
        difficulty=3,
        importance=3,
        minutes=15,
        hints=(
            "For which y can the noise change the integer at all? Only there can the mean of ỹ change with y.",
            "Within that interval the mean climbs evenly from one integer to the next. Its slope is 1 over the width.",
            "Compute the slope without a gradient. Then add slope · (y − y.detach()), which is zero, to the value.",
        ),
        answer=anneal,
        cases=_latents,
        oracle=_difference_of_the_mean,
        probe=lambda answer, y, *rest: value_and_gradient(lambda leaf: answer(leaf, *rest), y),
        misconceptions={
            _slope_one: "The value is right, but this declares the slope 1. The mean of ỹ is constant inside a cell.",
            _steep_everywhere: "The slope is 1/τ only near a boundary. Elsewhere, no u changes the integer.",
            _twice_as_wide: "The interval is too wide. τu reaches at most τ/2 to either side.",
            _around_the_integers: "The integer changes at the boundaries of a cell, which are half-integers. You used "
            "the distance from the nearest integer.",
            _slope_one_at_the_boundary: "The place is right. But the mean climbs by 1 over a width of τ.",
            _no_gradient: "The value is right, but no gradient reaches y.",
            _not_rounded: "This is y + τu, without rounding.",
        },
    ),
)

"""Exercises of the lesson on annealing: a schedule, the share of wrong integers, and the highest affordable τ."""

from __future__ import annotations

import math

import numpy as np
import torch

from labkit import surrogates
from labkit.course.exercises.base import Exercise, Numbers
from labkit.statistics import Array

# annealing.schedule: an exponential schedule


def exponential(progress: float, start: float, end: float) -> Numbers:
    """Return τ on a straight line in its logarithm: equal shares of the training multiply τ by equal factors."""
    return start * (end / start) ** progress


_PARTS = 1000  # number of steps in which the oracle divides a training


def _moment_of_a_training(seed: int) -> tuple[float, float, float]:
    rng = np.random.default_rng(seed)
    return int(rng.integers(200, 450)) / _PARTS, float(rng.uniform(0.5, 1.0)), float(rng.uniform(0.02, 0.1))


def _step_by_step(progress: float, start: float, end: float) -> float:
    """Multiply by one factor per step. Bisection finds the factor for which the last τ is `end`."""
    low, high = 0.9, 1.0
    for _ in range(60):
        factor = (low + high) / 2
        tau = start
        for _ in range(_PARTS):
            tau *= factor
        low, high = (factor, high) if tau < end else (low, factor)
    tau = start
    for _ in range(round(progress * _PARTS)):
        tau *= factor
    return tau


def _straight_line(progress: float, start: float, end: float) -> Numbers:
    return start + progress * (end - start)


def _other_way_round(progress: float, start: float, end: float) -> Numbers:
    return end * (start / end) ** progress


def _rises(progress: float, start: float, end: float) -> Numbers:
    return start * (start / end) ** progress


def _two_bases(progress: float, start: float, end: float) -> Numbers:
    return math.exp((1 - progress) * math.log10(start) + progress * math.log10(end))


def _logarithm_itself(progress: float, start: float, end: float) -> Numbers:
    return (1 - progress) * math.log(start) + progress * math.log(end)


def _decays_at_rate_one(progress: float, start: float, end: float) -> Numbers:
    return end + (start - end) * math.exp(-progress)


# annealing.flips: the share of latents with ⌊y + τu⌉ ≠ ⌊y⌉


def share_off(temperature: float) -> float:
    """Average (τ/2 − d)/τ, the probability that τu crosses a boundary at distance d, over d uniform on (0, ½)."""
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


# annealing.warmest: the highest temperature within a budget


def warmest(budget: float) -> float:
    """Solve (1 + τ²)/12 − 1/12 = budget for τ."""
    return math.sqrt(12 * budget)


def _budget(seed: int) -> tuple[float]:
    return (float(np.random.default_rng(seed).uniform(0.001, 0.06)),)


def _warmest_by_trial(budget: float) -> float:
    """Compare the mean squared errors of annealed rounding and rounding, and find τ by bisection."""
    y, v = (torch.from_numpy(each) for each in _lattice(200_000))
    sua, rounding = surrogates.get("sua"), (torch.round(y) - y).square().mean()
    low, high = 1e-3, 1.0
    for _ in range(16):
        middle = (low + high) / 2
        more = (sua(y, middle, noise=v) - y).square().mean() - rounding
        low, high = (low, middle) if more > budget else (middle, high)
    return (low + high) / 2


def _forgets_the_twelfth(budget: float) -> float:
    return math.sqrt(budget)


def _leaves_the_square(budget: float) -> float:
    return 12 * budget


def _noise_alone(budget: float) -> float:
    return math.sqrt(6 * budget)


def _share_of_wrong_integers(budget: float) -> float:
    return 4 * budget


EXERCISES = (
    Exercise(
        key="annealing.schedule",
        title="An exponential schedule",
        difficulty=1,
        importance=2,
        minutes=6,
        clue="Halfway, τ is the geometric mean of start and end. By which factor does it change in total?",
        answer=exponential,
        cases=_moment_of_a_training,
        oracle=_step_by_step,
        misconceptions={
            _straight_line: "This is a straight line from start to end. It spends almost no time at low temperatures.",
            _other_way_round: "Start and end are reversed. At progress 0 the temperature must be `start`.",
            _rises: "This τ rises. From start to end, τ changes by the factor end/start, which is less than one.",
            _two_bases: "You mixed two logarithms. The inverse of log10 is 10 ** x, not exp.",
            _logarithm_itself: "This is the logarithm of the temperature. Take its exp.",
            _decays_at_rate_one: "This never reaches `end`: at progress 1, a share exp(−1) of the way is left.",
        },
    ),
    Exercise(
        key="annealing.flips",
        title="The share of wrong integers",
        difficulty=2,
        importance=3,
        minutes=10,
        clue="Let d be the distance from y to the nearest cell boundary, uniform on (0, ½). τu must point toward this "
        "boundary and exceed d. The probability is (τ/2 − d)/τ if d < τ/2. Average it over d.",
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
        key="annealing.warmest",
        title="The highest temperature you can afford",
        difficulty=2,
        importance=2,
        minutes=8,
        clue="Set the excess over the error of rounding, (1 + τ²)/12 − 1/12, equal to the budget.",
        answer=warmest,
        cases=_budget,
        oracle=_warmest_by_trial,
        misconceptions={
            _forgets_the_twelfth: "A factor is missing: the excess is τ²/12, not τ².",
            _leaves_the_square: "This is τ². Take the square root.",
            _noise_alone: "This is right for an excess of τ²/6. The whole error at τ = 1 is 1/6, and its "
            "excess over rounding is 1/12.",
            _share_of_wrong_integers: "This keeps the share of wrong integers within the budget, not the error.",
        },
    ),
)

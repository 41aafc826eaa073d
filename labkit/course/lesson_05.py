"""Exercises of lesson 05: a schedule, how often annealed rounding goes astray, and the warmest affordable τ."""

from __future__ import annotations

import math

import numpy as np
import torch

from labkit import surrogates
from labkit.course.exercises import Exercise

# 05.1: an exponential schedule


def exponential(progress, start, end):
    """A straight line in the logarithm: every equal share of the training multiplies τ by the same factor."""
    return start * (end / start) ** progress


_PARTS = 1000  # in which the oracle divides a training


def _moment_of_a_training(seed: int) -> tuple[float, float, float]:
    rng = np.random.default_rng(seed)
    return int(rng.integers(200, 450)) / _PARTS, float(rng.uniform(0.5, 1.0)), float(rng.uniform(0.02, 0.1))


def _step_by_step(progress: float, start: float, end: float) -> float:
    """Multiply by one small factor again and again; the factor is found by bisection, such that the last τ is `end`."""
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


def _straight_line(progress, start, end):
    return start + progress * (end - start)


def _other_way_round(progress, start, end):
    return end * (start / end) ** progress


def _rises(progress, start, end):
    return start * (start / end) ** progress


def _two_bases(progress, start, end):
    return math.exp((1 - progress) * math.log10(start) + progress * math.log10(end))


def _logarithm_itself(progress, start, end):
    return (1 - progress) * math.log(start) + progress * math.log(end)


def _decays_at_rate_one(progress, start, end):
    return end + (start - end) * math.exp(-progress)


# 05.2: how often ⌊y + τu⌉ is not ⌊y⌉


def share_off(temperature):
    """At distance d from the boundary, d uniform on (0, ½), τu crosses it with probability (τ/2 − d)/τ: τ/4 in all."""
    return temperature / 4


def _temperature(seed: int) -> tuple[float]:
    return (float(np.random.default_rng(seed).uniform(0.2, 0.95)),)


def _lattice(points: int) -> tuple[np.ndarray, np.ndarray]:
    """Points that fill the unit square evenly: a latent's place in its cell, and a draw of the noise."""
    i = np.arange(points)
    return (i + 0.5) / points, i * (math.sqrt(5) - 1) / 2 % 1


def _share_by_trial(temperature: float) -> float:
    y, v = (torch.from_numpy(each) for each in _lattice(200_000))
    rounded = surrogates.get("sua")(y, temperature, noise=v)
    return float((rounded != torch.round(y)).double().mean())


def _forgets_the_distance(temperature):
    return temperature / 2


def _all_that_noise_can_reach(temperature):
    return temperature


def _of_those_within_reach(temperature):
    return 0.25 + 0 * temperature


# 05.3: the warmest temperature within a budget


def warmest(budget):
    """(1 + τ²)/12 − 1/12 = budget."""
    return math.sqrt(12 * budget)


def _budget(seed: int) -> tuple[float]:
    return (float(np.random.default_rng(seed).uniform(0.001, 0.06)),)


def _warmest_by_trial(budget: float) -> float:
    """Bisection on the mean squared error of annealed rounding, measured against that of rounding."""
    y, v = (torch.from_numpy(each) for each in _lattice(200_000))
    sua, rounding = surrogates.get("sua"), (torch.round(y) - y).square().mean()
    low, high = 1e-3, 1.0
    for _ in range(16):
        middle = (low + high) / 2
        more = (sua(y, middle, noise=v) - y).square().mean() - rounding
        low, high = (low, middle) if more > budget else (middle, high)
    return (low + high) / 2


def _forgets_the_twelfth(budget):
    return math.sqrt(budget)


def _leaves_the_square(budget):
    return 12 * budget


def _noise_alone(budget):
    return math.sqrt(6 * budget)


def _share_of_wrong_integers(budget):
    return 4 * budget


EXERCISES = (
    Exercise(
        key="05.1",
        title="An exponential schedule",
        difficulty=1,
        importance=2,
        minutes=6,
        clue="Halfway, τ is the geometric mean of start and end. By which factor has it changed at the end?",
        answer=exponential,
        cases=_moment_of_a_training,
        oracle=_step_by_step,
        misconceptions={
            _straight_line: "This is a straight line from start to end. It spends hardly any time at low temperatures.",
            _other_way_round: "Start and end are reversed: at progress 0 the temperature should be the first one.",
            _rises: "This rises. From start to end, τ changes by the factor end/start, which is below one.",
            _two_bases: "Two logarithms are mixed: what log10 takes apart, 10 ** x puts together, and not exp.",
            _logarithm_itself: "This is the logarithm of the temperature. Take exp of it.",
            _decays_at_rate_one: "This never comes to `end`: at progress 1, exp(−1) of the way is still to go.",
        },
    ),
    Exercise(
        key="05.2",
        title="How often it goes astray",
        difficulty=2,
        importance=3,
        minutes=10,
        clue="Let d be the distance of y to the nearest cell boundary, uniform on (0, ½). τu must exceed d, and on the "
        "right side. That has the probability (τ/2 − d)/τ where d < τ/2. Average it over d.",
        answer=share_off,
        cases=_temperature,
        oracle=_share_by_trial,
        misconceptions={
            _forgets_the_distance: "Twice too much: only half of the noise points toward the nearest boundary.",
            _all_that_noise_can_reach: "That is the share of latents that noise can carry over a boundary at all. Each "
            "of them is carried over only now and then.",
            _of_those_within_reach: "That is the chance of one that lies within reach. Only a share τ does.",
        },
    ),
    Exercise(
        key="05.3",
        title="The warmest temperature you can afford",
        difficulty=2,
        importance=2,
        minutes=8,
        clue="Set the excess over rounding's own error, (1 + τ²)/12 − 1/12, equal to the budget.",
        answer=warmest,
        cases=_budget,
        oracle=_warmest_by_trial,
        misconceptions={
            _forgets_the_twelfth: "A factor is missing: the excess is τ²/12, not τ².",
            _leaves_the_square: "This is τ². Take the root.",
            _noise_alone: "That would hold for an excess of τ²/6. The whole error at τ = 1 is 1/6; its "
            "excess over rounding is 1/12.",
            _share_of_wrong_integers: "That keeps the share of changed integers within the budget, not the error.",
        },
    ),
)

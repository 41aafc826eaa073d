"""The exercises on annealing recognize mistakes in other code and accept other correct answers."""

import math

import numpy as np
import pytest
import torch

from labkit import schedules
from labkit.course import exercise

REWRITTEN_MISTAKES = [
    ("annealing.schedule", lambda p, a, b: (1 - p) * a + p * b, "straight line"),
    ("annealing.schedule", lambda p, a, b: a**p * b ** (1 - p), "reversed"),
    ("annealing.schedule", lambda p, a, b: a * math.exp(-p * math.log(b / a)), "This τ rises"),
    ("annealing.schedule", lambda p, a, b: 10 ** ((1 - p) * math.log(a) + p * math.log(b)), "In one of the trials"),
    ("annealing.schedule", lambda p, a, b: math.e ** (math.log10(a) + p * math.log10(b / a)), "mixed two logarithms"),
    ("annealing.schedule", lambda p, a, b: math.log(a) + p * math.log(b / a), "Take its exp"),
    ("annealing.schedule", lambda p, a, b: (a - b) / math.exp(p) + b, "never reaches"),
    ("annealing.flips", lambda tau: 0.5 * tau, "twice the share"),
    ("annealing.flips", lambda tau: np.minimum(tau, 1), "can move across"),
    ("annealing.flips", lambda tau: (tau / 4) / tau, "within reach"),
    ("annealing.warmest", lambda budget: budget**0.5, "factor is missing"),
    ("annealing.warmest", lambda budget: budget * 12, "Take the square root"),
    ("annealing.warmest", lambda budget: np.sqrt(budget / (1 / 6)), "excess over rounding is 1/12"),
    ("annealing.warmest", lambda budget: budget / 0.25, "share of wrong integers"),
]


@pytest.mark.parametrize(("key", "wrong", "fragment"), REWRITTEN_MISTAKES)
def test_a_mistake_is_recognized_in_other_code(key, wrong, fragment):
    verdict = exercise(key).check(wrong)
    assert verdict.state == "failed" and fragment in verdict.message


def test_other_correct_answers_pass():
    assert exercise("annealing.schedule").check(lambda p, a, b: math.exp((1 - p) * math.log(a) + p * math.log(b)))
    assert exercise("annealing.schedule").check(lambda p, a, b: schedules.exponential(a, b)(round(1000 * p), 1001))
    assert exercise("annealing.flips").check(lambda tau: torch.tensor(0.25) * tau)
    assert exercise("annealing.warmest").check(lambda budget: np.sqrt(12 * budget))


def test_the_oracles_agree_with_theory():
    task = exercise("annealing.flips")
    assert abs(task.oracle(0.6) - 0.15) < 2e-4
    task = exercise("annealing.warmest")
    assert abs(task.oracle(0.03) - 0.6) < 3e-4
    task = exercise("annealing.schedule")
    assert abs(task.oracle(0.5, 0.8, 0.05) - 0.2) < 1e-6

"""Lesson 05's exercises: the mistakes that its messages are for, as learners write them."""

import math

import numpy as np
import pytest
import torch

from labkit import course, schedules
from labkit.course import record

LOOKALIKES = [
    ("05.1", lambda p, a, b: (1 - p) * a + p * b, "straight line"),
    ("05.1", lambda p, a, b: a**p * b ** (1 - p), "reversed"),
    ("05.1", lambda p, a, b: a * math.exp(-p * math.log(b / a)), "This rises"),
    ("05.1", lambda p, a, b: 10 ** ((1 - p) * math.log(a) + p * math.log(b)), "In one of the trials"),
    ("05.1", lambda p, a, b: math.e ** (math.log10(a) + p * math.log10(b / a)), "logarithms are mixed"),
    ("05.1", lambda p, a, b: math.log(a) + p * math.log(b / a), "Take exp"),
    ("05.1", lambda p, a, b: (a - b) / math.exp(p) + b, "never comes"),
    ("05.2", lambda tau: 0.5 * tau, "Twice too much"),
    ("05.2", lambda tau: np.minimum(tau, 1), "at all"),
    ("05.2", lambda tau: (tau / 4) / tau, "within reach"),
    ("05.3", lambda budget: budget**0.5, "factor is missing"),
    ("05.3", lambda budget: budget * 12, "Take the root"),
    ("05.3", lambda budget: np.sqrt(budget / (1 / 6)), "excess over rounding is 1/12"),
    ("05.3", lambda budget: budget / 0.25, "share of changed integers"),
]


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("LABKIT_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(record, "_memory", None)


@pytest.mark.parametrize(("key", "wrong", "fragment"), LOOKALIKES)
def test_the_same_mistake_in_other_words(key, wrong, fragment):
    verdict = course.exercise(key).check(wrong)
    assert verdict.state == "failed" and fragment in verdict.message


def test_other_right_answers_pass():
    assert course.exercise("05.1").check(lambda p, a, b: math.exp((1 - p) * math.log(a) + p * math.log(b)))
    assert course.exercise("05.1").check(lambda p, a, b: schedules.exponential(a, b)(round(1000 * p), 1001))
    assert course.exercise("05.2").check(lambda tau: torch.tensor(0.25) * tau)
    assert course.exercise("05.3").check(lambda budget: np.sqrt(12 * budget))


def test_oracles_are_near_what_theory_says():
    exercise = course.exercise("05.2")
    assert abs(exercise.oracle(0.6) - 0.15) < 2e-4
    exercise = course.exercise("05.3")
    assert abs(exercise.oracle(0.03) - 0.6) < 3e-4
    exercise = course.exercise("05.1")
    assert abs(exercise.oracle(0.5, 0.8, 0.05) - 0.2) < 1e-6

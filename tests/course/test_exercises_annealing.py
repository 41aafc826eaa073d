"""The exercises on annealing recognize mistakes in other code and accept other correct answers."""

import numpy as np
import pytest
import torch

from labkit import surrogates
from labkit.course import exercise
from labkit.course.exercises import annealing
from labkit.live.annealing import TEMPERATURES

REWRITTEN_MISTAKES = [
    ("annealing.flips", lambda tau: 0.5 * tau, "twice the share"),
    ("annealing.flips", lambda tau: np.minimum(tau, 1), "can move across"),
    ("annealing.flips", lambda tau: (tau / 4) / tau, "within reach"),
    ("annealing.optimistic", 0.3, "is not right"),
    ("annealing.expected_slope", lambda y, tau, u: y + ((y + tau * u).round() - y).detach(), "declares the slope 1"),
    ("annealing.expected_slope", lambda y, t, u: y / t + ((y + t * u).round() - y / t).detach(), "near a boundary"),
    ("annealing.expected_slope", lambda y, tau, u: (y.detach() + tau * u).round(), "no gradient"),
    ("annealing.expected_slope", lambda y, tau, u: tau * u + 1.0 * y, "without rounding"),
    ("annealing.expected_slope", lambda y, tau, u: 1.0, "with the shape of y"),
]


@pytest.mark.parametrize(("key", "wrong", "fragment"), REWRITTEN_MISTAKES)
def test_a_mistake_is_recognized_in_other_code(key, wrong, fragment):
    verdict = exercise(key).check(wrong)
    assert verdict.state == "failed" and fragment in verdict.message


class Annealed(torch.autograd.Function):
    """The surrogate as a function with its own backward pass."""

    @staticmethod
    def forward(context, y, tau, u):
        context.save_for_backward(((y + tau / 2).round() - (y - tau / 2).round()) / tau)
        return (y + tau * u).round()

    @staticmethod
    def backward(context, gradient):
        return gradient * context.saved_tensors[0], None, None


def test_other_correct_answers_pass():
    assert exercise("annealing.optimistic").check(0.45)
    assert exercise("annealing.flips").check(lambda tau: torch.tensor(0.25) * tau)
    assert exercise("annealing.expected_slope").check(Annealed.apply)
    expected = surrogates.get("sua", gradient="expected")
    assert exercise("annealing.expected_slope").check(lambda y, tau, u: expected(y, tau, noise=u + 0.5))


def test_the_oracles_agree_with_theory():
    assert abs(exercise("annealing.flips").oracle(0.6) - 0.15) < 2e-4


def test_the_temperatures_are_those_of_the_panel():
    assert annealing.TEMPERATURES == TEMPERATURES

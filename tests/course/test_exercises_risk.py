"""The exercises on gradient risk recognize mistakes in other code and accept other correct answers."""

import math

import numpy as np
import pytest
import torch

from labkit.course import exercise
from labkit.course.exercises import risk
from labkit.live.risk import TEMPERATURES


def crossings(g, loss, moved=True, density_of_y=True, up=True, y_for_x=False):
    """Compute the first part of risk.exact_slope, the crossings, in a loop over the boundaries of bins."""
    total = 0.0
    for k in range(-9, 9):
        y = k + 0.5
        x = y / g
        scale = g if density_of_y else 1.0
        density = math.exp(-0.5 * x * x) / (scale * math.sqrt(2 * math.pi))
        x = y if y_for_x else x
        below, above = loss(np.array([k]), np.array([x]), g)[0], loss(np.array([k + 1]), np.array([x]), g)[0]
        total += density * (above - below if up else below - above) * (x if moved else 1.0)
    return total


def within(g, x, loss_slope):
    return float(np.average([loss_slope(math.floor(g * value + 0.5), value, g) for value in x[5::10]]))


def parts_by_total(gradients):
    """The noise part, and the total variance without it: with many photographs as good as the solution."""
    noise = gradients.var(1, ddof=1).mean()
    return np.array([gradients.var() - noise, noise])


class WithMeanGradient(torch.autograd.Function):
    """The remedy as a function with its own backward pass."""

    @staticmethod
    def forward(context, y, u, bits):
        context.save_for_backward(bits(y + 0.5) - bits(y - 0.5))
        return bits(y + u)

    @staticmethod
    def backward(context, gradient):
        return gradient * context.saved_tensors[0], None, None


REWRITTEN_MISTAKES = [
    ("risk.total_variance", lambda g: (np.cov(g.T).mean(), g.T.var(0, ddof=1).mean()), "still contains the noise part"),
    ("risk.total_variance", lambda g: (g.mean(1).var() - g.var(1).mean() / len(g.T), g.var(1).mean()), "ddof=1"),
    ("risk.total_variance", lambda g: parts_by_total(g)[::-1], "other order"),
    ("risk.total_variance", lambda g: np.sqrt(parts_by_total(g)), "standard deviations"),
    ("risk.expected_rate", lambda bits, y, u: 1.0 * bits(u + y), "derivative at the drawn u"),
    ("risk.expected_rate", lambda bits, y, u: torch.tensor(bits(y + u).tolist(), dtype=y.dtype), "no gradient"),
    ("risk.expected_rate", lambda bits, y, u: bits(y) + (bits(y + u) - bits(y)).detach(), "derivative at y"),
    ("risk.expected_rate", lambda bits, y, u: bits(y + u).mean(), "with the shape of y"),
    ("risk.exact_slope", lambda g, x, f, d: crossings(g, f, up=False) + within(g, x, d), "wrong sign"),
    ("risk.exact_slope", lambda g, x, f, d: crossings(g, f, moved=False) + within(g, x, d), "∂y/∂g = x is missing"),
    ("risk.exact_slope", lambda g, x, f, d: crossings(g, f, density_of_y=False) + within(g, x, d), "density of x"),
    ("risk.exact_slope", lambda g, x, f, d: crossings(g, f, y_for_x=True) + within(g, x, d), "x = (k + ½)/g"),
    ("risk.exact_slope", lambda g, x, f, d: crossings(g, f), "crossings alone"),
    ("risk.exact_slope", lambda g, x, f, d: within(g, x, d), "autograd"),
]


@pytest.mark.parametrize(("key", "wrong", "fragment"), REWRITTEN_MISTAKES)
def test_a_mistake_is_recognized_in_other_code(key, wrong, fragment):
    verdict = exercise(key).check(wrong)
    assert verdict.state == "failed" and fragment in verdict.message, verdict.message


def test_other_correct_answers_pass():
    assert exercise("risk.best_temperature").check(0.7)
    assert exercise("risk.total_variance").check(parts_by_total)
    assert exercise("risk.expected_rate").check(lambda bits, y, u: WithMeanGradient.apply(y, u, bits))
    assert exercise("risk.exact_slope").check(lambda g, x, f, d: crossings(g, f) + within(g, x, d))

    def by_difference(g, x, loss, loss_slope):  # of the mean over the samples, which needs a wide step
        above, below = (loss(np.round(gain * x), x, gain).mean() for gain in (g + 5e-3, g - 5e-3))
        return (above - below) / 1e-2

    assert exercise("risk.exact_slope").check(by_difference)


def test_the_temperatures_are_those_of_the_panel():
    assert risk.TEMPERATURES == TEMPERATURES


@pytest.mark.parametrize("key", ["risk.exact_slope", "risk.total_variance", "risk.expected_rate"])
def test_the_solution_needs_only_the_imports_of_the_setup_cell(key):
    task = exercise(key)
    namespace = {"torch": torch, "np": np}
    exec(str(task.solution()), namespace)
    assert task.check(namespace[task.answer.__name__])


@pytest.mark.parametrize("key", ["risk.exact_slope", "risk.total_variance"])
def test_every_seed_distinguishes_all_misconceptions(key):
    """Whichever case an answer fails, only one misconception explains it."""
    task = exercise(key)
    for seed in (0, 1, 2):
        arguments = task.cases(seed)
        values = [np.asarray([float(v) for v in np.ravel(wrong(*arguments))]) for wrong in task.misconceptions]
        values.append(np.ravel(np.asarray(task.oracle(*arguments), dtype=float)))
        for i, value in enumerate(values):
            for other in values[i + 1 :]:
                assert not np.allclose(value, other, rtol=3e-3, atol=3e-3)

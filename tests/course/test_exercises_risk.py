"""The exercises on gradient risk recognize mistakes in other code and accept other correct answers."""

import math

import numpy as np
import pytest
import torch

from labkit.course import exercise


def numpy_answer(wrong_risk=None, bias=None, std=None):
    """Return an answer to risk.sampled that uses NumPy and gets at most one number wrong."""

    def answer(gradients, exact, n):
        values = np.asarray(gradients)
        b, s = np.mean(values) - exact, np.std(values, ddof=1)
        risk = wrong_risk(b, s, n) if wrong_risk else b**2 + s**2 / n
        return [bias(b) if bias else b, std(s, n) if std else s, risk]

    return answer


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


REWRITTEN_MISTAKES = [
    ("risk.sampled", numpy_answer(lambda b, s, n: b * b + s * s), "single sample"),
    ("risk.sampled", numpy_answer(lambda b, s, n: b * b + s / n), "standard deviation divided by n"),
    (
        "risk.sampled",
        numpy_answer(lambda b, s, n: math.hypot(b, 0) ** 2 + (s * s / n) ** 0.5),
        "standard deviation of a batch",
    ),
    ("risk.sampled", numpy_answer(lambda b, s, n: b + s * s / n), "bias itself"),
    ("risk.sampled", lambda G, e, n: (G.mean() - e, G.std(), ((G - e) ** 2).mean() / n), "batch size averages a bias"),
    ("risk.sampled", numpy_answer(bias=lambda b: -b), "wrong sign"),
    ("risk.sampled", numpy_answer(std=lambda s, n: s / n**0.5), "that of a batch"),
    ("risk.sampled", lambda G, e, n: (G.mean() - e, G.var(), (G.mean() - e) ** 2 + G.var() / n), "not the variance"),
    ("risk.exact_slope", lambda g, x, f, d: crossings(g, f, up=False) + within(g, x, d), "wrong sign"),
    ("risk.exact_slope", lambda g, x, f, d: crossings(g, f, moved=False) + within(g, x, d), "∂y/∂g = x is missing"),
    ("risk.exact_slope", lambda g, x, f, d: crossings(g, f, density_of_y=False) + within(g, x, d), "density of x"),
    ("risk.exact_slope", lambda g, x, f, d: crossings(g, f, y_for_x=True) + within(g, x, d), "x = (k + ½)/g"),
    ("risk.exact_slope", lambda g, x, f, d: crossings(g, f), "crossings alone"),
    ("risk.exact_slope", lambda g, x, f, d: within(g, x, d), "autograd"),
    ("risk.batch_size", lambda b, s, c, t: (t - s) / (b * b - c * c), "contains variances"),
    ("risk.batch_size", lambda b, s, c, t: (s * s - t * t) / math.fabs(c - b), "subtracted biases"),
    ("risk.batch_size", lambda b, s, c, t: (t * t - s * s) / (b - c), "subtracted biases"),
    ("risk.batch_size", lambda b, s, c, t: ((s - t) / (c - b)) ** 2, "Subtract squares"),
    ("risk.batch_size", lambda b, s, c, t: (c + b) * (c - b) / ((s + t) * (s - t)), "1/n"),
    ("risk.batch_size", lambda b, s, c, t: (t**2 - s**2) / (c**2 - b**2), "batch size is negative"),
]


@pytest.mark.parametrize(("key", "wrong", "fragment"), REWRITTEN_MISTAKES)
def test_a_mistake_is_recognized_in_other_code(key, wrong, fragment):
    verdict = exercise(key).check(wrong)
    assert verdict.state == "failed" and fragment in verdict.message, verdict.message


def test_other_correct_answers_pass():
    assert exercise("risk.sampled").check(numpy_answer())

    def by_mean_squared_error(gradients, exact, n):  # divided by n, it contains only an n-th of the squared bias
        bias, std = gradients.mean() - exact, gradients.std()
        return torch.stack([bias, std, ((gradients - exact) ** 2).mean() / n + (1 - 1 / n) * bias**2])

    assert exercise("risk.sampled").check(by_mean_squared_error)
    assert exercise("risk.exact_slope").check(lambda g, x, f, d: crossings(g, f) + within(g, x, d))

    def by_difference(g, x, loss, loss_slope):  # of the mean over the samples, which needs a wide step
        above, below = (loss(np.round(gain * x), x, gain).mean() for gain in (g + 5e-3, g - 5e-3))
        return (above - below) / 1e-2

    assert exercise("risk.exact_slope").check(by_difference)
    assert exercise("risk.batch_size").check(lambda b, s, c, t: abs(s * s - t * t) / abs(b * b - c * c))


@pytest.mark.parametrize("key", ["risk.sampled", "risk.exact_slope", "risk.batch_size"])
def test_the_solution_needs_only_the_imports_of_the_setup_cell(key):
    task = exercise(key)
    namespace = {"torch": torch, "np": np}
    exec(str(task.solution()), namespace)
    assert task.check(namespace[task.answer.__name__])


@pytest.mark.parametrize("key", ["risk.sampled", "risk.exact_slope", "risk.batch_size"])
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

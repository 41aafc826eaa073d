"""Lesson 03's exercises: the same mistakes in other code, and other right answers."""

import math

import numpy as np
import pytest
import torch

from labkit import course
from labkit.course import record


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("LABKIT_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(record, "_memory", None)


def loss(value, y, bits, lmbda):
    return (bits(value) + lmbda * (value - y).pow(2)).mean()


def grid_sum(sigma, log, step=1e-3):
    """∫ q log q of the density of y + u, with erf and NumPy."""
    t = np.arange(-4, 4, step)
    root = sigma * math.sqrt(2)
    q = np.array([0.5 * (math.erf((each + 0.5) / root) - math.erf((each - 0.5) / root)) for each in t])
    return -np.sum(q[q > 1e-14] * log(q[q > 1e-14])) * step


LOOKALIKES = [
    ("03.1", lambda y, s, b, k: loss(y.round(), y, b, k) - loss(s, y, b, k), "sign is turned round"),
    ("03.1", lambda y, s, b, k: loss(s, y, b, k) - loss(y, y, b, k), "loss is that of y itself"),
    ("03.1", lambda y, s, b, k: loss(s, y.round(), b, k) - b(y.round()).mean(), "between ỹ and ŷ"),
    ("03.1", lambda y, s, b, k: loss(s, y, b, 1) - loss(y.round(), y, b, 1), "left out λ"),
    ("03.1", lambda y, s, b, k: b(s).mean() + k * torch.nn.functional.mse_loss(s, y), "the training loss"),
    ("03.1", lambda y, s, b, k: len(y) * (loss(s, y, b, k) - loss((y + 0.5).floor(), y, b, k)), "the sum over"),
    ("03.2", lambda s: grid_sum(s, np.log), "in nats"),
    ("03.2", lambda s: math.log2(s * math.sqrt(2 * math.pi * math.e)), "differential entropy of y"),
    ("03.2", lambda s: 0.5 * math.log2(2 * math.pi * math.e * (s * s + 1 / 12)), "no Gaussian"),
    ("03.2", lambda s: 2.61 * s, "narrow latents only"),
    ("03.3", lambda s, b: 24 * b * (s * s + 1 / 12) * math.log(2), "Take the root"),
    ("03.3", lambda s, b: (24 * b * (s * s + 1 / 12)) ** 0.5, "log₂ e is missing"),
    ("03.3", lambda s, b: np.sqrt(12 * b * (s**2 + 1 / 12) * np.log(2)), "The ½"),
    ("03.3", lambda s, b: np.sqrt(2 * b * (s**2 + 1 / 12) * np.log(2)), "the variance τ²/12"),
    ("03.3", lambda s, b: s * (24 * b * math.log(2)) ** 0.5, "the cell adds its 1/12"),
]


def test_rounded_rate_and_the_density_of_y_are_told_apart():
    def rounded(sigma):
        edges = torch.special.ndtr(torch.arange(-20.5, 21, dtype=torch.float64) / sigma)
        return torch.special.entr(edges.diff()).sum() / math.log(2)

    def over_y(sigma):
        y = sigma * torch.special.ndtri((torch.arange(100_000, dtype=torch.float64) + 0.5) / 100_000)
        q = torch.special.ndtr((y + 0.5) / sigma) - torch.special.ndtr((y - 0.5) / sigma)
        return -torch.log2(q).mean()

    assert "rounded latents cost" in course.exercise("03.2").check(rounded).message
    assert "averaged over y" in course.exercise("03.2").check(over_y).message


@pytest.mark.parametrize(("key", "wrong", "fragment"), LOOKALIKES)
def test_the_same_mistake_in_other_words(key, wrong, fragment):
    verdict = course.exercise(key).check(wrong)
    assert verdict.state == "failed" and fragment in verdict.message


def test_other_right_answers_pass():
    assert course.exercise("03.1").check(lambda y, s, b, k: loss(s, y, b, k) - loss((y + 0.5).floor(), y, b, k))
    assert course.exercise("03.2").check(lambda s: grid_sum(s, np.log2))

    def sampled(sigma):  # a hundred thousand quantiles of y, each with its own place in the cell
        n = 100_000
        y = sigma * torch.special.ndtri((torch.arange(n, dtype=torch.float64) + 0.5) / n)
        t = y + torch.from_numpy(np.modf(np.arange(n) * 0.6180339887498949)[0]) - 0.5
        return -torch.log2(torch.special.ndtr((t + 0.5) / sigma) - torch.special.ndtr((t - 0.5) / sigma)).mean()

    assert course.exercise("03.2").check(sampled)
    assert course.exercise("03.3").check(lambda s, b: (24 * b * math.log(2) * (s * s + 1 / 12)) ** 0.5)

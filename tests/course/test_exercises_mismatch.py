"""The exercises on mismatch recognize mistakes in other code and accept other correct answers."""

import math

import numpy as np
import pytest
import torch

from labkit.course import exercise


def loss(value, y, bits, lmbda):
    return (bits(value) + lmbda * (value - y).pow(2)).mean()


def grid_sum(sigma, log, step=1e-3):
    """Return −∫ q log q, where q is the density of y + u, computed with erf and NumPy."""
    t = np.arange(-4, 4, step)
    root = sigma * math.sqrt(2)
    q = np.array([0.5 * (math.erf((value + 0.5) / root) - math.erf((value - 0.5) / root)) for value in t])
    return -np.sum(q[q > 1e-14] * log(q[q > 1e-14])) * step


REWRITTEN_MISTAKES = [
    ("mismatch.sampled", lambda y, s, b, k: loss(y.round(), y, b, k) - loss(s, y, b, k), "sign is reversed"),
    ("mismatch.sampled", lambda y, s, b, k: loss(s, y, b, k) - loss(y, y, b, k), "loss is that of y itself"),
    ("mismatch.sampled", lambda y, s, b, k: loss(s, y.round(), b, k) - b(y.round()).mean(), "between ỹ and ŷ"),
    ("mismatch.sampled", lambda y, s, b, k: loss(s, y, b, 1) - loss(y.round(), y, b, 1), "λ is missing"),
    ("mismatch.sampled", lambda y, s, b, k: b(s).mean() + k * torch.nn.functional.mse_loss(s, y), "the training loss"),
    (
        "mismatch.sampled",
        lambda y, s, b, k: len(y) * (loss(s, y, b, k) - loss((y + 0.5).floor(), y, b, k)),
        "the sum over",
    ),
    ("mismatch.noise_rate", lambda s: grid_sum(s, np.log), "in nats"),
    ("mismatch.noise_rate", lambda s: math.log2(s * math.sqrt(2 * math.pi * math.e)), "differential entropy of y"),
    ("mismatch.noise_rate", lambda s: 0.5 * math.log2(2 * math.pi * math.e * (s * s + 1 / 12)), "not Gaussian"),
    ("mismatch.noise_rate", lambda s: 2.61 * s, "narrow latents"),
    ("mismatch.temperature", lambda s, b: 24 * b * (s * s + 1 / 12) * math.log(2), "Take the square root"),
    ("mismatch.temperature", lambda s, b: (24 * b * (s * s + 1 / 12)) ** 0.5, "log₂ e is missing"),
    ("mismatch.temperature", lambda s, b: np.sqrt(12 * b * (s**2 + 1 / 12) * np.log(2)), "The ½"),
    ("mismatch.temperature", lambda s, b: np.sqrt(2 * b * (s**2 + 1 / 12) * np.log(2)), "the variance τ²/12"),
    ("mismatch.temperature", lambda s, b: s * (24 * b * math.log(2)) ** 0.5, "variance σ² + 1/12"),
]


def test_the_check_distinguishes_the_rounded_rate_from_the_average_over_y():
    def rounded(sigma):
        edges = torch.special.ndtr(torch.arange(-20.5, 21, dtype=torch.float64) / sigma)
        return torch.special.entr(edges.diff()).sum() / math.log(2)

    def averaged_over_y(sigma):
        y = sigma * torch.special.ndtri((torch.arange(100_000, dtype=torch.float64) + 0.5) / 100_000)
        q = torch.special.ndtr((y + 0.5) / sigma) - torch.special.ndtr((y - 0.5) / sigma)
        return -torch.log2(q).mean()

    assert "rate of the rounded latents" in exercise("mismatch.noise_rate").check(rounded).message
    assert "averaged over the density of y" in exercise("mismatch.noise_rate").check(averaged_over_y).message


@pytest.mark.parametrize(("key", "wrong", "fragment"), REWRITTEN_MISTAKES)
def test_a_mistake_is_recognized_in_other_code(key, wrong, fragment):
    verdict = exercise(key).check(wrong)
    assert verdict.state == "failed" and fragment in verdict.message


def test_other_correct_answers_pass():
    assert exercise("mismatch.sampled").check(lambda y, s, b, k: loss(s, y, b, k) - loss((y + 0.5).floor(), y, b, k))
    assert exercise("mismatch.noise_rate").check(lambda s: grid_sum(s, np.log2))

    def sampled(sigma):  # 100,000 quantiles of y, each with its own offset within the cell
        n = 100_000
        y = sigma * torch.special.ndtri((torch.arange(n, dtype=torch.float64) + 0.5) / n)
        t = y + torch.from_numpy(np.modf(np.arange(n) * 0.6180339887498949)[0]) - 0.5
        return -torch.log2(torch.special.ndtr((t + 0.5) / sigma) - torch.special.ndtr((t - 0.5) / sigma)).mean()

    assert exercise("mismatch.noise_rate").check(sampled)
    assert exercise("mismatch.temperature").check(lambda s, b: (24 * b * math.log(2) * (s * s + 1 / 12)) ** 0.5)

"""Lesson 06's exercises: the same mistakes in other words, other right answers, and a hand-made case."""

import math
from statistics import NormalDist

import numpy as np
import pytest
import torch
from scipy import special, stats

from labkit import course
from labkit.course import lesson_06, record


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("LABKIT_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(record, "_memory", None)


def price(scale):
    return -np.log2(special.ndtr(0.5 / scale) - special.ndtr(-0.5 / scale))


def means(scales, extra, bound):
    return (scales < bound).float().mean().item(), float(extra)


LOOKALIKES = [
    ("06.1", lambda b: -np.log(1 - 2 * stats.norm.cdf(-0.5 / b)), "nats"),
    ("06.1", lambda b: -math.log2(NormalDist(0, b).cdf(0.5)), "both sides"),
    ("06.1", lambda b: -math.log2(NormalDist(0, b).cdf(0.5) - 0.5), "one bit too many"),
    ("06.1", lambda b: -math.log2(NormalDist(0, b).pdf(0)), "density"),
    ("06.1", lambda b: -torch.distributions.Normal(0.0, b).log_prob(torch.tensor(0.0)) / math.log(2), "density"),
    ("06.1", lambda b: -math.log2(1 - 2 * NormalDist(0, b).cdf(-1)), "from −1 to 1"),
    ("06.1", lambda b: -math.log2(1 - 2 * NormalDist(0, b**0.5).cdf(-0.5)), "variance"),
    ("06.1", lambda b: -np.log2(special.erf(1 / (2 * b))), "√2"),
    ("06.2", lambda r: 0.5 / stats.norm.ppf(2**-r), "two tails"),
    ("06.2", lambda r: 1 / stats.norm.ppf((1 + 2**-r) / 2), "factor 2"),
    ("06.2", lambda r: 0.5 / stats.norm.ppf((1 + math.exp(-r)) / 2), "nats"),
    ("06.2", lambda r: 0.5 / special.erfinv(2**-r), "√2"),
    ("06.2", lambda r: 2 * stats.norm.ppf((1 + 2**-r) / 2), "larger bound"),
    ("06.3", lambda s, b: means(s, (price(b) - price(s.numpy()))[s.numpy() < b].mean(), b), "over all latents"),
    ("06.3", lambda s, b: means(s, price(b) * (s < b).sum() / len(s), b), "whole price"),
    ("06.3", lambda s, b: means(s, price(b) - price(s.numpy()).mean(), b), "leaves them"),
    ("06.3", lambda s, b: ((s > b).double().mean(), np.maximum(price(b) - price(s.numpy()), 0).mean()), "those below"),
    ("06.3", lambda s, b: means(s, np.maximum(price(b) - price(s.numpy()), 0).sum(), b), "their number"),
]


@pytest.mark.parametrize(("key", "wrong", "fragment"), LOOKALIKES)
def test_the_same_mistake_in_other_words(key, wrong, fragment):
    verdict = course.exercise(key).check(wrong)
    assert verdict.state == "failed" and fragment in verdict.message


def test_other_right_answers_pass():
    assert course.exercise("06.1").check(lambda b: price(b))
    assert course.exercise("06.2").check(lambda r: 0.5 / stats.norm.ppf((1 + 2**-r) / 2))
    assert course.exercise("06.2").check(lambda r: 0.5 / -torch.special.ndtri(torch.tensor((1 - 2**-r) / 2)))
    right = course.exercise("06.3")
    assert right.check(lambda s, b: np.array(means(s, np.maximum(price(b) - price(s.numpy()), 0).mean(), b)))


def test_solutions_by_hand():
    """At σ = ½ the bin reaches one standard deviation to either side: 68.27%."""
    bits = -math.log2(0.682689492)
    assert lesson_06.price_of_zero(0.5) == pytest.approx(bits, abs=1e-8)
    assert lesson_06.bound_for(bits) == pytest.approx(0.5, abs=1e-8)
    scales = torch.tensor([0.01, 0.01, 0.01, 2.0], dtype=torch.float64)  # three zeros that were free, one left alone
    share, cost = lesson_06.cost_of_bound(scales, 0.5)
    assert (share, cost) == (0.75, pytest.approx(0.75 * bits))

"""The exercises on the scale bound recognize mistakes in other code and accept other correct answers."""

import math
from statistics import NormalDist

import numpy as np
import pytest
import torch
from scipy import special, stats

from labkit.course import exercise
from labkit.course.exercises import bound


def price(scale):
    """Return the bits that a zero costs at a scale."""
    return -np.log2(special.ndtr(0.5 / scale) - special.ndtr(-0.5 / scale))


def pair(scales, cost, bound):
    """Return the share of the scales that are below the bound, and the cost."""
    return (scales < bound).float().mean().item(), float(cost)


REWRITTEN_MISTAKES = [
    ("bound.zero", lambda b: -np.log(1 - 2 * stats.norm.cdf(-0.5 / b)), "nats"),
    ("bound.zero", lambda b: -math.log2(NormalDist(0, b).cdf(0.5)), "two edges"),
    ("bound.zero", lambda b: -math.log2(NormalDist(0, b).cdf(0.5) - 0.5), "one bit too high"),
    ("bound.zero", lambda b: -math.log2(NormalDist(0, b).pdf(0)), "density"),
    ("bound.zero", lambda b: -torch.distributions.Normal(0.0, b).log_prob(torch.tensor(0.0)) / math.log(2), "density"),
    ("bound.zero", lambda b: -math.log2(1 - 2 * NormalDist(0, b).cdf(-1)), "from −1 to 1"),
    ("bound.zero", lambda b: -math.log2(1 - 2 * NormalDist(0, b**0.5).cdf(-0.5)), "as a variance"),
    ("bound.zero", lambda b: -np.log2(special.erf(1 / (2 * b))), "√2"),
    ("bound.budget", lambda r: 0.5 / stats.norm.ppf(2**-r), "two tails"),
    ("bound.budget", lambda r: 1 / stats.norm.ppf((1 + 2**-r) / 2), "factor 2"),
    ("bound.budget", lambda r: 0.5 / stats.norm.ppf((1 + math.exp(-r)) / 2), "nats"),
    ("bound.budget", lambda r: 0.5 / special.erfinv(2**-r), "√2"),
    ("bound.budget", lambda r: 2 * stats.norm.ppf((1 + 2**-r) / 2), "larger bound"),
    ("bound.cost", lambda s, b: pair(s, (price(b) - price(s.numpy()))[s.numpy() < b].mean(), b), "all latents"),
    ("bound.cost", lambda s, b: pair(s, price(b) * (s < b).sum() / len(s), b), "whole price"),
    ("bound.cost", lambda s, b: pair(s, price(b) - price(s.numpy()).mean(), b), "does not change"),
    (
        "bound.cost",
        lambda s, b: ((s > b).double().mean(), np.maximum(price(b) - price(s.numpy()), 0).mean()),
        "latents below",
    ),
    ("bound.cost", lambda s, b: pair(s, np.maximum(price(b) - price(s.numpy()), 0).sum(), b), "their number"),
]


@pytest.mark.parametrize(("key", "wrong", "fragment"), REWRITTEN_MISTAKES)
def test_a_mistake_is_recognized_in_other_code(key, wrong, fragment):
    verdict = exercise(key).check(wrong)
    assert verdict.state == "failed" and fragment in verdict.message


def test_other_correct_answers_pass():
    assert exercise("bound.zero").check(lambda b: price(b))
    assert exercise("bound.budget").check(lambda r: 0.5 / stats.norm.ppf((1 + 2**-r) / 2))
    assert exercise("bound.budget").check(lambda r: 0.5 / -torch.special.ndtri(torch.tensor((1 - 2**-r) / 2)))
    task = exercise("bound.cost")
    assert task.check(lambda s, b: np.array(pair(s, np.maximum(price(b) - price(s.numpy()), 0).mean(), b)))


def test_the_solutions_agree_with_a_calculation_by_hand():
    """At σ = ½, the bin extends one standard deviation to each side and contains 68.27% of the probability."""
    bits = -math.log2(0.682689492)
    assert bound.price_of_zero(0.5) == pytest.approx(bits, abs=1e-8)
    assert bound.bound_for(bits) == pytest.approx(0.5, abs=1e-8)
    scales = torch.tensor([0.01, 0.01, 0.01, 2.0], dtype=torch.float64)  # three below the bound and one above
    share, cost = bound.cost_of_bound(scales, 0.5)
    assert (share, cost) == (0.75, pytest.approx(0.75 * bits))

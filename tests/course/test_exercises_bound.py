"""The exercises on the scale bound recognize mistakes in other code and accept other correct answers."""

import math

import numpy as np
import pytest
import torch
from scipy import special, stats

from labkit.course import exercise
from labkit.course.exercises import bound


def price(scale):
    """Return the bits that a zero costs at a scale."""
    return -np.log2(special.ndtr(0.5 / scale) - special.ndtr(-0.5 / scale))


def charge(scale):
    """Return the mean bits of uniform noise, by Gauss–Legendre quadrature."""
    nodes, weights = np.polynomial.legendre.leggauss(60)
    mass = special.ndtr((nodes / 2 + 0.5) / scale) - special.ndtr((nodes / 2 - 0.5) / scale)
    return -np.log2(mass) @ weights / 2


def pair(scales, cost, bound):
    """Return the share of the scales that are below the bound, and the cost."""
    return (scales < bound).float().mean().item(), float(cost)


REWRITTEN_MISTAKES = [
    ("bound.helps", 0.5, "still larger"),
    ("bound.helps", "0.15", "grows"),
    ("bound.helps", lambda: 1, "a lower bound of the slider"),
    ("bound.helps", 0.11, "is not right"),
    ("bound.latents", lambda r, w, b: (r - w) / charge(b), "subtract the bits of 0"),
    ("bound.latents", lambda r, w, b: (r - w) / b / 1.38, "small bounds only"),
    ("bound.latents", lambda r, w, b: (r - w) / (1.38 * b - price(b)), "overlap"),
    ("bound.latents", lambda r, w, b: r / (charge(b) - price(b)), "whole reported rate"),
    ("bound.latents", lambda r, w, b: (charge(b) - price(b)) * (r - w), "Divide by it"),
    ("bound.latents", lambda r, w, b: (r - w) / (-np.log2(special.ndtr(1 / b) - 0.5) - price(b)), "the edge"),
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
    assert exercise("bound.helps").check(0.7)
    assert exercise("bound.latents").check(lambda r, w, b: (r - w) / (charge(b) - price(b)))
    assert exercise("bound.budget").check(lambda r: 0.5 / stats.norm.ppf((1 + 2**-r) / 2))
    assert exercise("bound.budget").check(lambda r: 0.5 / -torch.special.ndtri(torch.tensor((1 - 2**-r) / 2)))
    task = exercise("bound.cost")
    assert task.check(lambda s, b: np.array(pair(s, np.maximum(price(b) - price(s.numpy()), 0).mean(), b)))


def test_the_solutions_agree_with_a_calculation_by_hand():
    """At σ = ½, the bin extends one standard deviation to each side and contains 68.27% of the probability."""
    bits = -math.log2(0.682689492)
    assert bound.bound_for(bits) == pytest.approx(0.5, abs=1e-8)
    scales = torch.tensor([0.01, 0.01, 0.01, 2.0], dtype=torch.float64)  # three below the bound and one above
    share, cost = bound.cost_of_bound(scales, 0.5)
    assert (share, cost) == (0.75, pytest.approx(0.75 * bits))

"""Findings and verdicts from estimates with known true values."""

import math
from itertools import product

import numpy as np
import pandas as pd
import pytest

from labkit.research.study.findings import (
    INCONCLUSIVE,
    NOT_SUPPORTED,
    SUPPORTED,
    at_best_inner_level,
    best_inner_level_findings,
    best_level,
    crossed,
    finding,
    order_findings,
    verdict,
)
from labkit.statistics import Estimate
from tests.test_statistics import effects


def test_verdicts_follow_the_interval():
    tight = {"seed_variance": 1e-4, "image_variance": 1e-4, "seeds": 9, "images": 9}
    below, zero, above = (Estimate(value, **tight) for value in (-1.0, 0.0, 1.0))
    cases = [
        (below, "below", SUPPORTED),
        (above, "below", NOT_SUPPORTED),
        (zero, "below", NOT_SUPPORTED),
        (above, "above", SUPPORTED),
        (below, "different", SUPPORTED),
        (zero, "different", NOT_SUPPORTED),
        (zero, "none", SUPPORTED),
        (above, "none", NOT_SUPPORTED),
        (zero, "above", NOT_SUPPORTED),  # it may be above, but only by a negligible amount
        (Estimate(0.05, **tight), "above", SUPPORTED),
    ]
    for estimate, expected, answer in cases:
        assert finding("", estimate, expected, negligible=0.1).verdict == answer
    loose = Estimate(0.0, 1.0, 1.0, 9, 9)
    verdicts = {finding("", loose, expected, negligible=0.1).verdict for expected in ("different", "none")}
    assert verdicts == {INCONCLUSIVE}


def test_intervals_use_students_t_and_the_bonferroni_correction():
    assert finding("", Estimate(0.065, 5e-4, 5e-4, 9, 9), "above").verdict == INCONCLUSIVE  # 1.96 would support it
    assert finding("", Estimate(0.08, 5e-4, 5e-4, 9, 9), "above").verdict == SUPPORTED
    assert finding("", Estimate(0.08, 5e-4, 5e-4, 9, 9), "above", tests=20).verdict == INCONCLUSIVE


def test_a_finding_prints_its_numbers_and_its_verdict():
    half_more = finding("a", Estimate(math.log(1.5), 0.0, 0.0, 3, 3), "above")
    assert str(half_more) == "a: +50.00% [+50.00, +50.00]: supported"
    assert repr(half_more) == f"Finding({half_more})"
    text = str(finding("a", Estimate(0.2, 0.01, 0.0, 4, 13), "above", log=False))
    assert text.endswith("inconclusive (3 further seeds)")


def test_large_changes_are_printed_as_factors():
    large = finding("x", Estimate(math.log(3.0), 1.0, 1.0, 9, 9), "above")
    low, high = 1 + large.low, 1 + large.high
    assert large.numbers == f"×3 [×{low:.3g}, ×{high:.3g}]" and high > 11
    assert finding("x", Estimate(0.0, 99.0, 99.0, 9, 9), "above").numbers == "×1 [< ×0.001, > ×1,000]"


def test_a_finding_without_a_number_or_an_interval_is_inconclusive():
    nothing = finding("x", Estimate(math.nan, math.nan, math.nan, 3, 4), "below", log=False, percent=True)
    assert str(nothing) == "x: no number: inconclusive"
    assert nothing.further_seeds is None and math.isnan(nothing.low)
    without_interval = finding("x", Estimate(0.06, math.nan, math.nan, 3, 4), "below", log=False, percent=True)
    assert str(without_interval) == "x: 6%: inconclusive"  # further seeds would not give it an interval


def test_a_claim_requires_all_findings_or_any_of_them():
    tight = {"seed_variance": 1e-4, "image_variance": 1e-4, "seeds": 9, "images": 9}
    below, zero, above = (finding("", Estimate(value, **tight), "below") for value in (-1.0, 0.0, 1.0))
    assert [result.verdict for result in (below, zero, above)] == [SUPPORTED, INCONCLUSIVE, NOT_SUPPORTED]
    assert [verdict([below, zero]), verdict([below]), verdict([below, zero], "any")] == [
        INCONCLUSIVE,
        SUPPORTED,
        SUPPORTED,
    ]
    assert verdict([below, zero, above]) == NOT_SUPPORTED


def test_equal_levels_give_no_best_inner_level():
    """All levels have the same true mean. The smallest of six inner means is biased downward, but the rule is not."""
    rng = np.random.default_rng(2)
    naive, unbiased, supported = [], [], 0
    for k in range(200):
        losses = effects(rng, 4, 13, 0.0, 0.0, 1.0, (8,)) + rng.standard_normal((4, 1, 8))
        naive.append(losses[:, :, 1:-1].mean((0, 1)).min() - losses[:, :, 0].mean())
        unbiased.append(np.mean(at_best_inner_level(losses) - losses[:, :, 0]))
        if k < 12:
            supported += verdict(best_inner_level_findings("", "level", losses, ("low", "high"))) == SUPPORTED
    assert np.mean(naive) < -0.5 and abs(np.mean(unbiased)) < 4 * np.std(unbiased) / math.sqrt(200)
    assert supported == 0


def test_the_best_inner_level_is_selected_on_other_seeds_and_images():
    rng = np.random.default_rng(2)
    levels = np.broadcast_to(np.arange(8), (3, 5, 8))
    for seed, image in product(range(3), range(5)):
        losses = rng.standard_normal((3, 5, 8))
        before = at_best_inner_level(losses, levels)[seed, image]
        losses[seed], losses[:, image] = rng.standard_normal((5, 8)) * 9, rng.standard_normal((3, 8)) * 9
        assert at_best_inner_level(losses, levels)[seed, image] == before
    values = rng.standard_normal((3, 5, 8))
    losses = np.where(np.arange(8) == 4, -9.0, 0.0) + rng.standard_normal((3, 5, 8))
    assert (at_best_inner_level(losses, values) == values[:, :, 4]).all()


def test_the_best_level_is_the_vertex_of_a_parabola():
    levels = np.log([0.02, 0.05, 0.1, 0.2, 0.35, 0.5, 0.7, 1.0])
    for center in (-2.0, -1.2):
        assert best_level((levels - center) ** 2, levels) == pytest.approx(center)
    assert best_level(levels, levels) == levels[0] and best_level(-levels, levels) == levels[-1]


def test_an_order_is_supported_if_every_pair_has_the_predicted_order():
    rng, predicted = np.random.default_rng(3), np.array([0.0, 1.0, 2.0, 2.0])
    labels, mean = list("abcd"), lambda v: v.mean((0, 1))
    order, pairs = order_findings("x", labels, mean, predicted, predicted + 0.05 * effects(rng, shape=(4,)))
    assert order.verdict == pairs.verdict == SUPPORTED and "5 pairs" in pairs.comparison and pairs.value == 1
    other = np.array([0.0, 2.0, 1.0, 2.0])
    order, pairs = order_findings("x", labels, mean, predicted, other + 0.05 * effects(rng, shape=(4,)))
    assert pairs.verdict == NOT_SUPPORTED and "1 in the opposite order (b–c)" in pairs.comparison
    assert order.value == pytest.approx((2 + 1 + 2 - 1 + 0) / 6, abs=0.05) and order.low < order.value < order.high
    order, pairs = order_findings("x", labels, mean, predicted, predicted + 9 * effects(rng, shape=(4,)))
    assert order.verdict == pairs.verdict == INCONCLUSIVE and order.low < 0 < order.high
    assert order_findings("x", labels, mean, predicted, np.zeros((3, 3, 4)))[0].value == 0


def test_variances_of_different_magnitudes_are_ordered_by_their_ratios():
    """If the variances of images differ by factors, the largest one dominates a difference of means."""
    rng = np.random.default_rng(10)
    labels, predicted = ["none", "some", "much"], np.array([0.0, 1.0, 3.0])
    values = predicted * np.exp(2 * effects(rng, seed_scale=0.1, image_scale=1, rest=0.1)[:, :, None])
    mean = lambda a: a.mean((0, 1))  # noqa: E731
    assert order_findings("x", labels, mean, predicted, values)[1].verdict == INCONCLUSIVE
    assert order_findings("x", labels, mean, predicted, values, relative=True)[1].verdict == SUPPORTED
    opposite = order_findings("x", labels, mean, predicted[[0, 2, 1]], values, relative=True)
    assert opposite[1].verdict == NOT_SUPPORTED


def test_a_crossed_array_contains_only_complete_seeds():
    rows = [(s, "test", name, k, 10 * s + k) for s, name, k in product((3, 1, 2), "ab", (7, 8))]
    table = pd.DataFrame(rows, columns=["seed", "set", "name", "level", "value"])
    assert crossed(table, "value", ["level"], [8, 7])[:, 0].tolist() == [[18, 17], [28, 27], [38, 37]]
    assert crossed(table.drop(index=0), "value", ["level"], [8, 7])[:, 1].tolist() == [[18, 17], [28, 27]]
    with pytest.raises(ValueError, match="no seed has all of 9, 7"):
        crossed(table, "value", ["level"], [9, 7])

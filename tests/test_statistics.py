"""Intervals of labkit.statistics, compared with known true values."""

import math

import numpy as np
import pytest
from scipy import integrate, stats

from labkit.statistics import (
    Estimate,
    bootstrap_indices,
    estimate,
    mean_interval,
    pairs_needed,
    percentile_ends,
    power,
)


def effects(rng, seeds=4, images=13, seed_scale=1.0, image_scale=1.0, rest=1.0, shape=()):
    """Return sums of three normal effects with mean 0: those of the seed, of the image, and of the value itself."""
    parts = (seed_scale, (seeds, 1)), (image_scale, (1, images)), (rest, (seeds, images))
    return sum(scale * rng.standard_normal((*size, *shape)) for scale, size in parts)


@pytest.mark.parametrize("scales", [(1, 1, 1), (1, 0.1, 1), (0.1, 1, 1), (0, 0, 1), (1, 0.1, 0.1)])
def test_jackknife_interval_misses_the_truth_in_about_5_percent_of_tables(scales):
    """The bound allows two standard errors (1.4%) above 5%. If the seeds vary most, 6% is expected."""
    rng = np.random.default_rng(0)
    missed, widths = 0, []
    for _ in range(1000):
        low, high = estimate(np.mean, 2.0 + effects(rng, 4, 13, *scales)).interval()
        missed += not low < 2.0 < high
        widths.append(high - low)
    assert missed <= 64
    seeds, images, rest = (scale**2 for scale in scales)
    true_deviation = math.sqrt(seeds / 4 + images / 13 + rest / 52)
    assert np.median(widths) < 2 * 3.182 * true_deviation * 1.5  # t for three degrees of freedom


def test_jackknife_of_a_mean_has_the_textbook_variances():
    values = np.random.default_rng(1).standard_normal((5, 7))
    result = estimate(np.mean, values)
    assert result.value == pytest.approx(values.mean())
    assert result.seed_variance == pytest.approx(values.mean(1).var(ddof=1) / 5)
    assert result.image_variance == pytest.approx(values.mean(0).var(ddof=1) / 7)
    residual = values - values.mean(0) - values.mean(1, keepdims=True) + values.mean()
    assert result.joint_variance == pytest.approx((residual**2).sum() / (4 * 6) / 35)
    assert math.isnan(estimate(np.mean, values[:1]).interval()[0])


def test_further_seeds_is_the_least_number_that_separates_the_estimate_from_zero():
    result = Estimate(1.0, 1.0, 0.0, 4, 1000)
    further = result.further_seeds()
    assert result.interval() == pytest.approx((1 - 3.1824, 1 + 3.1824), abs=1e-4)  # t for three degrees of freedom
    assert Estimate(1.0, 0.0, 1.0, 4, 13).interval()[1] == pytest.approx(1 + 2.1788, abs=1e-4)  # t for twelve
    assert Estimate(1.0, 0.5, 0.5, 4, 13).interval()[1] == pytest.approx(1 + 2.2622, abs=1e-4)  # 1 ÷ (¼/3 + ¼/12): 9.6
    low, _ = Estimate(1.0, 1.0 * 4 / (4 + further), 0.0, 4 + further, 1000).interval()
    one_fewer, _ = Estimate(1.0, 1.0 * 4 / (3 + further), 0.0, 3 + further, 1000).interval()
    assert one_fewer <= 0 < low
    assert Estimate(1.0, 0.0, 1.0, 4, 13).further_seeds() is None  # the image variance alone is too large
    joint = Estimate(1.0, 1.0, 1.0, 4, 1000, 1.0)  # all of the image variance is due to interaction with the seeds
    counts = (3 + joint.further_seeds(), 4 + joint.further_seeds())
    lows = [Estimate(1.0, 4 / n, 4 / n, n, 1000).interval()[0] for n in counts]
    assert lows[0] <= 0 < lows[1]


def test_bootstrap_of_infinite_values_has_no_nan():
    indices = bootstrap_indices(3, resamples=100)
    assert indices.shape == (100, 3) and set(np.unique(indices)) == {0, 1, 2}
    assert np.array_equal(indices, bootstrap_indices(3, resamples=100))
    low, high = percentile_ends(np.array([1.0, 2.0, math.inf])[indices].mean(1))
    assert low == 1 and high == math.inf
    with pytest.raises(ValueError, match="resamples must be an integer ≥ 1, got 0"):
        bootstrap_indices(3, resamples=0)
    with pytest.raises(ValueError, match="confidence must be a number between 0 and 1, got 1"):
        percentile_ends(np.zeros(3), confidence=1)


# Paired differences ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [2, 5, 20])
def test_the_interval_of_a_mean_covers_it_in_95_percent_of_samples(n):
    """The bounds are three standard errors (2.1%) from 95%."""
    rng = np.random.default_rng(n)
    intervals = [mean_interval(3.0 + 2.0 * rng.standard_normal(n)) for _ in range(1000)]
    assert 0.929 < np.mean([interval.low < 3.0 < interval.high for interval in intervals]) < 0.971


def test_the_interval_of_a_mean_is_that_of_scipy():
    values = np.random.default_rng(0).normal(1.0, 2.0, 7)
    expected = stats.ttest_1samp(values, 0).confidence_interval(0.9)
    interval = mean_interval(values, 0.9)
    assert (interval.low, interval.high) == pytest.approx(tuple(expected)) and interval.estimate == values.mean()
    with pytest.raises(ValueError, match="differences must hold at least two numbers, got shape"):
        mean_interval([1.0])


@pytest.mark.parametrize(("effect", "n"), [(0.5, 10), (-1.0, 6), (3.0, 2)])
def test_power_is_that_of_a_direct_integration(effect, n):
    """The t-statistic is (z + effect · √n) / s, where s² (n − 1) has a chi-squared distribution."""
    quantile, freedom = stats.t.ppf(0.975, n - 1), n - 1

    def density(s):
        return stats.chi2.pdf(freedom * s**2, freedom) * 2 * freedom * s

    expected, _ = integrate.quad(
        lambda s: density(s) * stats.norm.sf(quantile * s - abs(effect) * n**0.5), 0, 8, limit=200
    )
    assert power(effect, 1.0, n) == pytest.approx(expected, abs=1e-6)
    assert power(10 * effect, 10.0, [n]) == pytest.approx([expected], abs=1e-6)


def test_the_needed_pairs_reach_the_power_in_simulated_experiments():
    """With the needed pairs, at least 80% of the intervals exclude 0; with one pair fewer, fewer do. The bounds allow
    three standard errors (0.9%)."""
    rng = np.random.default_rng(3)
    needed = pairs_needed(effect=1.0, deviation=1.2)
    shares = []
    for n in (needed, needed - 1):
        samples = 1.0 + 1.2 * rng.standard_normal((20_000, n))
        half = stats.t.ppf(0.975, n - 1) * samples.std(1, ddof=1) / n**0.5
        shares.append(np.mean(samples.mean(1) > half))
    assert shares[0] > 0.791 and shares[1] < 0.809 and shares[1] < shares[0]
    assert pairs_needed(effect=-1.0, deviation=1.2) == needed
    with pytest.raises(ValueError, match=r"1,000 pairs are not enough for an effect of 0.01 with a deviation of 1"):
        pairs_needed(0.01, 1.0)
    with pytest.raises(ValueError, match="effect must be a finite number other than 0, got 0"):
        pairs_needed(0.0, 1.0)

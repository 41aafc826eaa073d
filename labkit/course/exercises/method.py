"""Exercises of the lesson that tests the paper: BD-rate by hand, an interval over seeds, and the power of a plan."""

from __future__ import annotations

import numpy as np
from scipy import integrate, stats

from labkit.course.exercises.base import Exercise, Numbers
from labkit.statistics import Array

Ends = tuple[float, float]  # ends of a straight line

# method.bd_rate: BD-rate of two straight curves


def bd_rate_of_lines(rate_a: Ends, psnr_a: Ends, rate_b: Ends, psnr_b: Ends) -> Numbers:
    """Compare the curves in the middle of the common PSNR range, where straight lines have their mean difference."""
    low, high = max(psnr_a[0], psnr_b[0]), min(psnr_a[1], psnr_b[1])
    middle = (low + high) / 2
    at_a = np.interp(middle, psnr_a, np.log(rate_a))
    at_b = np.interp(middle, psnr_b, np.log(rate_b))
    return 100 * (np.exp(at_b - at_a) - 1)


def _two_lines(seed: int) -> tuple[Ends, ...]:
    rng = np.random.default_rng(seed)
    curves = []
    for _ in range(2):
        low = float(rng.uniform(0.1, 0.3))
        quality = float(rng.uniform(27, 29))
        curves += [(low, low * float(rng.uniform(3, 5))), (quality, quality + float(rng.uniform(5, 7)))]
    return tuple(curves)


def _log_rate(quality: float, rates: Ends, qualities: Ends) -> float:
    share = (quality - qualities[0]) / (qualities[1] - qualities[0])
    return float(np.log(rates[0]) + share * np.log(rates[1] / rates[0]))


def _bd_rate_by_integration(rate_a: Ends, psnr_a: Ends, rate_b: Ends, psnr_b: Ends) -> float:
    """Integrate the difference of the log rates over the PSNRs that both curves reach, as defined."""
    low, high = sorted((*psnr_a, *psnr_b))[1:3]
    area, _ = integrate.quad(lambda q: _log_rate(q, rate_b, psnr_b) - _log_rate(q, rate_a, psnr_a), low, high)
    return 100 * (float(np.exp(area / (high - low))) - 1)


def _swapped(rate_a: Ends, psnr_a: Ends, rate_b: Ends, psnr_b: Ends) -> Numbers:
    return bd_rate_of_lines(rate_b, psnr_b, rate_a, psnr_a)


def _over_all_qualities(rate_a: Ends, psnr_a: Ends, rate_b: Ends, psnr_b: Ends) -> Numbers:
    middle = (min(psnr_a[0], psnr_b[0]) + max(psnr_a[1], psnr_b[1])) / 2
    return 100 * (np.exp(_log_rate(middle, rate_b, psnr_b) - _log_rate(middle, rate_a, psnr_a)) - 1)


def _rates_not_logarithms(rate_a: Ends, psnr_a: Ends, rate_b: Ends, psnr_b: Ends) -> Numbers:
    low, high = max(psnr_a[0], psnr_b[0]), min(psnr_a[1], psnr_b[1])
    middle = (low + high) / 2
    at_a, at_b = np.interp(middle, psnr_a, rate_a), np.interp(middle, psnr_b, rate_b)
    return 100 * (at_b / at_a - 1)


def _means_of_the_points(rate_a: Ends, psnr_a: Ends, rate_b: Ends, psnr_b: Ends) -> Numbers:
    return 100 * (np.mean(rate_b) / np.mean(rate_a) - 1)


def _point_by_point(rate_a: Ends, psnr_a: Ends, rate_b: Ends, psnr_b: Ends) -> Numbers:
    return 100 * (np.exp(np.mean(np.log(rate_b)) - np.mean(np.log(rate_a))) - 1)


def _logarithm_not_undone(rate_a: Ends, psnr_a: Ends, rate_b: Ends, psnr_b: Ends) -> Numbers:
    return 100 * np.log(1 + bd_rate_of_lines(rate_a, psnr_a, rate_b, psnr_b) / 100)


def _as_a_fraction(rate_a: Ends, psnr_a: Ends, rate_b: Ends, psnr_b: Ends) -> Numbers:
    return bd_rate_of_lines(rate_a, psnr_a, rate_b, psnr_b) / 100


# method.interval: a paired comparison over seeds


def paired_interval(a: Array, b: Array) -> Numbers:
    """Return the mean of b − a over the seeds and the half width of its 95% interval from Student's t."""
    difference = np.asarray(b) - np.asarray(a)
    n = len(difference)
    return difference.mean(), stats.t.ppf(0.975, n - 1) * difference.std(ddof=1) / np.sqrt(n)


def _runs(seed: int) -> tuple[Array, Array]:
    rng = np.random.default_rng(seed)
    n = int(rng.integers(3, 7))
    a = rng.normal(2.2, 0.1, n)  # seeds differ a lot
    return a, a + rng.normal(-0.012, 0.01, n)  # schemes differ little


def _interval_by_scipy(a: Array, b: Array) -> Numbers:
    low, high = stats.ttest_rel(b, a).confidence_interval(0.95)
    return (low + high) / 2, (high - low) / 2


def _unpaired(a: Array, b: Array) -> Numbers:
    difference = np.mean(b) - np.mean(a)
    spread = np.sqrt(np.var(a, ddof=1) / len(a) + np.var(b, ddof=1) / len(b))
    return difference, stats.t.ppf(0.975, len(a) - 1) * spread


def _normal_quantile(a: Array, b: Array) -> Numbers:
    difference = np.asarray(b) - np.asarray(a)
    return difference.mean(), 1.96 * difference.std(ddof=1) / np.sqrt(len(difference))


def _spread_of_one_run(a: Array, b: Array) -> Numbers:
    difference = np.asarray(b) - np.asarray(a)
    return difference.mean(), stats.t.ppf(0.975, len(difference) - 1) * difference.std(ddof=1)


def _divides_by_n(a: Array, b: Array) -> Numbers:
    difference = np.asarray(b) - np.asarray(a)
    n = len(difference)
    return difference.mean(), stats.t.ppf(0.975, n - 1) * difference.std(ddof=0) / np.sqrt(n)


def _one_sided(a: Array, b: Array) -> Numbers:
    difference = np.asarray(b) - np.asarray(a)
    n = len(difference)
    return difference.mean(), stats.t.ppf(0.95, n - 1) * difference.std(ddof=1) / np.sqrt(n)


def _a_minus_b(a: Array, b: Array) -> Numbers:
    mean, half = paired_interval(a, b)
    return -mean, half


def _ends(a: Array, b: Array) -> Numbers:
    mean, half = paired_interval(a, b)
    return mean - half, mean + half


# method.power: the probability that an experiment shows a true effect


def power(effect: float, deviation: float, n: int) -> Numbers:
    """Simulate experiments, and return the fraction whose interval lies on the side of the effect."""
    differences = np.random.default_rng(0).normal(effect, deviation, (20_000, n))
    half = stats.t.ppf(0.975, n - 1) * differences.std(axis=1, ddof=1) / np.sqrt(n)
    return np.mean(np.sign(effect) * differences.mean(axis=1) > half)


def _plan(seed: int) -> tuple[float, float, int]:
    return ((-1.0, 0.6, 3), (2.0, 1.8, 4), (-0.6, 0.5, 5))[seed % 3]


def _noncentral_t(effect: float, deviation: float, n: int) -> float:
    shift = abs(effect) / deviation * np.sqrt(n)
    return float(stats.nct.sf(stats.t.ppf(0.975, n - 1), n - 1, shift))


def _normal_power(effect: float, deviation: float, n: int) -> Numbers:
    return stats.norm.sf(1.96 - abs(effect) / deviation * np.sqrt(n))


def _one_sided_power(effect: float, deviation: float, n: int) -> Numbers:
    return stats.nct.sf(stats.t.ppf(0.95, n - 1), n - 1, abs(effect) / deviation * np.sqrt(n))


def _share_with_the_right_sign(effect: float, deviation: float, n: int) -> Numbers:
    return stats.norm.cdf(abs(effect) / deviation * np.sqrt(n))


def _power_without_root(effect: float, deviation: float, n: int) -> Numbers:
    differences = np.random.default_rng(0).normal(effect, deviation, (20_000, n))
    half = stats.t.ppf(0.975, n - 1) * differences.std(axis=1, ddof=1)
    return np.mean(np.sign(effect) * differences.mean(axis=1) > half)


def _probability_of_a_miss(effect: float, deviation: float, n: int) -> Numbers:
    return 1 - _noncentral_t(effect, deviation, n)


def _only_below_zero(effect: float, deviation: float, n: int) -> Numbers:
    return _noncentral_t(effect, deviation, n) if effect < 0 else 0.0


EXERCISES = (
    Exercise(
        key="method.bd_rate",
        title="BD-rate of two lines",
        difficulty=2,
        importance=3,
        minutes=12,
        hints=(
            "First find the PSNRs that both curves reach. Outside them one curve has no data.",
            "np.interp(q, psnr, np.log(rate)) is the log rate of a curve at the PSNR q. The difference of two straight "
            "lines is itself a straight line.",
            "A straight line has its mean in the middle of an interval. So take both log rates at the middle of the "
            "common PSNRs.",
        ),
        answer=bd_rate_of_lines,
        cases=_two_lines,
        oracle=_bd_rate_by_integration,
        misconceptions={
            _swapped: "The anchor is a. Return how many more bits b needs, in percent of the bits of a.",
            _over_all_qualities: "You included PSNRs that only one curve reaches. There the other curve has no data.",
            _rates_not_logarithms: "You averaged the rates. BD-rate averages the logarithms of the rates.",
            _means_of_the_points: "You compared mean rates, which belong to different PSNRs. Compare the curves at "
            "equal PSNR.",
            _point_by_point: "You compared point with point, at different PSNRs. Compare the lines at equal PSNR.",
            _logarithm_not_undone: "This is the mean of the log ratio. BD-rate is 100 · (exp(mean) − 1).",
            _as_a_fraction: "This is a fraction. BD-rate is in percent.",
        },
    ),
    Exercise(
        key="method.interval",
        title="An interval over seeds",
        difficulty=2,
        importance=3,
        minutes=10,
        hints=(
            "Both entries of a seed belong together: take the differences first, one per seed.",
            "The mean of n differences has the standard error s/√n, with s from std(ddof=1).",
            "The half width is stats.t.ppf(0.975, n − 1) standard errors.",
        ),
        answer=paired_interval,
        cases=_runs,
        oracle=_interval_by_scipy,
        misconceptions={
            _unpaired: "You compared two groups. The two runs of a seed share checkpoint and batches, so take "
            "differences.",
            _normal_quantile: "With few seeds, s is uncertain. Use the quantile of Student's t instead of 1.96 from "
            "the normal distribution.",
            _spread_of_one_run: "This is the standard deviation of one difference. That of a mean of n differences is "
            "√n times smaller.",
            _divides_by_n: "Divide by n − 1 in s (ddof=1), because the mean comes from the same differences.",
            _one_sided: "A 95% interval leaves 2.5% on each side. Use the quantile at 0.975.",
            _ends: "These are the ends of the interval. Return its middle and half of its width.",
            _a_minus_b: "The sign is wrong. The difference is b − a, below zero if b has the lower loss.",
        },
        tolerance=1e-6,
    ),
    Exercise(
        key="method.power",
        title="The power of a plan",
        difficulty=3,
        importance=3,
        minutes=12,
        hints=(
            "Draw many experiments at once: an array with one row per experiment and one column per seed.",
            "Compute mean and half width of the interval for each row, as in the exercise before.",
            "The interval lies on the side of the effect if the mean, times the sign of the effect, exceeds the half "
            "width. The share of such rows is the power.",
        ),
        answer=power,
        cases=_plan,
        oracle=_noncentral_t,
        misconceptions={
            _normal_power: "With few seeds, s is uncertain. Use the quantile of Student's t instead of 1.96 from the "
            "normal distribution.",
            _one_sided_power: "A 95% interval leaves 2.5% on each side. Use the quantile at 0.975.",
            _share_with_the_right_sign: "This is the share of experiments whose mean has the right sign. The whole "
            "interval must lie on that side.",
            _power_without_root: "Your interval is as wide as that of one difference. The standard error of a mean is "
            "√n times smaller.",
            _probability_of_a_miss: "This is the probability that the experiment does not show the effect.",
            _only_below_zero: "Effects can be positive, too. Ask whether the interval lies on the side of the effect.",
        },
        tolerance=0.012,
    ),
)

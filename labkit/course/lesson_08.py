"""Exercises of lesson 08: BD-rate by hand, and whether a comparison is decided."""

from __future__ import annotations

import numpy as np
from scipy import integrate, stats

from labkit.course.exercises import Exercise

# 08.1: BD-rate of two straight curves


def bd_rate_of_lines(rate_a, psnr_a, rate_b, psnr_b):
    """Both curves are straight over log rate, so their mean difference is that in the middle of the common PSNRs."""
    low, high = max(psnr_a[0], psnr_b[0]), min(psnr_a[1], psnr_b[1])
    middle = (low + high) / 2
    at_a = np.interp(middle, psnr_a, np.log(rate_a))
    at_b = np.interp(middle, psnr_b, np.log(rate_b))
    return 100 * (np.exp(at_b - at_a) - 1)


def _two_lines(seed: int) -> tuple[tuple[float, float], ...]:
    rng = np.random.default_rng(seed)
    curves = []
    for _ in range(2):
        low = float(rng.uniform(0.1, 0.3))
        quality = float(rng.uniform(27, 29))
        curves += [(low, low * float(rng.uniform(3, 5))), (quality, quality + float(rng.uniform(5, 7)))]
    return tuple(curves)


def _log_rate(quality: float, rates: tuple[float, float], qualities: tuple[float, float]) -> float:
    share = (quality - qualities[0]) / (qualities[1] - qualities[0])
    return float(np.log(rates[0]) + share * np.log(rates[1] / rates[0]))


def _bd_rate_by_integration(rate_a, psnr_a, rate_b, psnr_b) -> float:
    """The definition: the difference of the log rates, integrated over the PSNRs that both curves reach."""
    low, high = sorted((*psnr_a, *psnr_b))[1:3]
    area, _ = integrate.quad(lambda q: _log_rate(q, rate_b, psnr_b) - _log_rate(q, rate_a, psnr_a), low, high)
    return 100 * (float(np.exp(area / (high - low))) - 1)


def _swapped(rate_a, psnr_a, rate_b, psnr_b):
    return bd_rate_of_lines(rate_b, psnr_b, rate_a, psnr_a)


def _over_all_qualities(rate_a, psnr_a, rate_b, psnr_b):
    middle = (min(psnr_a[0], psnr_b[0]) + max(psnr_a[1], psnr_b[1])) / 2
    return 100 * (np.exp(_log_rate(middle, rate_b, psnr_b) - _log_rate(middle, rate_a, psnr_a)) - 1)


def _rates_not_logarithms(rate_a, psnr_a, rate_b, psnr_b):
    low, high = max(psnr_a[0], psnr_b[0]), min(psnr_a[1], psnr_b[1])
    middle = (low + high) / 2
    at_a, at_b = np.interp(middle, psnr_a, rate_a), np.interp(middle, psnr_b, rate_b)
    return 100 * (at_b / at_a - 1)


def _means_of_the_points(rate_a, psnr_a, rate_b, psnr_b):
    return 100 * (np.mean(rate_b) / np.mean(rate_a) - 1)


def _point_by_point(rate_a, psnr_a, rate_b, psnr_b):
    return 100 * (np.exp(np.mean(np.log(rate_b)) - np.mean(np.log(rate_a))) - 1)


def _logarithm_not_undone(rate_a, psnr_a, rate_b, psnr_b):
    return 100 * np.log(1 + bd_rate_of_lines(rate_a, psnr_a, rate_b, psnr_b) / 100)


def _as_a_fraction(rate_a, psnr_a, rate_b, psnr_b):
    return bd_rate_of_lines(rate_a, psnr_a, rate_b, psnr_b) / 100


# 08.2: paired over seeds


def paired_interval(a, b):
    """Mean of b − a over the seeds, and the half width of its 95% interval by Student's t."""
    difference = np.asarray(b) - np.asarray(a)
    n = len(difference)
    return difference.mean(), stats.t.ppf(0.975, n - 1) * difference.std(ddof=1) / np.sqrt(n)


def _runs(seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    n = int(rng.integers(3, 7))
    a = rng.normal(2.2, 0.1, n)  # seeds differ much …
    return a, a + rng.normal(-0.012, 0.01, n)  # … and the schemes little


def _interval_by_scipy(a, b) -> tuple[float, float]:
    low, high = stats.ttest_rel(b, a).confidence_interval(0.95)
    return (low + high) / 2, (high - low) / 2


def _unpaired(a, b):
    difference = np.mean(b) - np.mean(a)
    spread = np.sqrt(np.var(a, ddof=1) / len(a) + np.var(b, ddof=1) / len(b))
    return difference, stats.t.ppf(0.975, len(a) - 1) * spread


def _normal_quantile(a, b):
    difference = np.asarray(b) - np.asarray(a)
    return difference.mean(), 1.96 * difference.std(ddof=1) / np.sqrt(len(difference))


def _spread_of_one_run(a, b):
    difference = np.asarray(b) - np.asarray(a)
    return difference.mean(), stats.t.ppf(0.975, len(difference) - 1) * difference.std(ddof=1)


def _divides_by_n(a, b):
    difference = np.asarray(b) - np.asarray(a)
    n = len(difference)
    return difference.mean(), stats.t.ppf(0.975, n - 1) * difference.std(ddof=0) / np.sqrt(n)


def _one_sided(a, b):
    difference = np.asarray(b) - np.asarray(a)
    n = len(difference)
    return difference.mean(), stats.t.ppf(0.95, n - 1) * difference.std(ddof=1) / np.sqrt(n)


def _a_minus_b(a, b):
    mean, half = paired_interval(a, b)
    return -mean, half


def _ends(a, b):
    mean, half = paired_interval(a, b)
    return mean - half, mean + half


EXERCISES = (
    Exercise(
        key="08.1",
        title="BD-rate of two lines",
        difficulty=2,
        importance=3,
        minutes=12,
        clue="np.interp(q, psnr, np.log(rate)) is a curve's log rate at the PSNR q. Two straight lines: where is their "
        "difference equal to its own mean?",
        answer=bd_rate_of_lines,
        cases=_two_lines,
        oracle=_bd_rate_by_integration,
        misconceptions={
            _swapped: "The anchor is a: say how many bits b needs more than a, in percent of a's bits.",
            _over_all_qualities: "You leave the PSNRs that both curves reach. Outside them one curve is made up.",
            _rates_not_logarithms: "The mean is over the logarithms of the rates, as if on a logarithmic axis.",
            _means_of_the_points: "Curves are compared at equal PSNR. The mean of the points' rates compares nothing.",
            _point_by_point: "You compare point with point, at different PSNRs. Compare the lines, at equal PSNR.",
            _logarithm_not_undone: "This is the mean of the log ratio; BD-rate is 100 · (exp of it − 1).",
            _as_a_fraction: "This is a fraction. BD-rate is given in percent.",
        },
    ),
    Exercise(
        key="08.2",
        title="Decided or not",
        difficulty=2,
        importance=3,
        minutes=10,
        clue="Take the differences first, one a seed. Their mean has the standard error s/√n, with s from "
        "std(ddof=1); stats.t.ppf(0.975, n − 1) of these are needed on either side.",
        answer=paired_interval,
        cases=_runs,
        oracle=_interval_by_scipy,
        misconceptions={
            _unpaired: "You compare two groups. Each seed's two runs share checkpoint and batches: take differences.",
            _normal_quantile: "With few seeds s is uncertain itself: Student's t, not the normal distribution's 1.96.",
            _spread_of_one_run: "This is the spread of one difference. That of the mean of n is √n times smaller.",
            _divides_by_n: "Estimate s with n − 1 (ddof=1): the mean was taken from the same differences.",
            _one_sided: "A 95% interval leaves 2.5% on either side: the quantile is that of 0.975.",
            _ends: "These are the ends of the interval. Asked for are the mean, in its middle, and half its width.",
            _a_minus_b: "The sign is b − a: below zero where b has the lower loss.",
        },
        tolerance=1e-6,
    ),
)

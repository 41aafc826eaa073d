"""The exercises of the lesson on the paper recognize mistakes in other code and accept other correct answers."""

import numpy as np
import pytest
from bjontegaard import bd_rate
from scipy import stats

from labkit.course import exercise


def _interval(values, quantile=0.975, ddof=1):
    n = len(values)
    return np.mean(values), stats.t.ppf(quantile, n - 1) * np.std(values, ddof=ddof) / n**0.5


def _simulated(effect, deviation, n, count):
    """Return the share of 10,000 simulated t-statistics that a function counts."""
    samples = effect + deviation * np.random.default_rng(7).standard_normal((10_000, n))
    return np.mean(count(np.sign(effect) * stats.ttest_1samp(samples, 0, axis=1).statistic, n))


REWRITTEN_MISTAKES = [
    (
        "method.bd_rate",
        lambda ra, pa, rb, pb: bd_rate(rb, pb, ra, pa, method="pchip", min_overlap=0),
        "The anchor is a",
    ),
    ("method.bd_rate", lambda ra, pa, rb, pb: (rb[0] + rb[1]) / (ra[0] + ra[1]) * 100 - 100, "mean rates"),
    (
        "method.bd_rate",
        lambda ra, pa, rb, pb: bd_rate(ra, pa, rb, pb, method="pchip", min_overlap=0) / 100,
        "in percent",
    ),
    (
        "method.bd_rate",
        lambda ra, pa, rb, pb: 100 * np.log1p(bd_rate(ra, pa, rb, pb, method="pchip", min_overlap=0) / 100),
        "mean of the log",
    ),
    (
        "method.bd_rate",
        lambda ra, pa, rb, pb: 100 * (stats.gmean(rb) / stats.gmean(ra) - 1),
        "point with point",
    ),
    ("method.interval", lambda a, b: stats.ttest_rel(b, a).confidence_interval(0.95), "ends of the interval"),
    ("method.interval", lambda a, b: _interval([x - y for x, y in zip(a, b, strict=True)]), "difference is b − a"),
    ("method.interval", lambda a, b: _interval(b - a, quantile=0.95), "2.5% on each side"),
    ("method.interval", lambda a, b: _interval(b - a, ddof=0), "ddof=1"),
    ("method.interval", lambda a, b: ((b - a).mean(), 1.959964 * stats.sem(b - a)), "normal distribution"),
    ("method.power", lambda *plan: _simulated(*plan, lambda t, n: t > stats.t.ppf(0.95, n - 1)), "2.5% on each side"),
    ("method.power", lambda *plan: _simulated(*plan, lambda t, n: t > 0), "whole interval"),
    ("method.power", lambda *plan: _simulated(*plan, lambda t, n: t < stats.t.ppf(0.975, n - 1)), "does not show"),
    (
        "method.power",
        lambda *plan: _simulated(*plan, lambda t, n: t > stats.t.ppf(0.975, n - 1) * n**0.5),
        "standard error of a mean",
    ),
    (
        "method.power",
        lambda e, s, n: stats.norm.cdf(abs(e) * n**0.5 / s - 1.959964),
        "normal distribution",
    ),
]


@pytest.mark.parametrize(("key", "wrong", "fragment"), REWRITTEN_MISTAKES)
def test_a_mistake_is_recognized_in_other_code(key, wrong, fragment):
    verdict = exercise(key).check(wrong)
    assert verdict.state == "failed" and fragment in verdict.message


def test_other_correct_answers_pass():
    assert exercise("method.bd_rate").check(
        lambda ra, pa, rb, pb: bd_rate(ra, pa, rb, pb, method="pchip", min_overlap=0)
    )
    assert exercise("method.interval").check(lambda a, b: _interval(b - a))
    assert exercise("method.interval").check(lambda a, b: list(_interval(np.asarray(b) - a)))
    assert exercise("method.power").check(lambda *plan: _simulated(*plan, lambda t, n: t > stats.t.ppf(0.975, n - 1)))

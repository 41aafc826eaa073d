"""Lesson 08's exercises: the same mistakes in other words, and other right answers."""

import numpy as np
import pytest
from bjontegaard import bd_rate
from scipy import stats

from labkit import course
from labkit.course import record


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("LABKIT_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(record, "_memory", None)


def _interval(values, quantile=0.975, ddof=1):
    n = len(values)
    return np.mean(values), stats.t.ppf(quantile, n - 1) * np.std(values, ddof=ddof) / n**0.5


LOOKALIKES = [
    ("08.1", lambda ra, pa, rb, pb: bd_rate(rb, pb, ra, pa, method="pchip", min_overlap=0), "The anchor is a"),
    ("08.1", lambda ra, pa, rb, pb: (rb[0] + rb[1]) / (ra[0] + ra[1]) * 100 - 100, "compares nothing"),
    ("08.1", lambda ra, pa, rb, pb: bd_rate(ra, pa, rb, pb, method="pchip", min_overlap=0) / 100, "in percent"),
    (
        "08.1",
        lambda ra, pa, rb, pb: 100 * np.log1p(bd_rate(ra, pa, rb, pb, method="pchip", min_overlap=0) / 100),
        "mean of the log",
    ),
    (
        "08.1",
        lambda ra, pa, rb, pb: 100 * (stats.gmean(rb) / stats.gmean(ra) - 1),
        "point with point",
    ),
    ("08.2", lambda a, b: stats.ttest_rel(b, a).confidence_interval(0.95), "ends of the interval"),
    ("08.2", lambda a, b: _interval([x - y for x, y in zip(a, b, strict=True)]), "The sign is b − a"),
    ("08.2", lambda a, b: _interval(b - a, quantile=0.95), "2.5% on either side"),
    ("08.2", lambda a, b: _interval(b - a, ddof=0), "ddof=1"),
    ("08.2", lambda a, b: ((b - a).mean(), 1.959964 * stats.sem(b - a)), "not the normal"),
]


@pytest.mark.parametrize(("key", "wrong", "fragment"), LOOKALIKES)
def test_the_same_mistake_in_other_words(key, wrong, fragment):
    verdict = course.exercise(key).check(wrong)
    assert verdict.state == "failed" and fragment in verdict.message


def test_other_right_answers_pass():
    assert course.exercise("08.1").check(lambda ra, pa, rb, pb: bd_rate(ra, pa, rb, pb, method="pchip", min_overlap=0))
    assert course.exercise("08.2").check(lambda a, b: _interval(b - a))
    assert course.exercise("08.2").check(lambda a, b: list(_interval(np.asarray(b) - a)))

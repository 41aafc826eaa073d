"""BD-rate and BD-PSNR agree with independent integrals, and intervals cover the truth as often as they should."""

import math
import warnings

import numpy as np
import pandas as pd
import pytest
from scipy import integrate, stats

from labkit.evaluation import Report, curves

RATES, QUALITIES = np.array([0.1, 0.25, 0.5, 1.0, 1.6]), np.array([27.0, 30.2, 33.0, 36.1, 38.0])


def reports(bpp, psnr, codec="jpeg", ms_ssim=None, names=None):
    """Return the reports of a curve, given arrays of shape (points, images)."""
    bpp, psnr = np.atleast_2d(bpp), np.atleast_2d(psnr)
    ms_ssim = np.full(bpp.shape, 0.9) if ms_ssim is None else np.atleast_2d(ms_ssim)
    names = [f"{i:02}" for i in range(bpp.shape[1])] if names is None else names
    keys = ("name", "height", "width", "bpp", "psnr", "ms_ssim")
    return [
        Report(
            [
                dict(zip(keys, (name, 200, 300, *row), strict=True))
                for name, row in zip(names, point.tolist(), strict=True)
            ],
            {"codec": codec, "quality": 10 * (number + 1)},
        )
        for number, point in enumerate(np.stack([bpp, psnr, ms_ssim], axis=-1))
    ]


def population(generator, images, shift=1.0, spread=0.05):
    """Return an anchor and a test curve on images of very different rates; test needs about `shift` times the bits."""
    rate = np.exp(0.6 * generator.standard_normal(images))
    offset = 2 * generator.standard_normal(images)
    ratio = shift * (1 + spread * generator.standard_normal(images))
    anchor = reports(RATES[:, None] * rate, QUALITIES[:, None] + offset)
    test = reports(RATES[:, None] * rate * ratio, QUALITIES[:, None] + offset, "avif")
    return anchor, test


# BD-rate and BD-PSNR -------------------------------------------------------------------------------------------------


def test_a_curve_compared_with_itself_gives_exactly_zero():
    assert curves.bd_rate((RATES, QUALITIES), (RATES, QUALITIES)) == 0
    assert curves.bd_psnr((RATES, QUALITIES), (RATES, QUALITIES)) == 0
    anchor, _ = population(np.random.default_rng(0), 6)
    assert curves.bd_rate(anchor, anchor) == 0 and curves.bd_psnr(anchor, anchor) == 0


def test_ten_percent_more_bits_give_a_bd_rate_of_ten_percent():
    anchor, more = (RATES, QUALITIES), (1.1 * RATES, QUALITIES)
    assert curves.bd_rate(anchor, more) == pytest.approx(10, abs=1e-9)
    assert curves.bd_rate(more, anchor) == pytest.approx(100 / 1.1 - 100, abs=1e-9)
    assert curves.bd_psnr(anchor, (RATES, QUALITIES + 0.7)) == pytest.approx(0.7, abs=1e-9)


@pytest.mark.parametrize("points", [2, 3, 6])
def test_the_bd_rate_of_log_rates_linear_in_psnr_has_a_closed_form(points):
    """With log₁₀ r = a + b q, the mean difference over an interval is the difference at the midpoint."""
    (a, b), (c, d) = (-4.0, 0.11), (-4.6, 0.12)
    first, second = np.linspace(28, 40, points), np.linspace(29, 42, points)
    anchor, test = (10 ** (a + b * first), first), (10 ** (c + d * second), second)
    middle = (29 + 40) / 2
    expected = 100 * (10 ** (c - a + (d - b) * middle) - 1)
    assert curves.bd_rate(anchor, test) == pytest.approx(expected, abs=1e-9)
    low, high = max(a + b * 28, c + d * 29), min(a + b * 40, c + d * 42)
    middle = (low + high) / 2
    assert curves.bd_psnr(anchor, test) == pytest.approx((middle - c) / d - (middle - a) / b, abs=1e-9)


def fritsch_butland(x, y):
    """Return the monotone piecewise cubic with harmonic means of slopes inside and three-point formulas at the ends."""
    h, slope = np.diff(x), np.diff(y) / np.diff(x)
    inner = [
        (h[i] * 2 + h[i - 1] + h[i] + 2 * h[i - 1])
        / ((2 * h[i] + h[i - 1]) / slope[i - 1] + (h[i] + 2 * h[i - 1]) / slope[i])
        for i in range(1, len(h))
    ]

    def end(h0, h1, s0, s1):
        d = ((2 * h0 + h1) * s0 - h0 * s1) / (h0 + h1)
        return 0.0 if d * s0 <= 0 else 3 * s0 if s0 * s1 <= 0 and abs(d) > 3 * abs(s0) else d

    slopes = [end(h[0], h[1], slope[0], slope[1]), *inner, end(h[-1], h[-2], slope[-1], slope[-2])]

    def value(at):
        i = min(max(int(np.searchsorted(x, at)) - 1, 0), len(h) - 1)
        t = (at - x[i]) / h[i]
        return (
            (1 + 2 * t) * (1 - t) ** 2 * y[i]
            + t * (1 - t) ** 2 * h[i] * slopes[i]
            + t**2 * (3 - 2 * t) * y[i + 1]
            + t**2 * (t - 1) * h[i] * slopes[i + 1]
        )

    return value


def mean_difference(anchor, test):
    low, high = max(anchor[0][0], test[0][0]), min(anchor[0][-1], test[0][-1])
    f, g = fritsch_butland(*anchor), fritsch_butland(*test)
    knots = sorted({x for x in (*anchor[0], *test[0]) if low < x < high})
    area, _ = integrate.quad(lambda x: g(x) - f(x), low, high, points=knots, epsabs=1e-12, limit=200)
    return area / (high - low)


def test_piecewise_curves_agree_with_numerical_integration():
    test_rates, test_qualities = np.array([0.08, 0.2, 0.55, 1.3]), np.array([26.5, 31.0, 34.9, 38.6])
    logs, test_logs = np.log10(RATES), np.log10(test_rates)
    anchor, test = (RATES, QUALITIES), (test_rates, test_qualities)
    expected = mean_difference((QUALITIES, logs), (test_qualities, test_logs))
    assert curves.bd_rate(anchor, test) == pytest.approx(100 * (10**expected - 1), abs=1e-7)
    expected = mean_difference((logs, QUALITIES), (test_logs, test_qualities))
    assert curves.bd_psnr(anchor, test) == pytest.approx(expected, abs=1e-8)


def test_swapping_the_curves_inverts_the_ratio_and_the_order_of_points_has_no_effect():
    anchor, test = (RATES, QUALITIES), (RATES * 0.9, QUALITIES + 0.4)
    forward, backward = curves.bd_rate(anchor, test), curves.bd_rate(test, anchor)
    assert (1 + forward / 100) * (1 + backward / 100) == pytest.approx(1, abs=1e-12) and forward < 0 < backward
    assert curves.bd_psnr(anchor, test) == pytest.approx(-curves.bd_psnr(test, anchor), abs=1e-12)
    shuffled = [3, 0, 2, 4, 1]
    assert curves.bd_rate((RATES[shuffled], QUALITIES[shuffled]), test) == forward


def test_reports_are_averaged_before_they_are_compared():
    anchor, test = population(np.random.default_rng(1), 7, 0.8)
    pairs = [
        (
            [np.mean([row["bpp"] for row in report.rows]) for report in curve],
            [np.mean([row["psnr"] for row in report.rows]) for report in curve],
        )
        for curve in (anchor, test)
    ]
    assert curves.bd_rate(anchor, test) == pytest.approx(curves.bd_rate(*pairs), abs=1e-9)
    shuffled = [Report(report.rows[::-1], report.info) for report in test]
    assert curves.bd_rate(anchor, shuffled) == pytest.approx(curves.bd_rate(anchor, test), abs=1e-9)


def test_small_overlaps_cause_warnings_and_errors():
    line = np.linspace(0, 1, 4)

    def at(low, high):
        return 10 ** (line - 1), low + (high - low) * line

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        curves.bd_rate(at(30, 40), at(31, 41))  # they share 9 dB of 11
    with pytest.warns(UserWarning, match="64% of their qualities.*anchor are 30 to 40, those of test 31 to 44"):
        curves.bd_rate(at(30, 40), at(31, 44))  # they share 9 dB of 14
    with pytest.warns(UserWarning, match="20% of their qualities"):  # one curve lies within the other
        curves.bd_rate(at(30, 40), at(33, 35))
    with pytest.warns(UserWarning, match="15% of their"):  # they share 2.6 dB of 17.4, and of each curve's 10
        curves.bd_rate(at(30, 40), at(37.4, 47.4))
    for low in (37.6, 40, 45):
        with pytest.raises(ValueError, match="30 to 40, those of test") as error:
            curves.bd_rate(at(30, 40), at(low, low + 10))
        assert "\n" not in str(error.value) and "of the qualities" in str(error.value)
    anchor = at(30, 40)
    with pytest.raises(ValueError, match=r"20%: those of anchor are 0\.1 to 1, those of test 0\.631 to 6\.31"):
        curves.bd_psnr(anchor, (anchor[0] * 10**0.8, anchor[1]))
    with pytest.warns(UserWarning, match="43% of their rates"):  # they share 0.6 decades of 1.4
        curves.bd_psnr(anchor, (anchor[0] * 10**0.4, anchor[1]))


@pytest.mark.parametrize(
    "rates, qualities, message",
    [
        ([0.1], [30], "at least two points, got 1"),
        ([0.1, 0.2], [30], "as many rates as qualities"),
        ([0.1, 0.0, 0.4], [30, 28, 34], r"rates must be positive, got 0 bpp, point 2"),
        ([0.1, -0.2, 0.4], [30, 28, 34], r"rates must be positive, got -0\.2 bpp, point 2"),
        ([0.1, 0.2, math.nan], [30, 31, 34], "values must be finite.*point 3"),
        ([0.1, 0.2, 0.4], [30, math.inf, 34], "values must be finite, got inf at 0.2 bpp, point 2"),
        (
            [0.1, 0.2, 0.4],
            [30, 34, 33],
            "must rise with the rate, got 33 at 0.4 bpp, point 3, after 34 at 0.2 bpp, point 2",
        ),
        ([0.1, 0.2, 0.4], [30, 30, 33], "must rise with the rate.*point 2, after"),
        ([0.1, 0.1, 0.4], [30, 31, 33], "must rise with the rate.*point 2, after"),
    ],
)
def test_points_that_form_no_curve_are_rejected(rates, qualities, message):
    good = (RATES, QUALITIES)
    for function in (curves.bd_rate, curves.bd_psnr):
        with pytest.raises(ValueError, match="test: .*" + message):
            function(good, (rates, qualities))
        with pytest.raises(ValueError, match="anchor: .*" + message) as error:
            function((rates, qualities), good)
        assert "\n" not in str(error.value)


def test_the_error_names_the_images_that_one_curve_lacks():
    anchor, test = population(np.random.default_rng(2), 6)
    fewer = [Report(report.rows[:1], report.info) for report in test]
    for function in (curves.bd_rate, curves.bd_psnr, curves.bd_rate_interval):
        with pytest.raises(ValueError, match=r"test, avif quality 10: .*lacks 01 \(200×300\), 02 .* and 2 more"):
            function(anchor, fewer)
        with pytest.raises(ValueError, match="alone has 01"):
            function(fewer, anchor)
    other_size = [Report([{**row, "height": 201} for row in report.rows], report.info) for report in test]
    with pytest.raises(ValueError, match=r"lacks 00 \(200×300\)"):
        curves.bd_rate(anchor, other_size)
    with pytest.raises(ValueError, match="about the same images"):
        curves.curve([*anchor[:2], fewer[2]])
    with pytest.raises(ValueError, match="image names must differ"):
        curves.curve([Report(anchor[0].rows * 2, {})])
    with pytest.raises(ValueError, match="metric must be one of psnr, ms_ssim, ms_ssim_db, got 'vmaf'"):
        curves.bd_rate(anchor, test, "vmaf")


def test_images_that_are_too_small_for_ms_ssim_are_not_counted():
    similarity = np.linspace(0.8, 0.99, 5)[:, None] * np.ones(3)
    similarity[:, 1] = math.nan
    curve = reports(RATES[:, None] * [1, 5, 2], QUALITIES[:, None] * np.ones(3), ms_ssim=similarity)
    with pytest.raises(ValueError, match="anchor: all images need ms_ssim_db at every point, but 01 has none"):
        curves.bd_rate(curve, curve, "ms_ssim_db")
    frame = curves.curve(curve, "ms_ssim")
    assert list(frame["images"]) == [2] * 5
    assert np.allclose(frame["bpp"], 1.5 * RATES) and np.allclose(frame["quality"], similarity[:, 0])
    with pytest.raises(ValueError, match="no image has ms_ssim"):
        curves.curve(reports([0.1], [30], ms_ssim=[math.nan]), "ms_ssim")


# Intervals -----------------------------------------------------------------------------------------------------------


def test_intervals_of_one_image_have_width_zero():
    anchor, test = population(np.random.default_rng(3), 1, 0.9)
    frame = curves.curve(anchor)
    for name in ("bpp", "quality"):
        assert (frame[f"{name}_low"] == frame[name]).all() and (frame[f"{name}_high"] == frame[name]).all()
    interval = curves.bd_rate_interval(anchor, test, resamples=20)
    assert interval.low == interval.estimate == interval.high == curves.bd_rate(anchor, test)


def test_a_curve_holds_the_means_sorted_by_rate():
    generator = np.random.default_rng(4)
    similarity = 1 - 10 ** -generator.uniform(1, 2, (5, 8))
    measured = reports(generator.uniform(1, 2, (5, 8)), generator.uniform(30, 40, (5, 8)), ms_ssim=similarity)
    frame, in_decibels = curves.curve(measured), curves.curve(measured, "ms_ssim_db")
    rows = {key: [[row[key] for row in report.rows] for report in measured] for key in ("bpp", "psnr")}
    means = {key: np.mean(values, axis=1) for key, values in rows.items()}
    order = np.argsort(means["bpp"])
    assert np.allclose(frame["bpp"], means["bpp"][order]) and np.allclose(frame["quality"], means["psnr"][order])
    assert np.allclose(in_decibels["quality"], -10 * np.log10(1 - similarity[order].mean(axis=1)))
    assert list(frame["setting"]) == [f"quality {10 * (i + 1)}" for i in order] and set(frame["codec"]) == {"jpeg"}
    for name in ("bpp", "quality"):
        assert (frame[f"{name}_low"] < frame[name]).all() and (frame[name] < frame[f"{name}_high"]).all()
    pd.testing.assert_frame_equal(frame, curves.curve(measured))
    assert not curves.curve(measured, seed=1).equals(frame)


def test_a_lossless_image_makes_the_mean_infinite_but_no_value_nan():
    frame = curves.curve(reports([[1.0, 2.0]], [[40.0, math.inf]]))
    assert frame["quality"][0] == frame["quality_high"][0] == math.inf and frame["quality_low"][0] == 40


@pytest.mark.parametrize("confidence", [0.8, 0.5])
def test_intervals_of_means_have_their_nominal_coverage(confidence):
    """Draw 40 images with Gaussian qualities 400 times.

    A percentile interval covers the truth if Student's t with n − 1 degrees of freedom is at most z · √(1 − 1/n) in
    magnitude. On each side, the count lies outside its bound with a probability of 10⁻⁵.
    """
    generator, images, times, true = np.random.default_rng(5), 40, 400, 35.0
    hits = 0
    for time in range(times):
        points = reports(np.ones(images), true + generator.standard_normal(images))
        row = curves.curve(points, confidence=confidence, resamples=400, seed=time).iloc[0]
        hits += row["quality_low"] <= true <= row["quality_high"]
    z = stats.norm.ppf((1 + confidence) / 2) * math.sqrt(1 - 1 / images)
    coverage = 1 - 2 * stats.t.sf(z, images - 1)
    assert abs(coverage - confidence) < 0.02
    assert stats.binom.ppf(1e-5, times, coverage) <= hits <= stats.binom.isf(1e-5, times, coverage)


@pytest.mark.slow
def test_intervals_of_bd_rate_cover_the_truth():
    """Draw 30 images 120 times; test needs 0.9 of the bits on average, so the true BD-rate is −10%.

    For skewed rates, the interval of a ratio of means covers the truth in slightly less than 80% of cases. The bounds
    on the count are those of 70% and 82%. Each of them is exceeded with a probability of 10⁻⁴.
    """
    generator, times = np.random.default_rng(6), 120
    hits = 0
    for time in range(times):
        anchor, test = population(generator, 30, 0.9)
        interval = curves.bd_rate_interval(anchor[::2], test[::2], confidence=0.8, resamples=80, seed=time)
        hits += interval.low <= -10 <= interval.high
    assert stats.binom.ppf(1e-4, times, 0.70) <= hits <= stats.binom.isf(1e-4, times, 0.82)


def test_points_whose_order_changes_in_a_resample_are_sorted():
    """For one of the two images, the second point has a lower quality than the first."""
    bpp = np.array([[0.4, 0.4], [0.6, 0.6], [0.9, 0.9]])
    psnr = np.array([[30.0, 33.0], [29.0, 36.0], [34.0, 37.0]])
    anchor, test = reports(bpp, psnr), reports(0.9 * bpp, psnr)
    resampled = curves._resampled_bd_rate(bpp[:, 0], psnr[:, 0], 0.9 * bpp[:, 0], psnr[:, 0])
    assert resampled == pytest.approx(-10, abs=1e-9)
    interval = curves.bd_rate_interval(anchor, test, resamples=50)
    assert (interval.low, interval.high) == (pytest.approx(-10, abs=1e-9), pytest.approx(-10, abs=1e-9))


def test_the_resamples_are_paired():
    """Rates vary much between images, and the ratio of the codecs varies little, so unpaired resamples vary more."""
    anchor, test = population(np.random.default_rng(7), 24, 0.9)
    paired = curves.bd_rate_interval(anchor, test, resamples=200)
    generator = np.random.default_rng(8)
    separate = []
    for _ in range(200):
        pair = []
        for curve in (anchor, test):
            drawn = generator.integers(24, size=24)
            pair.append(
                tuple(np.mean([[r.rows[i][key] for i in drawn] for r in curve], axis=1) for key in ("bpp", "psnr"))
            )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            separate.append(curves.bd_rate(*pair))
    low, high = np.quantile(separate, [0.025, 0.975])
    assert paired.low < paired.estimate < paired.high
    assert paired.high - paired.low < 0.2 * (high - low)


def test_intervals_depend_on_the_seed_and_print_their_confidence():
    anchor, test = population(np.random.default_rng(9), 8, 0.9)
    interval = curves.bd_rate_interval(anchor, test, resamples=60)
    assert interval == curves.bd_rate_interval(anchor, test, resamples=60)
    assert interval != curves.bd_rate_interval(anchor, test, resamples=60, seed=1)
    assert str(interval).endswith("at 95%") and str(interval).startswith(f"{interval.estimate:+.2f} [")
    narrow = curves.bd_rate_interval(anchor, test, confidence=0.3, resamples=60)
    assert narrow.high - narrow.low < interval.high - interval.low
    with pytest.raises(ValueError, match="confidence must be a number between 0 and 1, got 95"):
        curves.bd_rate_interval(anchor, test, confidence=95)
    with pytest.raises(ValueError, match="resamples must be an integer ≥ 1, got 0"):
        curves.curve(anchor, resamples=0)


# Text -----------------------------------------------------------------------------------------------------------------


def test_describe_names_every_point_and_compares_each_curve_with_the_anchor():
    rates = np.array([[0.1, 0.2], [0.3, 0.5], [0.9, 1.3]])
    psnr = np.array([[27.0, 29.0], [31.0, 32.5], [35.0, 37.0]])
    ms_ssim = np.array([[0.9, 0.92], [0.95, 0.96], [0.99, 0.995]])
    group = {
        "first": reports(rates[::-1], psnr[::-1], ms_ssim=ms_ssim[::-1]),
        "a tenth more": reports(1.1 * rates, psnr, ms_ssim=ms_ssim),
        "above": reports(rates, psnr + 3, ms_ssim=ms_ssim),
        "far above": reports(rates, psnr + 30, ms_ssim=ms_ssim),
        "a point": reports(rates[:1], psnr[:1], ms_ssim=ms_ssim[:1]),
    }
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        head, *lines = curves.describe(group).splitlines()
    assert "PSNR (dB)" in head and len(lines) == 4 * 3 + 1 + 4
    points = [("first", i) for i in range(3)] + [("a tenth more", i) for i in range(3)]
    for line, (name, i) in zip(lines, points, strict=False):
        rate = rates[i].mean() * (1.1 if name != "first" else 1)
        setting = 10 * (i + 1) if name != "first" else 10 * (3 - i)
        assert line.startswith(name) and f"quality {setting} " in line
        assert f"{rate:>7.4f} " in line and f"{psnr[i].mean():.2f} " in line
    compared = {line.split(" against ")[0].removeprefix("BD-rate of "): line for line in lines[-4:]}
    against = " against first, in percent: "
    assert compared["a tenth more"].endswith(f"{against}+10.00 [+10.00, +10.00] at 95%")
    assert "] at 95% (the curves share 45% of their qualities: " in compared["above"]  # 5 dB of 11
    assert f"{against}none: anchor, test: the curves must share 25%" in compared["far above"]
    assert compared["a point"].endswith(f"{against}none: test: expected at least two points, got 1")

    swapped = curves.describe({name: group[name] for name in ("first", "a tenth more")}, anchor="a tenth more")
    assert swapped.splitlines()[-1].endswith(" of first against a tenth more, in percent: -9.09 [-9.09, -9.09] at 95%")
    assert swapped.count("BD-rate") == 1 and "BD-rate" not in curves.describe({"alone": group["first"]})
    for metric in ("ms_ssim", "ms_ssim_db"):
        head, line, *_ = curves.describe({"alone": group["first"]}, metric).splitlines()
        assert "MS-SSIM (dB)" in head and f" {-10 * np.log10(0.09):.2f}  10.00–10.97" in line
    with pytest.raises(ValueError, match="anchor must be one of first, above, got 'second'"):
        curves.describe({name: group[name] for name in ("first", "above")}, anchor="second")
    with pytest.raises(ValueError, match="metric must be one of psnr, ms_ssim, ms_ssim_db, got 'ssim'"):
        curves.describe(group, "ssim")

"""Rate–distortion curves: means with intervals, BD-rate and BD-PSNR.

A curve consists of the reports of one codec at several operating points, all on the same images: reports of `evaluate`
at several λ, or of `classical` at several qualities. Several curves form a dictionary from names to curves.

Rates are averaged in bits per pixel and qualities in their own unit, and every image has the same weight, as is usual
in the field. MS-SSIM in dB is the mean MS-SSIM converted to dB, not the mean of the images' dB values. Published
curves, including CompressAI's, are drawn like this, and a single lossless image would make the other mean infinite.

Intervals are percentile bootstrap intervals over images (Efron & Tibshirani 1993, chapter 13). They show how much a
value would change for other photographs of the same kind. They do not cover other training seeds, other kinds of images
or other machines. With few images they are slightly too narrow.
"""

from __future__ import annotations

import itertools
import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from labkit.evaluation.metrics import LABELS, MS_SSIM_MIN_SIDE, column_of, mean_over_images
from labkit.evaluation.report import Report, group_by_name
from labkit.statistics import Array, Interval, bootstrap_indices, check_confidence, percentile_ends

if TYPE_CHECKING:
    import pandas as pd

# The monotone piecewise cubic interpolation (Fritsch & Butland 1984) of JCT-VC's common test conditions. It rises
# between rising points, and two points give a straight line. Akima interpolation is closer to densely measured curves
# (Herglotz et al. 2022), but it may fall between rising points, especially if they are few or resampled.
METHOD = "pchip"
# Smallest overlap of the qualities: a fraction of the shorter range, else an error; of their union, else a warning.
MIN_OVERLAP, MIN_UNWARNED_OVERLAP = 0.25, 0.75

Curve = Sequence[Report] | tuple[Sequence[float], Sequence[float]]


def curve(
    reports: Sequence[Report], metric: str = "psnr", confidence: float = 0.95, resamples: int = 2000, seed: int = 0
) -> pd.DataFrame:
    """Return a curve as a table with one row for each operating point, sorted by rate.

    Images that are too small for MS-SSIM are left out of its curve. A lossless image makes the mean PSNR infinite.

    Args:
        reports: Reports of the same images.
        metric: "psnr" (dB), "ms_ssim" or "ms_ssim_db" (dB).
        confidence: Nominal coverage of the bootstrap intervals over images, between 0 and 1.
        resamples: Number of bootstrap resamples, which all points share.
        seed: Seed of the resamples.

    Returns:
        A pandas table with the columns codec, setting and images, then bpp and quality. The last two each have an
        interval, in columns ending in _low and _high.

    Raises:
        ValueError: If the reports are for different images, or if no image has the metric.
    """
    import pandas as pd

    check_confidence(confidence)
    bpp, quality, _ = _measurements(reports, metric, "reports")
    measured = ~np.isnan(quality).any(axis=0)
    if not measured.any():
        raise ValueError(
            f"metric: no image has {metric} (MS-SSIM needs at least {MS_SSIM_MIN_SIDE} pixels on each side)"
        )
    bpp, quality = bpp[:, measured], quality[:, measured]
    indices = bootstrap_indices(bpp.shape[1], resamples, seed)
    columns: dict[str, Any] = {
        "codec": [report.codec for report in reports],
        "setting": [report.setting for report in reports],
        "images": [bpp.shape[1]] * len(reports),
    }
    for name, values, unit in (("bpp", bpp, "bpp"), ("quality", quality, metric)):
        columns[name] = mean_over_images(values, unit)
        ends = percentile_ends(_resampled_means(values, indices, unit), confidence)
        columns[f"{name}_low"], columns[f"{name}_high"] = ends
    return pd.DataFrame(columns).sort_values("bpp", ignore_index=True)


def bd_rate(anchor: Curve, test: Curve, metric: str = "psnr") -> float:
    """Return the BD-rate in percent: the additional bits of test over anchor at equal quality.

    The value is negative if test needs fewer bits. It averages the difference of the logarithmic rates over the
    qualities that both curves reach (Bjøntegaard 2001, VCEG-M33), computed by the bjontegaard package with piecewise
    cubic interpolation. A warning is issued if the common qualities cover less than 75% of the range from the lowest to
    the highest quality of both curves, because the result applies only to the common qualities.

    Args:
        anchor: Reports of the same images as test, or a pair (rates, qualities). A curve needs at least two points;
            four are better.
        test: Curve to compare with the anchor.
        metric: "psnr", "ms_ssim" or "ms_ssim_db" for reports. The usual choice for MS-SSIM is dB; the scale determines
            the weight of each quality.

    Raises:
        ValueError: If the common qualities cover less than 25% of the shorter curve's range, a rate is not positive, a
            value is not finite, a curve does not rise, or the reports are for different images.

    >>> import labkit as lk
    >>> rates, qualities = [0.1, 0.2, 0.4], [30.0, 33.0, 36.0]
    >>> round(lk.evaluation.bd_rate((rates, qualities), ([0.09, 0.18, 0.36], qualities)), 3)
    -10.0
    """
    return _bd(anchor, test, metric, "bd_rate")


def bd_psnr(anchor: Curve, test: Curve) -> float:
    """Return the BD-PSNR in dB: the mean PSNR of test minus that of anchor at equal logarithmic rate.

    Args:
        anchor: Reports of the same images as test, or a pair (rates, qualities).
        test: Curve to compare with the anchor.

    Raises:
        ValueError: As for `bd_rate`, but the overlap is the overlap of the logarithmic rates.
    """
    return _bd(anchor, test, "psnr", "bd_psnr")


def bd_rate_interval(
    anchor: Sequence[Report],
    test: Sequence[Report],
    metric: str = "psnr",
    confidence: float = 0.95,
    resamples: int = 1000,
    seed: int = 0,
) -> Interval:
    """Return the BD-rate in percent with its bootstrap interval over images.

    The bootstrap is paired: each resample uses the same images for all points of both curves, so the effect of images
    that are hard for both codecs cancels.

    Args:
        anchor: Reports of the same images as test.
        test: Curve to compare with the anchor.
        metric: "psnr", "ms_ssim" or "ms_ssim_db".
        confidence: Nominal coverage of the interval, between 0 and 1.
        resamples: Number of bootstrap resamples.
        seed: Seed of the resamples.

    Raises:
        ValueError: As for `bd_rate`, or if a resample has no BD-rate because there are too few images.
    """
    check_confidence(confidence)
    estimate = bd_rate(anchor, test, metric)
    bpp, quality, images = _measurements(anchor, metric, "anchor")
    test_bpp, test_quality, _ = _measurements(test, metric, "test", images)
    indices = bootstrap_indices(len(images), resamples, seed)
    means = [
        _resampled_means(values, indices, unit)
        for values, unit in ((bpp, "bpp"), (quality, metric), (test_bpp, "bpp"), (test_quality, metric))
    ]
    values = np.array([_resampled_bd_rate(*curves) for curves in zip(*means, strict=True)])
    if missing := np.isnan(values).sum():
        raise ValueError(f"anchor, test: {missing} of {resamples} resamples of {len(images)} images have no BD-rate")
    low, high = percentile_ends(values, confidence)
    return Interval(estimate, float(low), float(high), confidence)


def describe(curves: Mapping[str, Sequence[Report]], metric: str = "psnr", anchor: str | None = None) -> str:
    """Return the points of several curves, and the BD-rate of each curve against the anchor, as text.

    All values have 95% intervals. If a BD-rate does not exist or comes with a warning, the text gives the reason.

    Args:
        curves: Dictionary from names to reports.
        metric: "psnr", "ms_ssim" or "ms_ssim_db"; MS-SSIM is given in dB in both cases.
        anchor: Name of the anchor; the first curve by default.

    Raises:
        ValueError: If the anchor is not one of the curves, or for the reasons given in `curve`.
    """
    metric = "ms_ssim_db" if metric == "ms_ssim" else metric
    column_of(metric)
    curves = group_by_name(curves)
    anchor = next(iter(curves)) if anchor is None else anchor
    if anchor not in curves:
        raise ValueError(f"anchor must be one of {', '.join(curves)}, got {anchor!r}")
    lines = [f"{'curve':<32} {'setting':<14} {'bpp':>7}  {'95%':<15} {LABELS[metric]:>12}  95%"]
    for name, reports in curves.items():
        for _, row in curve(reports, metric).iterrows():
            rate = f"{row['bpp']:>7.4f}  {row['bpp_low']:.4f}–{row['bpp_high']:.4f}"
            quality = f"{row['quality']:>12.2f}  {row['quality_low']:.2f}–{row['quality_high']:.2f}"
            lines.append(f"{name:<32} {row['setting']:<14} {rate}  {quality}")
    for name in curves:
        if name == anchor:
            continue
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            try:
                result = str(bd_rate_interval(curves[anchor], curves[name], metric))
            except ValueError as error:
                result = f"none: {error}"
        result += "".join(f" ({warning.message})" for warning in caught)
        lines.append(f"BD-rate of {name} against {anchor}, in percent: {result}")
    return "\n".join(lines)


# Means over images ----------------------------------------------------------------------------------------------------


def _measurements(
    reports: Sequence[Report], metric: str, role: str, images: list[tuple[Any, ...]] | None = None
) -> tuple[Array, Array, list[tuple[Any, ...]]]:
    """Return bpp and metric, both (points, images), and the images as (name, height, width).

    The images must be the given ones, or those of the first report.
    """
    column = column_of(metric)
    if not reports:
        raise ValueError(f"{role}: expected at least one report, got none")
    values = []
    for report in reports:
        rows = {(row["name"], row["height"], row["width"]): row for row in report.rows}
        point = f"{role}, {report.codec} {report.setting}".rstrip()
        if len(rows) < len(report.rows) or not rows:
            raise ValueError(f"{point}: image names must differ, got {len(report.rows)} images with {len(rows)} names")
        images = list(rows) if images is None else images
        for problem, names in (("lacks", set(images) - set(rows)), ("alone has", set(rows) - set(images))):
            if names:
                some = ", ".join(f"{name} ({height}×{width})" for name, height, width in sorted(names)[:3])
                more = f" and {len(names) - 3} more" if len(names) > 3 else ""
                raise ValueError(f"{point}: all reports must be about the same images, but it {problem} {some}{more}")
        values.append([[rows[image]["bpp"], rows[image][column]] for image in images])
    bpp, quality = np.moveaxis(np.array(values, dtype=float), -1, 0)
    return bpp, quality, images or []


def _resampled_means(values: Array, indices: Array, metric: str) -> Array:
    """Return means of shape (resamples, points), computed point by point to save memory."""
    return np.stack([mean_over_images(point[indices], metric) for point in values], axis=1)


# BD-rate and BD-PSNR --------------------------------------------------------------------------------------------------


def _bd(anchor: Curve, test: Curve, metric: str, function: str) -> float:
    images = None
    checked = []
    for points, role in ((anchor, "anchor"), (test, "test")):
        if len(points) > 0 and isinstance(points[0], Report):
            bpp, quality, images = _measurements(points, metric, role, images)  # type: ignore[arg-type]
            if np.isnan(quality).any():
                name = images[int(np.isnan(quality).any(axis=0).argmax())][0]
                raise ValueError(f"{role}: all images need {metric} at every point, but {name} has none")
            rates, qualities = mean_over_images(bpp, "bpp"), mean_over_images(quality, metric)
            labels = [f" ({report.setting})" if report.setting else "" for report in points]  # type: ignore[union-attr]
        else:
            if len(points) != 2 or len(points[0]) != len(points[1]):  # type: ignore[arg-type]
                raise ValueError(f"{role}: expected reports or a pair of as many rates as qualities")
            rates, qualities = (np.array(values, dtype=float) for values in points)
            labels = [""] * len(rates)
        checked.append(_rising(rates, qualities, labels, role))
    (rates, qualities), (test_rates, test_qualities) = checked
    if function == "bd_rate":
        _check_overlap(qualities, test_qualities, lambda value: value, "qualities")
    else:
        _check_overlap(rates, test_rates, np.log10, "rates")
    return _bjontegaard(function, rates, qualities, test_rates, test_qualities)


def _bjontegaard(function: str, *curves: Array) -> float:
    import bjontegaard  # imported here because it imports Matplotlib

    call = getattr(bjontegaard, function)
    return float(call(*curves, METHOD, require_matching_points=False, min_overlap=0))


def _rising(rates: Array, qualities: Array, labels: list[str], role: str) -> tuple[Array, Array]:
    """Return the points sorted by rate. Raises ValueError if they do not form a rising curve."""
    if len(rates) < 2:
        raise ValueError(f"{role}: expected at least two points, got {len(rates)}")
    order = np.argsort(rates, kind="stable")
    points = [(rates[i], qualities[i], f"point {i + 1}{labels[i]}") for i in order]
    for rate, quality, label in points:
        if not (math.isfinite(rate) and math.isfinite(quality)):
            raise ValueError(f"{role}: values must be finite, got {quality:g} at {rate:g} bpp, {label}")
        if rate <= 0:
            raise ValueError(f"{role}: rates must be positive, got {rate:g} bpp, {label}")
    for (rate, quality, label), (next_rate, next_quality, next_label) in itertools.pairwise(points):
        if not (next_rate > rate and next_quality > quality):
            raise ValueError(
                f"{role}: quality must rise with the rate, got {next_quality:.6g} at {next_rate:.6g} bpp, "
                f"{next_label}, after {quality:.6g} at {rate:.6g} bpp, {label}"
            )
    return rates[order], qualities[order]


def _check_overlap(anchor: Array, test: Array, scale: Callable[[Any], Any], quantity: str) -> None:
    """Raise ValueError or warn if two curves overlap too little."""
    (a, b), (c, d) = ((float(scale(values[0])), float(scale(values[-1]))) for values in (anchor, test))
    common = max(min(b, d) - max(a, c), 0)
    ranges = f"those of anchor are {anchor[0]:.4g} to {anchor[-1]:.4g}, those of test {test[0]:.4g} to {test[-1]:.4g}"
    of_shorter, of_union = common / min(b - a, d - c), common / (max(b, d) - min(a, c))
    if of_shorter < MIN_OVERLAP:
        raise ValueError(
            f"anchor, test: the curves must share {MIN_OVERLAP:.0%} of the {quantity} of the shorter one, "
            f"got {of_shorter:.0%}: {ranges}"
        )
    if of_union < MIN_UNWARNED_OVERLAP:
        warnings.warn(f"the curves share {of_union:.0%} of their {quantity}: {ranges}", stacklevel=4)


def _resampled_bd_rate(rates: Array, qualities: Array, test_rates: Array, test_qualities: Array) -> float:
    """Return the BD-rate of one resample, with its points sorted by quality; NaN if it does not exist."""
    order, test_order = np.argsort(qualities), np.argsort(test_qualities)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # curves that do not overlap cause warnings and a BD-rate of NaN
        try:
            points = rates[order], qualities[order], test_rates[test_order], test_qualities[test_order]
            return _bjontegaard("bd_rate", *points)
        except ValueError:  # two points have the same quality
            return math.nan

"""Rate–distortion curves: means and their intervals, BD-rate and BD-PSNR, plots, tables.

A curve is the reports of one codec at several operating points, all on the same images: of `evaluate` at several λ, or
of `classical` at several qualities. A group of curves is a dict from name to curve.

Rates are averaged in bits per pixel and qualities in their own unit, each image counting the same, as in the field's
tables. MS-SSIM in dB is the dB of the mean MS-SSIM, not the mean of the images' dB: published curves are drawn so
(CompressAI's too), and a single image without loss would make the other infinite.

Intervals are percentile bootstraps over images (Efron & Tibshirani 1993, ch. 13). They say how far a figure would move
with other photographs of the same kind; they say nothing of other seeds in training, other kinds of image or other
machines. On few images they are somewhat too narrow.
"""

from __future__ import annotations

import csv
import itertools
import json
import math
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from labkit import theme
from labkit.disk import whole
from labkit.evaluation import metrics
from labkit.evaluation.evaluator import Report

METRICS = {"psnr": "PSNR (dB)", "ms_ssim": "MS-SSIM", "ms_ssim_db": "MS-SSIM (dB)"}
# Piecewise cubic and monotone (Fritsch & Butland 1984), as in JCT-VC's common test conditions: between points that rise
# it rises, and two points give a straight line. Akima's was found closer to densely measured curves (Herglotz et al.
# 2022), but may fall between points that rise, which few and resampled points invite.
METHOD = "pchip"
REFUSED, WARNED = 0.25, 0.75  # overlaps: of the shorter range, of both ranges together

Curve = Sequence[Report] | tuple[Sequence[float], Sequence[float]]


@dataclass(frozen=True)
class Interval:
    """A figure of all images, and the bootstrap interval around it."""

    estimate: float
    low: float
    high: float
    confidence: float

    def __str__(self) -> str:
        return f"{self.estimate:+.2f} [{self.low:+.2f}, {self.high:+.2f}] at {100 * self.confidence:g}%"


def curve(
    reports: Sequence[Report], metric: str = "psnr", confidence: float = 0.95, resamples: int = 2000, seed: int = 0
):
    """A curve as a pandas table, one row an operating point, from few bits to many.

    Columns: codec, setting, images, then bpp and quality, each with the ends _low and _high of its interval over images
    (see above; every point and both quantities share the resamples). metric: psnr (dB), ms_ssim or ms_ssim_db. Images
    too small for MS-SSIM are left out of both means; an image without loss makes the mean PSNR infinite.

    Raises ValueError for reports of different images, and where no image has the metric.
    """
    import pandas as pd

    bpp, quality, _ = _measure(reports, metric, "reports")
    measured = ~np.isnan(quality).any(axis=0)
    if not measured.any():
        raise ValueError(f"metric: no image has {metric} (MS-SSIM takes {metrics.MS_SSIM_MIN_SIDE} pixels a side)")
    bpp, quality = bpp[:, measured], quality[:, measured]
    drawn = _draw(bpp.shape[1], confidence, resamples, seed)
    columns: dict[str, Any] = {
        "codec": [_codec(report) for report in reports],
        "setting": [_setting(report) for report in reports],
        "images": [bpp.shape[1]] * len(reports),
    }
    for name, values in (("bpp", bpp), ("quality", quality)):
        of = metric if name == "quality" else name
        columns[name] = _mean(values, of)
        columns[f"{name}_low"], columns[f"{name}_high"] = _ends(_mean_of(values, drawn, of), confidence)
    return pd.DataFrame(columns).sort_values("bpp", ignore_index=True)


def bd_rate(anchor: Curve, test: Curve, metric: str = "psnr") -> float:
    """BD-rate in percent: the bits that test needs more than anchor at equal quality; negative where it needs fewer.

    The mean difference of the logarithms of the rates, over the qualities that both curves reach (Bjøntegaard 2001,
    VCEG-M33), by the bjontegaard package with its piecewise cubic interpolation. anchor, test: reports of the same
    images, or pairs (rates, qualities); two points and more, better four. metric, for reports: psnr, ms_ssim or, as the
    field compares MS-SSIM, ms_ssim_db (the scale says how much each quality counts).

    Warns where the common qualities are under 75% of the span from the lowest to the highest of either curve (the
    package's own measure): the figure speaks of the common ones only. Raises ValueError where they are under 25% of the
    shorter curve's range, so that a short curve within a long one passes; for a rate not above zero, a value that is
    not finite, a curve that does not rise, or reports of different images.
    """
    return _bd(anchor, test, metric, "bd_rate")


def bd_psnr(anchor: Curve, test: Curve) -> float:
    """BD-PSNR in dB: how much better test is than anchor at equal rate, over the logarithms of the common rates.

    Takes, warns and raises as `bd_rate`, with the overlap measured on the logarithms of the rates.
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
    """BD-rate in percent with its bootstrap interval over images (see above for what it says).

    Paired: a resample draws the same images for every point of both curves, so that what makes an image hard for both
    codecs cancels. Warns and raises as `bd_rate`, and where a resample has none (too few images).
    """
    estimate = bd_rate(anchor, test, metric)
    bpp, quality, images = _measure(anchor, metric, "anchor")
    test_bpp, test_quality, _ = _measure(test, metric, "test", images)
    drawn = _draw(len(images), confidence, resamples, seed)
    means = [
        _mean_of(values, drawn, of)
        for values, of in ((bpp, "bpp"), (quality, metric), (test_bpp, "bpp"), (test_quality, metric))
    ]
    values = np.array([_resampled_bd_rate(*one) for one in zip(*means, strict=True)])
    if np.isnan(values).any():
        raise ValueError(
            f"anchor, test: {np.isnan(values).sum()} of {resamples} resamples of {len(images)} images have no BD-rate"
        )
    low, high = _ends(values[:, None], confidence)
    return Interval(estimate, float(low[0]), float(high[0]), confidence)


def describe(curves: Mapping[str, Sequence[Report]], metric: str = "psnr", anchor: str | None = None) -> str:
    """The points of several curves as text, then the BD-rate of each against the anchor, all with 95% intervals.

    metric: psnr, ms_ssim or ms_ssim_db, the last two both in dB. anchor: the name of a curve, by default the first. A
    BD-rate that there is none of, or that is warned of, says why. Raises ValueError for an anchor that is none of the
    curves, and as `curve` does.
    """
    metric = "ms_ssim_db" if metric == "ms_ssim" else metric
    _column(metric)
    curves = _group(curves)
    anchor = next(iter(curves)) if anchor is None else anchor
    if anchor not in curves:
        raise ValueError(f"anchor: takes one of {', '.join(curves)}, got {anchor!r}")
    lines = [f"{'curve':<32} {'setting':<14} {'bpp':>7}  {'95%':<15} {METRICS[metric]:>12}  95%"]
    for name, reports in curves.items():
        for _, row in curve(reports, metric).iterrows():
            rate = f"{row['bpp']:>7.4f}  {row['bpp_low']:.4f}–{row['bpp_high']:.4f}"
            quality = f"{row['quality']:>12.2f}  {row['quality_low']:.2f}–{row['quality_high']:.2f}"
            lines.append(f"{name:<32} {row['setting']:<14} {rate}  {quality}")
    for name in [name for name in curves if name != anchor]:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            try:
                said = f"{bd_rate_interval(curves[anchor], curves[name], metric)}"
            except ValueError as error:
                said = f"none: {error}"
        said += "".join(f" ({warning.message})" for warning in caught)
        lines.append(f"BD-rate of {name} against {anchor}, in percent: {said}")
    return "\n".join(lines)


def plot(curves: Report | Sequence[Report] | Mapping[str, Sequence[Report]], metric: str = "psnr"):
    """Rate–distortion plane of one report, one curve or a dict of curves, as a plotly figure.

    A line with markers joins the means of a curve's points; the images of a single curve are faint dots behind it.
    metric: psnr, ms_ssim or ms_ssim_db, the last two both drawn in dB. Raises ValueError where nothing can be drawn.
    """
    import plotly.graph_objects as go

    metric = "ms_ssim_db" if metric == "ms_ssim" else metric
    figure = go.Figure()
    group = _group(curves)
    for number, (name, reports) in enumerate(group.items()):
        points = []
        for report in reports:
            rows = [row for row in report.rows if not math.isnan(row[_column(metric)])]
            if not rows:
                raise ValueError(f"metric: no image of {name} has {metric}")
            bpp, quality = (np.array([[row[key] for row in rows]]) for key in ("bpp", _column(metric)))
            points.append((_mean(bpp, "bpp")[0], _mean(quality, metric)[0], _setting(report)))
            if len(group) == 1:
                figure.add_scatter(
                    x=list(bpp[0]),
                    y=[metrics.decibels(value) if metric == "ms_ssim_db" else value for value in quality[0]],
                    mode="markers",
                    marker={"size": 5, "color": theme.INK},
                    opacity=0.35,
                    name="images",
                    legendgroup="images",
                    showlegend=report is reports[0],
                    customdata=[[row["name"], _setting(report)] for row in rows],
                    hovertemplate="%{customdata[0]}<br>%{customdata[1]}<br>%{x:.4f} bpp<br>%{y:.2f} dB<extra></extra>",
                )
        points.sort()
        # past the palette's end the dash moves on, so that no two curves look the same
        color, turn = number % len(theme.COLORS), number + number // len(theme.COLORS)
        figure.add_scatter(
            x=[bpp for bpp, _, _ in points],
            y=[quality for _, quality, _ in points],
            mode="lines+markers",
            line={"color": theme.COLORS[color], "dash": theme.DASHES[turn % len(theme.DASHES)]},
            marker={"size": 9, "symbol": theme.SYMBOLS[turn % len(theme.SYMBOLS)]},
            name=name,
            customdata=[[name, setting] for _, _, setting in points],
            hovertemplate="%{customdata[0]}<br>%{customdata[1]}<br>%{x:.4f} bpp<br>%{y:.2f} dB<extra></extra>",
        )
    figure.update_layout(
        xaxis_title="rate (bits per pixel, as written)",
        yaxis_title=METRICS[metric],
        template=theme.template(),
        height=420,
        legend={"x": 1, "xanchor": "right", "y": 0, "yanchor": "bottom"},  # a corner that no curve comes to
        showlegend=True,
    )
    return figure


def to_frame(reports: Report | Sequence[Report] | Mapping[str, Sequence[Report]]):
    """Everything measured as one tidy pandas table, one row an image and operating point.

    The report's info follows in further columns, nested values as JSON text, None as missing; a key that the rows have
    too is called info_…. A dict of curves gives its names in the first column, curve.
    """
    import pandas as pd

    rows = []
    for name, of_curve in _group(reports).items():
        for report in of_curve:
            measured = {key for row in report.rows for key in row} | {"curve"}
            about = {
                f"info_{key}" if key in measured else key: value
                if isinstance(value, str | int | float)
                else json.dumps(value, default=str)
                for key, value in report.info.items()
                if value is not None
            }
            first = {"curve": name} if isinstance(reports, Mapping) else {}
            rows += [first | row | about for row in report.rows]
    frame = pd.DataFrame(rows)
    for column in frame:
        values = frame[column].dropna()
        if len({isinstance(value, str) for value in values}) > 1:  # a column has one type
            frame[column] = frame[column].map(lambda value: str(value), na_action="ignore")
    return frame


def save_table(frame, path: str | Path) -> None:
    """Write a pandas table, or what `to_frame` takes, as .csv or .parquet, whole or not at all.

    In .csv all text and every True and False stands in quotes, so that `read_table` gives a column back with the type
    that it had: numbers, text or booleans. Missing values are nan. The index is left out.

    Raises ValueError for another suffix, and naming the file where it cannot be written.
    """
    import pandas as pd

    frame = frame if isinstance(frame, pd.DataFrame) else to_frame(frame)
    suffix = _suffix(path)
    with whole(path) as temporary:
        if suffix == ".parquet":
            frame.to_parquet(temporary, index=False)
        else:
            columns = [[_cell(value) for value in frame[name].tolist()] for name in frame]
            with open(temporary, "w", encoding="utf-8", newline="") as file:
                writer = csv.writer(file, quoting=csv.QUOTE_NONNUMERIC, lineterminator="\n")
                writer.writerow(map(str, frame.columns))
                writer.writerows(zip(*columns, strict=True))


def read_table(path: str | Path):
    """Read what `save_table` wrote, each column with the type that it had; another program's .csv as pandas reads it.

    Raises ValueError, in one line, for a file that is absent or is no such table.
    """
    import pandas as pd

    path, suffix = Path(path), _suffix(path)
    if not path.is_file():
        raise ValueError(f"{path}: there is no such file")
    try:
        if suffix == ".parquet":
            return pd.read_parquet(path)
        try:
            return _read_csv(path)
        except ValueError:  # text without quotes
            return pd.read_csv(path)
    except (ValueError, OSError, NotImplementedError, csv.Error) as error:
        raise ValueError(f"{path} cannot be read as a table: {str(error).splitlines()[0]}") from None


# Images and their means


def _measure(
    reports: Sequence[Report], metric: str, what: str, images: list[tuple] | None = None
) -> tuple[np.ndarray, np.ndarray, list[tuple]]:
    """bpp and metric, each (points, images), and the images: (name, height, width), by default the first report's."""
    column = _column(metric)
    if not reports:
        raise ValueError(f"{what}: takes one report and more, got none")
    values = []
    for report in reports:
        rows = {(row["name"], row["height"], row["width"]): row for row in report.rows}
        point = f"{what}, {_codec(report)} {_setting(report)}".rstrip()
        if len(rows) < len(report.rows) or not rows:
            raise ValueError(f"{point}: takes images that differ in name, got {len(report.rows)} of {len(rows)} names")
        images = list(rows) if images is None else images
        for fault, names in (("lacks", set(images) - set(rows)), ("has, of no other,", set(rows) - set(images))):
            if names:
                some = ", ".join(f"{name} ({height}×{width})" for name, height, width in sorted(names)[:3])
                more = f" and {len(names) - 3} more" if len(names) > 3 else ""
                raise ValueError(f"{point}: takes the same images everywhere, but {fault} {some}{more}")
        values.append([[rows[image]["bpp"], rows[image][column]] for image in images])
    bpp, quality = np.moveaxis(np.array(values, dtype=float), -1, 0)
    return bpp, quality, images or []


def _column(metric: str) -> str:
    if metric not in METRICS:
        raise ValueError(f"metric: takes one of {', '.join(METRICS)}, got {metric!r}")
    return metric.removesuffix("_db")


def _mean(values: np.ndarray, metric: str) -> np.ndarray:
    """Means over the last axis, images."""
    mean = values.mean(axis=-1)
    if metric != "ms_ssim_db":
        return mean
    with np.errstate(divide="ignore"):
        return -10 * np.log10(1 - mean)


def _draw(images: int, confidence: float, resamples: int, seed: int) -> np.ndarray:
    """The images of each resample, (resamples, images)."""
    if not 0 < confidence < 1:
        raise ValueError(f"confidence: takes a number between 0 and 1, got {confidence}")
    if resamples < 1:
        raise ValueError(f"resamples: takes 1 and more, got {resamples}")
    return np.random.default_rng(seed).integers(images, size=(resamples, images))


def _mean_of(values: np.ndarray, drawn: np.ndarray, metric: str) -> np.ndarray:
    """(resamples, points) means, point by point: all at once would be a large array."""
    return np.stack([_mean(point[drawn], metric) for point in values], axis=1)


def _ends(values: np.ndarray, confidence: float) -> np.ndarray:
    """The two ends, (2, points), among the values themselves: between finite and infinite ones there is no middle."""
    tail = (1 - confidence) / 2
    return np.quantile(values, [tail, 1 - tail], axis=0, method="nearest")


# BD-rate and BD-PSNR


def _bd(anchor: Curve, test: Curve, metric: str, function: str) -> float:
    import bjontegaard  # brings matplotlib

    images = None
    checked = []
    for one, what in ((anchor, "anchor"), (test, "test")):
        if len(one) > 0 and isinstance(one[0], Report):
            bpp, quality, images = _measure(one, metric, what, images)  # type: ignore[arg-type]
            if np.isnan(quality).any():
                name = images[int(np.isnan(quality).any(axis=0).argmax())][0]
                raise ValueError(f"{what}: takes images that have {metric} at every point, but {name} has none")
            rates, qualities = _mean(bpp, "bpp"), _mean(quality, metric)
            labels = [f" ({_setting(report)})" if _setting(report) else "" for report in one]  # type: ignore[arg-type]
        else:
            if len(one) != 2 or len(one[0]) != len(one[1]):  # type: ignore[arg-type]
                raise ValueError(f"{what}: takes reports, or a pair of as many rates as qualities")
            rates, qualities = (np.array(values, dtype=float) for values in one)
            labels = [""] * len(rates)
        checked.append(_rising(rates, qualities, labels, what))
    (rates, qualities), (test_rates, test_qualities) = checked
    if function == "bd_rate":
        _check_overlap(qualities, test_qualities, lambda value: value, "qualities")
    else:
        _check_overlap(rates, test_rates, np.log10, "rates")
    return float(
        getattr(bjontegaard, function)(
            rates, qualities, test_rates, test_qualities, METHOD, require_matching_points=False, min_overlap=0
        )
    )


def _rising(rates: np.ndarray, qualities: np.ndarray, labels: list[str], what: str) -> tuple[np.ndarray, np.ndarray]:
    """The points from few bits to many, once they are known to make a curve."""
    if len(rates) < 2:
        raise ValueError(f"{what}: takes two points and more, got {len(rates)}")
    order = np.argsort(rates, kind="stable")
    points = [(rates[i], qualities[i], f"point {i + 1}{labels[i]}") for i in order]
    for rate, quality, label in points:
        if not (math.isfinite(rate) and math.isfinite(quality)):
            raise ValueError(f"{what}: takes finite values, got {quality:g} at {rate:g} bpp, {label}")
        if rate <= 0:
            raise ValueError(f"{what}: takes rates above 0, got {rate:g} bpp, {label}")
    for (rate, quality, label), (more, better, following) in itertools.pairwise(points):
        if not (more > rate and better > quality):
            raise ValueError(
                f"{what}: takes a quality that rises with the rate, got {better:.6g} at {more:.6g} bpp, {following}, "
                f"after {quality:.6g} at {rate:.6g} bpp, {label}"
            )
    return rates[order], qualities[order]


def _check_overlap(anchor: np.ndarray, test: np.ndarray, scale: Callable, what: str) -> None:
    """Refuse curves that share little of the shorter range; warn where they share little of the two together."""
    (a, b), (c, d) = ((float(scale(values[0])), float(scale(values[-1]))) for values in (anchor, test))
    common = max(min(b, d) - max(a, c), 0)
    ranges = f"anchor's are {anchor[0]:.4g} to {anchor[-1]:.4g}, test's {test[0]:.4g} to {test[-1]:.4g}"
    of_shorter, of_union = common / min(b - a, d - c), common / (max(b, d) - min(a, c))
    if of_shorter < REFUSED:
        raise ValueError(
            f"anchor, test: take curves with {REFUSED:.0%} of the shorter one's {what} in common, "
            f"got {of_shorter:.0%}: {ranges}"
        )
    if of_union < WARNED:
        warnings.warn(f"the curves have {of_union:.0%} of their {what} in common: {ranges}", stacklevel=4)


def _resampled_bd_rate(
    rates: np.ndarray, qualities: np.ndarray, test_rates: np.ndarray, test_qualities: np.ndarray
) -> float:
    """BD-rate of one resample; NaN where it has none. Points that change places with the images are put in order."""
    import bjontegaard

    order, test_order = np.argsort(qualities), np.argsort(test_qualities)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of curves that do not overlap; NaN says so
        try:
            return bjontegaard.bd_rate(
                rates[order],
                qualities[order],
                test_rates[test_order],
                test_qualities[test_order],
                METHOD,
                require_matching_points=False,
                min_overlap=0,
            )
        except ValueError:  # two points of one quality
            return math.nan


# Names and files


def _group(curves: Report | Sequence[Report] | Mapping[str, Sequence[Report]]) -> Mapping[str, Sequence[Report]]:
    if isinstance(curves, Report):
        curves = [curves]
    if not isinstance(curves, Mapping):
        curves = {_codec(curves[0]) if curves else "": curves}
    for name, reports in curves.items():
        if not reports:
            raise ValueError(f"reports: takes one and more a curve, got none of {name or 'the only one'}")
    if not curves:
        raise ValueError("curves: takes one and more, got none")
    return curves


def _codec(report: Report) -> str:
    return str(report.info.get("codec") or report.info.get("network") or "codec")


def _setting(report: Report) -> str:
    if "lmbda" in report.info:
        return f"λ = {report.info['lmbda']:g}"
    return f"quality {report.info['quality']:g}" if "quality" in report.info else ""


def _suffix(path: str | Path) -> str:
    suffix = Path(path).suffix.lower()
    if suffix not in (".csv", ".parquet"):
        raise ValueError(f"path: takes a name that ends in .csv or .parquet, got {str(path)!r}")
    return suffix


def _cell(value: Any) -> Any:
    import pandas as pd

    if pd.isna(value):
        return math.nan
    return str(value) if isinstance(value, bool) else value


def _read_csv(path: Path):
    """Cells read twice: as they are, and with those in quotes told from numbers."""
    import pandas as pd

    tables = []
    for quoting in (csv.QUOTE_MINIMAL, csv.QUOTE_NONNUMERIC):
        with open(path, encoding="utf-8", newline="") as file:
            tables.append(list(csv.reader(file, quoting=quoting, strict=True)))
    (names, *raw), (_, *typed) = tables
    columns: dict[str, list] = {}
    for number, name in enumerate(names):
        cells = [(row[number], values[number]) for row, values in zip(raw, typed, strict=True)]
        texts = [text for text, value in cells if isinstance(value, str)]
        if not texts and all(re.fullmatch(r"-?\d+", text) for text, _ in cells):
            columns[name] = [int(text) for text, _ in cells]
        elif texts and set(texts) <= {"True", "False"}:
            columns[name] = [text == "True" if isinstance(value, str) else value for text, value in cells]
        else:
            columns[name] = [value for _, value in cells]
    return pd.DataFrame(columns)

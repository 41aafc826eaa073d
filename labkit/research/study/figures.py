"""The study's figures: SVG files with the findings of a claim and, for some claims, curves over an axis of the grid."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from labkit import theme
from labkit.disk import whole
from labkit.research.study import claims, tables
from labkit.research.study.claim import Lines
from labkit.research.study.findings import INCONCLUSIVE, NOT_SUPPORTED, SUPPORTED, Finding
from labkit.research.study.report import ClaimReport

if TYPE_CHECKING:
    import pandas as pd

AXIS_END = 1000.0  # the axis of the findings ends here, even if an interval is longer
LOGARITHMIC = 20.0  # if an interval is longer than this, the axis is logarithmic outside ± 1
MARKERS = {SUPPORTED: "o", NOT_SUPPORTED: "X", INCONCLUSIVE: "$?$"}
COLORS = {SUPPORTED: theme.COLORS[2], NOT_SUPPORTED: theme.COLORS[1], INCONCLUSIVE: theme.COLORS[4]}


def draw_figures(reports: Sequence[ClaimReport], folder: str | Path | None = None) -> None:
    """Draw the figures of all claims that have a table, next to their tables.

    Args:
        reports: The reports on the claims.
        folder: Folder of the tables, by default that of the bundled results.
    """
    for report in reports:
        if report.seeds:
            path = tables.table_path(report.name, folder).with_suffix(".svg")
            draw(report, tables.read(report.name, folder), path)


def draw(report: ClaimReport, table: pd.DataFrame, path: Path) -> None:
    """Draw a claim's figure: its findings with a verdict and an interval, beside its curves if it has any.

    Args:
        report: The report on the claim.
        table: The claim's table.
        path: SVG file to write.
    """
    import matplotlib
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    # only complete seeds, so that every point of a curve is the mean over the same seeds
    complete = table[table["seed"].isin(tables.complete_seeds(table))]
    curves = claims.get(report.name).curves(tables.with_losses(complete))
    findings = [finding for finding in report.findings if finding.verdict and not math.isnan(finding.low)]
    height = max(4.0, 0.2 * len(findings) + 1.2)
    with matplotlib.rc_context(
        {"svg.hashsalt": report.name, "svg.fonttype": "none", "font.size": 8, "axes.edgecolor": theme.INK}
    ):
        figure = Figure(figsize=(11 if curves else 8, height), layout="constrained")
        axes = figure.subplots(1, 2 if curves else 1, squeeze=False)[0]
        if curves:
            _draw_curves(axes[0], *curves)
        _draw_findings(axes[-1], findings)
        figure.suptitle(f"{report.text}\n{report.conclusion}", color=theme.INK, fontsize=9)
        with whole(path) as temporary:
            FigureCanvasSVG(figure).print_svg(temporary, metadata={"Date": None})


def _draw_curves(axes: Any, label: str, curves: Lines) -> None:
    for number, (name, (x, y)) in enumerate(curves.items()):
        color = theme.COLORS[number % len(theme.COLORS)]
        dash = ("-", "--", ":", "-.")[number // len(theme.COLORS) % 4]
        axes.plot(x, y, dash, color=color, marker="o", markersize=3, label=name)
    axes.set(xscale="log", xlabel=label, ylabel="loss relative to the least loss (%)")
    levels = sorted({level for x, _ in curves.values() for level in x})
    axes.set_xticks(levels, [f"{level:g}" for level in levels])
    axes.minorticks_off()
    axes.set_ylim(-0.3, min(axes.get_ylim()[1], 10.0))
    below = {"loc": "upper center", "bbox_to_anchor": (0.5, -0.2), "ncols": 2}
    axes.legend(frameon=False, labelcolor=theme.INK, fontsize=7, **below)
    _style(axes)


def _draw_findings(axes: Any, findings: list[Finding]) -> None:
    """Draw estimates with their intervals, in percent or as plain numbers."""
    for place, finding in enumerate(findings):
        scale = 100 if finding.percent else 1
        value, low, high = (scale * number for number in (finding.value, finding.low, finding.high))
        color = COLORS[finding.verdict]
        axes.plot([low, high], [place, place], color=color, linewidth=1.5)
        axes.plot([value], [place], marker=MARKERS[finding.verdict], color=color, markersize=6)
    for word in dict.fromkeys(finding.verdict for finding in findings):
        axes.plot([], [], linestyle="", marker=MARKERS[word], color=COLORS[word], label=word)
    if findings:
        axes.legend(frameon=False, labelcolor=theme.INK, loc="lower center", bbox_to_anchor=(0.5, 1), ncols=3)
    axes.axvline(0, color=theme.INK, linewidth=0.8)
    axes.set_yticks(range(len(findings)), [finding.comparison for finding in findings], fontsize=7)
    axes.set_ylim(max(len(findings), 1) - 0.5, -0.5)
    axes.set_xlim(*(min(max(end, -AXIS_END), AXIS_END) for end in axes.get_xlim()))
    if max(map(abs, axes.get_xlim())) > LOGARITHMIC:
        axes.set_xscale("symlog", linthresh=1)
        axes.xaxis.set_major_formatter("{x:g}")
    axes.set_xlabel("estimate and 95% interval (shares in %)")
    _style(axes)


def _style(axes: Any) -> None:
    axes.grid(color=theme.INK, alpha=0.25, linewidth=0.6)
    axes.tick_params(colors=theme.INK)
    for label in (axes.xaxis.label, axes.yaxis.label):
        label.set_color(theme.INK)

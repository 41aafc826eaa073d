"""The rate–distortion plane as a plotly figure."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from labkit import theme
from labkit.evaluation.metrics import LABELS, column_of, decibels, mean_over_images
from labkit.evaluation.report import Report, group_by_name

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

_HOVER = "%{customdata[0]}<br>%{customdata[1]}<br>%{x:.4f} bpp<br>%{y:.2f} dB<extra></extra>"


def plot(curves: Report | Sequence[Report] | Mapping[str, Sequence[Report]], metric: str = "psnr") -> Figure:
    """Draw curves in the rate–distortion plane.

    A line with markers joins the mean points of each curve. The images of a single curve are faint dots behind it.

    Args:
        curves: A report, the reports of one curve, or a dictionary of curves.
        metric: "psnr", "ms_ssim" or "ms_ssim_db"; MS-SSIM is drawn in dB in both cases.

    Raises:
        ValueError: If there is no curve, or if no image of a curve has the metric.
    """
    import plotly.graph_objects as go

    metric = "ms_ssim_db" if metric == "ms_ssim" else metric
    column = column_of(metric)
    figure = go.Figure()
    group = group_by_name(curves)
    for number, (name, reports) in enumerate(group.items()):
        points = []
        for report in reports:
            rows = [row for row in report.rows if not math.isnan(row[column])]
            if not rows:
                raise ValueError(f"metric: no image of {name} has {metric}")
            bpp, quality = (np.array([[row[key] for row in rows]]) for key in ("bpp", column))
            points.append((mean_over_images(bpp, "bpp")[0], mean_over_images(quality, metric)[0], report.setting))
            if len(group) == 1:
                figure.add_scatter(
                    x=list(bpp[0]),
                    y=[decibels(value) if metric == "ms_ssim_db" else value for value in quality[0]],
                    mode="markers",
                    marker={"size": 5, "color": theme.INK},
                    opacity=0.35,
                    name="images",
                    legendgroup="images",
                    showlegend=report is reports[0],
                    customdata=[[row["name"], report.setting] for row in rows],
                    hovertemplate=_HOVER,
                )
        points.sort()
        turn = number % len(theme.DASHES)  # one fewer than there are colors, so that no two curves look the same
        figure.add_scatter(
            x=[bpp for bpp, _, _ in points],
            y=[quality for _, quality, _ in points],
            mode="lines+markers",
            line={"color": theme.COLORS[number % len(theme.COLORS)], "dash": theme.DASHES[turn]},
            marker={"size": 9, "symbol": theme.SYMBOLS[turn]},
            name=name,
            customdata=[[name, setting] for _, _, setting in points],
            hovertemplate=_HOVER,
        )
    return figure.update_layout(
        xaxis_title="rate (bits per pixel, as written)",
        yaxis_title=LABELS[metric],
        template=theme.template(),
        height=420,
        legend={"x": 1, "xanchor": "right", "y": 0, "yanchor": "bottom"},  # no curve reaches this corner
        showlegend=True,
    )

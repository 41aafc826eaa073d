"""Plots as images, drawn with Matplotlib on white, for pages without a browser."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from io import BytesIO
from typing import Any

import numpy as np
from PIL import Image

from labkit.live.lines import Axes, Trace, points_of
from labkit.statistics import Array

_DASHES = {"dash": "--", "dot": ":", "dashdot": "-.", "longdash": (0, (8, 3)), "longdashdot": (0, (8, 3, 1, 3))}
_SYMBOLS = {"circle": "o", "square": "s", "diamond": "D", "triangle-up": "^", "x": "x", "cross": "P"}
_HATCHES = ("", "//", "xx", "..", "\\\\", "--")


def draw_plot(axes: Sequence[Axes], columns: int, traces: Mapping[str, Trace], figure: Any) -> Image.Image:
    """Draw a plot with Matplotlib.

    Args:
        axes: Axes, row by row.
        columns: Number of columns.
        traces: Traces, each under the name of its line.
        figure: plotly figure with the data of the traces.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    page = Figure(figsize=(figure.layout.width / 100, figure.layout.height / 100), dpi=100, layout="constrained")
    rows = -(-len(axes) // columns)
    grid = page.add_gridspec(rows, columns, width_ratios=[each.width for each in axes[:columns]])
    for number, each in enumerate(axes):
        plot = page.add_subplot(grid[number])
        bars = []
        for trace in (traces[line.name] for line in each.lines):
            if trace.line.mode == "bars":
                bars.append(trace)
                continue
            if trace.ghost is not None:
                _draw_line(plot, figure.data[trace.ghost], trace, ghost=True)
            _draw_line(plot, figure.data[trace.index], trace, ghost=False)
        _draw_bars(plot, [(trace, figure.data[trace.index]) for trace in bars])
        _draw_axes(plot, each)
    file = BytesIO()
    FigureCanvasAgg(page).print_png(file)
    return Image.open(file).convert("RGB")


def _draw_line(plot: Any, data: Any, trace: Trace, *, ghost: bool) -> None:
    x, y = points_of(data)
    if not len(x):
        return
    line = trace.line
    color = "#bbbbbb" if ghost else trace.color
    plot.plot(
        x,
        y,
        linestyle="none" if line.mode == "markers" else _DASHES.get(trace.dash, "-"),
        marker=_SYMBOLS.get(trace.symbol, "o") if "markers" in line.mode else None,
        color=color,
        label=line.name if line.legend and not ghost else None,
        linewidth=1.6,
        markersize=5,
    )
    if line.mode == "area" and not ghost:
        plot.fill_between(x, y, color=color, alpha=0.25)
    if (errors := _errors_of(data, len(x))) is not None:
        plot.errorbar(x, y, yerr=errors, fmt="none", ecolor=color, elinewidth=1)


def _errors_of(data: Any, count: int) -> Array | None:
    """Return the error bars of a line of `count` points, or None if it has none."""
    errors = data.error_y.array
    return np.asarray(errors) if errors is not None and len(errors) == count else None


def _draw_bars(plot: Any, bars: list[tuple[Trace, Any]]) -> None:
    """Draw bars side by side, with their error bars: all lines of bars share the space at each position."""
    bars = [(trace, data) for trace, data in bars if len(points_of(data)[0])]
    for number, (trace, data) in enumerate(bars):
        x, y = points_of(data)
        has_texts = x.dtype.kind not in "fiu"
        places = np.arange(len(x)) if has_texts else x
        room = 0.85 * (np.diff(np.sort(places)).min() if len(places) > 1 else 1.0)
        offset = (number + 0.5) / len(bars) - 0.5
        plot.bar(
            places + offset * room,
            y,
            yerr=_errors_of(data, len(y)),
            width=room / len(bars),
            label=trace.line.name if trace.line.legend else None,
            color=trace.color,
            alpha=0.8,
            hatch=_HATCHES[trace.place % len(_HATCHES)],
            edgecolor="white",
        )
        if has_texts:
            plot.set_xticks(places, list(x))


def _write_plain_ticks(axis: Any) -> None:
    """Write 20 and 0.1 at a logarithmic axis in place of 2 × 10¹ and 10⁻¹."""
    from matplotlib.ticker import LogFormatterSciNotation

    class Plain(LogFormatterSciNotation):
        def __call__(self, x: float, pos: int | None = None) -> str:
            text: str = super().__call__(x, pos)  # empty at ticks without a number
            return f"{x:,g}" if text and 1e-3 <= x < 1e5 else text

    axis.set_major_formatter(Plain())
    axis.set_minor_formatter(Plain(labelOnlyBase=False))


def _draw_axes(plot: Any, axes: Axes) -> None:
    plot.set_title(axes.title, fontsize=10)
    plot.set_xlabel(axes.x, fontsize=9)
    plot.set_ylabel(axes.y, fontsize=9)
    if axes.log_x:
        plot.set_xscale("log")
        _write_plain_ticks(plot.xaxis)
    if axes.log_y:
        plot.set_yscale("log")
        _write_plain_ticks(plot.yaxis)
    if axes.range_x is not None:
        plot.set_xlim(*axes.range_x)
    if axes.range_y is not None:
        plot.set_ylim(*axes.range_y)
    plot.tick_params(labelsize=8)
    plot.grid(color="#dddddd", linewidth=0.6)
    plot.set_axisbelow(True)
    if plot.get_legend_handles_labels()[0]:
        plot.legend(fontsize=8, framealpha=0.6)

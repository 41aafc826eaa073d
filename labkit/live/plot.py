"""Plots that change during a run: several axes in one plotly widget, and a panel that shows one such plot.

class WavePanel(PlotPanel):
    def __init__(self):
        axes = Axes("a wave", x="t", y="height", lines=[Line("sine", ghost=True), Line("now", mode="markers")])
        super().__init__(controls={"pitch": choice("pitch f", (1, 2, 3), 1)}, plot=Plot([axes]))

    def job(self, settings):
        t = np.linspace(0, 1, 200)
        for i in range(1, 201):
            lines = {"sine": (t[:i], np.sin(settings["pitch"] * t[:i]))}
            yield lambda lines=lines, i=i: PlotFrame(lines, i / 200, text=f"point {i}", label="A sine wave.")
        return Result(settings=settings)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

import ipywidgets
import numpy as np
import plotly.graph_objects as go
from PIL import Image
from plotly.subplots import make_subplots

from labkit.live.engine import LiveRun
from labkit.live.lines import Axes, Line, Points, Trace, points_of
from labkit.live.panel import Panel
from labkit.live.still import draw_plot
from labkit.statistics import Array
from labkit.theme import CLEAR, GRID, INK

_GHOST = "rgba(128, 128, 128, 0.55)"
_PATTERNS = ("", "/", "x", ".", "\\", "-")  # the pattern of a bar repeats the information of its color


class Plot:
    """Axes side by side in one FigureWidget, with a text alternative below.

    Args:
        axes: Axes, row by row.
        columns: Number of columns. None puts all axes in one row.
        width: Width of the whole plot in page pixels.
        height: Height of the whole plot in page pixels.

    Attributes:
        axes: Axes, row by row.
        columns: Number of columns.
        figure: plotly's FigureWidget.
        traces: Traces, each under the name of its line.
        widget: Figure and text alternative as one widget.
        label: Text alternative.

    Raises:
        ValueError: If two lines have the same name.
    """

    def __init__(
        self, axes: Sequence[Axes], *, columns: int | None = None, width: int = 900, height: int = 360
    ) -> None:
        self.axes, self.columns = tuple(axes), columns or len(axes)
        rows = -(-len(axes) // self.columns)
        grid = make_subplots(
            rows,
            self.columns,
            subplot_titles=[each.title for each in axes] if any(each.title for each in axes) else None,
            horizontal_spacing=0.09 if self.columns > 1 else 0,
            vertical_spacing=0.22 if rows > 1 else 0,
            column_widths=[each.width for each in self.axes[: self.columns]],
        )
        self.traces: dict[str, Trace] = {}
        for number, each in enumerate(axes):
            row, column = (index + 1 for index in divmod(number, self.columns))
            for place, line in enumerate(each.lines):
                if line.name in self.traces:
                    raise ValueError(f"lines must have different names, got {line.name!r} twice")
                first = len(grid.data)
                trace = Trace(line, place, *((first + 1, first) if line.ghost else (first, None)))
                if line.ghost:
                    grid.add_trace(_ghost(trace), row, column)
                grid.add_trace(_bars(trace) if line.mode == "bars" else _scatter(trace), row, column)
                self.traces[line.name] = trace
            grid.update_xaxes(_axis(each.x, each.log_x, each.range_x), row=row, col=column)
            grid.update_yaxes(_axis(each.y, each.log_y, each.range_y), row=row, col=column)
        for title in grid.layout.annotations:
            title.font.size = 13
        grid.update_layout(
            width=width,
            height=height,
            margin={"l": 55, "r": 10, "t": 60 if grid.layout.annotations else 30, "b": 45},
            paper_bgcolor=CLEAR,
            plot_bgcolor=CLEAR,
            font={"color": INK, "size": 12},
            legend={"orientation": "h", "x": 0, "y": 1.1 if grid.layout.annotations else 1.02, "yanchor": "bottom"},
            hovermode="closest",
            barmode="group",
        )
        self.figure = go.FigureWidget(grid)
        self.label = ""
        self._text = ipywidgets.HTML()
        self._text.add_class("labkit-text")
        self.widget = ipywidgets.VBox([self.figure, self._text], layout={"width": f"{width}px"})

    def show(self, lines: Mapping[str, Points], label: str = "") -> None:
        """Change some lines in one message.

        Args:
            lines: New points, each under the name of its line. The other lines keep their points.
            label: New text alternative; an empty text keeps the current one.

        Raises:
            KeyError: If there is no line with a given name.
        """
        with self.figure.batch_update():
            for name, points in lines.items():
                self._set(self.figure.data[self.traces[name].index], points)
        if label and label != self.label:
            self.label = label
            self._text.value = escape(label)

    def points(self, name: str, *, ghost: bool = False) -> tuple[Array, Array]:
        """Return x and y of a line, or of its ghost."""
        trace = self.traces[name]
        return points_of(self.figure.data[trace.ghost if ghost else trace.index])

    def keep_as_ghost(self) -> None:
        """Copy the current lines into their ghosts."""
        with self.figure.batch_update():
            for name, trace in self.traces.items():
                if trace.ghost is not None:
                    ghost = self.figure.data[trace.ghost]
                    ghost.x, ghost.y = self.points(name)
        self.settle()

    def settle(self) -> None:
        """Store the curves in the state of the widget, for pages that are still loading plotly or will be reloaded.

        Updates are sent as messages, which a page drops if its script is not loaded yet. plotly itself stores the data
        of a figure only when the figure is displayed on its own, which never happens in a panel.
        """
        self.figure._repr_mimebundle_()

    def refresh(self) -> None:
        """Send every line again, to a page that was still drawing the empty plot when the lines were sent."""
        with self.figure.batch_update():
            for data in self.figure.data:
                x, y = (_column(values) for values in points_of(data))
                if len(x):
                    data.x, data.y = _longer(x, y) if len(x) == len(data.x) else (x, y)

    def still(self) -> Image.Image:
        """Draw the same plot with Matplotlib, for pages without a browser."""
        return draw_plot(self.axes, self.columns, self.traces, self.figure)

    def _set(self, data: Any, points: Points) -> None:
        x, y = (_column(values) for values in points[:2])
        if np.array_equal(x, data.x) and not np.array_equal(y, data.y):
            x, y = _longer(x, y)  # a page that once missed x would draw y over 0, 1, 2, …
        data.x, data.y = x, y
        if len(points) > 2:
            data.error_y = {"array": _column(points[2]), "color": data.marker.color or INK, "thickness": 1.2}


@dataclass(frozen=True)
class PlotFrame:
    """The content that a plot panel shows after a step.

    Attributes:
        lines: New points, each under the name of its line.
        progress: Completed fraction of the run, from 0 to 1.
        text: Short description of the current work for the status line.
        label: Text alternative for the plot.
    """

    lines: Mapping[str, Points]
    progress: float
    text: str
    label: str = ""


class PlotPanel(Panel):
    """Controls and a status line above a plot. The views of a subclass return a PlotFrame.

    Args:
        controls: Widgets, each under the name of its setting.
        plot: Plot below them.
    """

    def __init__(self, controls: dict[str, ipywidgets.Widget], plot: Plot) -> None:
        self.plot = plot
        super().__init__(controls, screens=[plot])

    def draw(self, frame: PlotFrame, run: LiveRun) -> None:
        """Change the lines of the plot."""
        self.plot.show(frame.lines, frame.label)

    def keep_as_ghost(self, run: LiveRun) -> None:
        """Copy the current lines into their ghosts."""
        self.plot.keep_as_ghost()

    def finish(self, run: LiveRun) -> None:
        """Store the curves for pages that load later."""
        self.plot.settle()


def _scatter(trace: Trace) -> go.Scatter:
    area = trace.line.mode == "area"
    return go.Scatter(
        x=[],
        y=[],
        name=trace.line.name,
        mode="lines" if area else trace.line.mode,
        fill="tozeroy" if area else None,
        showlegend=trace.line.legend,
        line={"color": trace.color, "width": 2, "dash": trace.dash},
        marker={"color": trace.color, "size": 8, "symbol": trace.symbol},
    )


def _ghost(trace: Trace) -> go.Scatter:
    ghost = _scatter(trace)
    return ghost.update(
        name=f"{trace.line.name}, previous run",
        fill=None,
        showlegend=False,
        line={"color": _GHOST, "width": 1.5},
        marker={"color": _GHOST},
    )


def _bars(trace: Trace) -> go.Bar:
    pattern = {"shape": _PATTERNS[trace.place % len(_PATTERNS)]}
    marker = {"color": trace.color, "pattern": pattern}
    return go.Bar(x=[], y=[], name=trace.line.name, marker=marker, showlegend=trace.line.legend)


def _axis(title: str, log: bool, limits: tuple[float, float] | None) -> dict[str, Any]:
    look: dict[str, Any] = {"title": {"text": title, "standoff": 6}, "gridcolor": GRID, "zeroline": False}
    if log:
        look |= {"type": "log", "dtick": "D2", "tickformat": "~g"}
    if limits is not None:
        look["range"] = [float(np.log10(end)) for end in limits] if log else list(limits)
    return look


def _longer(x: Any, y: Any) -> tuple[Any, Any]:
    """Append an invisible point, because plotly only sends values that differ from those it sent before."""
    x, y = (
        np.append(values, np.float32(np.nan)) if isinstance(values, np.ndarray) else [*values, None]
        for values in (x, y)
    )
    return x, y


def _column(values: Any) -> Any:
    """Convert numbers to float32, which are sent as bytes; return texts unchanged."""
    values = np.asarray(values)
    return values.astype(np.float32) if values.dtype.kind in "fiub" else [str(each) for each in values]


__all__ = ["Axes", "Line", "Plot", "PlotFrame", "PlotPanel", "Points"]

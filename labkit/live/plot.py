"""Plots that move: several axes in one plotly widget, whose traces are made once, and the panel that has only that.

class WavePanel(PlotPanel):
    def __init__(self):
        axes = Axes("a wave", x="t", y="height", lines=[Line("sine", ghost=True), Line("now", mode="markers")])
        super().__init__(controls={"pitch": choice("pitch f", (1, 2, 3), 1)}, plot=Plot([axes]))

    def job(self, settings):
        t = np.linspace(0, 1, 200)
        for i in range(1, 201):
            lines = {"sine": (t[:i], np.sin(settings["pitch"] * t[:i]))}
            yield lambda lines=lines, i=i: PlotFrame(lines, i / 200, text=f"point {i}", label="A sine wave.")
        return Result(settings, np.zeros(0), loss=0.0, seconds=0.0)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from io import BytesIO
from typing import Any

import ipywidgets
import numpy as np
import plotly.graph_objects as go
from PIL import Image
from plotly.subplots import make_subplots

from labkit.live.engine import Run
from labkit.live.panel import Panel
from labkit.theme import CLEAR, COLORS, DASHES, GRID, INK, SYMBOLS

MODES = ("lines", "markers", "lines+markers", "area", "bars")
_GHOST = "rgba(128, 128, 128, 0.55)"
_NOTHING = np.zeros(0, np.float32)

Points = tuple[Any, ...]  # x and y, and where there are error bars their lengths


@dataclass(frozen=True)
class Line:
    """One trace. Its name is unique in the plot; `ghost` keeps the run before behind it, in gray.

    mode: lines, markers, lines+markers, area (to zero) or bars (over numbers or words). color: an index into
    `theme.COLORS`; color, dash and symbol follow the line's place in its axes where they are not given. legend: false
    where another line of that color and dash has said it already. Bars have no ghost.
    """

    name: str
    mode: str = "lines"
    color: int | None = None
    dash: str | None = None
    symbol: str | None = None
    ghost: bool = False
    legend: bool = True

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise ValueError(f"mode: takes {', '.join(MODES)}, got {self.mode!r}")
        if self.ghost and self.mode == "bars":
            raise ValueError(f"ghost: bars have none, got {self.name!r}")


@dataclass(frozen=True)
class Axes:
    """One pair of axes with its lines. Ranges follow the data unless given, in values on logarithmic axes too."""

    title: str = ""
    x: str = ""
    y: str = ""
    lines: Sequence[Line] = field(default_factory=tuple)
    log_x: bool = False
    log_y: bool = False
    range_x: tuple[float, float] | None = None
    range_y: tuple[float, float] | None = None


class Plot:
    """Axes side by side in `columns`, in one FigureWidget; `width` and `height` are the page pixels of all of it.

    Raises ValueError where two lines have one name.
    """

    def __init__(
        self, axes: Sequence[Axes], *, columns: int | None = None, width: int = 900, height: int = 360
    ) -> None:
        columns = columns or len(axes)
        rows = -(-len(axes) // columns)
        self.axes, self._columns = tuple(axes), columns
        grid = make_subplots(
            rows,
            columns,
            subplot_titles=[each.title for each in axes] if any(each.title for each in axes) else None,
            horizontal_spacing=0.09 if columns > 1 else 0,
            vertical_spacing=0.22 if rows > 1 else 0,
        )
        self._index: dict[str, tuple[int, int | None]] = {}  # of the trace, and of its ghost
        for place, each in enumerate(axes):
            row, column = divmod(place, columns)
            for number, line in enumerate(each.lines):
                if line.name in self._index:
                    raise ValueError(f"axes: two lines have the name {line.name!r}")
                ghost = None
                if line.ghost:
                    ghost = len(grid.data)
                    grid.add_trace(_trace(line, number, ghost=True), row + 1, column + 1)
                self._index[line.name] = len(grid.data), ghost
                grid.add_trace(_trace(line, number), row + 1, column + 1)
            grid.update_xaxes(_axis(each.x, each.log_x, each.range_x), row=row + 1, col=column + 1)
            grid.update_yaxes(_axis(each.y, each.log_y, each.range_y), row=row + 1, col=column + 1)
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
        self._said = ipywidgets.HTML()
        self._said.add_class("labkit-words")
        self.widget = ipywidgets.VBox([self.figure, self._said], layout={"width": f"{width}px"})  # words wrap at it

    def show(self, lines: Mapping[str, Points], label: str = "") -> None:
        """Change the lines named, in one message, and the words under the plot. Raises KeyError for an unknown name."""
        with self.figure.batch_update():
            for name, points in lines.items():
                self._set(self._index[name][0], points)
        if label and label != self.label:
            self.label = label
            self._said.value = escape(label)

    def points(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        """x and y of a line as it is now."""
        return _points(self.figure.data[self._index[name][0]])

    def keep_as_ghost(self) -> None:
        """Put the lines as they are behind those to come."""
        with self.figure.batch_update():
            for index, ghost in self._index.values():
                if ghost is not None:
                    trace = self.figure.data[index]
                    self.figure.data[ghost].x, self.figure.data[ghost].y = _points(trace)
        self.settle()

    def settle(self) -> None:
        """Put the curves into the widget's state, where a browser finds them that was still loading plotly, or reloads.

        Updates go out as messages, and a page whose script is not there yet drops them; plotly itself puts a figure's
        data into its state only when the figure is shown on its own, which in a panel it never is.
        """
        self.figure._repr_mimebundle_()

    def _set(self, index: int, points: Points) -> None:
        trace = self.figure.data[index]
        x, y = (_column(each) for each in points[:2])
        if np.array_equal(x, trace.x) and not np.array_equal(y, trace.y):
            x, y = _longer(x, y)  # a page that has missed x once would draw y over 0, 1, 2, …
        trace.x, trace.y = x, y
        if len(points) > 2:
            trace.error_y = {"array": _column(points[2]), "color": trace.marker.color or INK, "thickness": 1.2}

    def refresh(self) -> None:
        """Send every line again, for a page that was still drawing the empty plot when they went out."""
        with self.figure.batch_update():
            for trace in self.figure.data:
                x, y = (_column(each) for each in _points(trace))
                if len(x):
                    trace.x, trace.y = _longer(x, y) if len(x) == len(trace.x) else (x, y)

    def still(self) -> Image.Image:
        """The same plot by Matplotlib, on white, for wherever there is no browser."""
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

        width, height = self.figure.layout.width, self.figure.layout.height
        page = Figure(figsize=(width / 100, height / 100), dpi=100, layout="constrained")
        rows = -(-len(self.axes) // self._columns)
        for place, each in enumerate(self.axes):
            drawn = page.add_subplot(rows, self._columns, place + 1)
            bars = [line.name for line in each.lines if line.mode == "bars" and len(self.points(line.name)[0])]
            for number, line in enumerate(each.lines):
                if line.mode == "bars" and line.name not in bars:
                    continue
                if line.mode == "bars":
                    beside = (bars.index(line.name) + 0.5) / len(bars) - 0.5
                    _draw_bars(drawn, self.figure.data[self._index[line.name][0]], line, number, beside, 1 / len(bars))
                    continue
                for index, ghost in zip(self._index[line.name][::-1], (True, False), strict=True):
                    if index is not None:
                        _draw(drawn, self.figure.data[index], line, number, ghost)
            drawn.set_title(each.title, fontsize=10)
            drawn.set_xlabel(each.x, fontsize=9)
            drawn.set_ylabel(each.y, fontsize=9)
            if each.log_x:
                drawn.set_xscale("log")
            if each.log_y:
                drawn.set_yscale("log")
            for limits, given in ((drawn.set_xlim, each.range_x), (drawn.set_ylim, each.range_y)):
                if given is not None:
                    limits(*given)
            drawn.tick_params(labelsize=8)
            drawn.grid(color="#dddddd", linewidth=0.6)
            drawn.set_axisbelow(True)
            if drawn.get_legend_handles_labels()[0]:
                drawn.legend(fontsize=8, framealpha=0.6)
        file = BytesIO()
        FigureCanvasAgg(page).print_png(file)
        return Image.open(file).convert("RGB")


@dataclass(frozen=True)
class PlotFrame:
    """What there is to see: the lines that changed, progress from 0 to 1, a few words on it, the plot in words."""

    lines: Mapping[str, Points]
    progress: float
    text: str
    label: str = ""


class PlotPanel(Panel):
    """Controls and a status line over a plot. A subclass gives `job`, whose views return PlotFrames."""

    def __init__(self, controls: dict[str, ipywidgets.Widget], plot: Plot) -> None:
        self.plot = plot
        super().__init__(controls, screens=[plot])

    def draw(self, frame: PlotFrame, run: Run) -> None:
        self.plot.show(frame.lines, frame.label)

    def keep_as_ghost(self, run: Run) -> None:
        self.plot.keep_as_ghost()

    def finish(self, run: Run) -> None:
        self.plot.settle()


def _trace(line: Line, number: int, ghost: bool = False) -> Any:
    look = {"x": [], "y": [], "name": f"{line.name}, run before" if ghost else line.name}
    color = _GHOST if ghost else _color(line, number)
    if line.mode == "bars":
        shape = ("", "/", "x", ".", "\\", "-")[number % 6]  # a pattern says the same as the color
        return go.Bar(**look, marker={"color": color, "pattern": {"shape": shape}}, showlegend=line.legend)
    return go.Scatter(
        **look,
        mode="lines" if line.mode == "area" else line.mode,
        fill="tozeroy" if line.mode == "area" and not ghost else None,
        showlegend=line.legend and not ghost,
        line={"color": color, "width": 1.5 if ghost else 2, "dash": _dash(line, number)},
        marker={"color": color, "size": 8, "symbol": _symbol(line, number)},
    )


def _color(line: Line, number: int) -> str:
    return COLORS[(number if line.color is None else line.color) % len(COLORS)]


def _dash(line: Line, number: int) -> str:
    return line.dash or DASHES[number % len(DASHES)]


def _symbol(line: Line, number: int) -> str:
    return line.symbol or SYMBOLS[number % len(SYMBOLS)]


def _axis(title: str, log: bool, limits: tuple[float, float] | None) -> dict[str, Any]:
    look: dict[str, Any] = {"title": {"text": title, "standoff": 6}, "gridcolor": GRID, "zeroline": False}
    if log:
        look |= {"type": "log", "dtick": "D2", "tickformat": "~g"}
    if limits is not None:
        look["range"] = [float(np.log10(end)) for end in limits] if log else list(limits)
    return look


def _points(trace: Any) -> tuple[np.ndarray, np.ndarray]:
    """x and y of a trace, without the point of `_longer`."""
    x, y = np.asarray(trace.x), np.asarray(trace.y)
    if len(x) and (x[-1] is None or (x.dtype.kind == "f" and np.isnan(x[-1]))):
        return x[:-1], y[:-1]
    return x, y


def _longer(x: Any, y: Any) -> tuple[Any, Any]:
    """The same with a point more, which is not drawn: plotly sends only what differs from what it sent before."""
    x, y = (np.append(each, np.float32(np.nan)) if isinstance(each, np.ndarray) else [*each, None] for each in (x, y))
    return x, y


def _column(values: Any) -> Any:
    """Numbers as float32, which go out as bytes; words as they are."""
    values = np.asarray(values)
    return values.astype(np.float32) if values.dtype.kind in "fiub" else [str(each) for each in values]


def _draw(drawn: Any, trace: Any, line: Line, number: int, ghost: bool) -> None:
    """One trace on Matplotlib's axes."""
    x, y = _points(trace)
    if not len(x):
        return
    name = line.name if line.legend and not ghost else None
    color = "#bbbbbb" if ghost else _color(line, number)
    dashes = {"dash": "--", "dot": ":", "dashdot": "-.", "longdash": (0, (8, 3)), "longdashdot": (0, (8, 3, 1, 3))}
    symbols = {"circle": "o", "square": "s", "diamond": "D", "triangle-up": "^", "x": "x", "cross": "P"}
    style = dashes.get(_dash(line, number), "-") if line.mode != "markers" else "none"
    marker = symbols.get(_symbol(line, number), "o") if "markers" in line.mode else None
    drawn.plot(x, y, linestyle=style, marker=marker, color=color, label=name, linewidth=1.6, markersize=5)
    if line.mode == "area" and not ghost:
        drawn.fill_between(x, y, color=color, alpha=0.25)
    if trace.error_y.array is not None and len(trace.error_y.array) == len(x):
        drawn.errorbar(x, y, yerr=np.asarray(trace.error_y.array), fmt="none", ecolor=color, elinewidth=1)


def _draw_bars(drawn: Any, trace: Any, line: Line, number: int, beside: float, share: float) -> None:
    """Bars that share their places with those of other lines: `beside` off the middle, in widths of a place."""
    x, y = _points(trace)
    words = x.dtype.kind not in "fiu"
    place = np.arange(len(x)) if words else x
    room = 0.85 * (np.diff(np.sort(place)).min() if len(place) > 1 else 1.0)
    name = line.name if line.legend else None
    hatch = ("", "//", "xx", "..", "\\\\", "--")[number % 6]
    look = {"color": _color(line, number), "alpha": 0.8, "hatch": hatch, "edgecolor": "white"}
    drawn.bar(place + beside * room, y, width=share * room, label=name, **look)
    if words:
        drawn.set_xticks(place, list(x))

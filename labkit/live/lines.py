"""The parts of a plot: lines, axes, and traces, which are lines with their final appearance."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from labkit.statistics import Array
from labkit.theme import COLORS, DASHES, SYMBOLS

MODES = ("lines", "markers", "lines+markers", "area", "bars")

Points = tuple[Any, ...]  # x and y, and the lengths of error bars if there are any


@dataclass(frozen=True)
class Line:
    """One line of a plot.

    Attributes:
        name: Name in the legend, unique in the plot.
        mode: lines, markers, lines+markers, area (a line filled down to zero) or bars (over numbers or texts).
        color: Index into `theme.COLORS`. None uses the line's position in its axes, as for dash and symbol.
        dash: Name of a dash in plotly.
        symbol: Name of a marker symbol in plotly.
        ghost: True keeps the line of the previous run in the background, in gray. Bars cannot have a ghost.
        legend: False leaves the line out of the legend.

    Raises:
        ValueError: If the mode is unknown, or if bars have a ghost.
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
            raise ValueError(f"mode must be one of {', '.join(MODES)}, got {self.mode!r}")
        if self.ghost and self.mode == "bars":
            raise ValueError(f"ghost must be False for bars, got True for {self.name!r}")


@dataclass(frozen=True)
class Axes:
    """One pair of axes with its lines.

    Attributes:
        title: Title above the axes.
        x: Label of the horizontal axis.
        y: Label of the vertical axis.
        lines: Lines in drawing order.
        log_x: True for a logarithmic horizontal axis.
        log_y: True for a logarithmic vertical axis.
        range_x: First and last value of the horizontal axis; None adapts it to the data.
        range_y: First and last value of the vertical axis; None adapts it to the data.
        width: Width relative to the other axes in the row; axes in the same column need the same width.
    """

    title: str = ""
    x: str = ""
    y: str = ""
    lines: Sequence[Line] = field(default_factory=tuple)
    log_x: bool = False
    log_y: bool = False
    range_x: tuple[float, float] | None = None
    range_y: tuple[float, float] | None = None
    width: float = 1.0


@dataclass(frozen=True)
class Trace:
    """A line with its final appearance.

    Attributes:
        line: Line to draw.
        place: Position of the line in its axes, counted from 0.
        index: Index of the line in the data of the figure.
        ghost: Index of its ghost, or None if it has none.
    """

    line: Line
    place: int
    index: int
    ghost: int | None

    @property
    def color(self) -> str:
        """Color as a hexadecimal number."""
        return COLORS[(self.place if self.line.color is None else self.line.color) % len(COLORS)]

    @property
    def dash(self) -> str:
        """Name of the dash in plotly."""
        return self.line.dash or DASHES[self.place % len(DASHES)]

    @property
    def symbol(self) -> str:
        """Name of the marker symbol in plotly."""
        return self.line.symbol or SYMBOLS[self.place % len(SYMBOLS)]


def points_of(data: Any) -> tuple[Array, Array]:
    """Return x and y of a plotly trace, without the invisible point that `Plot` may have appended."""
    x, y = np.asarray(data.x), np.asarray(data.y)
    if len(x) and (x[-1] is None or (x.dtype.kind == "f" and np.isnan(x[-1]))):
        return x[:-1], y[:-1]
    return x, y

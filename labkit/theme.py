"""How labkit's figures look: readable on a white page and on a black one, and with color-blind eyes."""

from __future__ import annotations

from typing import Any

INK, GRID = "#808080", "rgba(128, 128, 128, 0.25)"  # grays that read on white and on black
CLEAR = "rgba(0,0,0,0)"
# after Okabe and Ito (2008), told apart with color-blind eyes, in shades that read on both
COLORS = ("#1c7ed6", "#d55e00", "#009e73", "#cc79a7", "#b8860b", "#56b4e9")
# a line's dash and a point's symbol say the same as its color
DASHES = ("solid", "dash", "dot", "dashdot", "longdash", "longdashdot")
SYMBOLS = ("circle", "square", "diamond", "triangle-up", "x", "cross")


def template() -> Any:
    """A plotly template: the page shows through, text and axes are gray."""
    import plotly.graph_objects as go

    axis = {"gridcolor": GRID, "linecolor": INK, "zerolinecolor": GRID, "automargin": True, "exponentformat": "none"}
    return go.layout.Template(
        layout={
            "paper_bgcolor": CLEAR,
            "plot_bgcolor": CLEAR,
            "font": {"color": INK},
            "colorway": COLORS,
            "xaxis": axis,
            "yaxis": axis,
            "width": 720,
            "height": 380,
            "margin": {"l": 60, "r": 20, "t": 40, "b": 50},
        }
    )

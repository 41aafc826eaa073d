"""Colors and styles of labkit's figures: readable on light and dark pages and for color-blind readers."""

from __future__ import annotations

from typing import Any

INK, GRID = "#808080", "rgba(128, 128, 128, 0.25)"  # grays that are readable on white and on black
CLEAR = "rgba(0,0,0,0)"
# after Okabe and Ito (2008): distinct for color-blind readers, in shades for light and dark pages. Seven colors
# and six dashes: a line that repeats a color has another dash.
COLORS = ("#1c7ed6", "#d55e00", "#009e73", "#cc79a7", "#b8860b", "#56b4e9", INK)
# dashes of lines and symbols of points repeat the information of the color
DASHES = ("solid", "dash", "dot", "dashdot", "longdash", "longdashdot")
SYMBOLS = ("circle", "square", "diamond", "triangle-up", "x", "cross")


def template() -> Any:
    """Return a plotly template with a transparent background and gray text and axes."""
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

"""A plotly figure of bounds on σ. It is readable on white and black pages and without color."""

from __future__ import annotations

from typing import TYPE_CHECKING

from labkit import theme

if TYPE_CHECKING:
    from pandas import DataFrame
    from plotly.graph_objects import Figure


def bound_tradeoff(table: DataFrame, column: str = "rms_mismatch") -> Figure:
    """Plot the effect of bounds against their cost, with one line per label. Hovering shows the bound.

    Args:
        table: Table from `labkit.analysis.scale_bound.bound_table`.
        column: "rms_mismatch", "rms_slope" or "mismatch".
    """
    import plotly.graph_objects as go

    figure = go.Figure(layout={"template": theme.template()})
    figure.update_xaxes(title_text="cost in test rate (bits per latent)")
    figure.update_yaxes(title_text=f"{column.replace('_', ' ')} (bits per latent)")
    for number, ((label, temperature), rows) in enumerate(table.groupby(["label", "temperature"], sort=False)):
        rows = rows.sort_values("bound")
        dash = theme.DASHES[number // len(theme.COLORS) % len(theme.DASHES)]
        figure.add_scatter(
            x=rows["cost"],
            y=rows[column],
            name=f"{label}, τ {temperature:g}",
            hovertext=[f"bound {bound:g}" for bound in rows["bound"]],
            mode="lines+markers",
            line={"color": theme.COLORS[number % len(theme.COLORS)], "width": 2, "dash": dash},
            marker={"symbol": theme.SYMBOLS[number % len(theme.SYMBOLS)], "size": 8},
        )
    return figure

"""Plotly figures over the laboratory's tables. They read on a white page and on a black one, and without color."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from labkit import theme

if TYPE_CHECKING:
    from pandas import DataFrame
    from plotly.graph_objects import Figure


def mismatch_over_temperature(table: DataFrame, column: str = "total") -> Figure:
    """Mismatch over τ, one line a label, from `mismatch`'s table. column: rate, distortion or total."""
    titles = {"rate": "rate mismatch (bits)", "distortion": "distortion mismatch", "total": "mismatch of the loss"}
    figure = _figure("temperature τ", titles[column], log_x=True)
    for style, (label, rows) in zip(_styles(), _groups(table, "label"), strict=False):
        rows = rows.sort_values("temperature")
        errors = {"array": 2 * rows[f"{column}_se"]} if f"{column}_se" in rows else None
        figure.add_scatter(x=rows["temperature"], y=rows[column], error_y=errors, name=label, **style)
    return figure


def risk_over_temperature(table: DataFrame, batch_size: int = 64) -> Figure:
    """Squared bias (solid) and variance/n (dotted) over τ, one color a label, from `gradient_risk`'s table.

    Raises ValueError for a batch size that the table does not have.
    """
    chosen = table[table["batch_size"] == batch_size]
    if not len(chosen):
        raise ValueError(f"batch_size: the table has {sorted(set(table['batch_size']))}, got {batch_size!r}")
    figure = _figure("temperature τ", f"squared error of the gradient, batches of {batch_size}", log_x=True, log_y=True)
    for style, (label, rows) in zip(_styles(), _groups(chosen, "label"), strict=False):
        rows = rows.sort_values("temperature")
        parts = {"bias²": (rows["bias"] ** 2, "solid"), "variance/n": (rows["std"] ** 2 / batch_size, "dot")}
        for part, (values, dash) in parts.items():
            line = {**style["line"], "dash": dash}
            figure.add_scatter(x=rows["temperature"], y=values, name=f"{label}, {part}", **{**style, "line": line})
    return figure


def rates_over_scale(table: DataFrame, bound: float | None = None) -> Figure:
    """Training rate (dotted) and test rate (solid) over σ, the bound as a vertical line, from `rate_table`'s table.

    bound: which of the table's bounds, the first if not given. Raises ValueError for one that it does not have.
    """
    limit = table["bound"].iloc[0] if bound is None else bound
    chosen = table[table["bound"] == limit]
    if not len(chosen):
        raise ValueError(f"bound: the table has {sorted(set(table['bound']))}, got {bound!r}")
    figure = _figure("scale σ", "rate (bits)", log_x=True)
    for style, ((label, tau), rows) in zip(_styles(), _groups(chosen, ["label", "temperature"]), strict=False):
        rows = rows.sort_values("scale")
        for part, dash in (("train", "dot"), ("test", "solid")):
            line = {**style["line"], "dash": dash}
            name = f"{label}, τ {tau:g}, {part}"
            figure.add_scatter(x=rows["scale"], y=rows[f"{part}_rate"], name=name, **{**style, "line": line})
    figure.add_vline(x=limit, line={"color": theme.INK, "dash": "dash", "width": 1})
    # on a logarithmic axis plotly places a line by its value, and a text by its logarithm
    place = {"x": math.log10(limit), "y": 1, "yref": "paper", "xanchor": "left", "showarrow": False}
    figure.add_annotation(text=f" bound {limit:g}", **place)
    return figure


def bound_tradeoff(table: DataFrame, column: str = "rms_mismatch") -> Figure:
    """What a bound wins against what it costs, one line a label, from `bound_table`'s table; hover shows the bound.

    column: rms_mismatch, rms_slope or mismatch.
    """
    figure = _figure("cost in test rate (bits a latent)", f"{column.replace('_', ' ')} (bits a latent)")
    for style, ((label, tau), rows) in zip(_styles(), _groups(table, ["label", "temperature"]), strict=False):
        rows = rows.sort_values("bound")
        hover = [f"bound {b:g}" for b in rows["bound"]]
        figure.add_scatter(x=rows["cost"], y=rows[column], name=f"{label}, τ {tau:g}", hovertext=hover, **style)
    return figure


def _groups(table: DataFrame, by: str | list[str]) -> Any:
    return table.groupby(by, sort=False)


def _styles():
    for i in range(1_000):
        turn, color = divmod(i, len(theme.COLORS))
        yield {
            "mode": "lines+markers",
            "line": {"color": theme.COLORS[color], "width": 2, "dash": ("solid", "dash", "dashdot")[turn % 3]},
            "marker": {"symbol": theme.SYMBOLS[color], "size": 8},
        }


def _figure(x: str, y: str, log_x: bool = False, log_y: bool = False) -> Figure:
    import plotly.graph_objects as go

    def axis(title: str, log: bool) -> dict[str, Any]:
        return {"title": {"text": title}} | ({"type": "log", "dtick": "D2", "tickformat": "~g"} if log else {})

    return go.Figure(layout={"template": theme.template(), "xaxis": axis(x, log_x), "yaxis": axis(y, log_y)})

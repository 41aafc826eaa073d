"""Plotly figures of the tables of this package. They read on a white page and on a black one, and without color."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from labkit import theme

if TYPE_CHECKING:
    from pandas import DataFrame
    from plotly.graph_objects import Figure

_HATCHES = ("", "/", "x", ".", "\\", "-", "+")


def mismatch_over_temperature(table: DataFrame, column: str = "total") -> Figure:
    """Plot the mismatch over the temperature, with one line per label.

    Args:
        table: Table from `labkit.analysis.mismatch`.
        column: "rate", "distortion" or "total".
    """
    titles = {"rate": "rate mismatch (bits)", "distortion": "distortion mismatch", "total": "mismatch of the loss"}
    figure = _figure("temperature τ", titles[column], log_x=True)
    for style, (label, rows) in _styled(table, "label"):
        rows = rows.sort_values("temperature")
        errors = {"array": 2 * rows[f"{column}_se"]} if f"{column}_se" in rows else None
        figure.add_scatter(x=rows["temperature"], y=rows[column], error_y=errors, name=label, **style)
    return figure


def risk_over_temperature(table: DataFrame, batch_size: int = 64) -> Figure:
    """Plot squared bias (solid) and variance/n (dotted) over the temperature, with one color per label.

    Args:
        table: Table from `labkit.analysis.gradient_risk`.
        batch_size: Batch size n, one of those in the table.

    Raises:
        ValueError: If the table does not have this batch size.
    """
    chosen = _chosen(table, "batch_size", batch_size)
    figure = _figure("temperature τ", f"squared error of the gradient, batches of {batch_size}", log_x=True, log_y=True)
    for style, (label, rows) in _styled(chosen, "label"):
        rows = rows.sort_values("temperature")
        parts = {"bias²": (rows["bias"] ** 2, "solid"), "variance/n": (rows["std"] ** 2 / batch_size, "dot")}
        for part, (values, dash) in parts.items():
            line = {**style["line"], "dash": dash}
            figure.add_scatter(x=rows["temperature"], y=values, name=f"{label}, {part}", **{**style, "line": line})
    return figure


def rates_over_scale(table: DataFrame, bound: float | None = None) -> Figure:
    """Plot the training rate (dotted) and the test rate (solid) over σ, and the bound as a vertical line.

    Args:
        table: Table from `labkit.analysis.scale_bound.rate_table`.
        bound: One of the bounds in the table; the first one by default.

    Raises:
        ValueError: If the table does not have this bound.
    """
    bound = table["bound"].iloc[0] if bound is None else bound
    chosen = _chosen(table, "bound", bound)
    figure = _figure("scale σ", "rate (bits)", log_x=True)
    for style, ((label, temperature), rows) in _styled(chosen, ["label", "temperature"]):
        rows = rows.sort_values("scale")
        for part, dash in (("train", "dot"), ("test", "solid")):
            line = {**style["line"], "dash": dash}
            name = f"{label}, τ {temperature:g}, {part}"
            figure.add_scatter(x=rows["scale"], y=rows[f"{part}_rate"], name=name, **{**style, "line": line})
    figure.add_vline(x=bound, line={"color": theme.INK, "dash": "dash", "width": 1})
    # on a logarithmic axis plotly places a line by its value, and a text by its logarithm
    place = {"x": math.log10(bound), "y": 1, "yref": "paper", "xanchor": "left", "showarrow": False}
    figure.add_annotation(text=f" bound {bound:g}", **place)
    return figure


def bound_tradeoff(table: DataFrame, column: str = "rms_mismatch") -> Figure:
    """Plot the effect of bounds against their cost, with one line per label; hovering shows the bound.

    Args:
        table: Table from `labkit.analysis.scale_bound.bound_table`.
        column: "rms_mismatch", "rms_slope" or "mismatch".
    """
    figure = _figure("cost in test rate (bits per latent)", f"{column.replace('_', ' ')} (bits per latent)")
    for style, ((label, temperature), rows) in _styled(table, ["label", "temperature"]):
        rows = rows.sort_values("bound")
        hover = [f"bound {b:g}" for b in rows["bound"]]
        figure.add_scatter(x=rows["cost"], y=rows[column], name=f"{label}, τ {temperature:g}", hovertext=hover, **style)
    return figure


def network_mismatch_bars(table: DataFrame) -> Figure:
    """Plot the mean mismatch over images in the rate, its parts and the distortion, as bars.

    Error bars are two standard errors over noise draws.

    Args:
        table: Table from `labkit.analysis.network_mismatch`.
    """
    mean = table[(table["image"] == "mean") & (table["quantity"] != "loss")]
    rates = mean["quantity"].str.startswith("rate")
    panels = [
        ("Δ rate (bits per pixel)", mean[rates], "quantity", "mismatch", "se"),
        ("Δ 255² · MSE", mean[~rates], "quantity", "mismatch", "se"),
    ]
    return _bars(panels, rows=1, widths=[0.72, 0.28])


def network_gradient_risk_bars(table: DataFrame) -> Figure:
    """Plot the bias and the variance of the gradient of each layer, as bars.

    The upper panel shows the change of the test loss per unit that training promises; 1 means no bias. The lower panel
    shows the variance over noise draws; a deterministic surrogate has none and no bar. Error bars are two standard
    errors.

    Args:
        table: Table from `labkit.analysis.network_gradient_risk`.
    """
    random = table[table["variance_draws"] > 0]
    panels = [
        ("test change / promised", table, "layer", "slope", "slope_se"),
        ("variance over draws", random, "layer", "variance_draws", "variance_draws_se"),
    ]
    figure = _bars(panels, rows=2)
    figure.add_hline(y=1, line_dash="dot", line_color=theme.INK, row=1, col=1)
    figure.update_yaxes(type="log", exponentformat="power", row=2, col=1)
    return figure


def _chosen(table: DataFrame, column: str, value: Any) -> DataFrame:
    chosen = table[table[column] == value]
    if not len(chosen):
        raise ValueError(f"{column} must be one of {sorted(set(table[column]))} in the table, got {value!r}")
    return chosen


def _styled(table: DataFrame, by: str | list[str]) -> Iterable[tuple[dict[str, Any], tuple[Any, DataFrame]]]:
    """Pair each group of rows with a style of its own."""
    return zip(_styles(), table.groupby(by, sort=False), strict=False)


def _styles() -> Iterator[dict[str, Any]]:
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


def _bars(panels: list[tuple[str, DataFrame, str, str, str]], rows: int, widths: list[float] | None = None) -> Figure:
    """Draw grouped bars. A panel is a title, a table, and its columns for place, height and error."""
    from plotly.subplots import make_subplots

    columns = len(panels) // rows
    figure = make_subplots(rows=rows, cols=columns, column_widths=widths, shared_xaxes=rows > 1, vertical_spacing=0.08)
    names: list[str] = []
    for position, (title, table, x, y, error) in enumerate(panels):
        place = {"row": position // columns + 1, "col": position % columns + 1}
        figure.update_yaxes(title_text=title, **place)
        for (label, temperature), group in table.groupby(["label", "temperature"], sort=False, dropna=False):
            name = label if math.isnan(temperature) else f"{label}, τ = {temperature:g}"
            first = name not in names
            names += [name] if first else []
            index = names.index(name)
            figure.add_bar(
                x=group[x],
                y=group[y],
                error_y={"type": "data", "array": 2 * group[error], "color": theme.INK, "thickness": 1},
                name=name,
                legendgroup=name,
                showlegend=first,
                marker={
                    "color": theme.COLORS[index % len(theme.COLORS)],
                    "pattern": {"shape": _HATCHES[index % len(_HATCHES)], "fillmode": "overlay", "fgcolor": "white"},
                },
                **place,
            )
    return figure.update_layout(template=theme.template(), barmode="group", height=300 * rows + 80)

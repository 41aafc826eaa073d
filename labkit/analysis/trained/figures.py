"""Bars over the tables of a trained network's mismatch and gradient risk."""

from __future__ import annotations

import math

from labkit import theme

HATCHES = ("", "/", "x", ".", "\\", "-", "+")


def plot_mismatch(table):
    """The mean mismatch over images in rate, its parts and distortion, with two standard errors over draws."""
    mean = table[(table["image"] == "mean") & (table["quantity"] != "loss")]
    rates = mean["quantity"].str.startswith("rate")
    points = [("rate", "Δ rate (bits per pixel)", mean[rates]), ("distortion", "Δ 255² · MSE", mean[~rates])]
    panels = [(title, part, "quantity", "mismatch", "se") for _, title, part in points]
    return _bars(panels, rows=1, widths=[0.72, 0.28])


def plot_gradient_risk(table):
    """Above, the test loss' change for each unit that training promises (1: no bias); below, variance over draws.

    Two standard errors each; a deterministic surrogate has no variance and no bar below.
    """
    panels = [
        ("test change / promised", table, "layer", "slope", "slope_se"),
        ("variance over draws", table[table["variance_draws"] > 0], "layer", "variance_draws", "variance_draws_se"),
    ]
    figure = _bars(panels, rows=2)
    figure.add_hline(y=1, line_dash="dot", line_color=theme.INK, row=1, col=1)
    figure.update_yaxes(type="log", exponentformat="power", row=2, col=1)
    return figure


def _bars(panels: list[tuple], rows: int, widths: list[float] | None = None):
    from plotly.subplots import make_subplots

    columns = len(panels) // rows
    figure = make_subplots(rows=rows, cols=columns, column_widths=widths, shared_xaxes=rows > 1, vertical_spacing=0.08)
    names: list[str] = []
    for position, (title, table, x, y, error) in enumerate(panels):
        place = {"row": position // columns + 1, "col": position % columns + 1}
        figure.update_yaxes(title_text=title, **place)
        for (label, temperature), one in table.groupby(["label", "temperature"], sort=False, dropna=False):
            name = label if math.isnan(temperature) else f"{label}, τ = {temperature:g}"
            first = name not in names
            names += [name] if first else []
            index = names.index(name)
            figure.add_bar(
                x=one[x],
                y=one[y],
                error_y={"type": "data", "array": 2 * one[error], "color": theme.INK, "thickness": 1},
                name=name,
                legendgroup=name,
                showlegend=first,
                marker={
                    "color": theme.COLORS[index % len(theme.COLORS)],
                    "pattern": {"shape": HATCHES[index % len(HATCHES)], "fillmode": "overlay", "fgcolor": "white"},
                },
                **place,
            )
    return figure.update_layout(template=theme.template(), barmode="group", height=300 * rows + 80)

"""The picture of a passed stage: the learner's reconstruction and point or curve, each next to JPEG's."""

from __future__ import annotations

import base64
import io
import json
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

from labkit.course.capstone.catalog import FILE
from labkit.course.exercises.base import PASSED, Verdict
from labkit.theme import COLORS, GRID, INK


class Pictured(Verdict):
    """The verdict of a passed stage with a picture.

    Args:
        title: Title of the stage.
        message: Summary of the measurements.
        file: File with arrays from `picture` in `labkit/course/capstone/stages/work.py`.
    """

    def __init__(self, title: str, message: str, file: Path) -> None:
        super().__init__(title, PASSED, message)
        with np.load(file) as arrays:
            content = {name: arrays[name] for name in arrays.files}
        alt = _describe(content)
        encoded = base64.b64encode(draw(content)).decode()
        self._html += (
            f'<img src="data:image/png;base64,{encoded}" alt="{escape(alt)}" style="width:100%;max-width:60em">'
        )
        self.text += f"\n{alt}"


def _describe(content: dict[str, Any]) -> str:
    size, other, quality, jpeg = content["sizes"]
    points = "; ".join(f"{bpp:.3f} bpp, {value:.2f} dB" for bpp, value in content["points"])
    return (
        f"Your reconstruction has {size:,.0f} bytes and {quality:.2f} dB; JPEG has {other:,.0f} bytes and {jpeg:.2f} "
        f"dB. Your codec: {points}."
    )


def draw(content: dict[str, Any]) -> bytes:
    """Return the picture as a PNG file with a transparent background."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 6.4), layout="constrained", dpi=90)
    figure.patch.set_alpha(0)
    grid = figure.add_gridspec(2, 3, height_ratios=(1, 1.15))
    size, other, quality, jpeg = content["sizes"]
    titles = (
        "the photograph",
        f"your codec: {size:,.0f} bytes, {quality:.2f} dB",
        f"JPEG: {other:,.0f} bytes, {jpeg:.2f} dB",
    )
    for column, (name, title) in enumerate(zip(("photograph", "codec", "jpeg"), titles, strict=True)):
        axes = figure.add_subplot(grid[0, column])
        axes.imshow(content[name])
        axes.set_axis_off()
        axes.set_title(title, color=INK, fontsize=10)
    axes = figure.add_subplot(grid[1, :])
    axes.plot(*content["curve"].T, color=COLORS[1], linestyle="--", marker="s", markersize=4, label="JPEG")
    axes.plot(*content["points"].T, color=COLORS[0], marker="o", label="your codec")
    axes.set_facecolor("none")
    axes.grid(color=INK, alpha=0.25)
    axes.tick_params(colors=INK)
    for spine in axes.spines.values():
        spine.set_color(INK)
    axes.set_xlabel("bits per pixel, mean of 13 photographs", color=INK)
    axes.set_ylabel("PSNR in dB", color=INK)
    axes.legend(labelcolor=INK, facecolor="none", edgecolor=INK)
    file = io.BytesIO()
    figure.savefig(file, format="png")
    return file.getvalue()


def reference_curve() -> Any:
    """Plot the rates and PSNRs of the reference solution next to JPEG's, as a plotly figure."""
    import plotly.graph_objects as go

    measured = json.loads((FILE / "thresholds.json").read_text(encoding="utf-8"))
    figure = go.Figure()
    for name, points, color, symbol in (
        ("reference solution", measured["curve"], COLORS[0], "circle"),
        ("JPEG", measured["jpeg"], COLORS[1], "square"),
    ):
        x, y = zip(*points, strict=True)
        figure.add_scatter(x=x, y=y, name=name, mode="lines+markers", line_color=color, marker_symbol=symbol)
    figure.update_layout(xaxis_title="bits per pixel", yaxis_title="PSNR in dB")
    figure.update_xaxes(gridcolor=GRID)
    return figure

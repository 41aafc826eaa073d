"""Figures of the lessons that need more than a line of plotly."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from html import escape
from typing import TYPE_CHECKING, Any

from labkit import theme
from labkit.course.cards import Card
from labkit.theme import COLORS, INK

if TYPE_CHECKING:
    from torch import Tensor

    from labkit.networks import ToyTransformCode

EXTENT = (-4.0, 8.0, -6.0, 6.0)  # x0, x1, y0, y1 for the plots of cells


def use_template() -> None:
    """Make plotly's figures readable in both themes of JupyterLab, and keep plotly's script out of notebooks."""
    import plotly.io as pio

    pio.templates["labkit"] = theme.template()
    pio.templates.default = "labkit"
    pio.renderers.default = "plotly_mimetype"


def images(named_images: Mapping[str, Tensor], width: int = 300) -> Card:
    """Show images side by side, each above its caption.

    Args:
        named_images: Images of shape (3, H, W) with values in [0, 1], each under its caption.
        width: Largest width of an image on the page, in pixels. Images become smaller to fit in a row.
    """
    from PIL import Image

    from labkit.live.canvas import pixels_of, png

    room = f"calc((100% - {12 * (len(named_images) - 1)}px) / {max(len(named_images), 1)})"
    size = f"width:max(min({width}px, {room}), 180px)"  # a row on wide pages, and no smaller than 180 pixels
    figures = []
    for caption, image in named_images.items():
        label, pixels = escape(caption), pixels_of(image.detach().clamp(0, 1).cpu())
        encoded = base64.b64encode(png(Image.fromarray(pixels))).decode()
        picture = f'<img src="data:image/png;base64,{encoded}" alt="{label}" style="width:100%">'
        figures.append(f'<figure style="margin:0;{size}">{picture}<figcaption>{label}</figcaption></figure>')
    row = f'<div style="display:flex;flex-wrap:wrap;gap:12px">{"".join(figures)}</div>'
    return _Row(row, "Images: " + "; ".join(named_images))


class _Row(Card):
    def _repr_html_(self) -> str:
        return self._html


def cells(codes: Mapping[str, ToyTransformCode], x: Tensor) -> Any:
    """Plot the quantization cells of two-dimensional transform codes side by side.

    Gray lines separate the cells. Each disc is a codeword, and its area is the share of the samples in its cell.

    Args:
        codes: Transform codes, each under its title.
        x: Samples of shape (n, 2).

    Returns:
        A plotly figure.
    """
    import numpy as np
    import plotly.graph_objects as go
    from plotly.subplots import make_subplots

    x0, x1, y0, y1 = EXTENT
    figure = make_subplots(1, len(codes), subplot_titles=list(codes), shared_yaxes=True, horizontal_spacing=0.03)
    for column, net in enumerate(codes.values(), start=1):
        labels = net.cells(EXTENT, 240)
        edge = np.zeros(labels.shape, np.float32)
        edge[1:] += labels[1:] != labels[:-1]
        edge[:, 1:] += labels[:, 1:] != labels[:, :-1]
        points, shares = net.codewords(x)
        traces = [
            go.Heatmap(
                z=edge.clip(0, 1).astype(np.uint8),
                x=np.linspace(x0, x1, 240, dtype=np.float32),
                y=np.linspace(y0, y1, 240, dtype=np.float32),
                colorscale=[[0, "rgba(128,128,128,0)"], [1, INK]],
                showscale=False,
                hoverinfo="skip",
            ),
            _dots(x[:1500].numpy(), {"size": 2, "color": COLORS[0], "opacity": 0.35}),
            _dots(points, {"size": 4 + 40 * np.sqrt(shares), "color": COLORS[1], "opacity": 0.8}),
        ]
        for trace in traces:
            figure.add_trace(trace, 1, column)
    figure.update_xaxes(range=[x0, x1], showgrid=False)
    figure.update_yaxes(range=[y0, y1], showgrid=False)
    return figure.update_layout(width=60 + 300 * len(codes), height=340, showlegend=False)


def _dots(points: Any, marker: dict[str, Any]) -> Any:
    import plotly.graph_objects as go

    return go.Scatter(x=points[:, 0], y=points[:, 1], mode="markers", marker=marker)


def codec_diagram() -> Card:
    """Draw the parts of a codec with a hyperprior, from the image x to its reconstruction x̂."""
    from labkit.live.drawing import Drawing

    drawing = Drawing(760, 250)
    top, below = 80, 190  # vertical centers of the two rows

    def part(x: float, y: float, name: str, color: str) -> None:
        drawing.box(x - 36, y - 20, 72, 40, color)
        drawing.text(x, y, name)

    def arrow(x0: float, x1: float, y: float, symbol: str = "") -> None:
        drawing.line((x0, y), (x1, y), arrow=True)
        drawing.text((x0 + x1) / 2 - 4, y - 12, symbol)

    learned, rounding, coder = COLORS[0], COLORS[1], COLORS[2]
    drawing.text(190, 18, "encoder")
    drawing.text(410, 18, "file")
    drawing.text(610, 18, "decoder")
    drawing.text(16, top, "x")
    arrow(26, 60, top)
    part(96, top, "g_a", learned)
    arrow(132, 214, top, "y")
    part(250, top, "⌊ · ⌉", rounding)
    arrow(286, 374, top, "ŷ")
    part(410, top, "bits of y", coder)
    arrow(446, 564, top, "ŷ")
    part(600, top, "g_s", learned)
    arrow(636, 726, top)
    drawing.text(740, top, "x̂")
    drawing.line((170, top), (170, below), (188, below), arrow=True)
    part(224, below, "h_a", learned)
    arrow(260, 281, below, "z")
    part(317, below, "⌊ · ⌉", rounding)
    arrow(353, 374, below, "ẑ")
    part(410, below, "bits of z", coder)
    arrow(446, 494, below, "ẑ")
    part(530, below, "h_s", learned)
    drawing.line((530, below - 20), (530, 135), (410, 135), (410, top + 20), arrow=True)
    drawing.text(470, 124, "μ, σ of each y")
    label = (
        "Block diagram of the codec. Upper row: the image x, the network g_a, the latent y, rounding, the rounded "
        "latent ŷ, the entropy coder that writes the bits of y, the network g_s, and the reconstruction. Lower row: "
        "from y, the network h_a, the hyper-latent z, rounding, the coder that writes the bits of z, and the network "
        "h_s, which gives the coder of y a mean μ and a scale σ for each latent."
    )
    return _Row(drawing.svg(label), label)

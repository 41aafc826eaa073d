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

    drawing = Drawing(800, 265)
    top, middle, below = 70, 152, 235  # vertical centers of the three rows

    def part(x: float, y: float, name: str, color: str) -> None:
        drawing.box(x - 34, y - 20, 68, 40, color)
        drawing.text(x, y, name)

    def sign(x: float, name: str) -> None:
        drawing.box(x - 12, top - 12, 24, 24)
        drawing.text(x, top, name)

    def arrow(*points: tuple[float, float], symbol: str = "") -> None:
        (x0, y0), (x1, _) = points[:2]
        drawing.line(*points, arrow=True)
        drawing.text((x0 + x1) / 2, y0 - 12, symbol)

    learned, rounding, coder = COLORS[0], COLORS[1], COLORS[2]
    for x, name in ((215, "encoder"), (430, "file"), (640, "decoder")):
        drawing.text(x, 18, name)
    drawing.text(14, top, "x")
    arrow((24, top), (50, top))
    part(84, top, "g_a", learned)
    arrow((118, top), (166, top), symbol="y")
    sign(178, "−")
    arrow((190, top), (214, top))
    part(248, top, "⌊ · ⌉", rounding)
    arrow((282, top), (396, top), symbol="k")
    part(430, top, "bits of y", coder)
    arrow((464, top), (588, top), symbol="k")
    sign(600, "+")
    arrow((612, top), (646, top), symbol="ŷ")
    part(680, top, "g_s", learned)
    arrow((714, top), (770, top))
    drawing.text(784, top, "x̂")
    drawing.line((142, top), (142, below), (160, below), arrow=True)
    part(194, below, "h_a", learned)
    arrow((228, below), (250, below), symbol="z")
    part(284, below, "⌊ · ⌉", rounding)
    arrow((318, below), (396, below), symbol="ẑ")
    part(430, below, "bits of z", coder)
    drawing.line((350, below), (350, middle + 20), arrow=True)
    drawing.line((464, below), (520, below), (520, middle + 20), arrow=True)
    drawing.text(492, below - 12, "ẑ")
    part(350, middle, "h_s", learned)
    part(520, middle, "h_s", learned)
    arrow((316, middle), (178, middle), (178, top + 12), symbol="μ")
    arrow((384, middle), (416, middle), (416, top + 20), symbol="σ")
    arrow((486, middle), (444, middle), (444, top + 20), symbol="σ")
    arrow((554, middle), (600, middle), (600, top + 12), symbol="μ")
    label = (
        "Block diagram of the codec. Upper row: the image x, the network g_a, the latent y, minus the mean μ, "
        "rounding, the integer k, the entropy coder that writes the bits of y and reads k again, plus the mean μ, the "
        "latent ŷ, the network g_s, and the reconstruction. Lower row: from y, the network h_a, the hyper-latent z, "
        "rounding, and the coder that writes the bits of z. Between the rows: the network h_s in the encoder and again "
        "in the decoder. It computes from ẑ a mean μ and a scale σ for each latent. σ goes to the coder of y."
    )
    return _Row(drawing.svg(label), label)

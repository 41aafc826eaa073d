"""Plotly figures that explain a codec, readable on white and black pages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from labkit import theme
from labkit.diagnosis.pictures import Density, LatentMaps

if TYPE_CHECKING:
    from plotly.graph_objects import Figure


def channel_bits(channels: Mapping[str, Sequence[float]]) -> Figure:
    """Draw a histogram of bits per position over the channels of each latent.

    Args:
        channels: Bits per position of each channel, for each latent by name, as in `Diagnosis.channels`.
    """
    import plotly.graph_objects as go

    figure = go.Figure(layout={"template": theme.template(), "barmode": "stack", "showlegend": True})
    for color, (name, bits) in zip(theme.COLORS, channels.items(), strict=False):
        figure.add_histogram(x=list(bits), name=name, marker_color=color, nbinsx=40)
    return figure.update_layout(xaxis_title="bits per position", yaxis_title="channels")


def densities(channels: Sequence[Density]) -> Figure:
    """Draw the learned densities of some channels (points) on top of the histograms of their rounded latents (bars).

    Args:
        channels: Result of `labkit.diagnosis.densities`.
    """
    from plotly.subplots import make_subplots

    titles = [f"channel {each.channel}" for each in channels]
    below = f"steps from the median of {channels[0].name}" if channels else ""
    figure = make_subplots(1, max(1, len(channels)), subplot_titles=titles, shared_yaxes=True, x_title=below)
    for column, each in enumerate(channels, 1):
        shown = {"row": 1, "col": column, "showlegend": column == 1}
        figure.add_bar(x=each.values, y=each.shares, name="latents", marker_color=theme.COLORS[0], **shown)
        figure.add_scatter(
            x=each.values, y=each.probabilities, name="learned density", mode="lines+markers",
            line_color=theme.COLORS[1], marker_size=5, **shown,
        )  # fmt: skip
    figure.update_layout(template=theme.template(), bargap=0.1, yaxis_title="share")
    return figure.update_annotations(font_size=12)


def latent_maps(maps: LatentMaps) -> Figure:
    """Draw an image, and the maps of the bits of all channels and of μ and σ of the channel with the most bits.

    Args:
        maps: Result of `labkit.diagnosis.latent_maps`.
    """
    from plotly.subplots import make_subplots

    titles = ["image", "bits, all channels", f"μ, channel {maps.channel}", f"σ, channel {maps.channel}"]
    figure = make_subplots(2, 2, subplot_titles=titles, horizontal_spacing=0.16, vertical_spacing=0.1)
    pixels = (255 * maps.image.clamp(0, 1)).round().byte().permute(1, 2, 0)
    step = max(1, max(pixels.shape[:2]) // 256)  # a small picture needs no more pixels
    figure.add_image(z=pixels[::step, ::step].expand(-1, -1, 3).numpy(), row=1, col=1)
    places = ((maps.bits, 1, 2, "Viridis"), (maps.mean, 2, 1, "RdBu"), (maps.scale, 2, 2, "Viridis"))
    for axis, (values, row, column, colors) in enumerate(places, 2):
        bar = {"len": 0.42, "thickness": 10, "x": 0.44 if column == 1 else 1.02, "y": 0.79 if row == 1 else 0.21}
        middle = {"zmid": 0} if colors == "RdBu" else {}
        figure.add_heatmap(z=values, colorscale=colors, colorbar=bar, row=row, col=column, **middle)
        figure.update_yaxes(autorange="reversed", scaleanchor=f"x{axis}", row=row, col=column)
    figure.update_layout(template=theme.template(), height=560)
    return figure.update_xaxes(visible=False, constrain="domain").update_yaxes(visible=False, constrain="domain")

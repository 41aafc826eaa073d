"""Real bitstreams: what a codec costs in bytes, and what it gives back."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from compressai.ops import compute_padding
from torch import Tensor
from torch.nn import functional as F
from tqdm.auto import tqdm

from labkit import theme
from labkit.datasets import PhotoSet
from labkit.evaluation import metrics
from labkit.networks import Codec
from labkit.training import rate_distortion

AVERAGED = ("bpp", "estimated_bpp", "psnr", "ms_ssim")


@dataclass
class Report:
    """One row for each image: name, height, width, bytes, strings, bpp, estimated_bpp, psnr, ms_ssim, seconds."""

    rows: list[dict[str, Any]]
    info: dict[str, Any]

    @property
    def mean(self) -> dict[str, float]:
        """Means over the images of bpp, estimated_bpp, psnr (dB) and ms_ssim (images of 161 pixels and more)."""
        means = {}
        for name in AVERAGED:
            values = [row[name] for row in self.rows if not math.isnan(row[name])]
            means[name] = sum(values) / len(values) if values else math.nan
        return means

    def to_frame(self):
        """A pandas table, one row an image."""
        import pandas as pd

        return pd.DataFrame(self.rows)

    def to_csv(self, path: str | Path) -> None:
        """Write the table, under a temporary name first."""
        temporary = Path(f"{path}.tmp")
        self.to_frame().to_csv(temporary, index=False)
        temporary.replace(path)

    def plot(self):
        """The images in the rate–distortion plane, and their mean, as a plotly figure."""
        return plot([self])

    def __str__(self) -> str:
        widths = max(len(row["name"]) for row in self.rows)
        head = (
            f"{'image':<{widths}}  {'size':>9}  {'bytes':>8}  {'bpp':>7}  {'estimate':>8}  {'PSNR':>6}  {'MS-SSIM':>7}"
        )
        lines = [head] + [
            f"{row['name']:<{widths}}  {row['width']:>4}×{row['height']:<4}  {row['bytes']:>8}  {row['bpp']:>7.4f}  "
            f"{row['estimated_bpp']:>8.4f}  {row['psnr']:>6.2f}  {row['ms_ssim']:>7.4f}"
            for row in self.rows
        ]
        mean = self.mean
        lines.append(
            f"{'mean':<{widths}}  {'':>9}  {'':>8}  {mean['bpp']:>7.4f}  {mean['estimated_bpp']:>8.4f}  "
            f"{mean['psnr']:>6.2f}  {mean['ms_ssim']:>7.4f}"
        )
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        return self.to_frame().to_html(index=False, float_format="{:.4g}".format)


def pad(x: Tensor, multiple: int) -> tuple[Tensor, tuple[int, int, int, int]]:
    """x of shape (…, H, W) padded by its edges to multiples, and what un-pads it (both as F.pad takes them)."""
    padding, unpadding = compute_padding(x.size(-2), x.size(-1), min_div=multiple)
    return F.pad(x, padding, mode="replicate"), unpadding


@torch.no_grad()
def evaluate(net: Codec, images: PhotoSet | Sequence[Tensor], progress: bool | None = None) -> Report:
    """Code every image with the network's entropy coder, decode it, and measure.

    images: a PhotoSet, or (3, H, W) tensors in [0, 1] of any size. Sides are padded by their edges to what the network
    needs; bits are counted whole and divided by the image's own pixels. bpp: from the bytes of the strings;
    estimated_bpp: from the likelihoods of the rounded latents; psnr and ms_ssim: of the decoded image.
    """
    training, device = net.training, next(net.parameters()).device
    net.eval()
    net.update()
    names = images.names if isinstance(images, PhotoSet) else [str(i) for i in range(len(images))]
    hide = None if progress is None else not progress
    rows = []
    for name, image in zip(names, tqdm(images, unit="image", disable=hide, leave=False), strict=True):
        x = image.to(device)[None]
        padded, unpadding = pad(x, getattr(net, "downsampling_factor", 64))
        start = time.perf_counter()
        coded = net.compress(padded)
        encoded = time.perf_counter()
        x_hat = F.pad(net.decompress(**coded)["x_hat"], unpadding)
        decoded = time.perf_counter()
        pixels = x.size(-2) * x.size(-1)
        strings = [string for group in coded["strings"] for string in group]
        size = sum(map(len, strings))
        estimate = rate_distortion(net(padded), padded, 1.0).rate.item() * padded[0, 0].numel() / pixels
        rows.append(
            {
                "name": name,
                "height": x.size(-2),
                "width": x.size(-1),
                "bytes": size,
                "strings": len(strings),
                "bpp": 8 * size / pixels,
                "estimated_bpp": estimate,
                "psnr": metrics.psnr(x_hat[0], x[0]),
                "ms_ssim": metrics.ms_ssim(x_hat[0], x[0]),
                "encode_seconds": encoded - start,
                "decode_seconds": decoded - encoded,
            }
        )
    net.train(training)
    return Report(rows, dict(getattr(net, "info", {})))


@torch.no_grad()
def rounded_losses(net: Codec, images: PhotoSet) -> list[tuple[float, float]]:
    """(bits per pixel, 255² · MSE) of each image with rounded latents, without the entropy coder: the test loss at any
    λ is rate + λ · distortion. Quicker than `evaluate`; the network is left in evaluation mode."""
    net.eval()
    device = next(net.parameters()).device
    losses = []
    for image in images:
        x = image.to(device)[None]
        padded, unpadding = pad(x, getattr(net, "downsampling_factor", 64))
        output = net(padded)
        bits = rate_distortion(output, padded, 1.0).rate.item() * padded[0, 0].numel()
        x_hat = F.pad(output["x_hat"], unpadding).clamp(0, 1)
        losses.append((bits / x[0, 0].numel(), 255**2 * torch.mean((x_hat - x) ** 2).item()))
    return losses


def plot(reports: Sequence[Report], metric: str = "psnr"):
    """Rate–distortion plane of one or several reports: their images as small dots, their means joined, as plotly."""
    import plotly.graph_objects as go

    figure = go.Figure()
    for number, report in enumerate(reports):
        label = f"λ = {report.info['lmbda']:g}" if "lmbda" in report.info else f"run {number + 1}"
        figure.add_scatter(
            x=[row["bpp"] for row in report.rows],
            y=[row[metric] for row in report.rows],
            text=[row["name"] for row in report.rows],
            mode="markers",
            opacity=0.45,
            name=f"images, {label}",
        )
    means = sorted((report.mean["bpp"], report.mean[metric]) for report in reports)
    figure.add_scatter(
        x=[bpp for bpp, _ in means], y=[value for _, value in means], mode="lines+markers", marker_size=11, name="mean"
    )
    unit = "PSNR (dB)" if metric == "psnr" else metric
    figure.update_layout(
        xaxis_title="bits per pixel, as written", yaxis_title=unit, template=theme.template(), height=420
    )
    return figure

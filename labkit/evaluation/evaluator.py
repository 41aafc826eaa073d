"""Real bitstreams: what a codec costs in bytes, and what it gives back."""

from __future__ import annotations

import math
import platform
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import compressai
import torch
from compressai.ops import compute_padding
from torch import Tensor
from torch.nn import functional as F

from labkit import __version__, entropy
from labkit.datasets import PhotoSet
from labkit.evaluation import bitstream, metrics
from labkit.networks import Codec
from labkit.progress import progress_bar
from labkit.seeds import mix_seeds
from labkit.training import processes, rate_distortion, weights_hash

AVERAGED = ("bpp", "estimated_bpp", "table_bpp", "coder_bpp", "flush_bpp", "psnr", "ms_ssim")


@dataclass
class Report:
    """What each image cost, one row an image, and how to repeat it.

    rows: name, height, width; bytes and strings of the bitstream; bpp = estimated_bpp + table_bpp + coder_bpp +
    flush_bpp (see `labkit.evaluation.bitstream`); psnr in dB, ms_ssim and ms_ssim_db, all three of the decoded 8-bit
    picture; encode_seconds, decode_seconds. info: the network's, and versions, weights' hash, device and threads.
    """

    rows: list[dict[str, Any]]
    info: dict[str, Any]

    @property
    def mean(self) -> dict[str, float]:
        """Means over the images; ms_ssim (of those of 161 pixels and more) in dB too, as the dB of its mean."""
        means = {}
        for name in AVERAGED:
            values = [row[name] for row in self.rows if not math.isnan(row[name])]
            means[name] = sum(values) / len(values) if values else math.nan
        return means | {"ms_ssim_db": metrics.decibels(means["ms_ssim"])}

    def to_frame(self):
        """A pandas table, one row an image, with what is needed to repeat it as further columns."""
        from labkit.evaluation import curves

        return curves.to_frame([self])

    def save(self, path: str | Path) -> None:
        """Write the table as CSV or Parquet, by the suffix, whole or not at all.

        Raises ValueError for another suffix, and where it cannot be written.
        """
        from labkit.evaluation import curves

        curves.save_table([self], path)

    def plot(self):
        """The images in the rate–distortion plane, and their mean, as a plotly figure."""
        from labkit.evaluation import curves

        return curves.plot([self])

    def __str__(self) -> str:
        mean = self.mean
        named = [*self.rows, {"name": "mean", **mean}]
        names = max(len(row["name"]) for row in named)
        lines = [f"{'image':<{names}}  {'size':>9}  " + "  ".join(f"{head:>{width}}" for head, _, width, _ in _COLUMNS)]
        for row in named:
            size = f"{row['width']}×{row['height']}" if "width" in row else ""
            cells = [_cell(row.get(key), form, width) for _, key, width, form in _COLUMNS]
            lines.append(f"{row['name']:<{names}}  {size:>9}  " + "  ".join(cells))
        encode, decode = (sum(row[f"{way}_seconds"] for row in self.rows) for way in ("encode", "decode"))
        decibels = "" if math.isnan(mean["ms_ssim_db"]) else f", mean MS-SSIM {mean['ms_ssim_db']:.2f} dB"
        lines.append(f"all coded in {encode:.2f} s and decoded in {decode:.2f} s{decibels}")
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        import pandas as pd

        return pd.DataFrame(self.rows).to_html(index=False, float_format="{:.4g}".format)


_COLUMNS = (
    ("bytes", "bytes", 8, "d"),
    ("bpp", "bpp", 7, ".4f"),
    ("estimate", "estimated_bpp", 8, ".4f"),
    ("table", "table_bpp", 7, ".4f"),
    ("flush", "flush_bpp", 6, ".4f"),
    ("PSNR", "psnr", 6, ".2f"),
    ("MS-SSIM", "ms_ssim", 7, ".4f"),
)


def _cell(value: Any, form: str, width: int) -> str:
    absent = value is None or math.isnan(value)
    return " " * width if value is None else f"{'–':>{width}}" if absent else f"{value:>{width}{form}}"


def pad(x: Tensor, multiple: int) -> tuple[Tensor, tuple[int, int, int, int]]:
    """x of shape (…, H, W) padded by its edges to multiples, and what un-pads it (both as F.pad takes them)."""
    padding, unpadding = compute_padding(x.size(-2), x.size(-1), min_div=multiple)
    return F.pad(x, padding, mode="replicate"), unpadding


@torch.no_grad()
def evaluate(net: Codec, images: PhotoSet | Sequence[Tensor], progress: bool | None = None) -> Report:
    """Code every image with the network's entropy coder, decode it, and measure.

    net: labkit's, or any image model of CompressAI's. images: a PhotoSet, or (3, H, W) tensors in [0, 1] of any size,
    taken to 8 bits. Sides are padded by their edges to what the network needs; bits are counted whole and divided by
    the image's own pixels. The estimate is that of the latents that were coded, which for the autoregressive networks
    are not those of the evaluation forward. PSNR and MS-SSIM are of the decoded picture in 8 bits, as a file holds it.
    The network goes back to the mode, training or evaluation, that it was in, also where an image fails.

    Under torchrun every process makes this call: each codes its share of the images, and all get the whole report.
    """
    training = net.training
    names = images.names if isinstance(images, PhotoSet) else [str(i) for i in range(len(images))]
    rank, count = processes.ranks()
    shown = False if rank else progress
    own = progress_bar(range(rank, len(names), count), unit="image", progress=shown)
    try:
        net.eval()
        net.update()
        with _repeatable():
            rows = [{"name": names[i], **_measured(net, images[i])} for i in own]
    finally:
        net.train(training)
    return Report(processes.gathered(rows), _about(net))


@contextmanager
def _repeatable() -> Iterator[None]:
    """On a GPU, the same convolution gives the same numbers: a decoder with other scales reads other symbols."""
    cudnn = torch.backends.cudnn
    before = cudnn.benchmark, cudnn.deterministic
    cudnn.benchmark, cudnn.deterministic = False, True
    try:
        yield
    finally:
        cudnn.benchmark, cudnn.deterministic = before


def _measured(net: Codec, image: Tensor) -> dict[str, Any]:
    x = metrics.eight_bits(image.to(_device(net)))[None]
    height, width = x.shape[-2:]
    padded, unpadding = pad(x, getattr(net, "downsampling_factor", 64))
    start = time.perf_counter()
    with bitstream.recorded(net) as recording:
        coded = net.compress(padded)
    encoded = time.perf_counter()
    x_hat = metrics.eight_bits(F.pad(net.decompress(**coded)["x_hat"], unpadding))
    if x_hat.is_cuda:
        torch.cuda.synchronize()
    decoded = time.perf_counter()
    strings = [string for group in coded["strings"] for string in group]
    split = recording.split(strings)
    similarity = metrics.ms_ssim(x_hat[0], x[0])
    return {
        "height": height,
        "width": width,
        "bytes": split.real // 8,
        "strings": len(strings),
        "bpp": split.real / (height * width),
        "estimated_bpp": split.estimate / (height * width),
        "table_bpp": split.table / (height * width),
        "coder_bpp": split.coder / (height * width),
        "flush_bpp": split.flush / (height * width),
        "psnr": metrics.psnr(x_hat[0], x[0]),
        "ms_ssim": similarity,
        "ms_ssim_db": metrics.decibels(similarity),
        "encode_seconds": encoded - start,
        "decode_seconds": decoded - encoded,
    }


def _about(net: Codec) -> dict[str, Any]:
    device = _device(net)
    return {
        **getattr(net, "info", {}),
        "network": getattr(net, "kind", type(net).__name__),
        "weights": weights_hash(net),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine(),
        "threads": torch.get_num_threads(),
        "labkit": __version__,
        "torch": torch.__version__,
        "compressai": compressai.__version__,
        "python": platform.python_version(),
    }


def _device(net: Codec) -> torch.device:
    return next(net.parameters()).device


@torch.no_grad()
def rounded_losses(net: Codec, images: PhotoSet) -> list[tuple[float, float]]:
    """(bits per pixel, 255² · MSE) of each image with rounded latents, without the entropy coder: the test loss at any
    λ is rate + λ · distortion. Quicker than `evaluate`; the network is left in evaluation mode."""
    net.eval()
    return [_losses(net, image) for image in images]


@torch.no_grad()
def surrogate_losses(net: Codec, images: PhotoSet, seed: int = 0) -> list[tuple[float, float]]:
    """As `rounded_losses`, with the scheme's surrogates instead of rounding, at the temperature that the network has
    and with one draw of noise: what training sees. The network is left in evaluation mode."""
    losses = []
    for index, image in enumerate(images):
        entropy.set_generator(net.train(), torch.Generator(_device(net)).manual_seed(mix_seeds(seed, index)))
        losses.append(_losses(net, image))
    entropy.set_generator(net.eval(), None)
    return losses


@torch.no_grad()
def reconstruct(net: Codec, image: Tensor) -> tuple[Tensor, float]:
    """Code an image with rounded latents, but without the entropy coder.

    Args:
        net: labkit's or any image model of CompressAI. It keeps its mode, training or evaluation.
        image: (3, H, W) tensor in [0, 1] of any size. Its sides are padded by their edges to what the network needs.

    Returns:
        The (3, H, W) reconstruction in [0, 1] on the device of the network, and the estimated bits per pixel.
    """
    training = net.training
    try:
        x_hat, bpp = _reconstruct(net.eval(), image.to(_device(net))[None])
    finally:
        net.train(training)
    return x_hat[0], bpp


def _losses(net: Codec, image: Tensor) -> tuple[float, float]:
    """Bits per pixel and 255² · MSE of one image, in the present mode of the network."""
    x = image.to(_device(net))[None]
    x_hat, bpp = _reconstruct(net, x)
    return bpp, 255**2 * torch.mean((x_hat - x) ** 2).item()


def _reconstruct(net: Codec, x: Tensor) -> tuple[Tensor, float]:
    padded, unpadding = pad(x, getattr(net, "downsampling_factor", 64))
    output = net(padded)
    bits = rate_distortion(output, padded, 1.0).rate.item() * padded[0, 0].numel()
    return F.pad(output["x_hat"], unpadding).clamp(0, 1), bits / x[0, 0].numel()

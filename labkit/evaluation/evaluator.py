"""Evaluation of networks with real bitstreams, or only with rounded latents."""

from __future__ import annotations

import platform
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import compressai
import torch
from compressai.ops import compute_padding
from torch import Tensor
from torch.nn import functional as F

from labkit import __version__, entropy, fixed_point
from labkit.datasets import PhotoSet
from labkit.evaluation import bitstream, metrics
from labkit.evaluation.report import Report
from labkit.networks import Codec, weights_hash
from labkit.progress import progress_bar
from labkit.seeds import mix_seeds
from labkit.state_guard import device_of
from labkit.training import processes, rate_distortion


def pad(x: Tensor, multiple: int) -> tuple[Tensor, tuple[int, int, int, int]]:
    """Pad images by replicating their edges until both sides are multiples of a number.

    Args:
        x: Images of shape (…, H, W).
        multiple: Number that both sides of the result are multiples of.

    Returns:
        The padded images, and the padding that `torch.nn.functional.pad` needs to remove it again.
    """
    padding, unpadding = compute_padding(x.size(-2), x.size(-1), min_div=multiple)
    return F.pad(x, padding, mode="replicate"), unpadding


@torch.no_grad()
def evaluate(net: Codec, images: PhotoSet | Sequence[Tensor], progress: bool | None = None) -> Report:
    """Compress all images to real bitstreams, decompress them, and measure bits and quality.

    Images are padded to the multiple that the network needs. The rate counts all bits of the padded image, divided by
    the number of pixels of the original image. The estimated rate is for the coded latents. In autoregressive networks,
    these differ from the latents of a forward pass in evaluation mode. PSNR and MS-SSIM are measured on the decoded
    8-bit image. The report's `info` names the arithmetic in which the network coded (see `labkit.portable`).

    Under torchrun, every process must call this function. Each process codes its share of the images, and all processes
    get the whole report.

    Args:
        net: A network of labkit or any image model of CompressAI. Its mode, training or evaluation, is restored.
        images: A PhotoSet, or images of shape (3, H, W) in [0, 1] of any size, which are rounded to 8 bits.
        progress: Whether to show a progress bar; by default, only on a terminal.

    Returns:
        A report with one row for each image; `print` shows it as a table.

    Raises:
        ValueError: If the latents of an image, or σ or μ, are not finite, or if a latent is outside ±2¹³.
    """
    training = net.training
    names = images.names if isinstance(images, PhotoSet) else [str(i) for i in range(len(images))]
    rank, count = processes.ranks()
    shown = False if rank else progress
    share = progress_bar(range(rank, len(names), count), unit="image", progress=shown)
    try:
        net.eval()
        bitstream.build_missing_tables(net)
        with _deterministic():
            rows = [{"name": names[i], **_measure(net, images[i])} for i in share]
    finally:
        net.train(training)
    return Report(processes.gathered(rows), _describe(net))


@contextmanager
def _deterministic() -> Iterator[None]:
    """Make convolutions on a GPU repeatable, because a decoder that gets different scales reads different symbols."""
    cudnn = torch.backends.cudnn
    before = cudnn.benchmark, cudnn.deterministic
    cudnn.benchmark, cudnn.deterministic = False, True
    try:
        yield
    finally:
        cudnn.benchmark, cudnn.deterministic = before


def _measure(net: Codec, image: Tensor) -> dict[str, Any]:
    x = metrics.eight_bits(image.to(device_of(net)))[None]
    height, width = x.shape[-2:]
    padded, unpadding = pad(x, getattr(net, "downsampling_factor", 64))
    start = time.perf_counter()
    with bitstream.recorded(net) as recording:
        coded = fixed_point.compress(net, padded)
    encoded = time.perf_counter()
    x_hat = metrics.eight_bits(F.pad(fixed_point.decompress(net, coded), unpadding))
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


def _describe(net: Codec) -> dict[str, Any]:
    device = device_of(net)
    return {
        **getattr(net, "info", {}),
        "network": getattr(net, "kind", type(net).__name__),
        "weights": weights_hash(net),
        "arithmetic": getattr(net, "arithmetic", fixed_point.FLOATING_POINT),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine(),
        "threads": torch.get_num_threads(),
        "labkit": __version__,
        "torch": torch.__version__,
        "compressai": compressai.__version__,
        "python": platform.python_version(),
    }


@torch.no_grad()
def rounded_losses(net: Codec, images: PhotoSet) -> list[tuple[float, float]]:
    """Return rate and distortion of each image with rounded latents, without the entropy coder.

    The test loss at any λ is rate + λ · distortion. This is faster than `evaluate`.

    Args:
        net: Image codec. It is in evaluation mode afterwards.
        images: Photographs of any size.

    Returns:
        Pairs of bits per pixel and 255² · MSE.
    """
    net.eval()
    return [_losses(net, image) for image in images]


@torch.no_grad()
def surrogate_losses(net: Codec, images: PhotoSet, seed: int = 0) -> list[tuple[float, float]]:
    """Return rate and distortion of each image as in training, with the surrogates of the scheme.

    Args:
        net: Image codec, with the temperature to use. It is in evaluation mode afterwards.
        images: Photographs of any size.
        seed: Seed of the noise; each image gets one draw.

    Returns:
        Pairs of bits per pixel and 255² · MSE.
    """
    losses = []
    for index, image in enumerate(images):
        entropy.set_generator(net.train(), torch.Generator(device_of(net)).manual_seed(mix_seeds(seed, index)))
        losses.append(_losses(net, image))
    entropy.set_generator(net.eval(), None)
    return losses


def _losses(net: Codec, image: Tensor) -> tuple[float, float]:
    """Return bits per pixel and 255² · MSE of one image in the current mode of the network."""
    x = image.to(device_of(net))[None]
    x_hat, bpp = _reconstruct(net, x)
    return bpp, 255**2 * torch.mean((x_hat - x) ** 2).item()


def _reconstruct(net: Codec, x: Tensor) -> tuple[Tensor, float]:
    padded, unpadding = pad(x, getattr(net, "downsampling_factor", 64))
    output = net(padded)
    bits = rate_distortion(output, padded, 1.0).rate.item() * padded[0, 0].numel()
    return F.pad(output["x_hat"], unpadding).clamp(0, 1), bits / x[0, 0].numel()

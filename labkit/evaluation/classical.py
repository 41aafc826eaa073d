"""Classical codecs on the same images, via Pillow: JPEG, WebP, JPEG 2000 and AVIF."""

from __future__ import annotations

import io
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from PIL import Image, __version__, features
from torch import Tensor

from labkit.datasets import PhotoSet
from labkit.evaluation import metrics
from labkit.evaluation.report import Report
from labkit.progress import progress_bar


@dataclass(frozen=True)
class _Codec:
    format: str  # Pillow's name of the format
    feature: str  # Pillow's name of the library that writes it
    quality_option: str
    qualities: tuple[float, ...]  # from low to high rate
    options: dict[str, Any] = field(default_factory=dict)


# Color is coded at full resolution if the codec supports it, because all comparisons here use the PSNR of RGB.
_CODECS = {
    "jpeg": _Codec("JPEG", "jpg", "quality", (5, 10, 20, 35, 50, 65, 80, 90, 95), {"optimize": True, "subsampling": 0}),
    "webp": _Codec("WEBP", "webp", "quality", (0, 10, 25, 40, 55, 70, 80, 90, 95), {"method": 6}),
    "jpeg2000": _Codec(
        "JPEG2000", "jpg_2000", "quality_layers", (24, 26, 28, 30, 32, 34, 36, 38, 42), {"irreversible": True, "mct": 1}
    ),
    "avif": _Codec(
        "AVIF", "avif", "quality", (5, 15, 25, 35, 45, 55, 65, 75, 85), {"speed": 6, "subsampling": "4:4:4"}
    ),
}


def classical_names() -> tuple[str, ...]:
    """Return the names of the classical codecs that the installed Pillow can write."""
    return tuple(name for name, codec in _CODECS.items() if features.check(codec.feature))


def classical(
    images: PhotoSet | Sequence[Tensor],
    codec: str,
    qualities: Sequence[float] | None = None,
    progress: bool | None = None,
) -> list[Report]:
    """Code all images with a classical codec at several qualities.

    Color is coded at full resolution, except by WebP, which supports only half resolution. The byte counts include the
    headers, because a decoder needs the whole file. The estimated rate and the values derived from it are NaN.

    Args:
        images: A PhotoSet, or images of shape (3, H, W) in [0, 1], which are rounded to 8 bits.
        codec: "jpeg", "webp", "jpeg2000" or "avif".
        qualities: Pillow's quality from 0 to 100 or, for jpeg2000, the PSNR to reach in dB. The default ranges from
            low to high rates.
        progress: Whether to show a progress bar; by default, only on a terminal.

    Returns:
        One report for each quality.

    Raises:
        ValueError: If the codec is unknown, or if the installed Pillow cannot write it.
    """
    if codec not in _CODECS:
        raise ValueError(f"codec must be one of {', '.join(_CODECS)}, got {codec!r}")
    chosen = _CODECS[codec]
    if not features.check(chosen.feature):
        raise ValueError(f"codec: Pillow {__version__} was built without {codec}")
    names = images.names if isinstance(images, PhotoSet) else [str(i) for i in range(len(images))]
    reports = []
    for quality in progress_bar(
        chosen.qualities if qualities is None else qualities, unit="quality", progress=progress
    ):
        rows = [_row(name, image, codec, quality) for name, image in zip(names, images, strict=True)]
        reports.append(Report(rows, {"codec": codec, "quality": quality, "pillow": __version__}))
    return reports


def pixels_of(image: Tensor) -> np.ndarray[Any, Any]:
    """Return an image of shape (3, H, W) in [0, 1] as uint8 pixels of shape (H, W, 3)."""
    return (image * 255).round().byte().permute(1, 2, 0).contiguous().numpy()


def encode(pixels: np.ndarray[Any, Any], codec: str, quality: float) -> bytes:
    """Code an 8-bit image with a classical codec.

    Args:
        pixels: Image, uint8 of shape (H, W, 3).
        codec: "jpeg", "webp", "jpeg2000" or "avif".
        quality: Pillow's quality from 0 to 100 or, for jpeg2000, the PSNR to reach in dB.

    Returns:
        The whole file, including headers.
    """
    chosen = _CODECS[codec]
    options = dict(chosen.options)
    if chosen.quality_option == "quality_layers":
        options |= {"quality_mode": "dB", "quality_layers": [quality]}
    else:
        options["quality"] = int(quality)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, chosen.format, **options)
    return file.getvalue()


def decode(file: bytes) -> Tensor:
    """Decode an image file to a tensor of shape (3, H, W) in [0, 1]."""
    with Image.open(io.BytesIO(file)) as decoded:
        return torch.from_numpy(np.asarray(decoded.convert("RGB")).copy()).permute(2, 0, 1).float() / 255


def _row(name: str, image: Tensor, codec: str, quality: float) -> dict[str, Any]:
    x = metrics.eight_bits(image.cpu())
    pixels = pixels_of(x)
    start = time.perf_counter()
    file = encode(pixels, codec, quality)
    encoded = time.perf_counter()
    x_hat = decode(file)
    done = time.perf_counter()
    height, width = x.shape[1:]
    size = len(file)
    similarity = metrics.ms_ssim(x_hat, x)
    return {
        "name": name,
        "height": height,
        "width": width,
        "bytes": size,
        "strings": 1,
        "bpp": 8 * size / (height * width),
        **dict.fromkeys(("estimated_bpp", "table_bpp", "coder_bpp", "flush_bpp"), float("nan")),
        "psnr": metrics.psnr(x_hat, x),
        "ms_ssim": similarity,
        "ms_ssim_db": metrics.decibels(similarity),
        "encode_seconds": encoded - start,
        "decode_seconds": done - encoded,
    }

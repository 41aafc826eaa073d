"""The codecs that people know, through Pillow, on the same images: JPEG, WebP, JPEG 2000, AVIF."""

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
from labkit.evaluation.evaluator import Report
from labkit.progress import progress_bar


@dataclass(frozen=True)
class _Classical:
    format: str  # Pillow's
    feature: str  # what Pillow was built with
    quality: str  # the option that sets the rate
    qualities: tuple[float, ...]  # from few bits to many
    options: dict[str, Any] = field(default_factory=dict)


# Color is coded at full resolution where there is a choice: PSNR over RGB is what everything here is compared by.
_CODECS = {
    "jpeg": _Classical(
        "JPEG", "jpg", "quality", (5, 10, 20, 35, 50, 65, 80, 90, 95), {"optimize": True, "subsampling": 0}
    ),
    "webp": _Classical("WEBP", "webp", "quality", (0, 10, 25, 40, 55, 70, 80, 90, 95), {"method": 6}),
    "jpeg2000": _Classical(
        "JPEG2000", "jpg_2000", "quality_layers", (24, 26, 28, 30, 32, 34, 36, 38, 42), {"irreversible": True, "mct": 1}
    ),
    "avif": _Classical(
        "AVIF", "avif", "quality", (5, 15, 25, 35, 45, 55, 65, 75, 85), {"speed": 6, "subsampling": "4:4:4"}
    ),
}


def classical_names() -> tuple[str, ...]:
    """The classical codecs that this Pillow can write."""
    return tuple(name for name, codec in _CODECS.items() if features.check(codec.feature))


def classical(
    images: PhotoSet | Sequence[Tensor],
    codec: str,
    qualities: Sequence[float] | None = None,
    progress: bool | None = None,
) -> list[Report]:
    """Code every image with a classical codec at every quality; one Report a quality, from few bits to many.

    images: a PhotoSet, or (3, H, W) tensors in [0, 1], taken to 8 bits. codec: jpeg, webp, jpeg2000 or avif; qualities:
    of Pillow's scale, 0 to 100, but for jpeg2000 the PSNR in dB that is aimed at; None is a range from coarse to fine.
    bytes is the whole file as written, headers included, since a decoder needs them; the estimate and what follows
    from it are NaN. Color is coded at full resolution, but for WebP, which has half resolution only.

    Raises ValueError for an unknown codec, and for one that this Pillow cannot write.
    """
    if codec not in _CODECS:
        raise ValueError(f"codec: takes one of {', '.join(_CODECS)}, got {codec!r}")
    one = _CODECS[codec]
    if not features.check(one.feature):
        raise ValueError(f"codec: Pillow {__version__} was built without {codec}")
    names = images.names if isinstance(images, PhotoSet) else [str(i) for i in range(len(images))]
    reports = []
    chosen = one.qualities if qualities is None else qualities
    for quality in progress_bar(chosen, unit="quality", progress=progress):
        rows = [_row(name, image, one, quality) for name, image in zip(names, images, strict=True)]
        reports.append(Report(rows, {"codec": codec, "quality": quality, "pillow": __version__}))
    return reports


def _row(name: str, image: Tensor, codec: _Classical, quality: float) -> dict[str, Any]:
    x = metrics.eight_bits(image.cpu())
    pixels = (x * 255).round().byte().permute(1, 2, 0).contiguous().numpy()
    options = dict(codec.options)
    if codec.quality == "quality_layers":
        options |= {"quality_mode": "dB", "quality_layers": [quality]}
    else:
        options["quality"] = int(quality)
    file = io.BytesIO()
    start = time.perf_counter()
    Image.fromarray(pixels).save(file, codec.format, **options)
    encoded = time.perf_counter()
    with Image.open(io.BytesIO(file.getvalue())) as decoded:
        x_hat = torch.from_numpy(np.asarray(decoded.convert("RGB")).copy()).permute(2, 0, 1).float() / 255
    done = time.perf_counter()
    height, width = pixels.shape[:2]
    size = len(file.getvalue())
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

"""Image quality: PSNR and MS-SSIM, and their means over images."""

from __future__ import annotations

import math

import numpy as np
import torch
from pytorch_msssim import ms_ssim as _ms_ssim
from torch import Tensor

from labkit.statistics import Array

MS_SSIM_MIN_SIDE = 161  # five scales with an 11×11 window need more than (11 − 1) · 2⁴ pixels
STRIP = 2**20  # number of pixels whose errors are held in memory at once
LABELS = {"psnr": "PSNR (dB)", "ms_ssim": "MS-SSIM", "ms_ssim_db": "MS-SSIM (dB)"}


def eight_bits(image: Tensor) -> Tensor:
    """Return an image rounded to 8 bits.

    Args:
        image: Values in [0, 1], of any shape.

    Returns:
        float32 values in [0, 1], of the same shape.
    """
    return (image.clamp(0, 1) * 255).round() / 255


def psnr(a: Tensor, b: Tensor) -> float:
    """Return the PSNR of two images in dB.

    Args:
        a: Image with values in [0, 1], or uint8, of shape (…, H, W).
        b: Image of the same shape and kind.

    Returns:
        The PSNR, or infinity for equal images.

    >>> import labkit as lk
    >>> import torch
    >>> round(lk.evaluation.psnr(torch.zeros(3, 8, 8), torch.full((3, 8, 8), 0.1)), 3)
    20.0
    """
    rows = max(1, STRIP // a.size(-1))  # float64 takes much memory for a large image
    strips = zip(a.split(rows, -2), b.split(rows, -2), strict=True)
    error = sum(torch.sum((x.double() - y.double()) ** 2).item() for x, y in strips) / a.numel()
    if a.dtype == torch.uint8:
        error /= 255**2
    return math.inf if error == 0 else -10 * math.log10(error)


def ms_ssim(a: Tensor, b: Tensor) -> float:
    """Return the MS-SSIM of two images (Wang et al. 2003).

    Args:
        a: Image of shape (3, H, W) with values in [0, 1].
        b: Image of the same shape.

    Returns:
        The MS-SSIM, or NaN if a side is below 161 pixels.
    """
    if min(a.shape[-2:]) < MS_SSIM_MIN_SIDE:
        return math.nan
    channels_last = [image[None].float().contiguous(memory_format=torch.channels_last) for image in (a, b)]
    return float(_ms_ssim(*channels_last, data_range=1.0))  # its convolutions are faster in this memory format


def decibels(similarity: float) -> float:
    """Return an MS-SSIM s in dB, as it is usually plotted: −10 log₁₀(1 − s)."""
    return math.inf if similarity >= 1 else -10 * math.log10(1 - similarity)


def column_of(metric: str) -> str:
    """Return the column of a report's rows that holds a metric.

    Raises:
        ValueError: If the metric is unknown.
    """
    if metric not in LABELS:
        raise ValueError(f"metric must be one of {', '.join(LABELS)}, got {metric!r}")
    return metric.removesuffix("_db")


def mean_over_images(values: Array, metric: str) -> Array:
    """Return the means over the last axis; for "ms_ssim_db", the mean MS-SSIM in dB."""
    mean: Array = values.mean(axis=-1)
    if metric != "ms_ssim_db":
        return mean
    with np.errstate(divide="ignore"):
        return np.asarray(-10 * np.log10(1 - mean))

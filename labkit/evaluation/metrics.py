"""Image quality: PSNR and MS-SSIM."""

from __future__ import annotations

import math

import torch
from pytorch_msssim import ms_ssim as _ms_ssim
from torch import Tensor

MS_SSIM_MIN_SIDE = 161  # five scales with an 11×11 window need more than (11 − 1) · 2⁴ pixels


def eight_bits(image: Tensor) -> Tensor:
    """An image with values in [0, 1] as an 8-bit file would hold it, float32 again; its shape is kept."""
    return (image.clamp(0, 1) * 255).round() / 255


def psnr(a: Tensor, b: Tensor) -> float:
    """PSNR in dB of two images with values in [0, 1]; infinite where they are equal."""
    error = torch.mean((a.double() - b.double()) ** 2).item()
    return -10 * math.log10(error) if error > 0 else math.inf


def ms_ssim(a: Tensor, b: Tensor) -> float:
    """MS-SSIM (Wang et al. 2003) of two (3, H, W) images in [0, 1]; NaN where a side is under 161 pixels."""
    if min(a.shape[-2:]) < MS_SSIM_MIN_SIDE:
        return math.nan
    channels_last = [image[None].float().contiguous(memory_format=torch.channels_last) for image in (a, b)]
    return _ms_ssim(*channels_last, data_range=1.0).item()  # its window's convolutions are quicker in this layout


def decibels(similarity: float) -> float:
    """MS-SSIM as the field plots it: −10 log₁₀(1 − s)."""
    return math.inf if similarity >= 1 else -10 * math.log10(1 - similarity)

"""Image quality: PSNR and MS-SSIM."""

from __future__ import annotations

import math

import torch
from pytorch_msssim import ms_ssim as _ms_ssim
from torch import Tensor

MS_SSIM_MIN_SIDE = 161  # five scales with an 11×11 window need more than (11 − 1) · 2⁴ pixels


def psnr(a: Tensor, b: Tensor) -> float:
    """PSNR in dB of two images with values in [0, 1]; infinite where they are equal."""
    error = torch.mean((a.double() - b.double()) ** 2).item()
    return -10 * math.log10(error) if error > 0 else math.inf


def ms_ssim(a: Tensor, b: Tensor) -> float:
    """MS-SSIM (Wang et al. 2003) of two (3, H, W) images in [0, 1]; NaN where a side is under 161 pixels."""
    if min(a.shape[-2:]) < MS_SSIM_MIN_SIDE:
        return math.nan
    return _ms_ssim(a[None].float(), b[None].float(), data_range=1.0).item()


def decibels(similarity: float) -> float:
    """MS-SSIM as the field plots it: −10 log₁₀(1 − s)."""
    return -10 * math.log10(1 - similarity) if similarity < 1 else math.inf

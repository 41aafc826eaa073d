"""Uniform noise: added to the latent, or as a dither around the rounding."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from labkit.surrogates.base import Surrogate, _arithmetic, with_slope


@dataclass(frozen=True)
class AdditiveUniformNoise(Surrogate):
    """y + u, u uniform on (−½, ½), derivative exact (Ballé et al., End-to-end Optimized Image Compression, 2017)."""

    name: ClassVar[str] = "aun"
    paper: ClassVar[str] = "Ballé et al. 2016, 2017"
    year: ClassVar[int] = 2016
    unbiased: ClassVar[bool] = True

    def law(self, y: Tensor, v: Tensor, tau: float | Tensor) -> Tensor:
        return y + (v - 0.5)


@dataclass(frozen=True)
class UniversalQuantization(Surrogate):
    """⌊y − d⌉ + d, d uniform on (−½, ½), derivative one (Ziv 1985; Agustsson & Theis 2020, sec. 3).

    Given y, ỹ has the law of additive uniform noise, so derivative one is unbiased: for any loss where each latent
    has its own dither, for sums of per-latent losses where they share one.
    shared: one dither for each image (the first dimension), as a decoder would draw it; else one for each latent.
    """

    name: ClassVar[str] = "uq"
    paper: ClassVar[str] = "Ziv 1985; Choi et al. 2019; Agustsson & Theis 2020"
    year: ClassVar[int] = 2019
    unbiased: ClassVar[bool] = True

    shared: bool = False

    def draw(self, y: Tensor, generator: torch.Generator | None = None) -> Tensor | None:
        if not self.shared:
            return super().draw(y, generator)
        shape = y.shape[:1] + (1,) * (y.dim() - 1)
        return torch.rand(shape, generator=generator, device=y.device, dtype=_arithmetic(y.dtype))

    def law(self, y: Tensor, v: Tensor, tau: float | Tensor) -> Tensor:
        dither = v - 0.5
        return with_slope(torch.round(y - dither) + dither, y)

"""Uniform noise: added to the latent, or as a dither around the rounding, whole or annealed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from labkit.surrogates.base import Surrogate, with_slope


@dataclass(frozen=True)
class AdditiveUniformNoise(Surrogate):
    """y + u, u uniform on (−½, ½), derivative exact (Ballé et al., End-to-end Optimized Image Compression, 2017)."""

    name: ClassVar[str] = "aun"
    forward: ClassVar[str] = "y + u"
    derivative: ClassVar[str] = "1, exact"
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
    forward: ClassVar[str] = "⌊y − d⌉ + d, d uniform on (−½, ½)"
    derivative: ClassVar[str] = "1"
    paper: ClassVar[str] = "Ziv 1985; Choi et al. 2019; Agustsson & Theis 2020"
    year: ClassVar[int] = 2019
    unbiased: ClassVar[bool] = True

    shared: bool = False

    def noise_shape(self, y: Tensor) -> tuple[int, ...]:
        return (*y.shape[:1], *[1] * (y.dim() - 1)) if self.shared else super().noise_shape(y)

    def law(self, y: Tensor, v: Tensor, tau: float | Tensor) -> Tensor:
        dither = v - 0.5
        return with_slope((y.detach() - dither).round_().add_(dither), y)


@dataclass(frozen=True)
class AnnealedDither(Surrogate):
    """⌊y + τu⌉ − τu, u uniform on (−½, ½), derivative one (labkit's own): a dither that the temperature shrinks.

    At τ = 1 it has the law of additive uniform noise, as τ → 0 it is rounding, and E(ỹ − y)² over a bin is 1/12 at
    every τ between: it trades mismatch for gradient risk without adding noise.
    """

    name: ClassVar[str] = "dither"
    forward: ClassVar[str] = "⌊y + τu⌉ − τu"
    derivative: ClassVar[str] = "1"
    paper: ClassVar[str] = "labkit"
    year: ClassVar[int] = 2026
    annealed: ClassVar[bool] = True

    def law(self, y: Tensor, v: Tensor, tau: float | Tensor) -> Tensor:
        u, tau = v - 0.5, torch.as_tensor(tau, dtype=y.dtype, device=y.device)
        return with_slope(torch.addcmul(y.detach(), u, tau).round_().addcmul_(u, tau, value=-1), y)

"""Integers going forward: rounding, straight-through rounding, stochastic rounding."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from labkit.surrogates.base import Surrogate, with_slope


@dataclass(frozen=True)
class HardRounding(Surrogate):
    """⌊y⌉ with derivative zero: what the codec does at test time, and what cannot train an encoder."""

    name: ClassVar[str] = "round"
    paper: ClassVar[str] = "the codec itself"
    year: ClassVar[int] = 0
    integer: ClassVar[bool] = True
    random: ClassVar[bool] = False

    def law(self, y: Tensor, v: Tensor, tau: float | Tensor) -> Tensor:
        return with_slope(torch.round(y), y, 0.0)


@dataclass(frozen=True)
class StraightThrough(Surrogate):
    """⌊y⌉ with derivative one (Theis et al., Lossy Image Compression with Compressive Autoencoders, 2017, sec. 2.1)."""

    name: ClassVar[str] = "ste"
    paper: ClassVar[str] = "Theis et al. 2017"
    year: ClassVar[int] = 2017
    integer: ClassVar[bool] = True
    random: ClassVar[bool] = False

    def law(self, y: Tensor, v: Tensor, tau: float | Tensor) -> Tensor:
        return with_slope(torch.round(y), y)


@dataclass(frozen=True)
class StochasticRounding(Surrogate):
    """⌊y⌋ + Bernoulli(y − ⌊y⌋) with derivative one (Raiko et al. 2015; Toderici et al. 2016). E[ỹ | y] = y."""

    name: ClassVar[str] = "sr"
    paper: ClassVar[str] = "Raiko et al. 2015; Toderici et al. 2016"
    year: ClassVar[int] = 2015
    integer: ClassVar[bool] = True

    def law(self, y: Tensor, v: Tensor, tau: float | Tensor) -> Tensor:
        floor = torch.floor(y)
        return with_slope(floor + (v < y - floor).to(y.dtype), y)

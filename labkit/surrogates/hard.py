"""Integers going forward: rounding, straight-through rounding, stochastic rounding with and without annealing."""

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
    forward: ClassVar[str] = "⌊y⌉"
    derivative: ClassVar[str] = "0"
    paper: ClassVar[str] = "the codec itself"
    year: ClassVar[int] = 0
    integer: ClassVar[bool] = True
    random: ClassVar[bool] = False

    def law(self, y: Tensor, v: Tensor, tau: float | Tensor) -> Tensor:
        return with_slope(torch.round(y.detach()), y, 0.0)


@dataclass(frozen=True)
class StraightThrough(Surrogate):
    """⌊y⌉ with derivative one (Theis et al., Lossy Image Compression with Compressive Autoencoders, 2017, sec. 2.1)."""

    name: ClassVar[str] = "ste"
    forward: ClassVar[str] = "⌊y⌉"
    derivative: ClassVar[str] = "1"
    paper: ClassVar[str] = "Theis et al. 2017"
    year: ClassVar[int] = 2017
    integer: ClassVar[bool] = True
    random: ClassVar[bool] = False

    def law(self, y: Tensor, v: Tensor, tau: float | Tensor) -> Tensor:
        return with_slope(torch.round(y.detach()), y)


@dataclass(frozen=True)
class StochasticRounding(Surrogate):
    """⌊y⌋ + Bernoulli(y − ⌊y⌋) with derivative one (Raiko et al. 2015; Toderici et al. 2016). E[ỹ | y] = y."""

    name: ClassVar[str] = "sr"
    forward: ClassVar[str] = "⌊y⌋ + Bernoulli(r)"
    derivative: ClassVar[str] = "1"
    paper: ClassVar[str] = "Raiko et al. 2015; Toderici et al. 2016"
    year: ClassVar[int] = 2015
    integer: ClassVar[bool] = True

    def law(self, y: Tensor, v: Tensor, tau: float | Tensor) -> Tensor:
        fixed = y.detach()
        floor = torch.floor(fixed)
        up = ((fixed - floor) - v).ceil_()  # r − v lies in (−1, 1), and above 0 with probability r
        return with_slope(up.add_(floor), y)


@dataclass(frozen=True)
class StochasticRoundingAnnealing(Surrogate):
    """⌊y⌋ + Bernoulli(p) with derivative one, p sharpened by the temperature (Tsubota & Aizawa 2021, 2023).

    p is the softmax over (down, up) of −atanh(distance to the candidate)/τ. With r = y − ⌊y⌋ the two logits differ by
    ½ log(r (1 + r) / ((1 − r)(2 − r))), so one logarithm serves, and an integer stays itself. p = ½ at r = ½.
    """

    name: ClassVar[str] = "sra"
    forward: ClassVar[str] = "⌊y⌋ + Bernoulli(p), p = softmax of −atanh(distance)/τ"
    derivative: ClassVar[str] = "1"
    paper: ClassVar[str] = "Tsubota & Aizawa 2021, 2023"
    year: ClassVar[int] = 2021
    integer: ClassVar[bool] = True
    annealed: ClassVar[bool] = True

    def law(self, y: Tensor, v: Tensor, tau: float | Tensor) -> Tensor:
        fixed = y.detach()
        floor = torch.floor(fixed)
        r = fixed - floor
        odds = ((1 + r).mul_(r)).div_((1 - r).mul_(2 - r))  # of going up, at τ = ½
        p = (odds.log_() / (2 * tau)).sigmoid_()
        return with_slope((p - v).ceil_().add_(floor), y)

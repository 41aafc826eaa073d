"""Surrogates with integer outputs: rounding, straight-through rounding and stochastic rounding."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from labkit.surrogates.base import Surrogate, with_slope


@dataclass(frozen=True)
class HardRounding(Surrogate):
    """Rounding: ⌊y⌉ with derivative 0.

    This is the codec's operation at test time. It has no gradient, so it cannot train an encoder.
    """

    name: ClassVar[str] = "round"
    forward: ClassVar[str] = "⌊y⌉"
    derivative: ClassVar[str] = "0"
    paper: ClassVar[str] = "the codec itself"
    year: ClassVar[int] = 0
    integer: ClassVar[bool] = True
    random: ClassVar[bool] = False

    def law(self, y: Tensor, v: Tensor, tau: float | Tensor) -> Tensor:
        """Return ỹ; see `Surrogate.law`."""
        return with_slope(torch.round(y.detach()), y, 0.0)


@dataclass(frozen=True)
class StraightThrough(Surrogate):
    """The straight-through estimator (STE): ⌊y⌉ with derivative 1.

    Source: Theis et al., 2017, section 2.1, https://arxiv.org/abs/1703.00395.
    """

    name: ClassVar[str] = "ste"
    forward: ClassVar[str] = "⌊y⌉"
    derivative: ClassVar[str] = "1"
    paper: ClassVar[str] = "Theis et al. 2017"
    year: ClassVar[int] = 2017
    integer: ClassVar[bool] = True
    random: ClassVar[bool] = False

    def law(self, y: Tensor, v: Tensor, tau: float | Tensor) -> Tensor:
        """Return ỹ; see `Surrogate.law`."""
        return with_slope(torch.round(y.detach()), y)


@dataclass(frozen=True)
class StochasticRounding(Surrogate):
    """Stochastic rounding: ⌊y⌋ + Bernoulli(y − ⌊y⌋) with derivative 1, so that E[ỹ | y] = y.

    Sources: Raiko et al., 2015, https://arxiv.org/abs/1406.2989; Toderici et al., 2016,
    https://arxiv.org/abs/1511.06085.
    """

    name: ClassVar[str] = "sr"
    forward: ClassVar[str] = "⌊y⌋ + Bernoulli(r)"
    derivative: ClassVar[str] = "1"
    paper: ClassVar[str] = "Raiko et al. 2015; Toderici et al. 2016"
    year: ClassVar[int] = 2015
    integer: ClassVar[bool] = True

    def law(self, y: Tensor, v: Tensor, tau: float | Tensor) -> Tensor:
        """Return ỹ; see `Surrogate.law`."""
        fixed = y.detach()
        floor = torch.floor(fixed)
        up = ((fixed - floor) - v).ceil_()  # r − v is in (−1, 1), and positive with probability r
        return with_slope(up.add_(floor), y)


@dataclass(frozen=True)
class StochasticRoundingAnnealing(Surrogate):
    """Stochastic rounding annealing: ⌊y⌋ + Bernoulli(p) with derivative 1, where the temperature sharpens p.

    p is the softmax over (down, up) of −atanh(distance to the candidate)/τ. With r = y − ⌊y⌋, the two logits differ by
    ½ log(r (1 + r) / ((1 − r)(2 − r))) / τ. A single logarithm is therefore enough, and integers stay unchanged.
    Source: Tsubota & Aizawa, 2021 and 2023, https://arxiv.org/abs/2303.00587.
    """

    name: ClassVar[str] = "sra"
    forward: ClassVar[str] = "⌊y⌋ + Bernoulli(p), p = softmax of −atanh(distance)/τ"
    derivative: ClassVar[str] = "1"
    paper: ClassVar[str] = "Tsubota & Aizawa 2021, 2023"
    year: ClassVar[int] = 2021
    integer: ClassVar[bool] = True
    annealed: ClassVar[bool] = True

    def law(self, y: Tensor, v: Tensor, tau: float | Tensor) -> Tensor:
        """Return ỹ; see `Surrogate.law`."""
        fixed = y.detach()
        floor = torch.floor(fixed)
        r = fixed - floor
        odds = ((1 + r).mul_(r)).div_((1 - r).mul_(2 - r))  # of going up, at τ = ½
        p = (odds.log_() / (2 * tau)).sigmoid_()
        return with_slope((p - v).ceil_().add_(floor), y)

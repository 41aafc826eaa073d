"""Stochastic Gumbel annealing (Yang, Bamler & Mandt, Improving Inference for Neural Image Compression, 2020)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from labkit.surrogates.base import Surrogate

MAX_DISTANCE = 1 - 1e-5  # atanh is infinite at distance 1, that is, at the far candidate of an integer


@dataclass(frozen=True)
class StochasticGumbelAnnealing(Surrogate):
    """A Gumbel-softmax mixture of ⌊y⌋ and ⌈y⌉ with logits −atanh(distance)/τ, derivative exact (eq. 9 and sec. 3.2).

    The temperature enters twice, in the logits and in the softmax. The difference of two Gumbel variables is one
    logistic variable, so a single uniform draw serves both candidates.
    """

    name: ClassVar[str] = "sga"
    paper: ClassVar[str] = "Yang, Bamler & Mandt 2020"
    year: ClassVar[int] = 2020
    annealed: ClassVar[bool] = True
    unbiased: ClassVar[bool] = True

    def law(self, y: Tensor, v: Tensor, tau: float | Tensor) -> Tensor:
        low, high = torch.floor(y), torch.ceil(y)
        to_low = torch.atanh((y - low).clamp_max(MAX_DISTANCE))
        to_high = torch.atanh((high - y).clamp_max(MAX_DISTANCE))
        tiny = torch.finfo(y.dtype).eps
        logistic = torch.logit(v, eps=tiny)  # type: ignore[arg-type]
        weight = torch.sigmoid(((to_low - to_high) / tau + logistic) / tau)
        return low + weight * (high - low)

"""Stochastic uniform annealing, after Zhang, Li & Liu 2023: rounding with uniform noise that a temperature scales."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from labkit.surrogates.base import Surrogate, with_slope

GRADIENTS = ("identity", "expected")


@dataclass(frozen=True)
class StochasticUniformAnnealing(Surrogate):
    """⌊y + τu⌉, u uniform on (−½, ½): stochastic rounding at τ = 1, rounding as τ → 0.

    Meant for 0 < τ ≤ 1. A larger τ is taken, but then reaches beyond the two neighbors, and the mean below is another.

    **A reconstruction.** The published abstract of "On Uniform Scalar Quantization for Learned Image Compression"
    (Zhang, Li & Liu 2023) names the method and says that an adjustable temperature controls the tradeoff between
    train–test mismatch and gradient risk. The formula is labkit's, made to have that property; its form and its slope
    are open questions, so both are options.

    gradient: "identity" (derivative 1) or "expected", the derivative of E[ỹ | y] = ⌊y⌋ + clip((r − ½)/τ + ½, 0, 1)
    with r = y − ⌊y⌋: 1/τ where |r − ½| < τ/2, else 0. It is unbiased for that mean, not for a nonlinear loss.
    relaxed: ⌊y⌋ + clip((r − ½)/τ + u + ½, 0, 1) with its exact derivative: the form of stochastic Gumbel annealing,
    with uniform noise and a ramp in place of logistic noise and a sigmoid. `gradient` has no say there.
    """

    name: ClassVar[str] = "sua"
    paper: ClassVar[str] = "labkit, after Zhang, Li & Liu 2023"
    year: ClassVar[int] = 2023
    annealed: ClassVar[bool] = True

    gradient: str = "identity"
    relaxed: bool = False

    def __post_init__(self) -> None:
        if self.gradient not in GRADIENTS:
            raise ValueError(f"sua: gradient is one of {', '.join(GRADIENTS)}, got {self.gradient!r}")

    @property
    def forward(self) -> str:  # type: ignore[override]
        return "⌊y⌋ + clip((r − ½)/τ + u + ½, 0, 1)" if self.relaxed else "⌊y + τu⌉"

    @property
    def derivative(self) -> str:  # type: ignore[override]
        if self.relaxed:
            return "exact"
        return "1" if self.gradient == "identity" else "1/τ on |r − ½| < τ/2, else 0"

    @property
    def integer(self) -> bool:  # type: ignore[override]
        return not self.relaxed

    @property
    def unbiased(self) -> bool:  # type: ignore[override]
        return self.relaxed

    def law(self, y: Tensor, v: Tensor, tau: float | Tensor) -> Tensor:
        u = v - 0.5
        if self.relaxed:
            floor = torch.floor(y)
            return floor + ((y - floor - 0.5) / tau + u + 0.5).clamp(0, 1)
        fixed, tau = y.detach(), torch.as_tensor(tau, dtype=y.dtype, device=y.device)
        value = torch.addcmul(fixed, u, tau).round_()
        if self.gradient == "identity":
            return with_slope(value, y)
        to_boundary = (fixed - torch.floor(fixed)).sub_(0.5).abs_()
        return with_slope(value, y, (to_boundary < tau / 2) / tau)

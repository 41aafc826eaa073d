"""Stochastic uniform annealing: rounding after uniform noise that is scaled by the temperature."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from labkit.checks import check_name
from labkit.surrogates.base import Surrogate, with_slope

GRADIENTS = ("identity", "expected")


@dataclass(frozen=True)
class StochasticUniformAnnealing(Surrogate):
    """Stochastic uniform annealing (SUA): ⌊y + τu⌉ with u uniform on (−½, ½).

    It is stochastic rounding at τ = 1 and becomes rounding as τ → 0. Use 0 < τ ≤ 1: with a larger τ it also reaches
    integers beyond the two neighbors, and the mean below is no longer correct.

    **This is a reconstruction.** The abstract of "On Uniform Scalar Quantization for Learned Image Compression" (Zhang,
    Li & Liu, 2023, https://arxiv.org/abs/2309.17051) names the method and says that an adjustable temperature controls
    the tradeoff between train–test mismatch and gradient risk. The formula here is labkit's own and has this property.
    The original form and derivative are open questions, so both are options here.

    Attributes:
        gradient: "identity" uses derivative 1. "expected" uses the derivative of
            E[ỹ | y] = ⌊y⌋ + clip((r − ½)/τ + ½, 0, 1) with r = y − ⌊y⌋, which is 1/τ if |r − ½| < τ/2 and 0 otherwise.
            It is unbiased for this mean, but not for a nonlinear loss.
        relaxed: Use ⌊y⌋ + clip((r − ½)/τ + u + ½, 0, 1) with its exact derivative instead. This is the form of
            stochastic Gumbel annealing, with uniform noise and a ramp in place of logistic noise and a sigmoid. The
            option `gradient` then has no effect.
    """

    name: ClassVar[str] = "sua"
    paper: ClassVar[str] = "labkit, after Zhang, Li & Liu 2023"
    year: ClassVar[int] = 2023
    annealed: ClassVar[bool] = True

    gradient: str = "identity"
    relaxed: bool = False

    def __post_init__(self) -> None:
        check_name("gradient", self.gradient, GRADIENTS)

    @property
    def forward(self) -> str:  # type: ignore[override]
        """Return the forward law as a formula."""
        return "⌊y⌋ + clip((r − ½)/τ + u + ½, 0, 1)" if self.relaxed else "⌊y + τu⌉"

    @property
    def derivative(self) -> str:  # type: ignore[override]
        """Return the derivative as a formula."""
        if self.relaxed:
            return "exact"
        return "1" if self.gradient == "identity" else "1/τ on |r − ½| < τ/2, else 0"

    @property
    def integer(self) -> bool:  # type: ignore[override]
        """Return True if ỹ is always an integer."""
        return not self.relaxed

    @property
    def unbiased(self) -> bool:  # type: ignore[override]
        """Return True if the derivative is exact."""
        return self.relaxed

    def law(self, y: Tensor, v: Tensor, tau: float | Tensor) -> Tensor:
        """Return ỹ; see `Surrogate.law`."""
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

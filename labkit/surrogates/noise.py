"""Uniform noise, either added to the latent or used as a dither before and after rounding."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from labkit.checks import check_name
from labkit.surrogates.base import ADDED, Surrogate, with_slope

GRADIENTS = ("sampled", "expected")


@dataclass(frozen=True)
class AdditiveUniformNoise(Surrogate):
    """Additive uniform noise (AUN): y + u with u uniform on (−½, ½).

    The derivative is exact. Sources: Ballé et al., 2016, https://arxiv.org/abs/1607.05006, and 2017,
    https://arxiv.org/abs/1611.01704.

    Attributes:
        gradient: Derivative of the rate R with respect to the latent, on a rate path. "sampled" uses R′(y + u).
            "expected" uses its mean over u, which is R(y + ½) − R(y − ½), so the noise adds no variance to it. A
            Gaussian mean μ gets the negative of this derivative, and σ keeps the sampled derivative. The rate itself is
            R(y + u) in both cases, and a distortion path ignores the option. Source: Agustsson & Theis, 2020,
            section 4.2, https://arxiv.org/abs/2006.09952.
    """

    name: ClassVar[str] = "aun"
    forward: ClassVar[str] = "y + u"
    paper: ClassVar[str] = "Ballé et al. 2016, 2017"
    year: ClassVar[int] = 2016
    unbiased: ClassVar[bool] = True

    gradient: str = field(default="sampled", metadata=ADDED)

    def __post_init__(self) -> None:
        check_name("gradient", self.gradient, GRADIENTS)

    @property
    def derivative(self) -> str:  # type: ignore[override]
        """Return the derivative as a formula."""
        return "of the rate: R(y + ½) − R(y − ½)" if self.expected_rate_gradient else "1, exact"

    @property
    def expected_rate_gradient(self) -> bool:  # type: ignore[override]
        """Return True if the rate's derivative is its mean over the noise."""
        return self.gradient == "expected"

    def law(self, y: Tensor, v: Tensor, tau: float | Tensor) -> Tensor:
        """Return ỹ; see `Surrogate.law`."""
        return y + (v - 0.5)


@dataclass(frozen=True)
class UniversalQuantization(Surrogate):
    """Universal quantization: ⌊y − d⌉ + d with d uniform on (−½, ½) and derivative 1.

    For a given y, ỹ has the same distribution as with additive uniform noise, so derivative 1 is unbiased. This is true
    for any loss if each latent has its own dither, and for sums of losses per latent if the latents share one dither.
    Sources: Ziv, 1985; Choi et al., 2019, https://arxiv.org/abs/1909.04802; Agustsson & Theis, 2020, section 3,
    https://arxiv.org/abs/2006.09952.

    Attributes:
        shared: True uses one dither per image (the first dimension), as a decoder would; False uses one per latent.
    """

    name: ClassVar[str] = "uq"
    forward: ClassVar[str] = "⌊y − d⌉ + d, d uniform on (−½, ½)"
    derivative: ClassVar[str] = "1"
    paper: ClassVar[str] = "Ziv 1985; Choi et al. 2019; Agustsson & Theis 2020"
    year: ClassVar[int] = 2019
    unbiased: ClassVar[bool] = True

    shared: bool = False

    def noise_shape(self, y: Tensor) -> tuple[int, ...]:
        """Return the shape of the noise for latents like y."""
        return (*y.shape[:1], *[1] * (y.dim() - 1)) if self.shared else super().noise_shape(y)

    def law(self, y: Tensor, v: Tensor, tau: float | Tensor) -> Tensor:
        """Return ỹ; see `Surrogate.law`."""
        dither = v - 0.5
        return with_slope((y.detach() - dither).round_().add_(dither), y)


@dataclass(frozen=True)
class AnnealedDither(Surrogate):
    """Annealed dither: ⌊y + τu⌉ − τu with u uniform on (−½, ½) and derivative 1.

    Its distribution is that of additive uniform noise at τ = 1, and it becomes rounding as τ → 0. At every τ, the mean
    of (ỹ − y)² over a bin is 1/12, so it trades mismatch for gradient risk without more noise. This method is labkit's
    own.
    """

    name: ClassVar[str] = "dither"
    forward: ClassVar[str] = "⌊y + τu⌉ − τu"
    derivative: ClassVar[str] = "1"
    paper: ClassVar[str] = "labkit"
    year: ClassVar[int] = 2026
    annealed: ClassVar[bool] = True

    def law(self, y: Tensor, v: Tensor, tau: float | Tensor) -> Tensor:
        """Return ỹ; see `Surrogate.law`."""
        u, tau = v - 0.5, torch.as_tensor(tau, dtype=y.dtype, device=y.device)
        return with_slope(torch.addcmul(y.detach(), u, tau).round_().addcmul_(u, tau, value=-1), y)

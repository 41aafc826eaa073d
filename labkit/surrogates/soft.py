"""Soft rounding and the surrogates based on it (Agustsson & Theis, 2020, https://arxiv.org/abs/2006.09952)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from labkit.surrogates.base import Surrogate, with_slope

ALPHA_IDENTITY = 1e-3  # below this sharpness, soft rounding is the identity, as in the authors' code


def _sharpness(tau: float | Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Return α = 1/τ, and whether α is so small that soft rounding is the identity, both as 0-d tensors."""
    alpha = 1 / torch.as_tensor(tau, dtype=y.dtype, device=y.device)
    return alpha, alpha < ALPHA_IDENTITY


# The derivatives below are explicit. In float32, tanh(α/2) is 1 for α ≥ 18, so that atanh is infinite at the edge of a
# bin and back-propagation would give NaN. In-place operations save memory traffic, which dominates the cost.


def soft_round(y: Tensor, tau: float | Tensor) -> Tensor:
    """Return s_α(y) = m + tanh(α(y − m)) / (2 tanh(α/2)) with m = ⌊y⌋ + ½ and α = 1/τ (equation 13).

    Args:
        y: Latents of any shape.
        tau: Temperature τ.
    """
    alpha, identity = _sharpness(tau, y)
    fixed = y.detach()
    m = torch.floor(fixed).add_(0.5)
    t = ((fixed - m) * torch.where(identity, 0.0, alpha)).tanh_()
    stretch = 0.5 / torch.tanh(alpha / 2)
    value = torch.where(identity, fixed, torch.addcmul(m, t, stretch))
    return with_slope(value, y, t.square_().neg_().add_(1).mul_(torch.where(identity, 1.0, alpha * stretch)))


def soft_round_slope(y: Tensor, tau: float | Tensor) -> Tensor:
    """Return the derivative of s_α, α (1 − tanh²(α(y − m))) / (2 tanh(α/2)), without a gradient.

    Args:
        y: Latents of any shape.
        tau: Temperature τ.
    """
    alpha, identity = _sharpness(tau, y)
    fixed = y.detach()
    t = ((fixed - torch.floor(fixed)).sub_(0.5) * torch.where(identity, 0.0, alpha)).tanh_()
    return t.square_().neg_().add_(1).mul_(torch.where(identity, 1.0, alpha / 2 / torch.tanh(alpha / 2)))


def soft_round_inverse(z: Tensor, tau: float | Tensor) -> Tensor:
    """Return s_α⁻¹(z) = m + clip(atanh(2(z − m) tanh(α/2)) / α, ±½) with m = ⌊z⌋ + ½ and α = 1/τ.

    Its derivative is 2 tanh(α/2) / (α (1 − t²)), where t is the argument of atanh, and 0 if t = ±1.

    Args:
        z: Softly rounded latents of any shape.
        tau: Temperature τ.
    """
    return _inverse_around(z, torch.floor(z.detach()).add_(0.5), tau)


def soft_round_mean(z: Tensor, tau: float | Tensor) -> Tensor:
    """Return r_α(z) = s_α⁻¹(z − ½) + ½, the mean of y given z = s_α(y) + u for a locally flat density (equation 15).

    Args:
        z: Softly rounded latents with noise, of any shape.
        tau: Temperature τ.
    """
    return _inverse_around(z, (z.detach() - 0.5).floor_().add_(1), tau)  # the inverse with m shifted by half a bin


def _inverse_around(z: Tensor, m: Tensor, tau: float | Tensor) -> Tensor:
    alpha, identity = _sharpness(tau, z)
    stretch = 2 * torch.tanh(alpha / 2)
    t = ((z.detach() - m) * torch.where(identity, 0.0, stretch)).clamp_(-1, 1)  # m may be inexact by one rounding error
    offset = torch.atanh(t).div_(alpha)
    remainder = t.square_().neg_().add_(1)
    inside = remainder > 0
    slope = remainder.clamp_min_(torch.finfo(z.dtype).tiny).reciprocal_().mul_(inside)
    slope.mul_(torch.where(identity, 1.0, stretch / alpha))
    value = torch.where(identity, z.detach(), offset.clamp_(-0.5, 0.5).add_(m))
    return with_slope(value, z, slope)


@dataclass(frozen=True)
class SoftRounding(Surrogate):
    """Soft rounding: s_α(y), or r_α(s_α(y) + u) with `noise=True`, where α = 1/τ; the derivative is exact.

    Two functions are needed with noise. s_α makes the latent nearly an integer, and r_α lets the decoder undo the noise
    that the entropy model requires. Source: Agustsson & Theis, 2020, https://arxiv.org/abs/2006.09952.

    On a rate path with noise, the entropy model scores the density of z = s_α(y) + u. If F is the cumulative
    distribution of y, this density is F(s_α⁻¹(z + ½)) − F(s_α⁻¹(z − ½)). Because s_α(y + 1) = s_α(y) + 1, it equals
    F(r_α(z) + ½) − F(r_α(z) − ½), the model's ordinary likelihood of ỹ = r_α(z). Cool-Chic decodes and scores s_α(z)
    instead (https://github.com/Orange-OpenSource/Cool-Chic), whose likelihood is not the density of z.

    Attributes:
        noise: Add uniform noise between the two functions.
    """

    name: ClassVar[str] = "soft"
    derivative: ClassVar[str] = "exact"
    paper: ClassVar[str] = "Agustsson & Theis 2020"
    year: ClassVar[int] = 2020
    annealed: ClassVar[bool] = True
    unbiased: ClassVar[bool] = True

    noise: bool = False

    @property
    def forward(self) -> str:  # type: ignore[override]
        """Return the forward law as a formula."""
        return "r(s(y) + u)" if self.noise else "s(y)"

    @property
    def random(self) -> bool:  # type: ignore[override]
        """Return True if the law draws noise."""
        return self.noise

    def law(self, y: Tensor, v: Tensor, tau: float | Tensor) -> Tensor:
        """Return ỹ; see `Surrogate.law`."""
        soft = soft_round(y, tau)
        return soft_round_mean(soft + (v - 0.5), tau) if self.noise else soft


@dataclass(frozen=True)
class DerivativeSubstitution(Surrogate):
    """Derivative substitution: ⌊y⌉ with the derivative of soft rounding s_α, where α = 1/τ.

    Source: Tsubota & Aizawa, 2021 and 2023, https://arxiv.org/abs/2303.00587.
    """

    name: ClassVar[str] = "ds"
    forward: ClassVar[str] = "⌊y⌉"
    derivative: ClassVar[str] = "s′(y), of soft rounding"
    paper: ClassVar[str] = "Tsubota & Aizawa 2021, 2023"
    year: ClassVar[int] = 2021
    integer: ClassVar[bool] = True
    annealed: ClassVar[bool] = True
    random: ClassVar[bool] = False

    def law(self, y: Tensor, v: Tensor, tau: float | Tensor) -> Tensor:
        """Return ỹ; see `Surrogate.law`."""
        return with_slope(torch.round(y.detach()), y, soft_round_slope(y.detach(), tau))


@dataclass(frozen=True)
class KumaraswamySoftRounding(Surrogate):
    """Soft rounding with Kumaraswamy noise: r_α(s_α(y) + n), where n is in (−½, ½) and α = 1/τ; exact derivative.

    n = (1 − (1 − v)^(1/b))^(1/a) − ½ with v uniform on (0, 1) and b = (2^a (a − 1) + 1)/a, so that the mode of the
    noise is zero. The noise is uniform at a = 1 and concentrates around zero for larger a.
    Source: Kim et al., 2024 (C3), https://arxiv.org/abs/2312.02753.

    Attributes:
        a: Shape of the noise, from 1 to 10. None follows C3's two linear schedules, in which a decreases from 2 to 1
            while τ decreases from 0.3 to 0.1: a = 1 + clip((τ − 0.1)/0.2, 0, 1).
    """

    name: ClassVar[str] = "ksr"
    forward: ClassVar[str] = "r(s(y) + n), n Kumaraswamy noise"
    derivative: ClassVar[str] = "exact"
    paper: ClassVar[str] = "Kim et al. (C3) 2024"
    year: ClassVar[int] = 2024
    annealed: ClassVar[bool] = True
    unbiased: ClassVar[bool] = True

    a: float | None = None

    def __post_init__(self) -> None:
        if self.a is not None and not 1 <= self.a <= 10:
            raise ValueError(f"a must be a number from 1 to 10 or None, got {self.a!r}")

    def law(self, y: Tensor, v: Tensor, tau: float | Tensor) -> Tensor:
        """Return ỹ; see `Surrogate.law`."""
        tau = torch.as_tensor(tau, dtype=y.dtype, device=y.device)
        a = 1 + ((tau - 0.1) / 0.2).clamp(0, 1) if self.a is None else torch.full_like(tau, self.a)
        b = (2**a * (a - 1) + 1) / a
        # noise = (1 - (1 - v) ** (1 / b)) ** (1 / a) - 0.5, in place and with exp and log, which are faster than powers
        noise = ((1 - v).log_() / b).expm1_().neg_().log_().div_(a).exp_().sub_(0.5)
        return soft_round_mean(soft_round(y, tau) + noise, tau)

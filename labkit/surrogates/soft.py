"""Soft rounding (Agustsson & Theis, Universally Quantized Neural Compression, 2020, sec. 4), and what is made of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from labkit.surrogates.base import Surrogate, with_slope

ALPHA_IDENTITY = 1e-3  # below this sharpness soft rounding is the identity, here and in the paper's own code


def _sharpness(tau: float | Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """α = 1/τ, and whether it is so small that soft rounding is the identity; both 0-d tensors."""
    alpha = 1 / torch.as_tensor(tau, dtype=y.dtype, device=y.device)
    return alpha, alpha < ALPHA_IDENTITY


# The derivatives below are written out: in float32 tanh(α/2) is 1 from α = 18 on and atanh infinite at a bin's edge,
# where back-propagation would give NaN; and passes over memory are what these functions cost.


def soft_round(y: Tensor, tau: float | Tensor) -> Tensor:
    """s_α(y) = m + tanh(α(y − m)) / (2 tanh(α/2)) with m = ⌊y⌋ + ½ and α = 1/τ (eq. 13)."""
    alpha, identity = _sharpness(tau, y)
    fixed = y.detach()
    m = torch.floor(fixed).add_(0.5)
    t = ((fixed - m) * torch.where(identity, 0.0, alpha)).tanh_()
    stretch = 0.5 / torch.tanh(alpha / 2)
    value = torch.where(identity, fixed, torch.addcmul(m, t, stretch))
    return with_slope(value, y, t.square_().neg_().add_(1).mul_(torch.where(identity, 1.0, alpha * stretch)))


def soft_round_slope(y: Tensor, tau: float | Tensor) -> Tensor:
    """The derivative of s_α: α (1 − tanh²(α(y − m))) / (2 tanh(α/2)). It carries no gradient."""
    alpha, identity = _sharpness(tau, y)
    fixed = y.detach()
    t = ((fixed - torch.floor(fixed)).sub_(0.5) * torch.where(identity, 0.0, alpha)).tanh_()
    return t.square_().neg_().add_(1).mul_(torch.where(identity, 1.0, alpha / 2 / torch.tanh(alpha / 2)))


def soft_round_inverse(z: Tensor, tau: float | Tensor) -> Tensor:
    """s_α⁻¹(z) = m + clip(atanh(2(z − m) tanh(α/2)) / α, ±½) with m = ⌊z⌋ + ½ and α = 1/τ.

    Its derivative is 2 tanh(α/2) / (α (1 − t²)) with t the argument of atanh, and 0 where t is ±1: the clip holds.
    """
    return _inverse_around(z, torch.floor(z.detach()).add_(0.5), tau)


def soft_round_mean(z: Tensor, tau: float | Tensor) -> Tensor:
    """r_α(z) = s_α⁻¹(z − ½) + ½, the mean of y given z = s_α(y) + u for a locally flat density (eq. 15)."""
    return _inverse_around(z, (z.detach() - 0.5).floor_().add_(1), tau)  # the inverse, with m half a bin on


def _inverse_around(z: Tensor, m: Tensor, tau: float | Tensor) -> Tensor:
    alpha, identity = _sharpness(tau, z)
    stretch = 2 * torch.tanh(alpha / 2)
    t = ((z.detach() - m) * torch.where(identity, 0.0, stretch)).clamp_(-1, 1)  # m may lie one rounding off
    offset = torch.atanh(t).div_(alpha)
    remainder = t.square_().neg_().add_(1)
    inside = remainder > 0
    slope = remainder.clamp_min_(torch.finfo(z.dtype).tiny).reciprocal_().mul_(inside)
    slope.mul_(torch.where(identity, 1.0, stretch / alpha))
    value = torch.where(identity, z.detach(), offset.clamp_(-0.5, 0.5).add_(m))
    return with_slope(value, z, slope)


@dataclass(frozen=True)
class SoftRounding(Surrogate):
    """s_α(y), or r_α(s_α(y) + u) with `noise=True`; α = 1/τ; derivative exact (Agustsson & Theis 2020).

    Why round softly twice: the first makes the latent look rounded to the encoder's gradient, the second lets the
    decoder undo the noise that the entropy model needs.
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
        return "r(s(y) + u)" if self.noise else "s(y)"

    @property
    def random(self) -> bool:  # type: ignore[override]
        return self.noise

    def law(self, y: Tensor, v: Tensor, tau: float | Tensor) -> Tensor:
        soft = soft_round(y, tau)
        return soft_round_mean(soft + (v - 0.5), tau) if self.noise else soft


@dataclass(frozen=True)
class DerivativeSubstitution(Surrogate):
    """⌊y⌉ going forward, the slope of soft rounding s_α going back, α = 1/τ (Tsubota & Aizawa 2021, 2023)."""

    name: ClassVar[str] = "ds"
    forward: ClassVar[str] = "⌊y⌉"
    derivative: ClassVar[str] = "s′(y), of soft rounding"
    paper: ClassVar[str] = "Tsubota & Aizawa 2021, 2023"
    year: ClassVar[int] = 2021
    integer: ClassVar[bool] = True
    annealed: ClassVar[bool] = True
    random: ClassVar[bool] = False

    def law(self, y: Tensor, v: Tensor, tau: float | Tensor) -> Tensor:
        return with_slope(torch.round(y.detach()), y, soft_round_slope(y.detach(), tau))


@dataclass(frozen=True)
class KumaraswamySoftRounding(Surrogate):
    """r_α(s_α(y) + n) with Kumaraswamy noise n on (−½, ½), α = 1/τ, derivative exact (Kim et al., C3, 2024).

    n = (1 − (1 − v)^(1/b))^(1/a) − ½ with b = (2^a (a − 1) + 1)/a, which puts the noise's mode at zero. At a = 1 it is
    uniform noise; a larger a draws it toward zero, where soft rounding has less need of noise.
    a: 1 to 10, or None for the pairing of C3's two linear schedules, a from 2 to 1 while τ goes from 0.3 to 0.1:
    a = 1 + clip((τ − 0.1)/0.2, 0, 1).
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
            raise ValueError(f"ksr: a is a number from 1 to 10, or None, got {self.a!r}")

    def law(self, y: Tensor, v: Tensor, tau: float | Tensor) -> Tensor:
        tau = torch.as_tensor(tau, dtype=y.dtype, device=y.device)
        a = 1 + ((tau - 0.1) / 0.2).clamp(0, 1) if self.a is None else torch.full_like(tau, self.a)
        b = (2**a * (a - 1) + 1) / a
        # powers by exp and log, which is quicker than pow
        noise = ((1 - v).log_() / b).expm1_().neg_().log_().div_(a).exp_().sub_(0.5)
        return soft_round_mean(soft_round(y, tau) + noise, tau)

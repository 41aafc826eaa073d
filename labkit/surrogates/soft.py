"""Soft rounding (Agustsson & Theis, Universally Quantized Neural Compression, 2020, sec. 4), and what is made of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from labkit.surrogates.base import Surrogate, with_slope

ALPHA_IDENTITY = 1e-3  # below this sharpness soft rounding is the identity, here and in the paper's own code


def _sharpness(tau: float | Tensor, y: Tensor) -> Tensor:
    return (1 / torch.as_tensor(tau, device=y.device)).to(y.dtype)


def soft_round(y: Tensor, tau: float | Tensor) -> Tensor:
    """s_α(y) = m + tanh(α(y − m)) / (2 tanh(α/2)) with m = ⌊y⌋ + ½ and α = 1/τ (eq. 13)."""
    alpha = _sharpness(tau, y)
    safe = alpha.clamp_min(ALPHA_IDENTITY)  # torch.where differentiates both branches: keep the unused one finite
    m = torch.floor(y) + 0.5
    soft = m + torch.tanh(safe * (y - m)) / (2 * torch.tanh(safe / 2))
    return torch.where(alpha < ALPHA_IDENTITY, y, soft)


def soft_round_slope(y: Tensor, tau: float | Tensor) -> Tensor:
    """The derivative of s_α: α (1 − tanh²(α(y − m))) / (2 tanh(α/2))."""
    alpha = _sharpness(tau, y)
    safe = alpha.clamp_min(ALPHA_IDENTITY)
    t = torch.tanh(safe * (y - torch.floor(y) - 0.5))
    return torch.where(alpha < ALPHA_IDENTITY, torch.ones_like(y), safe * (1 - t * t) / (2 * torch.tanh(safe / 2)))


def soft_round_inverse(z: Tensor, tau: float | Tensor) -> Tensor:
    """s_α⁻¹(z) = m + clip(atanh(2(z − m) tanh(α/2)) / α, ±½) with m = ⌊z⌋ + ½ and α = 1/τ.

    The derivative is written out, 2 tanh(α/2) / (α (1 − t²)) with t the argument of atanh, and 0 where the clip holds:
    in float32 tanh(α/2) is 1 from α = 18 on, atanh infinite at the bin's edge, and back-propagation would give NaN.
    """
    fixed = z.detach()
    alpha = _sharpness(tau, z)
    safe = alpha.clamp_min(ALPHA_IDENTITY)
    stretch = 2 * torch.tanh(safe / 2)
    m = torch.floor(fixed) + 0.5
    t = (fixed - m).mul_(stretch)
    offset = torch.atanh(t).div_(safe)
    inside = offset.abs() < 0.5
    slope = (1 - t.square_()).clamp_min_(torch.finfo(z.dtype).tiny).reciprocal_().mul_(stretch / safe).mul_(inside)
    value = torch.where(alpha < ALPHA_IDENTITY, fixed, m.add_(offset.clamp_(-0.5, 0.5)))
    return with_slope(value, z, torch.where(alpha < ALPHA_IDENTITY, torch.ones_like(alpha), slope))


def soft_round_mean(z: Tensor, tau: float | Tensor) -> Tensor:
    """r_α(z) = s_α⁻¹(z − ½) + ½, the mean of y given z = s_α(y) + u for a locally flat density (eq. 15)."""
    return soft_round_inverse(z - 0.5, tau) + 0.5


@dataclass(frozen=True)
class SoftRounding(Surrogate):
    """s_α(y), or r_α(s_α(y) + u) with `noise=True`; α = 1/τ; derivative exact (Agustsson & Theis 2020).

    Why round softly twice: the first makes the latent look rounded to the encoder's gradient, the second lets the
    decoder undo the noise that the entropy model needs.
    """

    name: ClassVar[str] = "soft"
    forward: ClassVar[str] = "s(y); noise: r(s(y) + u)"
    derivative: ClassVar[str] = "exact"
    paper: ClassVar[str] = "Agustsson & Theis 2020"
    year: ClassVar[int] = 2020
    annealed: ClassVar[bool] = True
    unbiased: ClassVar[bool] = True

    noise: bool = False

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
    uniform noise; a larger a draws it towards zero, where soft rounding has less need of noise.
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
        noise = (1 - v).pow_(1 / b).neg_().add_(1).pow_(1 / a).sub_(0.5)
        return soft_round_mean(soft_round(y, tau) + noise, tau)

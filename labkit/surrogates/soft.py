"""Soft rounding (Agustsson & Theis, Universally Quantized Neural Compression, 2020, sec. 4), and its slope borrowed."""

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
    """s_α⁻¹(z) = m + clip(atanh(2(z − m) tanh(α/2)) / α, ±½) with m = ⌊z⌋ + ½ and α = 1/τ."""
    alpha = _sharpness(tau, z)
    safe = alpha.clamp_min(ALPHA_IDENTITY)
    m = torch.floor(z) + 0.5
    argument = 2 * (z - m) * torch.tanh(safe / 2)
    # tanh(α/2) is 1 in float32 from α = 18 on, and atanh(±1) infinite: the clip gives ±½ there, with derivative 0
    inside = 1 - torch.finfo(z.dtype).eps
    offset = (torch.atanh(argument.clamp(-inside, inside)) / safe).clamp(-0.5, 0.5)
    offset = torch.where(argument.abs() >= 1, 0.5 * torch.sign(argument), offset)
    return torch.where(alpha < ALPHA_IDENTITY, z, m + offset)


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
    paper: ClassVar[str] = "Tsubota & Aizawa 2021, 2023"
    year: ClassVar[int] = 2021
    integer: ClassVar[bool] = True
    annealed: ClassVar[bool] = True
    random: ClassVar[bool] = False

    def law(self, y: Tensor, v: Tensor, tau: float | Tensor) -> Tensor:
        return with_slope(torch.round(y), y, soft_round_slope(y.detach(), tau))

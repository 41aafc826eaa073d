"""Gumbel-softmax over the neighboring integers: stochastic Gumbel annealing, and SGA+'s sigmoid scaled logit."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from labkit.surrogates.base import Surrogate, with_slope

MAX_DISTANCE = 1 - 1e-5  # atanh is infinite at distance 1, that is, at the far candidate of an integer


@dataclass(frozen=True)
class StochasticGumbelAnnealing(Surrogate):
    """A Gumbel-softmax mixture of ⌊y⌋ and ⌈y⌉ with logits −atanh(distance)/τ, derivative exact.

    Yang, Bamler & Mandt, Improving Inference for Neural Image Compression, 2020, eq. 9 and sec. 3.2. The temperature
    enters twice, in the logits and in the softmax. The difference of two Gumbel variables is one logistic variable, so
    a single uniform draw serves both candidates.
    """

    name: ClassVar[str] = "sga"
    forward: ClassVar[str] = "Gumbel-softmax over ⌊y⌋, ⌈y⌉, logits −atanh(d)/τ"
    derivative: ClassVar[str] = "exact"
    paper: ClassVar[str] = "Yang, Bamler & Mandt 2020"
    year: ClassVar[int] = 2020
    annealed: ClassVar[bool] = True
    unbiased: ClassVar[bool] = True

    def law(self, y: Tensor, v: Tensor, tau: float | Tensor) -> Tensor:
        low = torch.floor(y.detach())
        r = y.detach() - low
        near, far = r.clamp_max(MAX_DISTANCE), (1 - r).clamp_max_(MAX_DISTANCE)
        up, down = (1 - near).mul_(1 + near), (1 - far).mul_(1 + far)  # each 1 − distance²
        # atanh(near) − atanh(far) as one logarithm, and its derivative by y
        score = (1 + near).div_(1 + far).square_().mul_(down).div_(up).log_().mul_(0.5)
        steepness = up.reciprocal_().mul_(near < MAX_DISTANCE).add_(down.reciprocal_().mul_(far < MAX_DISTANCE))
        return _between_neighbors(y, v, tau, low, score.masked_fill_(r == 0, -math.inf), steepness)


@dataclass(frozen=True)
class SigmoidScaledLogit(Surrogate):
    """As stochastic Gumbel annealing, with logits made of scaled logits, derivative exact.

    Perugachi-Diaz, Gansekoele & Bhulai, Robustly overfitting latents for flexible neural image compression (SGA+),
    2024. Two classes, ⌊y⌋ and ⌈y⌉: logits −log(1 + (d/(1 − d))^a)/τ, d the distance to the candidate clipped to
    [10⁻⁵, 1 − 10⁻⁵]; the two differ by exactly a · logit(d)/τ. Three classes, ⌊y⌉ − 1, ⌊y⌉ and ⌊y⌉ + 1: logits
    n · log σ(−a · logit(f · d/1.5))/τ with n = 1.5, the argument of logit clipped likewise.
    classes: 2 or 3; a: 4/3 for two classes and 1.4 for three if not given; f: 1.4, for three classes only.
    """

    name: ClassVar[str] = "ssl"
    derivative: ClassVar[str] = "exact"
    paper: ClassVar[str] = "Perugachi-Diaz et al. (SGA+) 2024"
    year: ClassVar[int] = 2024
    annealed: ClassVar[bool] = True
    unbiased: ClassVar[bool] = True

    classes: int = 2
    a: float | None = None
    f: float = 1.4

    def __post_init__(self) -> None:
        if self.classes not in (2, 3):
            raise ValueError(f"ssl: classes is 2 or 3, got {self.classes!r}")
        for name in ("a", "f"):
            value = getattr(self, name)
            if value is not None and not (isinstance(value, int | float) and 0 < value < math.inf):
                raise ValueError(f"ssl: {name} is a positive number, got {value!r}")

    @property
    def forward(self) -> str:  # type: ignore[override]
        if self.classes == 2:
            return "Gumbel-softmax over ⌊y⌋, ⌈y⌉, logits −log(1 + (d/(1 − d))^a)/τ"
        return "Gumbel-softmax over ⌊y⌉ − 1, ⌊y⌉, ⌊y⌉ + 1, logits n log σ(−a logit(f d/1.5))/τ"

    def noise_shape(self, y: Tensor) -> tuple[int, ...]:
        return tuple(y.shape) if self.classes == 2 else (3, *y.shape)  # three Gumbels need three uniform draws

    def law(self, y: Tensor, v: Tensor, tau: float | Tensor) -> Tensor:
        if self.classes == 2:
            a = self.a or 4 / 3
            low = torch.floor(y.detach())
            r = y.detach() - low
            integer, inside = r == 0, (r > 1 - MAX_DISTANCE) & (r < MAX_DISTANCE)
            r.clamp_(1 - MAX_DISTANCE, MAX_DISTANCE)
            steepness = (1 - r).mul_(r).reciprocal_().mul_(a).mul_(inside)
            score = r.logit_().mul_(a).masked_fill_(integer, -math.inf)
            return _between_neighbors(y, v, tau, low, score, steepness)
        return self._three_classes(y, v, tau)

    def _three_classes(self, y: Tensor, v: Tensor, tau: float | Tensor) -> Tensor:
        """v has shape (3, *y.shape): a uniform draw for the Gumbel variable of each candidate, the lowest first."""
        a, stretch, power = self.a or 1.4, self.f / 1.5, 1.5
        nearest = torch.round(y.detach())
        offsets = torch.tensor([-1.0, 0.0, 1.0], dtype=y.dtype, device=y.device).view(3, *[1] * y.dim())
        signed = (y.detach() - nearest) - offsets
        q = signed.abs().mul_(stretch)
        inside = (q > 1 - MAX_DISTANCE) & (q < MAX_DISTANCE)
        q.clamp_(1 - MAX_DISTANCE, MAX_DISTANCE)
        steepness = signed.sign_().mul_(inside).mul_(-power * a * stretch).div_(q * (1 - q))
        scaled = q.logit_().mul_(a)
        steepness.mul_(torch.sigmoid(scaled))  # of the logits n log σ(−scaled), by y, at τ = 1
        logits = torch.nn.functional.logsigmoid(scaled.neg_()).mul_(power)
        tiny = torch.finfo(y.dtype).tiny
        gumbel = v.clamp_min(tiny).log_().neg_().clamp_min_(tiny).log_().neg_()
        weights = torch.softmax((logits / tau + gumbel) / tau, 0)
        moved = weights * offsets  # the mean of the offsets, less the nearest integer
        slope = (moved * steepness).sum(0) - moved.sum(0) * (weights * steepness).sum(0)
        return with_slope(nearest + moved.sum(0), y, slope / tau / tau)


def _between_neighbors(
    y: Tensor, v: Tensor, tau: float | Tensor, low: Tensor, score: Tensor, steepness: Tensor
) -> Tensor:
    """⌊y⌋ + w (⌈y⌉ − ⌊y⌋) with w = σ((score/τ + logistic noise)/τ), and its derivative w (1 − w) steepness/τ².

    low: ⌊y⌋; score: logit of going up less that of going down, at τ = 1, and −∞ at an integer, which has nowhere to go
    up to; steepness: its derivative by y. The derivative is written out, which saves back-propagation through every
    step.
    """
    tau = torch.as_tensor(tau, dtype=y.dtype, device=y.device)
    logistic = torch.logit(v, eps=torch.finfo(v.dtype).eps)  # type: ignore[arg-type]
    weight = torch.addcdiv(logistic, score, tau).div_(tau).sigmoid_()
    slope = (1 - weight).mul_(weight).mul_(steepness).div_(tau * tau)
    return with_slope(weight.add_(low), y, slope)

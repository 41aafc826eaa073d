"""Gumbel-softmax over neighboring integers: stochastic Gumbel annealing and the sigmoid scaled logit of SGA+."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from labkit.checks import check_positive
from labkit.surrogates.base import Surrogate, with_slope

MAX_DISTANCE = 1 - 1e-5  # atanh is infinite at distance 1, which is the distance from an integer to its other candidate


@dataclass(frozen=True)
class StochasticGumbelAnnealing(Surrogate):
    """Stochastic Gumbel annealing (SGA): a Gumbel-softmax mixture of ⌊y⌋ and ⌈y⌉ with its exact derivative.

    The logits are −atanh(distance to the candidate)/τ. The temperature is used twice, in the logits and in the softmax.
    The difference of two Gumbel variables is a logistic variable, so one uniform draw is enough for both candidates.
    Source: Yang, Bamler & Mandt, 2020, equation 9 and section 3.2, https://arxiv.org/abs/2006.04240.
    """

    name: ClassVar[str] = "sga"
    forward: ClassVar[str] = "Gumbel-softmax over ⌊y⌋, ⌈y⌉, logits −atanh(d)/τ"
    derivative: ClassVar[str] = "exact"
    paper: ClassVar[str] = "Yang, Bamler & Mandt 2020"
    year: ClassVar[int] = 2020
    annealed: ClassVar[bool] = True
    unbiased: ClassVar[bool] = True

    def law(self, y: Tensor, v: Tensor, tau: float | Tensor) -> Tensor:
        """Return ỹ; see `Surrogate.law`."""
        low = torch.floor(y.detach())
        r = y.detach() - low
        near, far = r.clamp_max(MAX_DISTANCE), (1 - r).clamp_max_(MAX_DISTANCE)
        up, down = (1 - near).mul_(1 + near), (1 - far).mul_(1 + far)  # each 1 − distance²
        # atanh(near) − atanh(far) as one logarithm, and its derivative with respect to y
        score = (1 + near).div_(1 + far).square_().mul_(down).div_(up).log_().mul_(0.5)
        steepness = up.reciprocal_().mul_(near < MAX_DISTANCE).add_(down.reciprocal_().mul_(far < MAX_DISTANCE))
        return _between_neighbors(y, v, tau, low, score.masked_fill_(r == 0, -math.inf), steepness)


@dataclass(frozen=True)
class SigmoidScaledLogit(Surrogate):
    """The sigmoid scaled logit (SSL) of SGA+: stochastic Gumbel annealing with other logits and the exact derivative.

    With two classes, ⌊y⌋ and ⌈y⌉, the logits are −log(1 + (d/(1 − d))^a)/τ. Here d is the distance to the candidate,
    clipped to [10⁻⁵, 1 − 10⁻⁵], and the two logits differ by exactly a · logit(d)/τ. With three classes, ⌊y⌉ − 1, ⌊y⌉
    and ⌊y⌉ + 1, the logits are n · log σ(−a · logit(f · d/1.5))/τ with n = 1.5, where the argument of logit is clipped
    in the same way. Source: Perugachi-Diaz et al., 2024, https://arxiv.org/abs/2401.17789.

    Attributes:
        classes: Number of candidates, 2 or 3.
        a: Exponent; None means 4/3 with two classes and 1.4 with three.
        f: Factor of the distance, used with three classes only.
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
            raise ValueError(f"classes must be 2 or 3, got {self.classes!r}")
        check_positive(a=1 if self.a is None else self.a, f=self.f)

    @property
    def forward(self) -> str:  # type: ignore[override]
        """Return the forward law as a formula."""
        if self.classes == 2:
            return "Gumbel-softmax over ⌊y⌋, ⌈y⌉, logits −log(1 + (d/(1 − d))^a)/τ"
        return "Gumbel-softmax over ⌊y⌉ − 1, ⌊y⌉, ⌊y⌉ + 1, logits n log σ(−a logit(f d/1.5))/τ"

    def noise_shape(self, y: Tensor) -> tuple[int, ...]:
        """Return the shape of the noise for latents like y."""
        return tuple(y.shape) if self.classes == 2 else (3, *y.shape)  # one uniform draw for each Gumbel variable

    def law(self, y: Tensor, v: Tensor, tau: float | Tensor) -> Tensor:
        """Return ỹ; see `Surrogate.law`."""
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
        """Apply the law with v of shape (3, *y.shape): one draw for each candidate, in ascending order."""
        a, stretch, power = self.a or 1.4, self.f / 1.5, 1.5
        nearest = torch.round(y.detach())
        offsets = torch.tensor([-1.0, 0.0, 1.0], dtype=y.dtype, device=y.device).view(3, *[1] * y.dim())
        signed = (y.detach() - nearest) - offsets
        q = signed.abs().mul_(stretch)
        inside = (q > 1 - MAX_DISTANCE) & (q < MAX_DISTANCE)
        q.clamp_(1 - MAX_DISTANCE, MAX_DISTANCE)
        steepness = signed.sign_().mul_(inside).mul_(-power * a * stretch).div_(q * (1 - q))
        scaled = q.logit_().mul_(a)
        steepness.mul_(torch.sigmoid(scaled))  # derivative of the logits n log σ(−scaled) with respect to y, at τ = 1
        logits = torch.nn.functional.logsigmoid(scaled.neg_()).mul_(power)
        tiny = torch.finfo(y.dtype).tiny
        gumbel = v.clamp_min(tiny).log_().neg_().clamp_min_(tiny).log_().neg_()
        weights = torch.softmax((logits / tau + gumbel) / tau, 0)
        moved = weights * offsets  # their sum is ỹ minus the nearest integer
        slope = (moved * steepness).sum(0) - moved.sum(0) * (weights * steepness).sum(0)
        return with_slope(nearest + moved.sum(0), y, slope / tau / tau)


def _between_neighbors(
    y: Tensor, v: Tensor, tau: float | Tensor, low: Tensor, score: Tensor, steepness: Tensor
) -> Tensor:
    """Return ⌊y⌋ + w (⌈y⌉ − ⌊y⌋) with w = σ((score/τ + logistic noise)/τ) and derivative w (1 − w) steepness/τ².

    `low` is ⌊y⌋. `score` is the logit of ⌈y⌉ minus the logit of ⌊y⌋ at τ = 1, and −∞ at integers, where both candidates
    coincide. `steepness` is its derivative with respect to y. The explicit derivative avoids back-propagation through
    every operation.
    """
    tau = torch.as_tensor(tau, dtype=y.dtype, device=y.device)
    logistic = torch.logit(v, eps=torch.finfo(v.dtype).eps)
    weight = torch.addcdiv(logistic, score, tau).div_(tau).sigmoid_()
    slope = (1 - weight).mul_(weight).mul_(steepness).div_(tau * tau)
    return with_slope(weight.add_(low), y, slope)

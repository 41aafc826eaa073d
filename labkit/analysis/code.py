"""A transform code of one latent: its loss in training and at test, and the exact gradient of its test loss."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from labkit.analysis import quadrature
from labkit.analysis.sources import Source
from labkit.schemes import PATHS, Noise, QuantizationScheme

PARAMETERS = ("gain", "mean", "scale", "step")


def gaussian_bits(y: Tensor, mean: Tensor, scale: Tensor) -> Tensor:
    """−log₂[Φ((y − μ + ½)/σ) − Φ((y − μ − ½)/σ)], finite at any distance from the mean (Ballé et al. 2018, eq. 11)."""
    distance = (y - mean).abs()  # the lower tail is where differences of Φ keep their digits
    near = torch.special.log_ndtr((0.5 - distance) / scale)
    far = torch.special.log_ndtr((-0.5 - distance) / scale)
    return -(near + torch.log1p(-torch.exp(far - near))) / math.log(2)


def squared_error(x_hat: Tensor, x: Tensor) -> Tensor:
    """(x̂ − x)²."""
    return (x_hat - x) ** 2


@dataclass(frozen=True)
class ScalarCode:
    """One latent, from its source to its loss:

        x ~ source ─► y = gain · x ─┬─ rate path ───────► bits, under N(μ, σ²) integrated over a bin
                                    └─ distortion path ─► x̂ = step · ỹ
        ℓ = rate + λ · distortion

    source: see `labkit.analysis.sources`; gain: the encoder's; lmbda: λ; mean, scale: μ and σ of the entropy model;
    step: the decoder's. scale and step that are not given are those that fit the gain, gain · std of the source and
    1/gain; they then stay as they are when the gain changes (`dataclasses.replace`), as an encoder's gradient needs.
    zero_center: at test round around μ, ŷ = ⌊y − μ⌉ + μ, as coding does; false rounds y itself, an estimate only.
    rate(y, mean, scale) and distortion(x_hat, x): float64 tensors in, one value a sample out, smooth in y and x̂.

    Raises ValueError naming the field, what it got and what it takes.
    """

    source: Source
    gain: float = 1.0
    lmbda: float = 6.0
    mean: float = 0.0
    scale: float | None = None
    step: float | None = None
    zero_center: bool = True
    rate: Callable[[Tensor, Tensor, Tensor], Tensor] = gaussian_bits
    distortion: Callable[[Tensor, Tensor], Tensor] = squared_error

    def __post_init__(self) -> None:
        for method in ("pdf", "cdf", "ppf", "rvs"):
            if not callable(getattr(self.source, method, None)):
                raise ValueError(
                    f"source: takes a frozen continuous distribution, got {self.source!r} without {method}"
                )
        if self.gain is not None and self.gain > 0:
            defaults = {"scale": lambda: self.gain * float(self.source.std()), "step": lambda: 1 / self.gain}
            for name, value in defaults.items():
                if getattr(self, name) is None:
                    object.__setattr__(self, name, value())
        for name in ("gain", "scale", "step"):
            if not (getattr(self, name) > 0 and math.isfinite(getattr(self, name))):
                raise ValueError(f"{name}: takes a positive number, got {getattr(self, name)!r}")
        for name in ("lmbda", "mean"):
            if not math.isfinite(getattr(self, name)):
                raise ValueError(f"{name}: takes a finite number, got {getattr(self, name)!r}")

    @property
    def center(self) -> float:
        """c in the tested ŷ = ⌊y − c⌉ + c: μ, or 0 without `zero_center`."""
        return self.mean if self.zero_center else 0.0

    def training_losses(
        self,
        scheme: QuantizationScheme,
        x: np.ndarray,
        noise: Noise,
        temperature: float,
        parameter: str | None = None,
        paths: tuple[str, ...] = PATHS[:2],
        shift: float | np.ndarray = 0.0,
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Rate, distortion and returned gradient of ℓ by the parameter, each (n,), as training sees n samples x.

        noise: of the two paths, as `scheme.draw` gives it; paths: those that count, the other contributes 0; shift:
        added to the latent, not to its data. The parameter "shift" is the derivative by the latent itself.
        """
        data = torch.as_tensor(x, dtype=torch.float64)
        theta = self._parameters(data, parameter)
        theta["shift"] = torch.zeros_like(data) + torch.as_tensor(shift)
        if parameter == "shift":
            theta["shift"].requires_grad_()
        y, zero = theta["gain"] * data + theta["shift"], torch.zeros_like(data)
        rate = distortion = zero
        if "rate" in paths:
            y_rate = scheme.quantize_rate(y, theta["mean"], temperature, noise)
            rate = self.rate(y_rate, theta["mean"], theta["scale"])
        if "distortion" in paths:
            y_distortion = scheme.quantize_distortion(y, theta["mean"], temperature, noise)
            distortion = self.distortion(theta["step"] * y_distortion, data)
        gradient = self._gradient(rate + self.lmbda * distortion, theta, parameter)
        return rate.detach().numpy(), distortion.detach().numpy(), gradient

    def test_losses(
        self, x: np.ndarray, symbols: np.ndarray | None = None, parameter: str | None = None
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Rate, distortion, and gradient of ℓ by the parameter at fixed symbols, each (n,), with real rounding.

        symbols: k in ŷ = k + c; those of x if not given.
        """
        data = torch.as_tensor(x, dtype=torch.float64)
        theta = self._parameters(data, parameter)
        k = torch.as_tensor(self.symbols(x) if symbols is None else symbols, dtype=torch.float64)
        y_hat = k + theta["mean"] if self.zero_center else k
        rate = self.rate(y_hat, theta["mean"], theta["scale"])
        distortion = self.distortion(theta["step"] * y_hat, data)
        gradient = self._gradient(rate + self.lmbda * distortion, theta, parameter)
        return rate.detach().numpy(), distortion.detach().numpy(), gradient

    def symbols(self, x: np.ndarray) -> np.ndarray:
        """The integers that are coded, ⌊gain · x − c⌉."""
        return np.round(self.gain * np.asarray(x) - self.center)

    def boundaries(self) -> tuple[np.ndarray, np.ndarray]:
        """Every decision boundary within the source's support, and the symbol k below it: gain · x − c = k + ½.

        Raises ValueError for a source that spans more than 4096 bins.
        """
        low, high = (self.gain * end - self.center for end in quadrature.support(self.source))
        if not high - low < quadrature.MAX_BINS:
            bins = f"{high - low:.0f}" if math.isfinite(high - low) else "infinitely many"
            raise ValueError(f"source: spans {bins} bins, quadrature takes {quadrature.MAX_BINS}; use Monte Carlo")
        k = np.arange(math.ceil(low - 0.5), math.floor(high - 0.5) + 1, dtype=np.float64)
        return (k + 0.5 + self.center) / self.gain, k

    def nodes(self, temperature: float, centers: tuple[float, ...] = ()) -> tuple[np.ndarray, np.ndarray]:
        """Quadrature nodes x and weights between all points where test or training, centered there, change law."""
        boundaries, _ = self.boundaries()
        cuts = [boundaries]
        low, high = (self.gain * end for end in quadrature.support(self.source))
        for center in centers:
            bins = np.arange(math.floor(low - center), math.ceil(high - center) + 1)
            cuts.append(((bins[:, None] + quadrature.bin_cuts(temperature)).ravel() + center) / self.gain)
        return quadrature.source_nodes(self.source, np.concatenate(cuts))

    def _parameters(self, like: Tensor, parameter: str | None) -> dict[str, Tensor]:
        """One copy of each parameter a sample, so that a single backward pass gives every sample's own gradient."""
        theta = {name: torch.full_like(like, getattr(self, name)) for name in PARAMETERS}
        if parameter in theta:
            theta[parameter].requires_grad_()
        return theta

    @staticmethod
    def _gradient(loss: Tensor, theta: dict[str, Tensor], parameter: str | None) -> np.ndarray:
        if parameter is None or not loss.requires_grad:
            return np.zeros(loss.shape)
        (gradient,) = torch.autograd.grad(loss.sum(), theta[parameter], allow_unused=True)
        return np.zeros(loss.shape) if gradient is None else gradient.numpy()


def check_parameter(parameter: str) -> str:
    """The parameter's name, or a ValueError that lists them."""
    if parameter not in PARAMETERS:
        raise ValueError(f"parameter: takes one of {', '.join(PARAMETERS)}, got {parameter!r}")
    return parameter


class Loss(NamedTuple):
    """total = rate + λ · distortion: bits, and squared error unless the code has its own distortion."""

    total: float
    rate: float
    distortion: float


def test_loss(code: ScalarCode) -> Loss:
    """E ℓ(ŷ, x) with real rounding, by quadrature between the decision boundaries."""
    x, weight = code.nodes(1.0)
    rate, distortion = (float(weight @ part) for part in code.test_losses(x)[:2])
    return Loss(rate + code.lmbda * distortion, rate, distortion)


def exact_gradient(code: ScalarCode, parameter: str = "gain") -> float:
    """The gradient of the test loss, which rounding hides from back-propagation.

    With f(x) = gain · x − c and its roots x_k of f = k + ½, p the source's density, ℓ(k, x) the loss of symbol k,

        Σ_k p(x_k)/|f′(x_k)| · (ℓ(k + 1, x_k) − ℓ(k, x_k)) · ∂f/∂θ(x_k)  +  E[∂ℓ/∂θ at fixed symbol].

    The first part is carried by the samples that cross a decision boundary; in the second ŷ = k + c moves with μ.
    Leibniz's rule for an integral between moving limits; labkit's own writing. parameter: gain, mean, scale or step.
    A density that jumps exactly at a boundary leaves the gradient undefined.
    """
    check_parameter(parameter)
    x, weight = code.nodes(1.0)
    within = weight @ code.test_losses(x, parameter=parameter)[2]
    moved = {"gain": lambda x: x, "mean": lambda x: -float(code.zero_center) * np.ones_like(x)}.get(parameter)
    if moved is None:
        return float(within)  # the scale and the decoder's step move no boundary
    roots, k = code.boundaries()
    below, above = (
        rate + code.lmbda * d for rate, d, _ in (code.test_losses(roots, k), code.test_losses(roots, k + 1))
    )
    across = code.source.pdf(roots) / code.gain * (above - below) * moved(roots)
    return float(across.sum() + within)

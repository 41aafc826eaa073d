"""A transform code with one latent: its loss in training and at test, and the exact gradient of its test loss."""

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
from labkit.statistics import Array
from labkit.surrogates.base import with_slope

PARAMETERS = ("gain", "mean", "scale", "step")


def gaussian_bits(y: Tensor, mean: Tensor, scale: Tensor) -> Tensor:
    """Return the number of bits of each latent under a Gaussian that is integrated over one bin.

    The formula is −log₂[Φ((y − μ + ½)/σ) − Φ((y − μ − ½)/σ)]. The result is finite at every distance from the mean
    (Ballé et al., 2018, eq. 11, https://arxiv.org/abs/1802.01436).

    Args:
        y: Latents of any shape.
        mean: Mean μ; its shape broadcasts with y.
        scale: Scale σ; its shape broadcasts with y.

    Example:
        >>> import torch
        >>> from labkit.analysis import gaussian_bits
        >>> gaussian_bits(torch.tensor([0.0, 1.0]), torch.tensor(0.0), torch.tensor(0.5))
        tensor([0.5507, 2.6684])
    """
    distance = (y - mean).abs()  # differences of Φ are more accurate in the lower tail
    near = torch.special.log_ndtr((0.5 - distance) / scale)
    far = torch.special.log_ndtr((-0.5 - distance) / scale)
    bits: Tensor = -(near + torch.log1p(-torch.exp(far - near))) / math.log(2)
    return bits


def squared_error(x_hat: Tensor, x: Tensor) -> Tensor:
    """Return the squared error (x̂ − x)² of each sample."""
    return (x_hat - x) ** 2


@dataclass(frozen=True)
class ScalarCode:
    """A transform code with one latent, from its source to its loss.

        x ~ source ─► y = gain · x ─┬─ rate path ───────► bits under N(μ, σ²), integrated over a bin
                                    └─ distortion path ─► x̂ = step · ỹ
        ℓ = rate + λ · distortion

    By default, the scale and the step are derived from the gain: gain · std of the source, and 1/gain. They then stay
    fixed if the gain changes (`dataclasses.replace`), which the gradient of an encoder requires.

    Attributes:
        source: Distribution of x; see `labkit.analysis.sources`.
        gain: Gain of the encoder, greater than 0.
        lmbda: Weight λ of the distortion.
        mean: Mean μ of the entropy model.
        scale: Scale σ of the entropy model, greater than 0.
        step: Step of the decoder, greater than 0.
        zero_center: Test-time rounding. True rounds around μ, ŷ = ⌊y − μ⌉ + μ, as coding does. False rounds y itself,
            which no coder does, so the result is only an estimate.
        rate: Function of (y, mean, scale) that returns one value per sample, in bits. It takes and returns float64
            tensors and is smooth in y. With the expected gradients of additive noise, it must depend on y and mean only
            through y − mean.
        distortion: Function of (x_hat, x) that returns one value per sample. It takes and returns float64 tensors and
            is smooth in x̂.

    Raises:
        ValueError: If a field is out of range.

    Example:
        >>> import labkit as lk
        >>> code = lk.analysis.ScalarCode(lk.analysis.sources.gaussian(), gain=0.5)
        >>> round(lk.analysis.test_loss(code).total, 4)
        3.2237
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
                    f"source must be a frozen continuous distribution, got {self.source!r} without the method {method}"
                )
        if self.gain is not None and self.gain > 0:
            defaults = {"scale": lambda: self.gain * float(self.source.std()), "step": lambda: 1 / self.gain}
            for name, value in defaults.items():
                if getattr(self, name) is None:
                    object.__setattr__(self, name, value())
        for name in ("gain", "scale", "step"):
            if not (getattr(self, name) > 0 and math.isfinite(getattr(self, name))):
                raise ValueError(f"{name} must be a positive number, got {getattr(self, name)!r}")
        for name in ("lmbda", "mean"):
            if not math.isfinite(getattr(self, name)):
                raise ValueError(f"{name} must be a finite number, got {getattr(self, name)!r}")

    def __repr__(self) -> str:
        fields = ("gain", "lmbda", "mean", "scale", "step")
        return f"ScalarCode({', '.join(f'{name}={getattr(self, name):g}' for name in fields)})"

    @property
    def center(self) -> float:
        """Center c of test-time rounding, ŷ = ⌊y − c⌉ + c: the mean μ, or 0 without `zero_center`."""
        return self.mean if self.zero_center else 0.0

    def training_losses(
        self,
        scheme: QuantizationScheme,
        x: Array,
        noise: Noise,
        temperature: float,
        parameter: str | None = None,
        paths: tuple[str, ...] = PATHS[:2],
        shift: float | Array = 0.0,
    ) -> tuple[Array, Array, Array]:
        """Return the losses of samples in training, and the gradient from back-propagation.

        Args:
            scheme: Scheme of the training.
            x: Samples of the source, of shape (n,).
            noise: Noise of the rate path and of the distortion path, as returned by `scheme.draw`.
            temperature: Temperature τ of the surrogates.
            parameter: Parameter of the gradient: one of `PARAMETERS`, or "shift" for the derivative with respect to
                the latent itself. None gives a gradient of 0.
            paths: Paths that contribute to the loss; the other path contributes 0.
            shift: Number, or values of shape (n,), that is added to the latents but not to the data.

        Returns:
            Rate in bits, distortion, and ∂ℓ/∂parameter, each of shape (n,).
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
            rate = self._training_rate(y_rate, y, theta, scheme.rate.expected_rate_gradient)
        if "distortion" in paths:
            y_distortion = scheme.quantize_distortion(y, theta["mean"], temperature, noise)
            distortion = self.distortion(theta["step"] * y_distortion, data)
        gradient = self._gradient(rate + self.lmbda * distortion, theta, parameter)
        return rate.detach().numpy(), distortion.detach().numpy(), gradient

    def _training_rate(self, y_rate: Tensor, y: Tensor, theta: dict[str, Tensor], expected: bool) -> Tensor:
        mean, scale = theta["mean"], theta["scale"]
        if not expected:
            return self.rate(y_rate, mean, scale)
        with torch.no_grad():
            slope = self.rate(y + 0.5, mean, scale) - self.rate(y - 0.5, mean, scale)
        return self.rate(y_rate.detach(), mean.detach(), scale) + with_slope(torch.zeros_like(y), y - mean, slope)

    def test_losses(
        self, x: Array, symbols: Array | None = None, parameter: str | None = None
    ) -> tuple[Array, Array, Array]:
        """Return the losses of samples with real rounding, and the gradient of the losses at fixed symbols.

        Args:
            x: Samples of the source, of shape (n,).
            symbols: Integers k in ŷ = k + c, of shape (n,). By default, the symbols of x.
            parameter: Parameter of the gradient, one of `PARAMETERS`. None gives a gradient of 0.

        Returns:
            Rate in bits, distortion, and ∂ℓ/∂parameter at fixed symbols, each of shape (n,).
        """
        data = torch.as_tensor(x, dtype=torch.float64)
        theta = self._parameters(data, parameter)
        k = torch.as_tensor(self.symbols(x) if symbols is None else symbols, dtype=torch.float64)
        y_hat = k + theta["mean"] if self.zero_center else k
        rate = self.rate(y_hat, theta["mean"], theta["scale"])
        distortion = self.distortion(theta["step"] * y_hat, data)
        gradient = self._gradient(rate + self.lmbda * distortion, theta, parameter)
        return rate.detach().numpy(), distortion.detach().numpy(), gradient

    def symbols(self, x: Array) -> Array:
        """Return the integers ⌊gain · x − c⌉ that are coded for samples x, as floats of the same shape."""
        return np.round(self.gain * np.asarray(x) - self.center)

    def boundaries(self) -> tuple[Array, Array]:
        """Return the decision boundaries within the source's support, and the symbol below each boundary.

        Returns:
            Values x with gain · x − c = k + ½, and the symbols k.

        Raises:
            ValueError: If the source spans more than 4096 bins.
        """
        low, high = (self.gain * end - self.center for end in quadrature.support(self.source))
        if not high - low < quadrature.MAX_BINS:
            bins = f"{high - low:.0f}" if math.isfinite(high - low) else "infinitely many"
            raise ValueError(
                f"source spans {bins} bins and quadrature takes at most {quadrature.MAX_BINS}; use Monte Carlo"
            )
        k = np.arange(math.ceil(low - 0.5), math.floor(high - 0.5) + 1, dtype=np.float64)
        return (k + 0.5 + self.center) / self.gain, k

    def nodes(self, temperature: float, centers: tuple[float, ...] = ()) -> tuple[Array, Array]:
        """Return quadrature nodes and weights for expectations over the source.

        Each piece of the quadrature lies between the points where rounding or a surrogate changes its formula.

        Args:
            temperature: Temperature τ of the surrogates.
            centers: Centers c around which training quantizes.

        Returns:
            Nodes x and weights such that E f(x) = Σ weights · f(x).
        """
        boundaries, _ = self.boundaries()
        cuts = [boundaries]
        low, high = (self.gain * end for end in quadrature.support(self.source))
        for center in centers:
            bins = np.arange(math.floor(low - center), math.ceil(high - center) + 1)
            cuts.append(((bins[:, None] + quadrature.bin_cuts(temperature)).ravel() + center) / self.gain)
        return quadrature.source_nodes(self.source, np.concatenate(cuts))

    def _parameters(self, like: Tensor, parameter: str | None) -> dict[str, Tensor]:
        """Return a copy of each parameter per sample, so that a single backward pass gives every sample's gradient."""
        theta = {name: torch.full_like(like, getattr(self, name)) for name in PARAMETERS}
        if parameter in theta:
            theta[parameter].requires_grad_()
        return theta

    @staticmethod
    def _gradient(loss: Tensor, theta: dict[str, Tensor], parameter: str | None) -> Array:
        if parameter is None or not loss.requires_grad:
            return np.zeros(loss.shape)
        (gradient,) = torch.autograd.grad(loss.sum(), theta[parameter], allow_unused=True)
        return np.zeros(loss.shape) if gradient is None else gradient.numpy()


def check_parameter(parameter: str) -> str:
    """Check the name of a parameter and return it.

    Raises:
        ValueError: If the name is not one of `PARAMETERS`.
    """
    if parameter not in PARAMETERS:
        raise ValueError(f"parameter must be one of {', '.join(PARAMETERS)}, got {parameter!r}")
    return parameter


class CodeLoss(NamedTuple):
    """Mean loss of a code.

    Attributes:
        total: rate + λ · distortion.
        rate: Rate in bits.
        distortion: Squared error, unless the code has its own distortion.
    """

    total: float
    rate: float
    distortion: float


def test_loss(code: ScalarCode) -> CodeLoss:
    """Return the mean loss E ℓ(ŷ, x) with real rounding, by quadrature between the decision boundaries.

    Args:
        code: Code of one latent.
    """
    x, weight = code.nodes(1.0)
    rate, distortion = (float(weight @ losses) for losses in code.test_losses(x)[:2])
    return CodeLoss(rate + code.lmbda * distortion, rate, distortion)


def exact_gradient(code: ScalarCode, parameter: str = "gain") -> float:
    """Return the gradient of the test loss, which back-propagation cannot see because of the rounding.

    Let x_k be the roots of f = k + ½ with f(x) = gain · x − c, let p be the density of the source, and let ℓ(k, x) be
    the loss of symbol k. The gradient is

        Σ_k p(x_k)/|f′(x_k)| · (ℓ(k + 1, x_k) − ℓ(k, x_k)) · ∂f/∂θ(x_k)  +  E[∂ℓ/∂θ at fixed symbol].

    The first part comes from samples that cross a decision boundary. In the second part, ŷ = k + c moves with μ. The
    formula is labkit's own application of Leibniz's rule for an integral with moving limits. If the density jumps
    exactly at a boundary, the gradient is undefined.

    Args:
        code: Code of one latent.
        parameter: "gain", "mean", "scale" or "step".

    Raises:
        ValueError: If the parameter is unknown, or if the source spans more than 4096 bins.
    """
    check_parameter(parameter)
    x, weight = code.nodes(1.0)
    within = weight @ code.test_losses(x, parameter=parameter)[2]
    moved = {"gain": lambda x: x, "mean": lambda x: -float(code.zero_center) * np.ones_like(x)}.get(parameter)
    if moved is None:
        return float(within)  # the scale and the decoder's step do not move any boundary
    roots, k = code.boundaries()
    below, above = (
        rate + code.lmbda * d for rate, d, _ in (code.test_losses(roots, k), code.test_losses(roots, k + 1))
    )
    across = code.source.pdf(roots) / code.gain * (above - below) * moved(roots)
    return float(across.sum() + within)

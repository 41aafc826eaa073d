"""Distributions ("laws") of one latent around its mean, in training and at test, and the rate and error under them.

One latent has y − μ = s · z, where z is a source with mean 0 and standard deviation 1, and s is the latent's scale. A
surrogate acts in the same way in every bin, so its law within one bin (`BinLaw`) is computed only once. The source then
weights this law in all bins, for any scale:

    surrogate, τ ─► BinLaw: ỹ at each phase of the bin ─┐
    source, s ────► probability of each bin and phase ──┴─► Law: ỹ − μ as points and weights ─► rate at any σ
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import torch
from compressai.ops import LowerBound
from torch import Tensor

from labkit import surrogates
from labkit.analysis import quadrature
from labkit.analysis.code import gaussian_bits
from labkit.analysis.sources import Source, gaussian
from labkit.statistics import Array
from labkit.surrogates import Surrogate

LIKELIHOOD_BOUND = 1e-9  # CompressAI's lower bound on likelihoods
_CELLS = 256  # number of cells per bin to which a law is condensed
_RANDOM, _DETERMINISTIC = (512, 256), (1024, 1)  # numbers of phases, and of draws per phase, in the lattice


@dataclass(frozen=True, repr=False)
class Law:
    """Distribution of ỹ − μ as points and weights, such that E f(ỹ − μ) = Σ weights · f(values).

    Attributes:
        values: (n,) points.
        weights: (n,) probabilities, which sum to 1.
    """

    values: Array
    weights: Array

    def __repr__(self) -> str:
        return f"Law({len(self.values)} points from {self.values.min():.3g} to {self.values.max():.3g})"

    def rate(self, scale: Tensor, likelihood_bound: float = LIKELIHOOD_BOUND, scale_bound: float = 0.0) -> Tensor:
        """Return the mean bits under a Gaussian entropy model, with the gradients that CompressAI's bounds define.

        Args:
            scale: (S,) scales σ of the entropy model, float64.
            likelihood_bound: Lower bound on likelihoods; 0 for none.
            scale_bound: Lower bound on σ; 0 for none.

        Returns:
            (S,) rates in bits.
        """
        values, weights = torch.as_tensor(self.values), torch.as_tensor(self.weights)
        rates = []
        for part in scale.split(max(1, 4_000_000 // len(values))):
            # one scale per latent, as in a codec: the bound passes or blocks each latent's own gradient before
            # averaging
            latents = part[:, None].expand(-1, len(values))
            if scale_bound:
                latents = LowerBound(scale_bound).double()(latents)
            bits = gaussian_bits(values, torch.zeros((), dtype=values.dtype), latents)
            if likelihood_bound:
                bits = -torch.log2(LowerBound(likelihood_bound).double()(torch.exp2(-bits)))
            rates.append(bits @ weights)
        return torch.cat(rates)


@dataclass(frozen=True)
class LatentLosses:
    """Rate and distortion of one latent under the Gaussian entropy model that fits it.

    Attributes:
        rate_training: Rate in training, in bits.
        rate_test: Rate at test, in bits.
        distortion_training: E(ỹ − y)², in squared steps.
        distortion_test: E(ŷ − y)², in squared steps.
    """

    rate_training: float
    rate_test: float
    distortion_training: float
    distortion_test: float


@dataclass(frozen=True, repr=False)
class BinLaw:
    """Law of a surrogate's output ỹ for latents in the bin [0, 1). All other bins have the same law.

    Attributes:
        phases: (P,) latents within the bin.
        shares: (P,) quadrature weights over the bin, ∫ f = Σ shares · f(phases).
        index: (M,) index of each output's phase.
        outputs: (M,) outputs ỹ.
        weights: (M,) probability of each output, given its phase.
    """

    phases: Array
    shares: Array
    index: Array
    outputs: Array
    weights: Array
    _cells: dict[float, _Cells] = field(default_factory=dict, init=False, compare=False)

    def __repr__(self) -> str:
        return f"BinLaw({len(self.phases)} phases, {len(self.outputs)} outputs)"

    @classmethod
    def by_quadrature(cls, surrogate: str | Surrogate, temperature: float = 1.0, marks: Iterable[float] = ()) -> BinLaw:
        """Compute the law by quadrature over the bin and over the draw, to about eight digits.

        Args:
            surrogate: Surrogate or its name.
            temperature: Temperature τ of the surrogate.
            marks: Further phases in [0, 1) where the source has a kink or changes by orders of magnitude.

        Raises:
            ValueError: If the surrogate draws several numbers per latent.
        """
        surrogate = _one_draw(surrogate)
        edges = np.append(quadrature.bin_cuts(temperature), 1.0)
        phases, shares = quadrature.gauss_legendre(np.unique(np.concatenate([edges, np.asarray(marks)])))

        def outputs(index: Array, v: Array | None) -> Array:
            noise = None if v is None else torch.as_tensor(v)
            return surrogate(torch.as_tensor(phases[index]), temperature, noise=noise).numpy()

        index = np.arange(len(phases))
        if not surrogate.random:
            return cls(phases, shares, index, outputs(index, None), np.ones(len(phases)))
        index, v, weights = quadrature.draw_nodes(lambda i, v: outputs(i, v)[:, None], len(phases), temperature)
        return cls(phases, shares, index, outputs(index, v), weights)

    @classmethod
    def on_lattice(cls, surrogate: str | Surrogate, temperature: float = 1.0) -> BinLaw:
        """Compute the law on evenly spaced phases and, for a random surrogate, evenly spaced draws.

        The lattice has 512 phases with 256 draws each, or 1024 phases for a deterministic surrogate. This takes about
        20 ms for any surrogate. Rates under the law are accurate to about 0.3%.

        Args:
            surrogate: Surrogate or its name.
            temperature: Temperature τ of the surrogate.

        Raises:
            ValueError: If the surrogate draws several numbers per latent.
        """
        surrogate = _one_draw(surrogate)
        count, draws = _RANDOM if surrogate.random else _DETERMINISTIC
        phases = (np.arange(count) + 0.5) / count
        index = np.repeat(np.arange(count), draws)
        y, noise = phases[index], None
        if surrogate.random:  # offset the draws of each phase from those of its neighbors
            shift = np.modf(np.arange(count) * (math.sqrt(5) - 1) / 2)[0]
            noise = torch.from_numpy(((np.arange(draws) + shift[:, None]) / draws).ravel())
        outputs = surrogate(torch.from_numpy(y), temperature, noise=noise).numpy()
        return cls(phases, np.full(count, 1 / count), index, outputs, np.full(len(outputs), 1 / draws))

    def law(self, scale: float, source: Source | None = None) -> Law:
        """Return the law of ỹ − μ in all bins, for a surrogate that quantizes y − μ.

        Args:
            scale: Scale s of the latent, greater than 0.
            source: Shape of y − μ, scaled to mean 0 and standard deviation s; Gaussian by default.

        Raises:
            ValueError: If the latent spans more than 4096 bins.
        """
        return self._law(scale, *self._masses(scale, source))

    def losses(self, scale: float) -> LatentLosses:
        """Return the rate and distortion of a Gaussian latent in training and at test; the model has the same scale.

        Args:
            scale: Scale s of the latent, which is also the σ of the entropy model.
        """
        bins, masses = self._masses(scale, None)
        sigma, of_phase = torch.tensor([scale], dtype=torch.float64), masses.sum(0)
        return LatentLosses(
            rate_training=float(self._law(scale, bins, masses).rate(sigma, likelihood_bound=0.0)),
            rate_test=float(test_law(scale).rate(sigma, likelihood_bound=0.0)),
            distortion_training=float(of_phase @ self._squared_errors),
            distortion_test=float(of_phase @ np.minimum(self.phases, 1 - self.phases) ** 2),
        )

    @functools.cached_property
    def _squared_errors(self) -> Array:
        """E(ỹ − y)² at each phase."""
        squares = (self.outputs - self.phases[self.index]) ** 2
        return np.bincount(self.index, self.weights * squares, len(self.phases))

    def _law(self, scale: float, bins: Array, masses: Array) -> Law:
        width = _cell_width(scale)
        if width not in self._cells:
            self._cells[width] = _Cells.of(self.outputs, self.weights, width, self.index, len(self.phases))
        return self._cells[width].law(bins, masses)

    def _masses(self, scale: float, source: Source | None) -> tuple[Array, Array]:
        """Bins (K,), and the probability of each bin and phase (K, P)."""
        shape = _Shape.of(source)
        low, high = shape.ends(scale)
        if not high - low < quadrature.MAX_BINS:
            raise ValueError(
                f"scale must span at most the {quadrature.MAX_BINS} bins that quadrature takes, got {scale!r}"
            )
        bins = np.arange(math.floor(low), math.ceil(high))
        density = shape.source.pdf(shape.mean + shape.std / scale * (bins[:, None] + self.phases))
        weight = density * self.shares * shape.std / scale
        return bins, weight / weight.sum()


def training_law(
    scale: float,
    surrogate: str | Surrogate = "aun",
    temperature: float = 1.0,
    *,
    source: Source | None = None,
    zero_center: bool = True,
) -> Law:
    """Return the law of ỹ − μ that is scored in training, by quadrature.

    Without zero-center, the surrogate quantizes y itself, and μ may be anywhere. The law is then the mean over a
    uniform μ mod 1. In this case, ỹ − μ = (y − μ) + e, and the surrogate's error e depends only on y mod 1, which is
    uniform for every value of y − μ.

    Args:
        scale: True scale s of the latent, greater than 0.
        surrogate: Surrogate or its name.
        temperature: Temperature τ of the surrogate.
        source: Shape of y − μ, scaled to mean 0 and standard deviation s; Gaussian by default.
        zero_center: Whether the surrogate quantizes y − μ (True) or y itself (False).

    Raises:
        ValueError: If the scale is not positive or spans more than 4096 bins, or if the surrogate draws several
            numbers per latent.
    """
    (scale,) = positive_list("scale", scale)
    if not zero_center:
        bin_law = BinLaw.by_quadrature(surrogate, temperature)
        errors = bin_law.outputs - bin_law.phases[bin_law.index]
        weights = bin_law.shares[bin_law.index] * bin_law.weights
        return _add(_Cells.of(errors, weights, _cell_width(scale)).law(), source, scale)
    shape = _Shape.of(source)
    marks = np.mod(scale * (quadrature.marks(shape.source) - shape.mean) / shape.std, 1)
    return BinLaw.by_quadrature(surrogate, temperature, marks).law(scale, source)


def test_law(scale: float, *, source: Source | None = None, zero_center: bool = True) -> Law:
    """Return the law of ŷ − μ at test.

    Args:
        scale: True scale s of the latent.
        source: Shape of y − μ, scaled to mean 0 and standard deviation s; Gaussian by default.
        zero_center: True rounds as coding does, ŷ = ⌊y − μ⌉ + μ. False rounds y itself, ŷ = ⌊y⌉, which no coder does,
            so the result is only an estimate.
    """
    if not zero_center:
        return _add(Law(*quadrature.gauss_legendre(np.linspace(-0.5, 0.5, 33))), source, scale)
    shape = _Shape.of(source)
    low, high = shape.ends(scale)
    k = np.arange(math.floor(low), math.ceil(high) + 1.0)
    edges = shape.source.cdf(shape.mean + shape.std / scale * np.append(k - 0.5, k[-1] + 0.5))
    return Law(k, np.diff(edges))


def positive_list(name: str, values: float | Iterable[float]) -> list[float]:
    """Return a positive number, or several of them, as a list.

    Raises:
        ValueError: If the list is empty, or if a number is not positive and finite.
    """
    numbers = [float(v) for v in (values if isinstance(values, Iterable) else [values])]
    if not numbers or not all(v > 0 and math.isfinite(v) for v in numbers):
        raise ValueError(f"{name} must be positive numbers, at least one, got {values!r}")
    return numbers


class _Shape(NamedTuple):
    """A source with its mean, its standard deviation, and the ends of its support."""

    source: Source
    mean: float
    std: float
    low: float
    high: float

    @classmethod
    def of(cls, source: Source | None) -> _Shape:
        """Return the shape of a source. None means the standard normal distribution."""
        return _standard_normal() if source is None else cls._measured(source)

    @classmethod
    def _measured(cls, source: Source) -> _Shape:
        x, weight = quadrature.source_nodes(source)
        mean = float(weight @ x)
        return cls(source, mean, math.sqrt(weight @ (x - mean) ** 2), *quadrature.support(source))

    def ends(self, scale: float) -> tuple[float, float]:
        """Return the ends of the support of y − μ at this scale."""
        return scale * (self.low - self.mean) / self.std, scale * (self.high - self.mean) / self.std


@functools.cache
def _standard_normal() -> _Shape:
    return _Shape._measured(gaussian())


@dataclass(frozen=True)
class _Cells:
    """Weight, first and second moment of the values in each cell, for each phase. A law has two points per cell."""

    width: float
    cells: Array  # (C,) numbers of the cells
    moments: tuple[Array, ...]  # three of (P, C)

    @classmethod
    def of(cls, values: Array, weights: Array, width: float, index: Array | int = 0, phases: int = 1) -> _Cells:
        nearest = np.round(values / width)
        place = (nearest - nearest.min()).astype(np.int64)
        occupied = np.bincount(place) > 0
        cells, where = nearest.min() + np.flatnonzero(occupied), (np.cumsum(occupied) - 1)[place]
        offset = values - width * nearest  # the squares of small numbers keep their accuracy
        shape = (phases, len(cells))
        flat = index * shape[1] + where
        return cls(
            width,
            cells,
            tuple(np.bincount(flat, weights * offset**power, shape[0] * shape[1]).reshape(shape) for power in range(3)),
        )

    def law(self, bins: Array | None = None, masses: Array | None = None) -> Law:
        """Return the law of bins[b] + values under masses (bins, phases); two points have the moments of a cell."""
        bins, masses = (np.zeros(1), np.ones((1, 1))) if bins is None or masses is None else (bins, masses)
        weight, first, second = (masses @ moment for moment in self.moments)
        occupied = weight > 0
        mean = first[occupied] / weight[occupied]
        reach = np.sqrt(np.maximum(second[occupied] / weight[occupied] - mean**2, 0))
        center, weight = (bins[:, None] + self.width * self.cells)[occupied] + mean, weight[occupied]
        wide = reach > 1e-9
        points = np.concatenate([center[~wide], (center - reach)[wide], (center + reach)[wide]])
        return Law(points, np.concatenate([weight[~wide], weight[wide] / 2, weight[wide] / 2]))


def _cell_width(scale: float) -> float:
    """Return the width of a cell: a power of two, so several scales share it and histograms with it are smooth."""
    return 2.0 ** math.floor(math.log2(min(max(scale, 1), 8))) / _CELLS


def _add(error: Law, source: Source | None, scale: float) -> Law:
    """Return the law of y − μ plus an independent error."""
    shape = _Shape.of(source)
    x, weight = quadrature.source_nodes(shape.source)
    y = scale * (x - shape.mean) / shape.std
    values, weights = (error.values[:, None] + y).ravel(), (error.weights[:, None] * weight).ravel()
    return _Cells.of(values, weights, _cell_width(scale)).law()


def _one_draw(surrogate: str | Surrogate) -> Surrogate:
    surrogate = surrogates.get(surrogate) if isinstance(surrogate, str) else surrogate
    if surrogate.random and surrogate.noise_shape(torch.zeros(2)) != (2,):
        raise ValueError(f"surrogate must draw one number per latent for quadrature, got {surrogate!r}")
    return surrogate

"""Scalar sources: SciPy's continuous distributions, parametrized by mean and standard deviation."""

from __future__ import annotations

import math
from typing import Any, Protocol

import numpy as np
from scipy import stats


class Source(Protocol):
    """What the laboratory asks of a source: any frozen continuous distribution of `scipy.stats` has it.

    A source may also have `edges`, the points where its density is not smooth; quadrature then keeps clear of them.
    """

    def pdf(self, x: Any, /) -> Any: ...
    def cdf(self, x: Any, /) -> Any: ...
    def ppf(self, q: Any, /) -> Any: ...
    def std(self) -> Any: ...
    def rvs(self, *, size: int, random_state: Any) -> Any: ...


def gaussian(mean: float = 0.0, std: float = 1.0) -> Source:
    """The normal distribution of this mean and standard deviation."""
    return stats.norm(mean, _positive("std", std))


def laplace(mean: float = 0.0, std: float = 1.0) -> Source:
    """The Laplace distribution of this mean and standard deviation (not SciPy's scale, which is std/√2)."""
    return stats.laplace(mean, _positive("std", std) / math.sqrt(2))


def generalized_gaussian(shape: float, mean: float = 0.0, std: float = 1.0) -> Source:
    """Density ∝ exp(−|x/a|^shape), a such that the standard deviation is std; shape 2 is Gaussian, 1 Laplace."""
    unit = stats.gennorm(_positive("shape", shape)).std()
    return stats.gennorm(shape, mean, _positive("std", std) / unit)


def uniform(mean: float = 0.0, std: float = 1.0) -> Source:
    """The uniform distribution of this mean and standard deviation, on mean ± √3 std."""
    half = math.sqrt(3) * _positive("std", std)
    return stats.uniform(mean - half, 2 * half)


class _Histogram(stats.rv_histogram):
    edges: np.ndarray


def empirical(samples: Any, bins: int | str = "auto") -> Source:
    """The histogram of samples, any array or tensor, flattened: mean and standard deviation are the histogram's own.

    bins: their number, or one of NumPy's rules for it. Raises ValueError for fewer than two distinct finite samples.
    """
    values = np.asarray(samples, dtype=np.float64).ravel()
    if not np.isfinite(values).all() or np.unique(values[:1000]).size < 2:
        raise ValueError(f"samples: takes finite numbers, at least two of them distinct, got {values.size} values")
    density, edges = np.histogram(values, bins=bins, density=True)
    source = _Histogram((density, edges), density=True)
    source.edges = edges
    return source


def _positive(name: str, value: float) -> float:
    if not (value > 0 and math.isfinite(value)):
        raise ValueError(f"{name}: takes a positive number, got {value!r}")
    return float(value)

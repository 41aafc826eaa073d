"""Scalar sources: SciPy's continuous distributions, parametrized by mean and standard deviation."""

from __future__ import annotations

import math
from typing import Any, Protocol, cast

import numpy as np
from scipy import stats

from labkit.checks import check_positive
from labkit.statistics import Array


class Source(Protocol):
    """The methods that a source needs. Every frozen continuous distribution of `scipy.stats` has them.

    A source may also have an attribute `edges`: the points where its density has a jump or a kink. Quadrature then
    never integrates across one of them.
    """

    def pdf(self, x: Any, /) -> Any:
        """Return the probability density at x."""

    def cdf(self, x: Any, /) -> Any:
        """Return the probability of values up to x."""

    def ppf(self, q: Any, /) -> Any:
        """Return the quantile of probability q, the inverse of `cdf`."""

    def std(self) -> Any:
        """Return the standard deviation."""

    def rvs(self, *, size: int, random_state: Any) -> Any:
        """Draw `size` samples."""


def gaussian(mean: float = 0.0, std: float = 1.0) -> Source:
    """Return a normal distribution.

    Args:
        mean: Mean.
        std: Standard deviation, greater than 0.

    Raises:
        ValueError: If std is not a positive number.
    """
    check_positive(std=std)
    return cast(Source, stats.norm(mean, float(std)))


def laplace(mean: float = 0.0, std: float = 1.0) -> Source:
    """Return a Laplace distribution.

    Args:
        mean: Mean.
        std: Standard deviation, greater than 0. SciPy's own scale parameter is std/√2.

    Raises:
        ValueError: If std is not a positive number.
    """
    check_positive(std=std)
    return cast(Source, stats.laplace(mean, float(std) / math.sqrt(2)))


def generalized_gaussian(shape: float, mean: float = 0.0, std: float = 1.0) -> Source:
    """Return a generalized Gaussian distribution with density ∝ exp(−|(x − mean)/a|^shape).

    The scale a follows from the standard deviation.

    Args:
        shape: Exponent, greater than 0: 2 gives a Gaussian and 1 a Laplace distribution.
        mean: Mean.
        std: Standard deviation, greater than 0.

    Raises:
        ValueError: If shape or std is not a positive number.
    """
    check_positive(shape=shape, std=std)
    unit = stats.gennorm(float(shape)).std()
    return cast(Source, stats.gennorm(shape, mean, float(std) / unit))


def uniform(mean: float = 0.0, std: float = 1.0) -> Source:
    """Return the uniform distribution on mean ± √3 · std.

    Args:
        mean: Mean.
        std: Standard deviation, greater than 0.

    Raises:
        ValueError: If std is not a positive number.
    """
    check_positive(std=std)
    half = math.sqrt(3) * float(std)
    return cast(Source, stats.uniform(mean - half, 2 * half))


class _Histogram(stats.rv_histogram):
    edges: Array


def empirical(samples: Any, bins: int | str = "auto") -> Source:
    """Return the histogram of samples as a distribution, with the histogram's own mean and standard deviation.

    Args:
        samples: Array or tensor of any shape, which is flattened.
        bins: Number of bins, or the name of one of NumPy's rules for choosing it.

    Raises:
        ValueError: If a sample is not finite, or if the first 1,000 samples are all equal.
    """
    values = np.asarray(samples, dtype=np.float64).ravel()
    if not np.isfinite(values).all() or np.unique(values[:1000]).size < 2:
        raise ValueError(f"samples must be finite numbers, at least two of them distinct; got {values.size} values")
    density, edges = np.histogram(values, bins=bins, density=True)
    source = _Histogram((density, edges), density=True)
    source.edges = edges
    return cast(Source, source)

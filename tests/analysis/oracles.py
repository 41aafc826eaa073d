"""Reference formulas in NumPy and SciPy for the bits and the rates of a Gaussian latent."""

from __future__ import annotations

import itertools

import numpy as np
from scipy import integrate, special

LIKELIHOOD_BOUND = 1e-9  # CompressAI's lower bound on likelihoods


def bits(distance, sigma, likelihood_bound=0.0):
    """Return −log₂ of the probability that N(0, σ²) has in the unit bin centered at `distance`."""
    a, b = (np.abs(distance) - 0.5) / sigma, (np.abs(distance) + 0.5) / sigma
    return -np.log2(np.maximum(special.ndtr(-a) - special.ndtr(-b), likelihood_bound))


def bounded_bits(distance, sigma):
    """Return `bits` with CompressAI's lower bound on the likelihood."""
    return bits(distance, sigma, LIKELIHOOD_BOUND)


def noisy_rate(s, sigma, cdf=special.ndtr):
    """Return the rate with additive noise, where y − μ + u has the density F((t + ½)/s) − F((t − ½)/s)."""
    end = 0.5 + 12 * s
    cuts = sorted({-end, -0.5 - 2 * s, -0.5, -0.5 + 2 * s, 0, 0.5 - 2 * s, 0.5, 0.5 + 2 * s, end})

    def density(t):
        return cdf((t + 0.5) / s) - cdf((t - 0.5) / s)

    pieces = itertools.pairwise(cuts)
    return sum(integrate.quad(lambda t: density(t) * bounded_bits(t, sigma), a, b, limit=200)[0] for a, b in pieces)


def rounded_rate(s, sigma, cdf=special.ndtr):
    """Return the rate of the rounded y − μ, which is a sum over integers."""
    k = np.arange(-60, 61)
    return float((cdf((k + 0.5) / s) - cdf((k - 0.5) / s)) @ bounded_bits(k, sigma))

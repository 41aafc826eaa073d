"""Reference codes: the lowest loss that quantization with ideal entropy coding is known to reach for a source.

    source ─► scalar_quantizer    the best scalar quantizer, by dynamic programming
    points ─► vector_quantizer    entropy-coded vector quantization (ECVQ), a local optimum

Both minimize −log₂ p + λ · squared distance, where p is the probability of the codeword.
"""

from __future__ import annotations

import functools
import json
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.spatial import cKDTree

from labkit.analysis import quadrature
from labkit.analysis.code import CodeLoss
from labkit.analysis.sources import Source
from labkit.checks import check_at_least, check_name, check_positive
from labkit.paths import data
from labkit.statistics import Array

STORED = "toy-ecvq.json"  # in data/results, written by tests/bench/ecvq.py

_GRID = 4096  # number of pieces of the source, from which dynamic programming forms cells
_REACHES, _STEPS = (2.0, 0.25), 16  # the search is repeated this close to the boundaries, on finer pieces
_NEVER = 1e-12  # cells with a lower probability have no codeword
_FEW, _BEST = 1 << 14, 3  # number of points for comparing the starts, and number of starts that then see all points
_ENOUGH, _MOST = 3e-6, 300  # smallest gain in bits at which the iteration continues, and largest number of iterations


@dataclass(frozen=True, repr=False)
class Quantizer:
    """Codewords with ideal entropy coding.

    Attributes:
        lmbda: Weight λ of the squared distance.
        codewords: (k, d) codewords.
        probabilities: (k,) probability p of each codeword, which costs −log₂ p bits.
        loss: Loss on the source or the points that the quantizer was designed for.
    """

    lmbda: float
    codewords: Array
    probabilities: Array
    loss: CodeLoss

    def __repr__(self) -> str:
        return f"Quantizer({len(self.codewords)} codewords, λ={self.lmbda:g}, loss={self.loss.total:.4g})"

    def encode(self, points: Array) -> Array:
        """Return the index of the codeword with the lowest loss for each of (n, d) points."""
        return _nearest(points, self.codewords, -np.log2(self.probabilities), self.lmbda)[0]

    def loss_on(self, points: Array) -> CodeLoss:
        """Return the mean loss of (n, d) points, such as points held out from the design."""
        index = self.encode(points)
        rate = -float(np.log2(self.probabilities[index]).mean())
        distortion = float(((points - self.codewords[index]) ** 2).sum(1).mean())
        return CodeLoss(rate + self.lmbda * distortion, rate, distortion)


def scalar_quantizer(source: Source, lmbda: float) -> Quantizer:
    """Return the entropy-coded scalar quantizer with the lowest loss, to within 10⁻⁵ for λ up to 200.

    The search considers all cells that are intervals, of any length and number. The loss is a sum over cells, so
    dynamic programming over fine pieces of the source finds the global optimum. Sources: Chou, Lookabaugh & Gray, 1989,
    https://doi.org/10.1109/29.17498, for the loss; Bruce, 1965, for dynamic programming.

    Args:
        source: Distribution of the numbers; see `labkit.analysis.sources`.
        lmbda: Weight λ of the squared error.

    Example:
        >>> import labkit as lk
        >>> reference = lk.analysis.reference_codes.scalar_quantizer(lk.analysis.sources.gaussian(), 6.0)
        >>> reference
        Quantizer(10 codewords, λ=6, loss=2.504)
    """
    check_positive(lmbda=lmbda)
    marks = quadrature.marks(source)
    low, high = marks[:2]
    edges, piece = np.linspace(low, high, _GRID + 1), (high - low) / _GRID
    chosen, *moments = _best_intervals(source, np.union1d(edges, marks), lmbda)
    for reach in _REACHES:
        edges = chosen[:, None] + piece * np.linspace(-reach, reach, 2 * _STEPS + 1)
        chosen, *moments = _best_intervals(source, np.union1d(edges.clip(low, high), marks), lmbda)
    p, first, second = moments
    rate = -float(p @ np.log2(p))
    distortion = float((second - first**2 / p).sum())
    return Quantizer(lmbda, (first / p)[:, None], p, CodeLoss(rate + lmbda * distortion, rate, distortion))


def _best_intervals(source: Source, edges: Array, lmbda: float) -> tuple[Array, Array, Array, Array]:
    """Return the boundaries of the best cells, including both ends, and three moments of the source in each cell."""
    x, weight = quadrature.gauss_legendre(edges)
    weight = weight * source.pdf(x)
    weight /= weight.sum()
    pieces = [(weight * x**power).reshape(len(edges) - 1, -1).sum(1) for power in range(3)]
    sums = [np.concatenate([[0.0], np.cumsum(piece)]) for piece in pieces]
    best, before = np.zeros(len(edges)), np.zeros(len(edges), np.int64)
    for j in range(1, len(edges)):
        p, first, second = (each[j] - each[:j] for each in sums)
        p = p.clip(np.finfo(float).tiny)
        loss = best[:j] - p * np.log2(p) + lmbda * (second - first**2 / p)
        before[j] = loss.argmin()
        best[j] = loss[before[j]]
    path = [len(edges) - 1]
    while path[-1]:
        path.append(before[path[-1]])
    chosen = np.array(path[::-1])
    moments = np.diff([each[chosen] for each in sums])
    p, first, second = moments[:, moments[0] > _NEVER]
    return edges[chosen], p, first, second


def vector_quantizer(
    points: Array, lmbda: float, *, codewords: int = 256, starts: int = 24, seed: int = 0
) -> Quantizer:
    """Design a vector quantizer by entropy-coded vector quantization (ECVQ), for points in few dimensions.

    The algorithm alternates between choosing the best codeword for each point, and choosing the best codewords and bits
    for this assignment. Codewords that no point uses are dropped. The loss never rises and ends in a local optimum, so
    the best of many starts is an upper bound on the lowest possible loss. The starts also differ in their number of
    codewords, because a start with too many codewords seldom loses enough of them. Source: Chou, Lookabaugh & Gray,
    1989, https://doi.org/10.1109/29.17498.

    Args:
        points: (n, d) samples of the source. A codeword costs about (d + 1)/(2 n ln 2) bits on held-out points.
        lmbda: Weight λ of the squared distance.
        codewords: Largest number of codewords at the start, which are points drawn at random.
        starts: Number of starts.
        seed: Seed of the starts.
    """
    check_positive(lmbda=lmbda)
    check_at_least(1, codewords=codewords, starts=starts)
    points = np.asarray(points, np.float64)
    rng = np.random.default_rng(seed)
    few, found = points[:_FEW], []
    for count in np.geomspace(min(3, codewords), codewords, starts).round().astype(int):
        drawn = rng.choice(few, min(count, len(few)), replace=False)
        found.append(_lloyd(few, drawn, np.zeros(len(drawn)), lmbda))
    found = sorted(found, key=lambda quantizer: quantizer.loss.total)[:_BEST]
    finished = [_lloyd(points, each.codewords, -np.log2(each.probabilities), lmbda) for each in found]
    return min(finished, key=lambda quantizer: quantizer.loss.total)


def toy_reference(source: str, lmbda: float) -> Quantizer:
    """Return the stored vector quantizer of a toy source. Its loss is measured on points outside the design set.

    Args:
        source: "banana" or "ring", with its default options.
        lmbda: Weight λ of the squared distance, one of the values in `labkit.live.ToyPanel`.

    Raises:
        ValueError: If no quantizer is stored for this source and λ.

    Example:
        >>> import labkit as lk
        >>> lk.analysis.reference_codes.toy_reference("banana", 5.0)
        Quantizer(30 codewords, λ=5, loss=5.144)
    """
    check_name("source", source, _stored())
    stored = _stored()[source].get(f"{lmbda:g}")
    if stored is None:
        raise ValueError(f"lmbda must be one of {', '.join(_stored()[source])}, got {lmbda!r}")
    codewords, probabilities = (np.array(stored[name]) for name in ("codewords", "probabilities"))
    return Quantizer(lmbda, codewords, probabilities, CodeLoss(*stored["loss"]))


@functools.cache
def _stored() -> dict[str, Any]:
    stored: dict[str, Any] = json.loads((data() / "results" / STORED).read_text("utf-8"))
    return stored


def _lloyd(points: Array, codewords: Array, bits: Array, lmbda: float) -> Quantizer:
    last = math.inf
    for _ in range(_MOST):
        index, _ = _nearest(points, codewords, bits, lmbda)
        used, index, counts = np.unique(index, return_inverse=True, return_counts=True)
        sums = [np.bincount(index, column, len(used)) for column in points.T]
        codewords, bits = np.stack(sums, 1) / counts[:, None], -np.log2(counts / len(points))
        rate = float(counts @ bits) / len(points)
        distortion = float(((points - codewords[index]) ** 2).sum(1).mean())
        total = rate + lmbda * distortion
        if last - total < _ENOUGH:
            break
        last = total
    return Quantizer(lmbda, codewords, 2.0**-bits, CodeLoss(total, rate, distortion))


def _nearest(points: Array, codewords: Array, bits: Array, lmbda: float) -> tuple[Array, Array]:
    """Return the codeword with the lowest bits + λ · squared distance for each point, and this loss.

    The bits become a further coordinate, which is 0 for all points, so that a search tree can find the codeword.
    """
    least = bits.min()
    tree = cKDTree(np.column_stack([codewords, np.sqrt((bits - least) / lmbda)]))
    distance, index = tree.query(np.column_stack([points, np.zeros(len(points))]))
    return index, least + lmbda * distance**2

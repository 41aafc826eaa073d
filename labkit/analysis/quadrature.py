"""Gauss–Legendre quadrature over a source and over a surrogate's uniform draw, between the points where they jump.

Quantization is piecewise smooth, and Gauss–Legendre quadrature is exact up to rounding on each smooth piece. For the
source, the cuts are known: they are the points where rounding and the surrogates change their formula. For the draw v,
the cuts depend on the latent, and `draw_nodes` searches for them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from labkit.analysis.sources import Source
from labkit.statistics import Array

TAIL = 1e-13  # probability that is omitted at each end of a source
MAX_BINS = 4096  # a source that spans more quantization bins requires Monte Carlo
_ORDER_SOURCE, _ORDER_DRAW = 10, 8
_CHANGE = 0.1  # pieces of the draw are cut until ỹ and its slope change by less than this on each piece
_BELOW_ONE = 1 - 2.0**-53
_QUANTILES = np.array([1e-10, 1e-7, 1e-5, 1e-3, 1e-2, 0.05, 0.15, 0.3])


def gauss_legendre(edges: Array, order: int = _ORDER_SOURCE) -> tuple[Array, Array]:
    """Return the nodes and weights of Gauss–Legendre quadrature on every piece between sorted edges.

    Args:
        edges: (n,) sorted edges of the pieces.
        order: Number of nodes per piece.

    Returns:
        Nodes and weights, each of shape ((n − 1) · order,).
    """
    unit, weight = _rule(order)
    low, length = edges[:-1, None], np.diff(edges)[:, None]
    return (low + length * unit).ravel(), (length * weight).ravel()


def source_nodes(source: Source, cuts: Sequence[float] | Array = ()) -> tuple[Array, Array]:
    """Return nodes x and weights such that E f(x) = Σ weights · f(nodes), if f is smooth between the cuts.

    The weights contain the density of the source.

    Args:
        source: Distribution of x.
        cuts: Points where f has a jump or a kink.

    Raises:
        ValueError: If the density does not integrate to 1 on the nodes, to within 10⁻⁶.
    """
    edges = np.concatenate([marks(source), cuts])
    edges = np.unique(edges[(edges >= edges[0]) & (edges <= edges[1])])
    x, weight = gauss_legendre(edges)
    weight = weight * source.pdf(x)
    if not abs(weight.sum() - 1) < 1e-6:
        raise ValueError(f"source must have a density that quadrature integrates to 1, got {weight.sum():.8g}")
    return x, weight


def marks(source: Source) -> Array:
    """Return both ends of a source, and points between which its density is smooth and of one order of magnitude."""
    low, high = support(source)
    median, spread = source.ppf(0.5), source.ppf(0.75) - source.ppf(0.25)
    graded = spread * np.concatenate([-(0.1 ** np.arange(1, 7)), [0], 0.1 ** np.arange(1, 7)])  # around a cusp
    inner = [median + graded, source.ppf(_QUANTILES), source.ppf(1 - _QUANTILES), getattr(source, "edges", ())]
    points: Array = np.concatenate([[low, high], *inner])
    return points


def distance_to_ends(x: Array) -> Array:
    """Return the distance of each node of `source_nodes` to the nearer end of its piece.

    A finite difference at a node can use steps up to this distance without leaving the piece.
    """
    unit, _ = _rule(_ORDER_SOURCE)
    length = np.diff(x.reshape(-1, _ORDER_SOURCE)[:, [0, -1]]) / (unit[-1] - unit[0])
    distance: Array = (length * np.minimum(unit, 1 - unit)).ravel()
    return distance


def support(source: Source) -> tuple[float, float]:
    """Return the interval that contains the source except for a probability of 10⁻¹³ at each end."""
    return float(source.ppf(TAIL)), float(source.ppf(1 - TAIL))


def bin_cuts(temperature: float) -> Array:
    """Return the points within one bin [0, 1) where surrogates change their formula at this temperature.

    The points are 0, ½, and ½ ± multiples of τ, where uniform noise begins and ends and where soft rounding has kinks.
    Further points approach the integers, down to a distance of 10⁻⁵, because surrogates with logarithms have a singular
    slope there.
    """
    steps = temperature * 2.0 ** np.arange(-1, 5)
    graded = 0.1 ** np.arange(1, 8)
    cuts: Array = np.unique(np.mod(np.concatenate([[0, 0.5], 0.5 - steps, 0.5 + steps, graded, -graded]), 1))
    return cuts


def draw_nodes(
    law: Callable[[Array, Array], Array], count: int, temperature: float = 1.0
) -> tuple[Array, Array, Array]:
    """Return quadrature nodes of E f(v) for each latent, where v is uniform on [0, 1).

    A piece on which a feature changes by more than 0.1 is cut at the point where the feature crosses the mean of its
    two ends. Bisection locates a jump to the last bit of v, and the middle of a steep slope. Pieces are therefore short
    only where the law is steep, and a piece on which nothing changes gets one node.

    Args:
        law: Function of (index, v) that returns features of shape (len(v), number of features). Each feature must be
            nearly constant on a piece for f to be integrated accurately.
        count: Number of latents.
        temperature: Temperature of the surrogate; the initial grid over v is finer at a high temperature.

    Returns:
        Index of the latent, v, and weight of each node, each of shape (nodes,).
    """
    grid = np.linspace(0, 1, max(16, int(np.ceil(8 * temperature))) + 1)
    grid[-1] = _BELOW_ONE
    index = np.repeat(np.arange(count), len(grid) - 1)
    low, high = np.tile(grid[:-1], count), np.tile(grid[1:], count)
    at_low, at_high = law(index, low), law(index, high)
    pieces = []
    for _ in range(9):
        change = np.abs(at_high - at_low).max(1)
        rough, even = change > _CHANGE, change == 0
        for order, chosen in ((1, even), (_ORDER_DRAW, ~even & ~rough)):
            pieces.append(_nodes_on_pieces(index[chosen], low[chosen], high[chosen], order))
        index, low, high, at_low, at_high = (a[rough] for a in (index, low, high, at_low, at_high))
        if not len(index):
            break
        left, right = _bisect(law, index, low, high, at_low, at_high)
        at_left, at_right = law(index, left), law(index, right)
        index, low, high = np.tile(index, 2), np.concatenate([low, right]), np.concatenate([left, high])
        at_low, at_high = np.concatenate([at_low, at_right]), np.concatenate([at_left, at_high])
    pieces.append(_nodes_on_pieces(index, low, high, _ORDER_DRAW))
    index, v, weight = (np.concatenate(part) for part in zip(*pieces, strict=True))
    return index, v, weight


def _nodes_on_pieces(index: Array, low: Array, high: Array, order: int) -> tuple[Array, Array, Array]:
    unit, weight = _rule(order)
    v = low[:, None] + (high - low)[:, None] * unit
    return np.repeat(index, order), v.ravel(), ((high - low)[:, None] * weight).ravel()


def _bisect(
    law: Callable[[Array, Array], Array],
    index: Array,
    low: Array,
    high: Array,
    at_low: Array,
    at_high: Array,
) -> tuple[Array, Array]:
    """Return neighboring numbers between which the feature with the largest change crosses the mean of its ends."""
    rows = np.arange(len(index))
    feature = np.abs(at_high - at_low).argmax(1)
    rising = at_high[rows, feature] > at_low[rows, feature]
    target = (at_high[rows, feature] + at_low[rows, feature]) / 2
    for _ in range(50):
        middle = (low + high) / 2
        beyond = (law(index, middle)[rows, feature] > target) == rising
        low, high = np.where(beyond, low, middle), np.where(beyond, middle, high)
    return low, high


def _rule(order: int) -> tuple[Array, Array]:
    """Return the nodes and weights of Gauss–Legendre quadrature on [0, 1]."""
    nodes, weights = np.polynomial.legendre.leggauss(order)
    return (nodes + 1) / 2, weights / 2

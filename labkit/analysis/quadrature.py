"""Gauss–Legendre quadrature over a source and over a surrogate's uniform draw, between the points where they jump.

Quantization is piecewise smooth, and Gauss–Legendre is exact to rounding on the pieces. Over the source the cuts are
known: where rounding and the surrogates change their law. In the draw v they depend on the latent and are found.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from labkit.analysis.sources import Source

TAIL = 1e-13  # probability left out at either end of a source
MAX_BINS = 4096  # more quantization bins than this and a source is one for Monte Carlo
_ORDER_SOURCE, _ORDER_DRAW = 10, 8
_CHANGE = 0.1  # pieces of the draw are cut until ỹ and its slope change by less than this over each
_BELOW_ONE = 1 - 2.0**-53
_QUANTILES = np.array([1e-10, 1e-7, 1e-5, 1e-3, 1e-2, 0.05, 0.15, 0.3])


def gauss_legendre(edges: np.ndarray, order: int = _ORDER_SOURCE) -> tuple[np.ndarray, np.ndarray]:
    """Nodes and weights, each of shape ((len(edges) − 1) · order,), of the rule on every piece between sorted edges."""
    unit, weight = _rule(order)
    low, length = edges[:-1, None], np.diff(edges)[:, None]
    return (low + length * unit).ravel(), (length * weight).ravel()


def source_nodes(source: Source, cuts: Sequence[float] | np.ndarray = ()) -> tuple[np.ndarray, np.ndarray]:
    """Nodes x and weights (density included) of E f(x), for f smooth between cuts: Σ weights · f(nodes).

    Raises ValueError for a source whose density does not integrate to one on the nodes, to 10⁻⁶.
    """
    edges = np.concatenate([marks(source), cuts])
    edges = np.unique(edges[(edges >= edges[0]) & (edges <= edges[1])])
    x, weight = gauss_legendre(edges)
    weight = weight * source.pdf(x)
    if not abs(weight.sum() - 1) < 1e-6:
        raise ValueError(f"source: its density integrates to {weight.sum():.8g}; takes one that quadrature can follow")
    return x, weight


def marks(source: Source) -> np.ndarray:
    """The two ends of a source, then points between which its density is smooth and of one order of magnitude."""
    low, high = support(source)
    median, spread = source.ppf(0.5), source.ppf(0.75) - source.ppf(0.25)
    graded = spread * np.concatenate([-(0.1 ** np.arange(1, 7)), [0], 0.1 ** np.arange(1, 7)])  # round a cusp
    inner = [median + graded, source.ppf(_QUANTILES), source.ppf(1 - _QUANTILES), getattr(source, "edges", ())]
    return np.concatenate([[low, high], *inner])


def room(x: np.ndarray) -> np.ndarray:
    """Distance of each of `source_nodes`' nodes to the nearer end of its piece: how far a difference may reach."""
    unit, _ = _rule(_ORDER_SOURCE)
    length = np.diff(x.reshape(-1, _ORDER_SOURCE)[:, [0, -1]]) / (unit[-1] - unit[0])
    return (length * np.minimum(unit, 1 - unit)).ravel()


def support(source: Source) -> tuple[float, float]:
    """The interval that holds all of the source but 10⁻¹³ at either end."""
    return float(source.ppf(TAIL)), float(source.ppf(1 - TAIL))


def bin_cuts(temperature: float) -> np.ndarray:
    """Where, within one bin [0, 1), surrogates change their law at this temperature.

    Integers, half-integers, and half-integers ± multiples of τ, where uniform noise begins and ends and soft rounding
    bends; and ever closer to the integer, where laws made of logarithms have a singular slope down to distance 10⁻⁵.
    """
    steps = temperature * 2.0 ** np.arange(-1, 5)
    graded = 0.1 ** np.arange(1, 8)
    return np.unique(np.mod(np.concatenate([[0, 0.5], 0.5 - steps, 0.5 + steps, graded, -graded]), 1))


def draw_nodes(
    law: Callable[[np.ndarray, np.ndarray], np.ndarray], count: int, temperature: float = 1.0
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Nodes of E f(v), v uniform on [0, 1), for each of `count` latents: their latent's index, v, and weights.

    law(index, v): what must be nearly constant on a piece, of shape (len(v), features). A piece over which a feature
    changes by more than 0.1 is cut, by bisection, where it crosses the mean of its two ends: at a jump, to the last
    bit of v; on a steep flank, halfway up. Pieces are therefore short only where the law is steep, and one node does
    where nothing changes.
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
            pieces.append(_on_pieces(index[chosen], low[chosen], high[chosen], order))
        index, low, high, at_low, at_high = (a[rough] for a in (index, low, high, at_low, at_high))
        if not len(index):
            break
        left, right = _bisect(law, index, low, high, at_low, at_high)
        at_left, at_right = law(index, left), law(index, right)
        index, low, high = np.tile(index, 2), np.concatenate([low, right]), np.concatenate([left, high])
        at_low, at_high = np.concatenate([at_low, at_right]), np.concatenate([at_left, at_high])
    pieces.append(_on_pieces(index, low, high, _ORDER_DRAW))
    index, v, weight = (np.concatenate(part) for part in zip(*pieces, strict=True))
    return index, v, weight


def _on_pieces(index: np.ndarray, low: np.ndarray, high: np.ndarray, order: int) -> tuple[np.ndarray, ...]:
    unit, weight = _rule(order)
    v = low[:, None] + (high - low)[:, None] * unit
    return np.repeat(index, order), v.ravel(), ((high - low)[:, None] * weight).ravel()


def _bisect(law, index, low, high, at_low, at_high) -> tuple[np.ndarray, np.ndarray]:
    """Neighboring numbers between which the feature that changes most crosses the mean of its ends."""
    rows = np.arange(len(index))
    feature = np.abs(at_high - at_low).argmax(1)
    rising = at_high[rows, feature] > at_low[rows, feature]
    target = (at_high[rows, feature] + at_low[rows, feature]) / 2
    for _ in range(50):
        middle = (low + high) / 2
        beyond = (law(index, middle)[rows, feature] > target) == rising
        low, high = np.where(beyond, low, middle), np.where(beyond, middle, high)
    return low, high


def _rule(order: int) -> tuple[np.ndarray, np.ndarray]:
    """Gauss–Legendre nodes and weights on [0, 1]."""
    nodes, weights = np.polynomial.legendre.leggauss(order)
    return (nodes + 1) / 2, weights / 2

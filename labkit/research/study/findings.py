"""What a table of runs decides: findings with their intervals and verdicts, best levels, and orders.

A comparison is crossed: every seed's networks code the same images, and what is compared was trained on the same
batches. So a value has two axes first, seeds and images, and whatever is compared on the axes behind them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING, Any

import numpy as np

from labkit.statistics import CONFIDENCE, Estimate, Statistic, estimate, estimates

if TYPE_CHECKING:
    import pandas as pd

HELD, NOT_HELD, UNDECIDED = "held", "not held", "undecided"
SMALL = 5e-3  # a relative change of a loss that counts for nothing
FACTOR = 10.0  # a share from which on, at its interval's end, factors are told, not percent
FAR = 1000.0  # a factor, or its inverse, beyond which an interval's end is not told
SEPARATE = 0.01  # of the largest difference that the laboratory predicts: below it, it predicts no order


def crossed(table: pd.DataFrame, column: str, along: Sequence[str], levels: Sequence[Any]) -> np.ndarray:
    """A column as an array (seeds, images, levels); levels: values of the columns `along`, as tuples if several.

    Seeds that lack something are left out, since a study may have been stopped. Raises ValueError where none is whole.
    """
    keys = ["set", "name"]
    wide = table.pivot_table(index="seed", columns=[*along, *keys], values=column, aggfunc="mean")
    names = list(table[keys].drop_duplicates().itertuples(index=False, name=None))
    wanted = [level if isinstance(level, tuple) else (level,) for level in levels]
    cells = [(*level, *name) for name in names for level in wanted]
    whole = wide.reindex(columns=cells).dropna()
    if whole.empty:
        told = ", ".join("/".join(map(str, level)) for level in wanted[:4]) + (" …" if len(wanted) > 4 else "")
        raise ValueError(f"no seed has all of {told}")
    return whole.to_numpy().reshape(len(whole), -1, len(wanted))


# Findings -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Finding:
    """One sentence of a claim: what was compared, the estimate with the ends of its interval, and the verdict.

    verdict: empty for a figure that only goes with the others. percent: the value is a share, told in percent.
    further: seeds more that would decide what is undecided, None where 1,000 would not. main: for short tables.
    """

    what: str
    value: float
    low: float
    high: float
    verdict: str = ""
    percent: bool = True
    further: int | None = None
    main: bool = False

    @property
    def told(self) -> str:
        """The numbers alone."""
        if math.isnan(self.value):
            return "no number"
        if math.isnan(self.low):
            return f"{100 * self.value:.3g}%" if self.percent else f"{self.value:.3g}"
        if self.percent and self.high > FACTOR:
            least = "< ×0.001" if 1 + self.low < 1 / FAR else f"×{1 + self.low:.3g}"
            most = "> ×1,000" if 1 + self.high > FAR else f"×{1 + self.high:.3g}"
            return f"×{1 + self.value:.3g} [{least}, {most}]"
        if self.percent:
            value, low, high = (f"{100 * number:+.2f}" for number in (self.value, self.low, self.high))
            return f"{value}% [{low}, {high}]"
        return f"{self.value:+.3g} [{self.low:+.3g}, {self.high:+.3g}]"

    def __str__(self) -> str:
        asks = self.verdict == UNDECIDED and (self.further or not math.isnan(self.low))
        more = f" ({self.further or 'over 1,000'} further seed{'s' * (self.further != 1)})" if asks else ""
        return f"{self.what}: {self.told}" + (f": {self.verdict}{more}" if self.verdict else "")


def finding(
    what: str,
    found: Estimate,
    expected: str = "",
    *,
    log: bool = True,
    percent: bool | None = None,
    tests: int = 1,
    same: float = 0.0,
    main: bool = False,
) -> Finding:
    """What an estimate says of what was expected of it.

    expected: "below" or "above" 0, "different" from it, "none" (within ± same), or nothing. Below and above are held
    where the interval lies on that side, and not held where it does not reach as far as `same` on that side: whatever
    difference there is counts for nothing. A difference is held where the interval lies on either side, and not where
    it lies within ± same; none the other way round. log: a difference of logarithms, told as a relative change;
    percent: other values are shares. tests: how many findings share the 5% of error (Bonferroni).
    """
    confidence = 1 - (1 - CONFIDENCE) / tests
    low, high = found.interval(confidence)
    within, apart = -same <= low and high <= same, low > same or high < -same
    held, not_held = {
        "below": (high < 0, low > -same),
        "above": (low > 0, high < same),
        "different": (low > 0 or high < 0, within),
        "none": (within, apart),
        "": (False, False),
    }[expected]
    verdict = HELD if held else NOT_HELD if not_held else UNDECIDED if expected else ""
    further = found.further_seeds(confidence=confidence) if verdict == UNDECIDED else None
    value, low, high = (math.expm1(end) if log else end for end in (found.value, low, high))
    return Finding(what, value, low, high, verdict, log if percent is None else percent, further, main)


def verdict(findings: Sequence[Finding], enough: str = "all") -> str:
    """Of a claim: held where all its findings are, or with "any" one of them; not held where one is not, or all."""
    told = [one.verdict for one in findings if one.verdict]
    decisive, opposite = (NOT_HELD, HELD) if enough == "all" else (HELD, NOT_HELD)
    if decisive in told:
        return decisive
    return opposite if told and all(one == opposite for one in told) else UNDECIDED


# Best values and orders -----------------------------------------------------------------------------------------------


def interior(losses: np.ndarray, values: np.ndarray | None = None) -> np.ndarray:
    """Losses, or other values, (seeds, images), at the best of the inner levels of (seeds, images, levels).

    For each seed and image the level with the least mean loss over the *other* seeds and the other images is taken, so
    that no noise is chosen with the level: the mean of what is given is that of a rule, not of a minimum.
    """
    inner = losses[:, :, 1:-1]
    others = inner.sum((0, 1)) - inner.sum(0, keepdims=True)
    if len(losses) > 1:
        others = others - inner.sum(1, keepdims=True) + inner
    given = inner if values is None else values[:, :, 1:-1]
    return np.take_along_axis(given, others.argmin(2)[:, :, None], 2)[:, :, 0]


def against_both_ends(what: str, losses: np.ndarray, ends: tuple[str, str]) -> list[Finding]:
    """The best inner level against both ends of a grid, of log losses (seeds, images, levels)."""
    return [
        finding(
            f"{what}, best in between against {end}",
            estimate(lambda a, place=place: np.mean(interior(a) - a[:, :, place]), losses),
            "below",
            same=SMALL,
            main=True,
        )
        for end, place in zip(ends, (0, -1), strict=True)
    ]


def best_level(losses: np.ndarray, levels: np.ndarray) -> float:
    """Where a parabola through the least of mean losses (levels,) and its neighbors is least.

    At an end of the grid, that end; a parabola that opens downwards gives the least level itself.
    """
    place = int(np.argmin(losses))
    if place in (0, len(losses) - 1):
        return float(levels[place])
    a, b, _ = np.polyfit(levels[place - 1 : place + 2], losses[place - 1 : place + 2], 2)
    return float(-b / (2 * a)) if a > 0 else float(levels[place])


def order(
    what: str,
    labels: Sequence[str],
    measure: Statistic,
    predicted: np.ndarray,
    *arrays: np.ndarray,
    relative: bool = False,
) -> list[Finding]:
    """How the measured order of things agrees with the predicted: as a whole, and each pair's sign.

    measure: of the arrays, a number for each label; relative: a pair's difference is told for each unit of their sum,
    as becomes variances, which may be of other orders of magnitude or none. A pair counts where the laboratory parts
    the two (by 1% of its largest difference), and is decided at 5% over all pairs (Bonferroni). The order is held where
    every pair is decided as predicted, and not held where one is decided otherwise. As a whole it is a rank
    correlation: Kendall's τ, but that each pair weighs as much as it was found to differ, so 1 where all differences
    go as predicted and −1 where none does. Without weights τ would be a step function, of which a jackknife says 0.
    """
    least = SEPARATE * float(np.ptp(predicted))
    every = combinations(range(len(labels)), 2)
    pairs = [(a, b) for a, b in every if abs(predicted[a] - predicted[b]) > least]

    def gaps(*given: np.ndarray) -> list[float]:
        values = measure(*given)
        apart = [float(np.sign(predicted[a] - predicted[b]) * (values[a] - values[b])) for a, b in pairs]
        if not relative:
            return apart
        return [gap / (values[a] + values[b] or 1.0) for gap, (a, b) in zip(apart, pairs, strict=True)]

    def rank(*given: np.ndarray) -> float:
        found = gaps(*given)
        return math.fsum(found) / (math.fsum(map(abs, found)) or 1.0)

    found = estimate(rank, *arrays)
    ranked = finding(f"{what}, weighted rank correlation with the laboratory", found, "above", log=False, main=True)
    one_by_one = [finding("", one, "above", log=False, tests=len(pairs)) for one in estimates(gaps, *arrays)]
    judged = list(zip(pairs, one_by_one, strict=True))
    against = [f"{labels[a]}–{labels[b]}" for (a, b), one in judged if one.verdict == NOT_HELD]
    counts = [sum(one.verdict == kind for one in one_by_one) for kind in (HELD, NOT_HELD, UNDECIDED)]
    told = f"{what}, {len(pairs)} pairs that the laboratory parts: {counts[0]} as it says, {counts[1]} otherwise"
    told += f" ({', '.join(against)})" * bool(against) + f", {counts[2]} undecided; share as it says"
    share = counts[0] / len(pairs) if pairs else math.nan
    more = [one.further for one in one_by_one if one.verdict == UNDECIDED]
    further = None if None in more else max((one for one in more if one is not None), default=None)
    return [ranked, Finding(told, share, math.nan, math.nan, verdict(one_by_one), True, further)]

"""Findings: comparisons from a table of runs, each with an estimate, an interval and a verdict.

A comparison is crossed. The networks of every seed code the same images, and the networks that are compared were
trained on the same batches. Arrays therefore have seeds and images as their first two axes, and the compared levels,
such as schemes or temperatures, as their last.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from labkit.statistics import CONFIDENCE, Array, Estimate, Statistic, estimate, estimates

if TYPE_CHECKING:
    import pandas as pd

SUPPORTED, NOT_SUPPORTED, INCONCLUSIVE = "supported", "not supported", "inconclusive"
SMALL = 5e-3  # largest relative change of a loss that counts as no change
FACTOR = 10.0  # relative change at an interval's end above which factors are printed instead of percent
LARGEST_FACTOR = 1000.0  # largest factor that is printed as a number; so is its inverse
SEPARATE = 0.01  # two predictions differ if they are this far apart, as a share of the largest difference

Expected = Literal["below", "above", "different", "none", ""]
Rule = Literal["all", "any"]


def crossed(table: pd.DataFrame, column: str, along: Sequence[str], levels: Sequence[Any]) -> Array:
    """Return a column of a table as an array over seeds, images and levels.

    Seeds with missing values are left out, because a study may have been stopped.

    Args:
        table: One row per run and image.
        column: Name of the column.
        along: Names of the columns that the levels are values of.
        levels: Values of the columns `along`; tuples if there are several columns.

    Returns:
        Array of shape (seeds, images, levels).

    Raises:
        ValueError: If no seed has a complete set of values.
    """
    image = ["set", "name"]
    wide = table.pivot_table(index="seed", columns=[*along, *image], values=column, aggfunc="mean")
    images = list(table[image].drop_duplicates().itertuples(index=False, name=None))
    keys = [level if isinstance(level, tuple) else (level,) for level in levels]
    complete = wide.reindex(columns=[(*key, *name) for name in images for key in keys]).dropna()
    if complete.empty:
        names = ", ".join("/".join(map(str, key)) for key in keys[:4]) + (" …" if len(keys) > 4 else "")
        raise ValueError(f"no seed has all of {names}")
    values: Array = complete.to_numpy()
    return values.reshape(len(complete), -1, len(keys))


# Findings -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, repr=False)
class Finding:
    """One comparison of a claim.

    Attributes:
        comparison: The quantities that are compared.
        value: The estimate: a relative change, a share or a plain number.
        low: Lower end of the interval; NaN without an interval.
        high: Upper end of the interval.
        verdict: "supported", "not supported" or "inconclusive"; empty for a comparison that decides nothing.
        percent: True if the value is a share, which is printed in percent.
        further_seeds: Number of further seeds that would decide an inconclusive finding if the value stayed the same;
            None if 1,000 would not.
        main: True if short tables show the finding.
    """

    comparison: str
    value: float
    low: float
    high: float
    verdict: str = ""
    percent: bool = True
    further_seeds: int | None = None
    main: bool = False

    @property
    def numbers(self) -> str:
        """The estimate and its interval as text."""
        if math.isnan(self.value):
            return "no number"
        if math.isnan(self.low):
            return f"{100 * self.value:.3g}%" if self.percent else f"{self.value:.3g}"
        if self.percent and self.high > FACTOR:
            low = "< ×0.001" if 1 + self.low < 1 / LARGEST_FACTOR else f"×{1 + self.low:.3g}"
            high = "> ×1,000" if 1 + self.high > LARGEST_FACTOR else f"×{1 + self.high:.3g}"
            return f"×{1 + self.value:.3g} [{low}, {high}]"
        if self.percent:
            value, low, high = (f"{100 * number:+.2f}" for number in (self.value, self.low, self.high))
            return f"{value}% [{low}, {high}]"
        return f"{self.value:+.3g} [{self.low:+.3g}, {self.high:+.3g}]"

    def __str__(self) -> str:
        text = f"{self.comparison}: {self.numbers}" + f": {self.verdict}" * bool(self.verdict)
        if self.verdict == INCONCLUSIVE and (self.further_seeds or not math.isnan(self.low)):
            text += f" ({self.further_seeds or 'over 1,000'} further seed{'s' * (self.further_seeds != 1)})"
        return text

    def __repr__(self) -> str:
        return f"Finding({self})"


def finding(
    comparison: str,
    estimated: Estimate,
    expected: Expected = "",
    *,
    log: bool = True,
    percent: bool | None = None,
    tests: int = 1,
    negligible: float = 0.0,
    main: bool = False,
) -> Finding:
    """Compare an estimate with an expectation.

    "below" and "above" are supported if the interval lies on that side of 0. They are not supported if the interval
    does not reach `negligible` on that side, so that any remaining effect is negligible. "different" is supported if
    the interval excludes 0, and not supported if it lies within ± negligible. "none" is supported if the interval lies
    within ± negligible, and not supported if it lies outside.

    Args:
        comparison: The quantities that are compared.
        estimated: The estimate.
        expected: The expectation about the value; empty for a finding without a verdict.
        log: The value is a difference of logarithms, which is reported as a relative change.
        percent: The value is a share. By default the same as `log`.
        tests: Number of findings that share the 5% probability of error (Bonferroni correction).
        negligible: Largest effect that counts as none, on the scale of the value.
        main: Whether short tables show the finding.
    """
    confidence = 1 - (1 - CONFIDENCE) / tests
    low, high = estimated.interval(confidence)
    within, outside = -negligible <= low and high <= negligible, low > negligible or high < -negligible
    supported, not_supported = {
        "below": (high < 0, low > -negligible),
        "above": (low > 0, high < negligible),
        "different": (low > 0 or high < 0, within),
        "none": (within, outside),
        "": (False, False),
    }[expected]
    decided = SUPPORTED if supported else NOT_SUPPORTED if not_supported else INCONCLUSIVE if expected else ""
    further = estimated.further_seeds(confidence=confidence) if decided == INCONCLUSIVE else None
    value, low, high = (math.expm1(number) if log else number for number in (estimated.value, low, high))
    return Finding(comparison, value, low, high, decided, log if percent is None else percent, further, main)


def verdict(findings: Sequence[Finding], rule: Rule = "all") -> str:
    """Return the verdict on a claim from the verdicts of its findings.

    Args:
        findings: The findings; those without a verdict do not count.
        rule: With "all", the claim is supported if all findings are, and not supported if one is not. With "any", it
            is supported if one finding is, and not supported if none is.
    """
    verdicts = [finding.verdict for finding in findings if finding.verdict]
    decisive, opposite = (NOT_SUPPORTED, SUPPORTED) if rule == "all" else (SUPPORTED, NOT_SUPPORTED)
    if decisive in verdicts:
        return decisive
    return opposite if verdicts and set(verdicts) == {opposite} else INCONCLUSIVE


# Best levels and orders -----------------------------------------------------------------------------------------------


def at_best_inner_level(losses: Array, values: Array | None = None) -> Array:
    """Return losses, or other values, at the best of the inner levels.

    For each seed and image, the level is the one with the least mean loss over the *other* seeds and the other images.
    The selection therefore uses none of the noise in the selected value, and the mean of the result is that of a rule
    instead of that of a minimum.

    Args:
        losses: Array of shape (seeds, images, levels).
        values: Array of the same shape to take the results from, by default the losses.

    Returns:
        Array of shape (seeds, images).
    """
    inner = losses[:, :, 1:-1]
    others = inner.sum((0, 1)) - inner.sum(0, keepdims=True)
    if len(losses) > 1:
        others = others - inner.sum(1, keepdims=True) + inner
    selected = inner if values is None else values[:, :, 1:-1]
    return np.take_along_axis(selected, others.argmin(2)[:, :, None], 2)[:, :, 0]


def best_inner_level_findings(quantity: str, level: str, losses: Array, ends: tuple[str, str]) -> list[Finding]:
    """Compare the best inner level of a grid with both ends of the grid.

    Args:
        quantity: Name of the quantity.
        level: Name of the levels, such as "τ".
        losses: Logarithms of losses, of shape (seeds, images, levels).
        ends: Names of the first and of the last level.
    """
    return [
        finding(
            f"{quantity} at the best inner {level} relative to {end}",
            estimate(lambda a, place=place: np.mean(at_best_inner_level(a) - a[:, :, place]), losses),
            "below",
            negligible=SMALL,
            main=True,
        )
        for end, place in zip(ends, (0, -1), strict=True)
    ]


def best_level(losses: Array, levels: Array) -> float:
    """Return the level at the vertex of a parabola through the least mean loss and its two neighbors.

    If the lowest loss is at an end of the grid, the result is that end. If the parabola opens downward, the result is
    the level with the lowest loss.

    Args:
        losses: Mean losses, of shape (levels,).
        levels: Levels in rising order, of shape (levels,).
    """
    place = int(np.argmin(losses))
    if place in (0, len(losses) - 1):
        return float(levels[place])
    a, b, _ = np.polyfit(levels[place - 1 : place + 2], losses[place - 1 : place + 2], 2)
    return float(-b / (2 * a)) if a > 0 else float(levels[place])


def rank_correlation(predicted: Array, values: Array) -> float:
    """Return Kendall's τ of two arrays of shape (labels,), where the difference of a pair of values is its weight.

    It is 1 if all differences have the predicted sign, and −1 if none has.
    """
    return _agreement(
        [
            float(np.sign(predicted[a] - predicted[b]) * (values[a] - values[b]))
            for a, b in combinations(range(len(values)), 2)
        ]
    )


def _agreement(signed: Sequence[float]) -> float:
    """Return the sum of differences, positive if they have the predicted sign, over the sum of their sizes."""
    return math.fsum(signed) / (math.fsum(map(abs, signed)) or 1.0)


def order_findings(
    quantity: str,
    labels: Sequence[str],
    measure: Statistic,
    predicted: Array,
    *arrays: Array,
    relative: bool = False,
) -> list[Finding]:
    """Compare the measured order of several labels with a predicted order, as a whole and pair by pair.

    The order as a whole is measured by a weighted rank correlation: Kendall's τ, where the measured difference of a
    pair is its weight. It is 1 if all differences have the predicted sign, and −1 if none has. Without weights τ would
    be a step function, for which the jackknife gives a variance of 0.

    A pair counts if its predictions differ by 1% of the largest difference. Each pair is tested at 5% over all pairs
    (Bonferroni correction). The order is supported if every pair has the predicted sign, and not supported if one has
    the opposite sign.

    Args:
        quantity: Name of the quantity that is ordered.
        labels: The labels.
        measure: Function of the arrays that returns one number per label.
        predicted: The predicted numbers, of shape (labels,).
        arrays: Arrays of shape (seeds, images, labels).
        relative: Divide the difference of a pair by its sum. This suits variances, which may differ by orders of
            magnitude or be 0.
    """
    least = SEPARATE * float(np.ptp(predicted))
    all_pairs = combinations(range(len(labels)), 2)
    pairs = [(a, b) for a, b in all_pairs if abs(predicted[a] - predicted[b]) > least]

    def differences(*given: Array) -> list[float]:
        values = measure(*given)
        signed = [float(np.sign(predicted[a] - predicted[b]) * (values[a] - values[b])) for a, b in pairs]
        if not relative:
            return signed
        return [one / (values[a] + values[b] or 1.0) for one, (a, b) in zip(signed, pairs, strict=True)]

    whole = finding(
        f"{quantity}: weighted rank correlation with the prediction",
        estimate(lambda *given: _agreement(differences(*given)), *arrays),
        "above",
        log=False,
        main=True,
    )
    single = [finding("", one, "above", log=False, tests=len(pairs)) for one in estimates(differences, *arrays)]
    reversed_pairs = [
        f"{labels[a]}–{labels[b]}" for (a, b), one in zip(pairs, single, strict=True) if one.verdict == NOT_SUPPORTED
    ]
    counts = {word: sum(one.verdict == word for one in single) for word in (SUPPORTED, NOT_SUPPORTED, INCONCLUSIVE)}
    text = f"{quantity}: {len(pairs)} pairs with different predictions, {counts[SUPPORTED]} in the predicted order, "
    text += f"{counts[NOT_SUPPORTED]} in the opposite order" + f" ({', '.join(reversed_pairs)})" * bool(reversed_pairs)
    text += f", {counts[INCONCLUSIVE]} inconclusive; share in the predicted order"
    share = counts[SUPPORTED] / len(pairs) if pairs else math.nan
    needed = [one.further_seeds for one in single if one.verdict == INCONCLUSIVE]
    further = None if None in needed else max((seeds for seeds in needed if seeds is not None), default=None)
    return [whole, Finding(text, share, math.nan, math.nan, verdict(single), True, further)]

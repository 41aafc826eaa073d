"""Claim 3: constant temperatures, from nearly rounding to noise, for four surrogates of the reconstruction."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from labkit.research.study.claims.gradients import promise, risks
from labkit.research.study.engine import MEASURED
from labkit.research.study.findings import Finding, against_both_ends, crossed, finding
from labkit.statistics import estimate

EVERY = 4  # photographs: of these, the gradient of one is measured


def temperatures(table) -> list[str]:
    """Those of a table, as it has them, rising."""
    return sorted(table["temperature"].dropna().unique(), key=float)


def measure(net, photos, settings: dict[str, Any], schemes: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """On a trunk: gradient risk of each surrogate at each temperature."""
    from labkit.research.study.engine import declared

    yield from risks(net, photos[::EVERY], schemes, settings, declared("tradeoff")["grid"]["temperature"])


def findings(table) -> list[Finding]:
    """For each surrogate: the best inner temperature against both ends; mismatch and gradient at the two ends."""
    forks, measured, found = table[table["part"] == "forks"], table[table["part"] == MEASURED], []
    levels = temperatures(forks)
    low, high = levels[0], levels[-1]
    for scheme in forks["scheme"].unique():
        own = forks[forks["scheme"] == scheme]
        losses, seen = (crossed(own, name, ["temperature"], levels) for name in ("loss", "train_loss"))
        found += against_both_ends(f"{scheme}, loss", np.log(losses), (f"τ = {low}", f"τ = {high}"))
        for place, level in ((0, low), (-1, high)):
            gap = estimate(lambda a, b, place=place: np.mean((b / a - 1)[:, :, place]), losses, seen)
            found.append(finding(f"{scheme}, mismatch of the loss at τ = {level}", gap, log=False, percent=True))
        here = measured[measured["label"] == scheme]
        if len(here):
            variances, agreed, changes = (
                crossed(here[here["quantity"] == quantity], "value", ["temperature"], levels)
                for quantity in ("variance", "agreed", "found")
            )
            ratio = estimate(lambda v: v[:, :, 0].mean() / v[:, :, -1].mean(), variances)
            what = f"{scheme}, variance of the gradient at τ = {low} to that at τ = {high}"
            found.append(finding(what, ratio, log=False, percent=False))
            for place, level in ((0, low), (-1, high)):
                one = estimate(lambda a, f, place=place: promise(a, f)[place], agreed, changes)
                what = f"{scheme}, change promised for each unit that is found at τ = {level}"
                found.append(finding(what, one, log=False, percent=False))
    return found


def curves(table) -> tuple[str, dict[str, tuple[list[float], list[float]]]]:
    """Mean loss over the temperature, relative to each surrogate's least, in percent."""
    return "temperature τ", lines(table[table["part"] == "forks"], ["scheme"], "temperature")


def lines(table, names: list[str], axis: str) -> dict[str, tuple[list[float], list[float]]]:
    """Mean log losses over an axis of the grid, less the least of each line, in percent."""
    found = {}
    for keys, one in table.groupby(names, sort=False):
        means = np.log(one.set_index(axis)["loss"]).groupby(level=0).mean()
        means.index = means.index.astype(float)
        means = means.sort_index()
        found[", ".join(keys)] = list(means.index), list(100 * (means - means.min()))
    return found

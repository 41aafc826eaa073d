"""Claim 3: constant temperatures, from almost rounding to noise, for four surrogates of the reconstruction."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from labkit.research.study.claim import Claim, Lines, Row, Trunk
from labkit.research.study.claims.gradients import gradient_risk_rows, promised_change
from labkit.research.study.findings import Finding, best_inner_level_findings, crossed, finding
from labkit.research.study.tables import FORKS, MEASURED
from labkit.statistics import estimate

if TYPE_CHECKING:
    import pandas as pd

EVERY = 4  # the gradient is measured on one of so many photographs


class Tradeoff(Claim):
    """Loss, mismatch and gradient risk over a constant temperature."""

    name = "tradeoff"
    summary = "the best temperature is neither the lowest nor the highest"
    measures_trunks = True

    def measure(self, trunk: Trunk) -> Iterator[Row]:
        """Yield the gradient risk of each surrogate at each temperature."""
        yield from gradient_risk_rows(trunk, EVERY, trunk.schemes, trunk.declaration["grid"]["temperature"])

    def findings(self, table: pd.DataFrame) -> list[Finding]:
        """For each surrogate: the best inner temperature against both ends, and mismatch and gradient at both ends."""
        forks, measured, findings = table[table["part"] == FORKS], table[table["part"] == MEASURED], []
        levels = temperatures(forks)
        low, high = levels[0], levels[-1]
        for scheme in forks["scheme"].unique():
            rows = forks[forks["scheme"] == scheme]
            losses, training = (crossed(rows, name, ["temperature"], levels) for name in ("loss", "train_loss"))
            ends = f"τ = {low}", f"τ = {high}"
            findings += best_inner_level_findings(f"{scheme}: loss", "τ", np.log(losses), ends)
            for place, level in ((0, low), (-1, high)):
                gap = estimate(lambda a, b, place=place: np.mean((b / a - 1)[:, :, place]), losses, training)
                findings.append(finding(f"{scheme}: loss mismatch at τ = {level}", gap, log=False, percent=True))
            rows = measured[measured["label"] == scheme]
            if rows.empty:
                continue
            variances, agreed, changes = (
                crossed(rows[rows["quantity"] == quantity], "value", ["temperature"], levels)
                for quantity in ("variance", "agreed", "found")
            )
            ratio = estimate(lambda v: v[:, :, 0].mean() / v[:, :, -1].mean(), variances)
            text = f"{scheme}: variance of the gradient at τ = {low} relative to τ = {high}"
            findings.append(finding(text, ratio, log=False, percent=False))
            for place, level in ((0, low), (-1, high)):
                promise = estimate(lambda a, f, place=place: promised_change(a, f)[place], agreed, changes)
                text = f"{scheme}: promised change of the loss per measured change at τ = {level}"
                findings.append(finding(text, promise, log=False, percent=False))
        return findings

    def curves(self, table: pd.DataFrame) -> tuple[str, Lines]:
        """Mean loss over the temperature, relative to the least loss of each surrogate, in percent."""
        return "temperature τ", loss_curves(table[table["part"] == FORKS], ["scheme"], "temperature")


def temperatures(table: pd.DataFrame) -> list[str]:
    """Return the temperatures of a table in rising order, as the texts that the table contains."""
    return sorted(table["temperature"].dropna().unique(), key=float)


def loss_curves(table: pd.DataFrame, names: list[str], axis: str) -> Lines:
    """Return mean log losses over an axis of the grid, minus the least of each curve, in percent.

    Args:
        table: Rows with the column loss.
        names: Columns that distinguish the curves.
        axis: Column of the horizontal axis.
    """
    curves = {}
    for keys, rows in table.groupby(names, sort=False):
        means = np.log(rows.set_index(axis)["loss"]).groupby(level=0).mean()
        means.index = means.index.astype(float)
        means = means.sort_index()
        curves[", ".join(keys)] = list(means.index), list(100 * (means - means.min()))
    return curves

"""The best constant temperature of trained patch codecs, by a smooth contrast of their loss curves."""

from __future__ import annotations

from itertools import combinations
from typing import TYPE_CHECKING

import numpy as np

from labkit.research.study.claim import Claim, Lines
from labkit.research.study.claims.tradeoff import loss_curves, temperatures
from labkit.research.study.findings import SMALL, Finding, best_inner_level_findings, crossed, finding
from labkit.research.study.tables import SCRATCH
from labkit.statistics import Array, estimate

if TYPE_CHECKING:
    import pandas as pd


class Temperature(Claim):
    """Loss over the temperature for each structure, and how its slope differs between two structures."""

    name = "temperature"
    summary = "the best temperature of trained patch codecs differs between structures"

    def findings(self, table: pd.DataFrame) -> list[Finding]:
        """For each structure: the best inner τ against both ends, and the best τ; for each pair: the contrast.

        The contrast is the difference of the slopes of the log loss over log₂ τ: how much more one structure loses than
        the other when τ doubles. Unlike a best temperature, it is a smooth function of the losses.
        """
        runs = table[table["part"] == SCRATCH]
        levels, findings = temperatures(runs), []
        logs = np.log2(np.array(levels, dtype=float))
        losses = {
            network: np.log(crossed(rows, "loss", ["temperature"], levels))
            for network, rows in runs.groupby("network", sort=False)
        }
        for network, values in losses.items():
            findings += best_inner_level_findings(
                f"{network}: loss", "τ", values, (f"τ = {levels[0]}", f"τ = {levels[-1]}")
            )
            best = estimate(lambda a: vertex(a.mean((0, 1)), logs) * np.log(2), values)
            findings.append(finding(f"{network}: best τ of a parabola, relative to 1", best))
        pairs = list(combinations(losses, 2))
        for one, other in pairs:
            seeds = min(len(losses[one]), len(losses[other]))
            difference = losses[one][:seeds] - losses[other][:seeds]
            contrast = estimate(lambda a: slope(a.mean((0, 1)), logs), difference)
            text = f"loss of {one} relative to that of {other}, for each doubling of τ"
            findings.append(
                finding(text, contrast, "different", tests=len(pairs), negligible=SMALL / len(levels), main=True)
            )
        return findings

    def curves(self, table: pd.DataFrame) -> tuple[str, Lines]:
        """Mean loss over the temperature, relative to the least loss of each structure, in percent."""
        return "temperature τ", loss_curves(table[table["part"] == SCRATCH], ["network"], "temperature")


def slope(losses: Array, logs: Array) -> float:
    """Return the slope of a straight line through losses of shape (levels,) over the logs of the levels."""
    return float(np.polyfit(logs, losses, 1)[0])


def vertex(losses: Array, logs: Array) -> float:
    """Return where a parabola through all losses is lowest, within the range of the levels."""
    a, b, _ = np.polyfit(logs, losses, 2)
    place = -b / (2 * a) if a > 0 else logs[int(losses.argmin())]
    return float(np.clip(place, logs[0], logs[-1]))

"""Claim 5: lower bounds on the scale, for two schemes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from labkit.research.study.claim import Claim, Lines
from labkit.research.study.claims.tradeoff import loss_curves
from labkit.research.study.findings import Finding, at_best_inner_level, best_inner_level_findings, crossed, finding
from labkit.research.study.tables import FORKS
from labkit.statistics import estimate

if TYPE_CHECKING:
    import pandas as pd


class Bound(Claim):
    """Loss and mismatch of the rate over the lower bound on the scale."""

    name = "bound"
    summary = "the best lower bound on the scale is neither the lowest nor the highest"

    def findings(self, table: pd.DataFrame) -> list[Finding]:
        """For each scheme: the best inner bound relative to both ends, and the rate mismatch at every bound."""
        forks, findings = table[table["part"] == FORKS], []
        levels = sorted(forks["scale_lower_bound"].unique())
        ends = f"a bound of {levels[0]:g}", f"a bound of {levels[-1]:g}"
        for scheme in forks["scheme"].unique():
            rows = forks[forks["scheme"] == scheme]
            losses, training, rounded = (
                crossed(rows, name, ["scale_lower_bound"], levels) for name in ("loss", "train_bpp", "estimated_bpp")
            )
            gaps = training / rounded - 1
            findings += best_inner_level_findings(f"{scheme}: loss", "bound", np.log(losses), ends)
            reduction = estimate(
                lambda a, g: abs(np.mean(at_best_inner_level(a, g))) - abs(np.mean(g[:, :, 0])), np.log(losses), gaps
            )
            text = f"{scheme}: size of the rate mismatch at the best inner bound minus that at {ends[0]}"
            findings.append(finding(text, reduction, "below", log=False, percent=True, main=True))
            for place, level in enumerate(levels):
                gap = estimate(lambda g, place=place: np.mean(g[:, :, place]), gaps)
                text = f"{scheme}: rate mismatch at a bound of {level:g}"
                findings.append(finding(text, gap, log=False, percent=True))
        return findings

    def curves(self, table: pd.DataFrame) -> tuple[str, Lines]:
        """Mean loss over the bound, relative to the least loss of each scheme, in percent."""
        return "lower bound on the scale", loss_curves(table[table["part"] == FORKS], ["scheme"], "scale_lower_bound")

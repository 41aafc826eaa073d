"""Claim 9: the best variation of claim 8, on networks and images on which it was not selected."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from labkit.research.study import declarations
from labkit.research.study.claim import Claim, Parts, RunSweep
from labkit.research.study.declarations import Study
from labkit.research.study.findings import SMALL, Finding, crossed, finding
from labkit.research.study.tables import FORKS
from labkit.statistics import estimate

if TYPE_CHECKING:
    import pandas as pd

VARIATION, OTHERS = "substituted", ("noise", "annealed")


class Elsewhere(Claim):
    """Loss of one variation relative to additive noise and to the method, on further networks and images."""

    name = "elsewhere"
    summary = "the best variation on other networks"

    def parts(self, study: Study, run_sweep: RunSweep) -> Parts:
        """Return the forks, measured on the bundled test photographs and on the study's own images."""
        return [(FORKS, study.sweep(test=[str(declarations.test_folder()), *study.tests]))]

    def findings(self, table: pd.DataFrame) -> list[Finding]:
        """For each network and set of images: the variation's loss relative to noise and to the method."""
        findings = []
        forks = table[table["part"] == FORKS]
        for (network, images), rows in forks.groupby(["network", "set"], sort=False):
            for other in OTHERS:
                logs = np.log(crossed(rows, "loss", ["scheme"], [VARIATION, other]))
                gap = estimate(lambda a: np.mean(a[:, :, 0] - a[:, :, 1]), logs)
                text = f"{network}, {images}: loss relative to {other}"
                findings.append(finding(text, gap, "below", negligible=SMALL, main=True))
        return findings

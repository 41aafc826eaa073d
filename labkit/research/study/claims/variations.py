"""Claim 8: variations of the method on the network on which it lost, against the method itself and additive noise."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from labkit.research.study.claim import Claim
from labkit.research.study.findings import SMALL, Finding, crossed, finding
from labkit.research.study.tables import FORKS
from labkit.statistics import estimate

if TYPE_CHECKING:
    import pandas as pd

METHOD, REFERENCE = "identity", "noise"


class Variations(Claim):
    """Loss of each variation relative to the method and to noise, each at its better learning rate."""

    name = "variations"
    summary = "variations of the method where it lost"
    rule = "any"

    def findings(self, table: pd.DataFrame) -> list[Finding]:
        """For each scheme: the loss at both learning rates; for each variation: its loss relative to both others.

        A scheme is compared at its better learning rate. This rate is selected on the same images that are compared,
        for the method and for noise as well.
        """
        forks, findings = table[table["part"] == FORKS], []
        rates = sorted(forks["lr"].unique())
        best = {}
        for scheme in forks["scheme"].unique():
            logs = np.log(crossed(forks[forks["scheme"] == scheme], "loss", ["lr"], rates))
            best[scheme] = rates[int(logs.mean((0, 1)).argmin())]
            text = f"{scheme}: loss at lr {rates[-1]} relative to lr {rates[0]}"
            findings.append(finding(text, estimate(lambda a: np.mean(a[:, :, -1] - a[:, :, 0]), logs)))
        levels = [(scheme, best[scheme]) for scheme in (METHOD, REFERENCE)]
        pair = np.log(crossed(forks, "loss", ["scheme", "lr"], levels))
        gap = estimate(lambda a: np.mean(a[:, :, 0] - a[:, :, 1]), pair)
        findings.append(finding(f"{METHOD}: loss relative to {REFERENCE}", gap))
        for scheme in [scheme for scheme in best if scheme not in (METHOD, REFERENCE)]:
            levels = [(name, best[name]) for name in (scheme, METHOD, REFERENCE)]
            logs = np.log(crossed(forks, "loss", ["scheme", "lr"], levels))
            both = estimate(lambda a: np.mean(a[:, :, 0] - np.minimum(*a[:, :, 1:].mean((0, 1)))), logs)
            text = f"{scheme}: loss relative to the better of {METHOD} and {REFERENCE}"
            findings.append(finding(text, both, "below", negligible=SMALL, main=True))
            for place, other in ((1, METHOD), (2, REFERENCE)):
                gap = estimate(lambda a, place=place: np.mean(a[:, :, 0] - a[:, :, place]), logs)
                findings.append(finding(f"{scheme}: loss relative to {other}", gap))
        return findings

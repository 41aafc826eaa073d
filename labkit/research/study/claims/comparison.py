"""The method against other schemes on patch codecs that train from scratch, at several rates and structures."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from labkit.research.study.claim import Claim, Parts, RunSweep
from labkit.research.study.declarations import Study
from labkit.research.study.findings import SMALL, Finding, crossed, finding
from labkit.research.study.tables import DOUBLED, SCRATCH
from labkit.statistics import Array, estimate

if TYPE_CHECKING:
    import pandas as pd

METHOD = "annealed"
LONG_ENOUGH = 0.01  # a run has trained long enough if twice the steps lower its loss by less than this share


class Comparison(Claim):
    """Loss of the method relative to each other scheme, and what twice the steps would change."""

    name = "comparison"
    summary = "the method against other schemes on patch codecs from scratch"

    def parts(self, study: Study, run_sweep: RunSweep) -> Parts:
        """Return the runs of all schemes, of further structures, and with twice the steps."""
        further = study.declaration["parts"]
        return [
            (SCRATCH, study.sweep()),
            (SCRATCH, study.sweep(further["structures"])),
            (DOUBLED, study.sweep(further["doubled"])),
        ]

    def findings(self, table: pd.DataFrame) -> list[Finding]:
        """For each structure and λ: the method's loss relative to each scheme; for each pair of runs: twice the steps.

        Interactions of scheme and λ are averaged: a main finding covers the λ at which a structure was trained.
        """
        findings = []
        runs = table[table["part"] == SCRATCH]
        for network, rows in runs.groupby("network", sort=False):
            lmbdas = sorted(rows["lmbda"].unique())
            for other in [scheme for scheme in rows["scheme"].unique() if scheme != METHOD]:
                cells = [(scheme, lmbda) for scheme in (METHOD, other) for lmbda in lmbdas]
                logs = np.log(crossed(rows, "loss", ["scheme", "lmbda"], cells))
                change = logs[:, :, : len(lmbdas)] - logs[:, :, len(lmbdas) :]
                text = f"{network}: loss relative to {other}"
                findings.append(finding(text, estimate(np.mean, change), "below", negligible=SMALL, main=True))
                for place, lmbda in enumerate(lmbdas if len(lmbdas) > 1 else []):
                    findings.append(finding(f"{text} at λ = {lmbda:g}", estimate(np.mean, change[:, :, place])))
        for _, network, scheme, change in doubled_changes(table):
            findings.append(finding(f"{network}, {scheme}: loss after twice the steps", estimate(np.mean, change)))
        return findings


def doubled_changes(table: pd.DataFrame) -> list[tuple[bool, str, str, Array]]:
    """Return for each structure and scheme how twice the steps change the log loss of every image.

    Returns:
        Tuples of whether the run had trained long enough, the network, the scheme, and changes of shape (1, images).
    """
    changes = []
    doubled = table[table["part"] == DOUBLED]
    for (network, scheme), longer in doubled.groupby(["network", "scheme"], sort=False):
        shorter = table[(table["part"] == SCRATCH) & (table["network"] == network) & (table["scheme"] == scheme)]
        both = longer.merge(shorter, on=["lmbda", "seed", "set", "name"], suffixes=("_longer", "_shorter"))
        change = np.log(both["loss_longer"].to_numpy() / both["loss_shorter"].to_numpy())[None]
        changes.append((float(change.mean()) > np.log1p(-LONG_ENOUGH), network, scheme, change))
    return changes

"""Effects of the other claims again, with other seeds and other training images."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from labkit.research.study.claim import Claim, Parts, RunSweep
from labkit.research.study.declarations import Study, merged
from labkit.research.study.findings import NOT_SUPPORTED, SUPPORTED, Finding, crossed, finding
from labkit.research.study.tables import REPLICATED, SCRATCH
from labkit.statistics import Array, estimate

if TYPE_CHECKING:
    import pandas as pd

HIGH = 0.3  # the bound that costs the most
EFFECTS = {  # scheme and bound, with and without one choice
    "the bound 0.11 instead of 0.3": (("relaxed", 0.11), ("relaxed", HIGH)),
    "the zero center": (("relaxed through", 0.11), ("relaxed uncentered", 0.11)),
    "the method instead of noise": (("relaxed", 0.11), ("noise", 0.11)),
    "the stop-gradient": (("relaxed", 0.11), ("relaxed through", 0.11)),
}


class Replication(Claim):
    """Whether an effect of new runs lies within the interval of the first runs, and by how much the two differ."""

    name = "replication"
    summary = "the effects of bound, center, stop-gradient and method again"

    def parts(self, study: Study, run_sweep: RunSweep) -> Parts:
        """Return the first runs, on the bundled photographs, and the new ones, on the images of `study.data`.

        Raises:
            ValueError: If the study has no other training images, or other seeds than the declared ones.
        """
        if study.data is None:
            raise ValueError("replication needs training images other than the bundled ones; use the option --data")
        if study.seeds is not None:
            raise ValueError("replication has two declared groups of seeds; leave out the option --seeds")
        parts = []
        for part, images in ((SCRATCH, replace(study, data=None)), (REPLICATED, study)):
            seeds = study.declaration["parts"]["first" if part == SCRATCH else "replicated"]
            high = merged(seeds, study.declaration["parts"]["high"])
            parts += [(part, images.sweep(seeds)), (part, images.sweep(high))]
        return parts

    def findings(self, table: pd.DataFrame) -> list[Finding]:
        """For each effect: the estimate of the new runs, the first estimate, and their difference."""
        findings = []
        for effect, cells in EFFECTS.items():
            first, again = (_change(table[table["part"] == part], cells) for part in (SCRATCH, REPLICATED))
            before = finding(f"{effect}: change of the loss in the first runs", estimate(np.mean, first))
            after = finding(f"{effect}: change of the loss in the new runs", estimate(np.mean, again), main=True)
            within = before.low <= after.value <= before.high
            seeds = min(len(first), len(again))
            difference = estimate(np.mean, again[:seeds] - first[:seeds])
            findings += [replace(after, verdict=SUPPORTED if within else NOT_SUPPORTED), before]
            findings.append(finding(f"{effect}: new runs relative to the first", difference))
        return findings


def _change(runs: pd.DataFrame, cells: tuple[tuple[str, float], tuple[str, float]]) -> Array:
    """Return the difference of log losses, of shape (seeds, images)."""
    logs = np.log(crossed(runs, "loss", ["scheme", "scale_lower_bound"], cells))
    return np.asarray(logs[:, :, 0] - logs[:, :, 1])

"""The two tricks on a trained patch codec, as one factorial: bound × center and stop-gradient × slope."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from labkit.research.study.claim import Claim, Lines
from labkit.research.study.claims.tradeoff import loss_curves
from labkit.research.study.findings import SMALL, Finding, best_inner_level_findings, crossed, finding
from labkit.research.study.tables import SCRATCH
from labkit.statistics import Array, estimate

if TYPE_CHECKING:
    import pandas as pd

EFFECTS = {  # schemes with and without one part of the method
    "the stop-gradient, relaxed slope": ("relaxed", "relaxed through"),
    "the zero center, relaxed slope": ("relaxed through", "relaxed uncentered"),
    "the zero center, slope 1": ("identity", "identity uncentered"),
    "both, relaxed slope": ("relaxed", "relaxed uncentered"),
}


class Tricks(Claim):
    """Main effects of the bound, of the zero center and of the stop-gradient, and how they interact."""

    name = "tricks"
    summary = "bound, zero center and stop-gradient on a trained patch codec"

    def findings(self, table: pd.DataFrame) -> list[Finding]:
        """The bound over all schemes and for each, its mismatch, and each other part over all bounds and at each."""
        runs = table[table["part"] == SCRATCH]
        bounds, names = sorted(runs["scale_lower_bound"].unique()), list(runs["scheme"].unique())
        cells = [(scheme, bound) for scheme in names for bound in bounds]
        logs, training, rounded = (
            _by_scheme(crossed(runs, name, ["scheme", "scale_lower_bound"], cells), len(names))
            for name in ("loss", "train_bpp", "estimated_bpp")
        )
        logs = np.log(logs)
        ends = f"a bound of {bounds[0]:g}", f"a bound of {bounds[-1]:g}"
        findings = best_inner_level_findings("all schemes: loss", "bound", logs.mean(2), ends)
        for place, scheme in enumerate(names):
            findings += [
                finding(f"{scheme}: loss at a bound of {bounds[1]:g} relative to {end}", estimate(np.mean, change))
                for end, change in zip(
                    ends, (logs[:, :, place, 1] - logs[:, :, place, k] for k in (0, -1)), strict=True
                )
            ]
        gaps = (training / rounded - 1).mean(2)
        for place, bound in enumerate(bounds):
            text = f"all schemes: rate mismatch at a bound of {bound:g}"
            findings.append(finding(text, estimate(np.mean, gaps[:, :, place]), log=False, percent=True))
        for effect, (with_it, without) in EFFECTS.items():
            change = logs[:, :, names.index(with_it)] - logs[:, :, names.index(without)]
            main = finding(
                f"{effect}: change of the loss", estimate(np.mean, change), "below", negligible=SMALL, main=True
            )
            findings.append(main)
            for place, bound in enumerate(bounds):
                text = f"{effect}: change of the loss at a bound of {bound:g}"
                findings.append(finding(text, estimate(np.mean, change[:, :, place])))
        return findings

    def curves(self, table: pd.DataFrame) -> tuple[str, Lines]:
        """Mean loss over the bound, relative to the least loss of each scheme, in percent."""
        runs = table[table["part"] == SCRATCH]
        return "lower bound on the scale", loss_curves(runs, ["scheme"], "scale_lower_bound")


def _by_scheme(values: Array, schemes: int) -> Array:
    """Return values of shape (seeds, images, cells) as (seeds, images, schemes, bounds)."""
    return values.reshape(*values.shape[:2], schemes, -1)

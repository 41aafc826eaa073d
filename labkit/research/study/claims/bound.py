"""Claim 5: lower bounds for the scale, for two schemes."""

from __future__ import annotations

import numpy as np

from labkit.research.study.claims.tradeoff import lines
from labkit.research.study.findings import Finding, against_both_ends, crossed, finding, interior
from labkit.statistics import estimate


def findings(table) -> list[Finding]:
    """For each scheme: the best inner bound against both ends, and the mismatch of the rate there and at the lowest."""
    forks, found = table[table["part"] == "forks"], []
    levels = sorted(forks["scale_lower_bound"].unique())
    ends = f"a bound of {levels[0]:g}", f"a bound of {levels[-1]:g}"
    for scheme in forks["scheme"].unique():
        own = forks[forks["scheme"] == scheme]
        losses, seen, rounded = (
            crossed(own, name, ["scale_lower_bound"], levels) for name in ("loss", "train_bpp", "estimated_bpp")
        )
        gaps = seen / rounded - 1
        found += against_both_ends(f"{scheme}, loss", np.log(losses), ends)
        less = estimate(lambda a, g: abs(np.mean(interior(a, g))) - abs(np.mean(g[:, :, 0])), np.log(losses), gaps)
        what = f"{scheme}, size of the rate's mismatch, best in between less that at {ends[0]}"
        found.append(finding(what, less, "below", log=False, percent=True, main=True))
        for place, level in enumerate(levels):
            gap = estimate(lambda g, place=place: np.mean(g[:, :, place]), gaps)
            found.append(finding(f"{scheme}, mismatch of the rate at {level:g}", gap, log=False, percent=True))
    return found


def curves(table) -> tuple[str, dict[str, tuple[list[float], list[float]]]]:
    """Mean loss over the bound, relative to each scheme's least, in percent."""
    return "scale lower bound", lines(table[table["part"] == "forks"], ["scheme"], "scale_lower_bound")

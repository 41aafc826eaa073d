"""Claim 8: variations of the method where it lost, against the method itself and additive noise."""

from __future__ import annotations

import numpy as np

from labkit.research.study.findings import SMALL, Finding, crossed, finding
from labkit.statistics import estimate

ENOUGH = "any"
METHOD, REFERENCE = "identity", "noise"


def findings(table) -> list[Finding]:
    """For each variation, loss to that of the method and to noise, and which learning rate each scheme is better with.

    A scheme is compared at the learning rate that it is better with. That is chosen on the very images that are
    compared, for the method and for noise as well.
    """
    forks, found = table[table["part"] == "forks"], []
    rates = sorted(forks["lr"].unique())
    best = {}
    for scheme in forks["scheme"].unique():
        logs = np.log(crossed(forks[forks["scheme"] == scheme], "loss", ["lr"], rates))
        best[scheme] = rates[int(logs.mean((0, 1)).argmin())]
        what = f"{scheme}, loss at lr {rates[-1]} to that at {rates[0]}"
        found.append(finding(what, estimate(lambda a: np.mean(a[:, :, -1] - a[:, :, 0]), logs)))
    pair = np.log(crossed(forks, "loss", ["scheme", "lr"], [(one, best[one]) for one in (METHOD, REFERENCE)]))
    found.append(finding(f"{METHOD}, loss to {REFERENCE}", estimate(lambda a: np.mean(a[:, :, 0] - a[:, :, 1]), pair)))
    for scheme in [scheme for scheme in best if scheme not in (METHOD, REFERENCE)]:
        levels = [(one, best[one]) for one in (scheme, METHOD, REFERENCE)]
        logs = np.log(crossed(forks, "loss", ["scheme", "lr"], levels))
        both = estimate(lambda a: np.mean(a[:, :, 0] - np.minimum(*a[:, :, 1:].mean((0, 1)))), logs)
        found.append(finding(f"{scheme}, loss to the lower of both", both, "below", same=SMALL, main=True))
        for place, other in ((1, METHOD), (2, REFERENCE)):
            gap = estimate(lambda a, place=place: np.mean(a[:, :, 0] - a[:, :, place]), logs)
            found.append(finding(f"{scheme}, loss to {other}", gap))
    return found

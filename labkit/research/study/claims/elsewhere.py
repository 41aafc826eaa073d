"""Claim 9: the best variation of claim 8 on networks and images on which it was not chosen."""

from __future__ import annotations

import numpy as np

from labkit.research.study.engine import Drive, Parts, Study, test_folder
from labkit.research.study.findings import SMALL, Finding, crossed, finding
from labkit.statistics import estimate

NAMED, OTHERS = "substituted", ("noise", "annealed")


def parts(study: Study, drive: Drive) -> Parts:
    """Forks, measured on the bundled test photographs and on the images asked for."""
    return [("forks", study.sweep(test=[str(test_folder()), *study.tests]))]


def findings(table) -> list[Finding]:
    """For each network and set of images, the variation's loss to that of noise and to that of the method."""
    found = []
    forks = table[table["part"] == "forks"]
    for (network, images), own in forks.groupby(["network", "set"], sort=False):
        for other in OTHERS:
            logs = np.log(crossed(own, "loss", ["scheme"], [NAMED, other]))
            gap = estimate(lambda a: np.mean(a[:, :, 0] - a[:, :, 1]), logs)
            found.append(finding(f"{network}, {images}, loss to {other}", gap, "below", same=SMALL, main=True))
    return found

"""Claim 2: variance and bias of the gradient that each surrogate gives the analysis transform of a trained network."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from labkit import surrogates
from labkit.study.engine import LABORATORY, MEASURED
from labkit.study.statistics import Finding, crossed, estimates, finding, order

TEMPERATURE = 0.25
EVERY = 2  # photographs: of these, one is measured
SURROGATES = {
    **{name: surrogates.get(name) for name in ("aun", "ste", "sr", "ds", "soft", "sga", "ssl", "sua")},
    "sua, expected": surrogates.get("sua", gradient="expected"),
    "sua, relaxed": surrogates.get("sua", relaxed=True),
}
PART = "g_a"  # what lies before the quantiser: the laboratory's gain


def measure(net, photos, settings: dict[str, Any], schemes: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """On a trunk: every surrogate on all paths, photograph by photograph, and what the laboratory says."""
    from labkit.study import laboratory

    yield from risks(net, photos[::EVERY], SURROGATES, settings, TEMPERATURE)
    shares = laboratory.scales(net, photos)
    for label, (variance, slope) in laboratory.gradient(SURROGATES, TEMPERATURE, shares).items():
        for quantity, value in (("variance", variance), ("slope", slope)):
            yield {"part": LABORATORY, "name": "", "label": label, "quantity": quantity, "value": value}


def risks(net, photos, what: dict[str, Any], settings: dict[str, Any], temperatures: Any) -> Iterator[dict[str, Any]]:
    """The gradient risk of the analysis transform on crops of each photograph, as rows: variance, agreed, promised.

    variance: over draws; agreed ÷ promised: the slope of the test loss on what training promises.
    """
    from labkit import analysis

    for name, image in zip(photos.names, photos, strict=True):
        crop = min(settings["crop"], min(image.shape[1:]) // 64 * 64)
        table = analysis.network_gradient_risk(
            net, [image], what, lmbda=settings["lmbda"], temperatures=temperatures, draws=4, batches=4, crop=crop,
            directions=2, by="part", seed=settings["seed"], progress=False,
        )  # fmt: skip
        for row in table[table["layer"] == PART].to_dict("records"):
            about = {"name": name, "label": row["label"], "temperature": f"{row['temperature']:g}"}
            yield about | {"quantity": "variance", "value": row["variance_draws"]}
            yield about | {"quantity": "agreed", "value": row["agreed"]}
            yield about | {"quantity": "promised", "value": row["promised"]}


def findings(table) -> list[Finding]:
    """For each network: variance against additive noise, relative bias, and both orders."""
    measured, found = table[table["part"] == MEASURED], []
    labels = list(SURROGATES)
    for network in measured["network"].unique():
        there = table[(table["part"] == LABORATORY) & (table["network"] == network)]
        laboratory = there.groupby(["quantity", "label"])["value"].mean()
        here = measured[measured["network"] == network]
        variances, agreed, promised = (
            crossed(here[here["quantity"] == quantity], "value", ["label"], labels)
            for quantity in ("variance", "agreed", "promised")
        )
        against = estimates(lambda v: v.mean((0, 1)) / v[:, :, 0].mean(), variances)
        for label, one in list(zip(labels, against, strict=True))[1:]:
            what = f"{network}, variance of the gradient, {label} to aun"
            found.append(finding(what, one, log=False, percent=False))
        for label, one in zip(labels, estimates(bias, agreed, promised), strict=True):
            found.append(finding(f"{network}, relative bias of the gradient, {label}", one, log=False, percent=True))
        wanted = laboratory["variance"].loc[labels].to_numpy()
        found += order(f"{network}, variance", labels, lambda v: v.mean((0, 1)), wanted, variances)
        wanted = np.abs(1 - laboratory["slope"].loc[labels].to_numpy())
        found += order(f"{network}, size of the bias", labels, lambda *a: np.abs(bias(*a)), wanted, agreed, promised)
    return found


def bias(agreed: np.ndarray, promised: np.ndarray) -> np.ndarray:
    """1 − slope, of all seeds and photographs together, for each of what is compared."""
    return 1 - agreed.sum((0, 1)) / promised.sum((0, 1))

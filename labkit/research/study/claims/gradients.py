"""Claim 2: variance and bias of the gradient that each surrogate gives the analysis transform of a trained network."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from labkit import surrogates
from labkit.research.study.engine import LABORATORY, MEASURED
from labkit.research.study.findings import Finding, crossed, finding, order
from labkit.statistics import estimates

TEMPERATURE = 0.25
EVERY = 2  # photographs: of these, one is measured
SURROGATES = {
    **{name: surrogates.get(name) for name in ("aun", "ste", "sr", "ds", "soft", "sga", "ssl", "sua")},
    "sua, expected": surrogates.get("sua", gradient="expected"),
    "sua, relaxed": surrogates.get("sua", relaxed=True),
}
PART = "g_a"  # what lies before the quantizer: the laboratory's gain


def measure(net, photos, settings: dict[str, Any], schemes: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """On a trunk: every surrogate on all paths, photograph by photograph, and what the laboratory says."""
    from labkit.research.study import laboratory

    yield from risks(net, photos[::EVERY], SURROGATES, settings, TEMPERATURE)
    shares = laboratory.scales(net, photos)
    for label, values in laboratory.gradient(SURROGATES, TEMPERATURE, shares).items():
        for quantity, value in zip(("variance", "promise"), values, strict=True):
            yield {"part": LABORATORY, "name": "", "label": label, "quantity": quantity, "value": value}


def risks(net, photos, what: dict[str, Any], settings: dict[str, Any], temperatures: Any) -> Iterator[dict[str, Any]]:
    """The gradient risk of the analysis transform on crops of each photograph, as rows: variance, agreed, found.

    variance: over draws; agreed ÷ found: what training promises for each unit by which the test loss changes.
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
            yield about | {"quantity": "found", "value": row["found"]}


def findings(table) -> list[Finding]:
    """For each network: variance and promised change against additive noise, and both orders.

    The finite difference of the test loss is noisy, which lowers all promises by one factor: their order stays.
    """
    measured, found = table[table["part"] == MEASURED], []
    labels = list(SURROGATES)
    for network in measured["network"].unique():
        there = table[(table["part"] == LABORATORY) & (table["network"] == network)]
        laboratory = there.groupby(["quantity", "label"])["value"].mean()
        here = measured[measured["network"] == network]
        variances, agreed, changes = (
            crossed(here[here["quantity"] == quantity], "value", ["label"], labels)
            for quantity in ("variance", "agreed", "found")
        )
        against = estimates(lambda v: v.mean((0, 1)) / v[:, :, 0].mean(), variances)
        for label, one in list(zip(labels, against, strict=True))[1:]:
            what = f"{network}, variance of the gradient, {label} to aun"
            found.append(finding(what, one, log=False, percent=False))
        for label, one in zip(labels, estimates(promise, agreed, changes), strict=True):
            what = f"{network}, change promised for each unit that is found, {label}"
            found.append(finding(what, one, log=False, percent=False))
        wanted = laboratory["variance"].loc[labels].to_numpy()
        found += order(f"{network}, variance", labels, lambda v: v.mean((0, 1)), wanted, variances, relative=True)
        wanted = laboratory["promise"].loc[labels].to_numpy()
        found += order(f"{network}, promise", labels, promise, wanted, agreed, changes)
    return found


def promise(agreed: np.ndarray, found: np.ndarray) -> np.ndarray:
    """What is promised for each unit that is found, of all seeds and photographs together."""
    return agreed.sum((0, 1)) / found.sum((0, 1))

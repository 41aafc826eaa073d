"""Variance and bias of the gradient that each surrogate gives the analysis transform of a trained network."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from labkit.research.study.claim import Claim, Row, Trunk
from labkit.research.study.findings import Finding, crossed, finding, order_findings
from labkit.research.study.tables import LABORATORY, MEASURED
from labkit.statistics import Array, estimates

if TYPE_CHECKING:
    import pandas as pd

TEMPERATURE = 0.25
EVERY = 2  # one of so many photographs is measured
SURROGATES: dict[str, tuple[str, dict[str, Any]]] = {  # names and fields, by label
    **{name: (name, {}) for name in ("aun", "ste", "sr", "ds", "soft", "sga", "ssl", "sua")},
    "sua, expected": ("sua", {"gradient": "expected"}),
    "sua, relaxed": ("sua", {"relaxed": True}),
}
LAYER = "g_a"  # the analysis transform, which corresponds to the gain of a scalar code


class Gradients(Claim):
    """Variance of the gradient, and promised change of the loss, against the predictions of a scalar code."""

    name = "gradients"
    summary = "bias and variance of gradients, in the predicted order"
    measures_trunks = True

    def measure(self, trunk: Trunk) -> Iterator[Row]:
        """Yield the gradient risk of every surrogate on each photograph, and the predictions of a scalar code."""
        from labkit import surrogates
        from labkit.research.study import predictions

        compared = {label: surrogates.get(name, **fields) for label, (name, fields) in SURROGATES.items()}
        yield from gradient_risk_rows(trunk, EVERY, compared, TEMPERATURE)
        shares = predictions.scale_shares(trunk.net, trunk.photos)
        for label, values in predictions.gradient(compared, TEMPERATURE, shares).items():
            for quantity, value in zip(("variance", "promise"), values, strict=True):
                yield {"part": LABORATORY, "name": "", "label": label, "quantity": quantity, "value": value}

    def findings(self, table: pd.DataFrame) -> list[Finding]:
        """For each network: variance relative to additive noise, promised change, and the orders of both.

        The measured change of the test loss is noisy, which lowers all promises by the same factor and keeps their
        order.
        """
        measured, findings = table[table["part"] == MEASURED], []
        labels = list(SURROGATES)
        for network in measured["network"].unique():
            rows = table[(table["part"] == LABORATORY) & (table["network"] == network)]
            predicted = rows.groupby(["quantity", "label"])["value"].mean()
            rows = measured[measured["network"] == network]
            variances, agreed, changes = (
                crossed(rows[rows["quantity"] == quantity], "value", ["label"], labels)
                for quantity in ("variance", "agreed", "found")
            )
            ratios = estimates(lambda v: v.mean((0, 1)) / v[:, :, 0].mean(), variances)
            for label, ratio in list(zip(labels, ratios, strict=True))[1:]:
                text = f"{network}: variance of the gradient of {label} relative to aun"
                findings.append(finding(text, ratio, log=False, percent=False))
            for label, promise in zip(labels, estimates(promised_change, agreed, changes), strict=True):
                text = f"{network}: promised change of the loss per measured change, {label}"
                findings.append(finding(text, promise, log=False, percent=False))
            findings += order_findings(
                f"{network}: variance of the gradient", labels, lambda v: v.mean((0, 1)),
                predicted["variance"].loc[labels].to_numpy(), variances, relative=True,
            )  # fmt: skip
            findings += order_findings(
                f"{network}: promised change of the loss", labels, promised_change,
                predicted["promise"].loc[labels].to_numpy(), agreed, changes,
            )  # fmt: skip
        return findings


class TrainedGradients(Gradients):
    """The same measurements on patch codecs that were trained from scratch with `mixed`."""

    name = "trained_gradients"
    summary = "gradients on trained patch codecs, in the predicted order"
    measured_scheme = "mixed"


def gradient_risk_rows(trunk: Trunk, every: int, compared: dict[str, Any], temperatures: Any) -> Iterator[Row]:
    """Yield the gradient risk of the analysis transform on crops of some photographs.

    The quantity "variance" is the variance over draws. The ratio of "agreed" to "found" is the change that training
    promises per unit by which the test loss changes.

    Args:
        trunk: The checkpoint.
        every: Measure one of so many photographs.
        compared: Surrogates or schemes by label.
        temperatures: One temperature or several.
    """
    from labkit import analysis

    photos, settings = trunk.photos[::every], trunk.settings
    for name, image in zip(photos.names, photos, strict=True):
        crop = min(settings["crop"], min(image.shape[1:]) // 64 * 64)
        table = analysis.network_gradient_risk(
            trunk.net, [image], compared, lmbda=settings["lmbda"], temperatures=temperatures, draws=4, batches=4,
            crop=crop, directions=2, by="part", seed=settings["seed"], progress=False,
        )  # fmt: skip
        for row in table[table["layer"] == LAYER].to_dict("records"):
            about = {"name": name, "label": row["label"], "temperature": f"{row['temperature']:g}"}
            yield about | {"quantity": "variance", "value": row["variance_draws"]}
            yield about | {"quantity": "agreed", "value": row["agreed"]}
            yield about | {"quantity": "found", "value": row["found"]}


def promised_change(agreed: Array, found: Array) -> Array:
    """Return the promised change per measured change, over all seeds and photographs together."""
    return np.asarray(agreed.sum((0, 1)) / found.sum((0, 1)))

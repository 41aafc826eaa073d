"""Claim 6: the partial stop-gradient of zero-center quantization, with and without it, for five surrogates."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from labkit.research.study.claim import Claim, Row, Trunk
from labkit.research.study.findings import SMALL, Finding, crossed, finding
from labkit.research.study.tables import FORKS, MEASURED
from labkit.statistics import Array, Estimate, estimate

if TYPE_CHECKING:
    import pandas as pd

# The stop-gradient must change the control by at most SMALL. It changes only the rounding of a sum, after which two
# runs drift apart.
CONTROL = "identity"
THROUGH, UNCENTERED = " through", " uncentered"
VARIANCE, LOSS, SPREAD = "variance of the gradient at the means", "loss", "spread of the training loss"
EVERY = 2  # the gradient is measured on one of so many photographs


class ZeroCenter(Claim):
    """Gradient variance, loss and spread of the training loss, with the stop-gradient relative to without it."""

    name = "zero_center"
    summary = "the partial stop-gradient stabilizes training"
    measures_trunks = True

    def measure(self, trunk: Trunk) -> Iterator[Row]:
        """Yield the variance over draws of the gradient at the means, with and without the stop-gradient."""
        from labkit import analysis
        from labkit.schemes import last_stage

        photos, settings, schemes = trunk.photos[::EVERY], trunk.settings, trunk.schemes
        stopped = {label: last_stage(schemes[label]) for label in schemes if f"{label}{THROUGH}" in schemes}
        for name, image in zip(photos.names, photos, strict=True):
            crop = min(settings["crop"], min(image.shape[1:]) // 64 * 64)
            table = analysis.gradient_at_means(
                trunk.net, [image], stopped, lmbda=settings["lmbda"], draws=8, batches=2, crop=crop,
                seed=settings["seed"], progress=False,
            )  # fmt: skip
            for row in table[table["path"] == "both"].to_dict("records"):
                label = row["label"] + THROUGH * (not row["stop_gradient"])
                yield {"name": name, "label": label, "quantity": "variance", "value": row["variance"]}

    def findings(self, table: pd.DataFrame) -> list[Finding]:
        """For each network and surrogate: three quantities with the stop-gradient relative to without it.

        Further findings compare the loss of each variation with that of the method, the identity slope with the
        stop-gradient. For a network without forks, only the variance is compared.
        """
        forks, measured, findings = table[table["part"] == FORKS], table[table["part"] == MEASURED], []
        for network in measured["network"].unique():
            trained, rows = forks[forks["network"] == network], measured[measured["network"] == network]
            schemes = list(trained["scheme"].unique())
            for label in [label for label in rows["label"].unique() if not label.endswith(THROUGH)]:
                pair = [label, f"{label}{THROUGH}"]
                ratios = {VARIANCE: _variance_ratio(crossed(rows, "value", ["label"], pair))}
                if len(trained):
                    ratios[LOSS] = _log_ratio(crossed(trained, "loss", ["scheme"], pair))
                    ratios[SPREAD] = _log_ratio(crossed(trained, "train_spread", ["scheme"], pair))
                for quantity, ratio in ratios.items():
                    text = f"{network}, {label}: {quantity} with the stop-gradient relative to without it"
                    main = quantity != SPREAD
                    if label != CONTROL:
                        findings.append(finding(text, ratio, "below", negligible=SMALL, main=main))
                    else:
                        findings.append(finding(text, ratio, "none" if main else "", negligible=SMALL, main=main))
                if f"{label}{UNCENTERED}" in schemes:
                    ratio = _log_ratio(crossed(trained, "loss", ["scheme"], [label, f"{label}{UNCENTERED}"]))
                    text = f"{network}, {label}: loss with zero center and stop-gradient relative to neither"
                    findings.append(finding(text, ratio))
            for label in [label for label in schemes if label != CONTROL]:
                ratio = _log_ratio(crossed(trained, "loss", ["scheme"], [label, CONTROL]))
                findings.append(finding(f"{network}: loss of {label} relative to {CONTROL}", ratio))
        return findings


def _log_ratio(values: Array) -> Estimate:
    return estimate(lambda logs: float(np.mean(logs[:, :, 0] - logs[:, :, 1])), np.log(values))


def _variance_ratio(values: Array) -> Estimate:
    """Return the log ratio of mean variances; a photograph whose latents all lie at their means has variance 0."""
    return estimate(lambda v: float(np.log(v[:, :, 0].mean() / v[:, :, 1].mean())), values)

"""Mismatch of networks that were trained with each scheme, of the trunk that they fork from, and of patch codecs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from labkit.research.study.claim import Claim, Row, Trunk
from labkit.research.study.declarations import Study
from labkit.research.study.findings import Finding, crossed, finding, order_findings
from labkit.research.study.tables import FORKS, LABORATORY, MEASURED
from labkit.statistics import Array, estimates

if TYPE_CHECKING:
    import pandas as pd

    from labkit.schemes import Scheme

COLUMNS = {"rate": ("train_bpp", "estimated_bpp"), "distortion": ("train_mse255", "mse255")}
DRAWS = 2  # noise samples per image


class Mismatch(Claim):
    """Relative mismatch of rate and distortion, against the predictions of a scalar code."""

    name = "mismatch"
    summary = "train–test mismatch, in the predicted order"
    measures_trunks = True

    def compared(self, trunk: Trunk) -> dict[str, Scheme]:
        """Return the schemes whose mismatch is measured on a checkpoint, by name."""
        return trunk.schemes

    def measure(self, trunk: Trunk) -> Iterator[Row]:
        """Yield the relative mismatch of each scheme on each image, and the predictions of a scalar code."""
        from labkit import entropy, evaluation
        from labkit.research.study import predictions
        from labkit.schemes import last_stage

        net, photos, compared = trunk.net, trunk.photos, self.compared(trunk)
        for label, scheme in compared.items():
            stage = last_stage(scheme)
            entropy.set_scheme(net, stage)
            entropy.set_temperature(net, stage.temperature.end)
            rounded = np.array(evaluation.rounded_losses(net, photos))
            training = np.mean([evaluation.surrogate_losses(net, photos, seed) for seed in range(DRAWS)], 0)
            for name, gaps in zip(photos.names, (training - rounded) / rounded, strict=True):
                for quantity, gap in zip(COLUMNS, gaps, strict=True):
                    yield {"name": name, "label": label, "quantity": quantity, "value": float(gap)}
        shares = predictions.scale_shares(net, photos)
        for label, predicted in predictions.mismatch(compared, shares).items():
            for quantity, gap in zip(COLUMNS, predicted, strict=True):
                yield {"part": LABORATORY, "name": "", "label": label, "quantity": quantity, "value": float(gap)}

    def findings(self, table: pd.DataFrame) -> list[Finding]:
        """For each network and quantity: the mismatch of each scheme, and the order, on trunks and complete forks."""
        forks, measured, findings = table[table["part"] == FORKS], table[table["part"] == MEASURED], []
        labels = list(measured["label"].unique())
        for network in measured["network"].unique():
            for quantity, (training, rounded) in COLUMNS.items():
                trained = forks[forks["network"] == network]
                trained = trained.assign(value=(trained[training] - trained[rounded]) / trained[rounded])
                rows = table[(table["network"] == network) & (table["quantity"] == quantity)]
                predicted = rows[rows["part"] == LABORATORY].groupby("label")["value"].mean().loc[labels].to_numpy()
                complete = set(labels) <= set(trained["scheme"])
                gaps = {"after training": crossed(trained, "value", ["scheme"], labels)} if complete else {}
                gaps["on the shared checkpoint"] = crossed(rows[rows["part"] == MEASURED], "value", ["label"], labels)
                for place, values in gaps.items():
                    for label, estimated in zip(labels, estimates(_mean, values), strict=True):
                        text = f"{network}: {quantity} mismatch of {label} {place}"
                        findings.append(finding(text, estimated, log=False, percent=True))
                    text = f"{network}: {quantity} mismatch {place}"
                    findings += order_findings(text, labels, _mean, predicted, values)
        return findings


class TrainedMismatch(Mismatch):
    """The mismatch of the same schemes on patch codecs that were trained from scratch with `mixed`."""

    name = "trained_mismatch"
    summary = "mismatch of trained patch codecs, in the predicted order"
    measured_scheme = "mixed"

    def compared(self, trunk: Trunk) -> dict[str, Scheme]:
        """Return the schemes that `mismatch` declares."""
        from labkit import schemes

        runs = Study(Mismatch.name, Path(), Path()).sweep().runs()
        return {run.settings["scheme"]: schemes.from_dict(run.scheme) for run in runs if run.scheme}


def _mean(values: Array) -> Array:
    return np.asarray(values.mean((0, 1)))

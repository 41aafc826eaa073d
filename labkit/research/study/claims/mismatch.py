"""Claim 1: mismatch, on networks trained with each scheme and on the trunk that all forked from."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from labkit.research.study.engine import LABORATORY, MEASURED
from labkit.research.study.findings import Finding, crossed, finding, order
from labkit.schemes import last_stage
from labkit.statistics import estimates

PLACES = {"rate": ("train_bpp", "estimated_bpp"), "distortion": ("train_mse255", "mse255")}
DRAWS = 2  # of noise, for each image


def measure(net, photos, settings: dict[str, Any], schemes: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """On a trunk: each scheme's relative mismatch, image by image, and what the laboratory says of these latents."""
    from labkit import entropy, evaluation
    from labkit.research.study import laboratory

    for label, scheme in schemes.items():
        stage = last_stage(scheme)
        entropy.set_scheme(net, stage)
        entropy.set_temperature(net, stage.temperature.end)
        rounded = np.array(evaluation.rounded_losses(net, photos))
        seen = np.mean([evaluation.surrogate_losses(net, photos, seed) for seed in range(DRAWS)], 0)
        for name, gaps in zip(photos.names, (seen - rounded) / rounded, strict=True):
            for quantity, gap in zip(PLACES, gaps, strict=True):
                yield {"name": name, "label": label, "quantity": quantity, "value": float(gap)}
    for label, gaps in laboratory.mismatch(schemes, laboratory.scales(net, photos)).items():
        for quantity, gap in zip(PLACES, gaps, strict=True):
            yield {"part": LABORATORY, "name": "", "label": label, "quantity": quantity, "value": float(gap)}


def findings(table) -> list[Finding]:
    """For each network and quantity: each scheme's mismatch, and the order, on the trunk, and on forks if all are."""
    forks, measured, found = table[table["part"] == "forks"], table[table["part"] == MEASURED], []
    labels = list(measured["label"].unique())
    for network in measured["network"].unique():
        for quantity, (seen, rounded) in PLACES.items():
            own = forks[forks["network"] == network]
            own = own.assign(value=(own[seen] - own[rounded]) / own[rounded])
            there = table[(table["network"] == network) & (table["quantity"] == quantity)]
            laboratory = there[there["part"] == LABORATORY].groupby("label")["value"].mean().loc[labels].to_numpy()
            all_there = set(labels) <= set(own["scheme"])
            gaps = {"trained with it": crossed(own, "value", ["scheme"], labels)} if all_there else {}
            gaps["on the trunk"] = crossed(there[there["part"] == MEASURED], "value", ["label"], labels)
            for where, values in gaps.items():
                what = f"{network}, {quantity} mismatch {where}"
                for label, one in zip(labels, estimates(_mean, values), strict=True):
                    found.append(finding(f"{what}, {label}", one, log=False, percent=True))
                found += order(what, labels, _mean, laboratory, values)
    return found


def _mean(values: np.ndarray) -> np.ndarray:
    return values.mean((0, 1))

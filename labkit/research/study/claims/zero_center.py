"""Claim 6: the partial stop-gradient of zero-center quantization, on and off, for five surrogates."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from labkit.research.study.engine import MEASURED
from labkit.research.study.findings import SMALL, Finding, crossed, finding
from labkit.statistics import estimate

CONTROL = "identity"  # the stop changes it by no more than `SMALL`: the same sum is rounded otherwise, and runs part
THROUGH, UNCENTERED = " through", " uncentered"
SPREAD = "spread of the training loss"
EVERY = 2  # photographs: of these, the gradient of one is measured


def measure(net, photos, settings: dict[str, Any], schemes: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """On a trunk: variance over draws of the gradient that reaches the means, with and without the stop."""
    from labkit import analysis

    stopped = {label: scheme for label, scheme in schemes.items() if f"{label}{THROUGH}" in schemes}
    for name, image in zip(photos[::EVERY].names, photos[::EVERY], strict=True):
        crop = min(settings["crop"], min(image.shape[1:]) // 64 * 64)
        table = analysis.gradient_at_means(
            net, [image], stopped, lmbda=settings["lmbda"], draws=8, batches=2, crop=crop, seed=settings["seed"],
            progress=False,
        )  # fmt: skip
        for row in table[table["path"] == "both"].to_dict("records"):
            label = row["label"] + THROUGH * (not row["stop_gradient"])
            yield {"name": name, "label": label, "quantity": "variance", "value": row["variance"]}


def findings(table) -> list[Finding]:
    """For each network and surrogate, with the stop against without: variance at the means, loss, training's spread.

    And what each variation's loss is to that of the course's method, the identity slope with the stop. Of a network
    that nothing was forked of, the variance alone.
    """
    forks, measured, found = table[table["part"] == "forks"], table[table["part"] == MEASURED], []
    for network in measured["network"].unique():
        own, there = forks[forks["network"] == network], measured[measured["network"] == network]
        labels = list(own["scheme"].unique())
        stopped = [label for label in there["label"].unique() if not label.endswith(THROUGH)]
        for label in stopped:
            pair = [label, f"{label}{THROUGH}"]
            values = {"variance of the gradient at the means": crossed(there, "value", ["label"], pair)}
            if len(own):
                values["loss"] = crossed(own, "loss", ["scheme"], pair)
                values[SPREAD] = crossed(own, "train_spread", ["scheme"], pair)
            for what, value in values.items():
                expected = "below" if label != CONTROL else "none" if what != SPREAD else ""
                found.append(
                    finding(
                        f"{network}, {label}, {what} with the stop to without",
                        _variances(value) if what.startswith("variance") else estimate(_change, np.log(value)),
                        expected,
                        same=SMALL,
                        main=what != SPREAD,
                    )
                )
            if f"{label}{UNCENTERED}" in labels:
                losses = crossed(own, "loss", ["scheme"], [label, f"{label}{UNCENTERED}"])
                what = f"{network}, {label}, loss with zero center and stop to neither"
                found.append(finding(what, estimate(_change, np.log(losses))))
        for label in [label for label in labels if label != CONTROL]:
            losses = crossed(own, "loss", ["scheme"], [label, CONTROL])
            found.append(finding(f"{network}, loss, {label} to {CONTROL}", estimate(_change, np.log(losses))))
    return found


def _change(logs: np.ndarray) -> float:
    return float(np.mean(logs[:, :, 0] - logs[:, :, 1]))


def _variances(values: np.ndarray):
    """The log of the ratio of mean variances: of a photograph whose latents all lie at their means, one may be zero."""
    return estimate(lambda v: float(np.log(v[:, :, 0].mean() / v[:, :, 1].mean())), values)

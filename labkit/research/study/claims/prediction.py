"""Whether the two measures of a surrogate, on a trained codec, predict which schemes end with a lower loss."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from labkit.research.study.claim import Claim, Parts, Row, RunSweep, Trunk
from labkit.research.study.claims.gradients import gradient_risk_rows
from labkit.research.study.declarations import Study
from labkit.research.study.findings import Finding, crossed, finding, rank_correlation
from labkit.research.study.tables import MEASURED, SCRATCH
from labkit.statistics import Array, Estimate, estimate

if TYPE_CHECKING:
    import pandas as pd

FITTED, REFERENCE, METHOD = "patch_hyperprior", "mixed", "annealed"
EVERY = 4  # the gradient is measured on one of so many photographs
DRAWS = 2  # noise samples per image


class Prediction(Claim):
    """Rank correlation of predicted and final losses, on structures on which the prediction was not fitted.

    The predicted log loss of a scheme, relative to the other schemes of a structure, is a·|m| + b·ln v. Here m is the
    relative mismatch of the training loss, and v the variance of the gradient of the analysis transform relative to
    that of `mixed`. Both are measured on the codec that trained with `mixed`. Least squares on `patch_hyperprior` give
    a and b.
    """

    name = "prediction"
    summary = "mismatch and gradient variance predict the order of final losses"
    measures_trunks = True
    measured_scheme = REFERENCE

    def parts(self, study: Study, run_sweep: RunSweep) -> Parts:
        """Return the runs of two schemes without a temperature, and of constant temperatures of the method."""
        return [(SCRATCH, study.sweep()), (SCRATCH, study.sweep(study.declaration["parts"]["temperatures"]))]

    def measure(self, trunk: Trunk) -> Iterator[Row]:
        """Yield the mismatch of each scheme on each photograph, and the variance of its gradient on some of them."""
        from labkit import entropy, evaluation
        from labkit.schemes import last_stage

        temperatures = trunk.declaration["parts"]["temperatures"]["grid"]["temperature"]
        lmbda = np.array([1.0, trunk.settings["lmbda"]])
        for scheme, levels in ((REFERENCE, [1.0]), ("noise", [1.0]), (METHOD, temperatures)):
            compared = {scheme: trunk.schemes[scheme]}
            for level in levels:
                entropy.set_scheme(trunk.net, last_stage(trunk.schemes[scheme]))
                entropy.set_temperature(trunk.net, level)
                rounded = np.array(evaluation.rounded_losses(trunk.net, trunk.photos)) @ lmbda
                drawn = [evaluation.surrogate_losses(trunk.net, trunk.photos, seed) for seed in range(DRAWS)]
                gaps = np.mean(drawn, 0) @ lmbda / rounded - 1
                for name, gap in zip(trunk.photos.names, gaps, strict=True):
                    yield {"name": name, "label": _label(scheme, level), "quantity": "mismatch", "value": float(gap)}
            for row in gradient_risk_rows(trunk, EVERY, compared, levels):
                if row["quantity"] == "variance":
                    yield row | {"label": _label(scheme, float(row["temperature"])), "temperature": None}

    def findings(self, table: pd.DataFrame) -> list[Finding]:
        """The rank correlation over all structures that were not fitted, also without noise, and for each structure."""
        runs, measured = table[table["part"] == SCRATCH], table[table["part"] == MEASURED]
        runs = runs.assign(
            label=[
                _label(scheme, float(level)) for scheme, level in zip(runs["scheme"], runs["temperature"], strict=True)
            ]
        )
        labels = list(measured["label"].unique())
        losses = {
            network: _relative(np.log(crossed(runs[runs["network"] == network], "loss", ["label"], labels)))
            for network in measured["network"].unique()
        }
        measures = {
            network: _measures(measured[measured["network"] == network], labels, labels.index(REFERENCE))
            for network in losses
        }
        weights, *_ = np.linalg.lstsq(measures[FITTED], losses[FITTED].mean((0, 1)), rcond=None)
        others = [network for network in losses if network != FITTED]
        findings = []
        everything = [*range(len(labels))]
        quiet = [k for k in everything if labels[k] != "noise"]  # a comparison that was added after the first table
        groups = [("the other structures", others, everything), ("the other structures without noise", others, quiet)]
        for name, networks, kept in [*groups, *((each, [each], everything) for each in losses)]:
            seeds = min(len(losses[network]) for network in networks)
            predicted = [(measures[network] @ weights)[kept] for network in networks]
            correlation = estimate(
                lambda *ends, predicted=predicted: float(
                    np.mean([rank_correlation(p, e.mean((0, 1))) for p, e in zip(predicted, ends, strict=True)])
                ),
                *(losses[network][:seeds, :, kept] for network in networks),
            )
            main = name == "the other structures"
            text = f"{name}: weighted rank correlation of predicted and final losses"
            findings.append(finding(text, correlation, "above" if main else "", log=False, main=main))
        for name, weight in zip(("mismatch", "log of the gradient variance"), weights, strict=True):
            findings.append(finding(f"weight of the {name} in the prediction", _number(weight), log=False))
        return findings


def _label(scheme: str, temperature: float) -> str:
    return f"{scheme}, τ = {temperature:g}" if scheme == METHOD else scheme


def _relative(values: Array) -> Array:
    """Return values minus their mean over the last axis."""
    return np.asarray(values - values.mean(-1, keepdims=True))


def _measures(rows: pd.DataFrame, labels: list[str], reference: int) -> Array:
    """Return |m| and ln v of each label, without their means over the labels, as an array of shape (labels, 2)."""
    means = rows.groupby(["quantity", "label"])["value"].mean()
    variance = np.log(means["variance"].loc[labels].to_numpy())
    both = np.stack([means["mismatch"].loc[labels].abs().to_numpy(), variance - variance[reference]])
    return _relative(both).T


def _number(value: float) -> Estimate:
    return Estimate(float(value), float("nan"), float("nan"), 1, 1)

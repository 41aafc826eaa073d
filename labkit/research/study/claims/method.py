"""Claim 7: the whole method and seven other schemes, each tuned on training photographs at equal cost."""

from __future__ import annotations

import math
import warnings
from itertools import product
from typing import TYPE_CHECKING, Any

import numpy as np

from labkit.research.study import declarations, tables
from labkit.research.study.claim import Claim, Parts, RunSweep
from labkit.research.study.declarations import Study, merged
from labkit.research.study.findings import Finding, crossed, finding
from labkit.research.study.tables import FORKS, SCRATCH, short_name
from labkit.research.sweeps import SweepGroup
from labkit.statistics import Array, estimate

if TYPE_CHECKING:
    import pandas as pd

METHOD, REFERENCE = "annealed", "noise"
SETTINGS = ("lr",)  # settings of a candidate that are not fields of its scheme
Chosen = dict[tuple[str, str], dict[str, Any]]


class Method(Claim):
    """BD-rate and loss of the whole method against each other scheme."""

    name = "method"
    summary = "the whole method against seven other schemes"

    def parts(self, study: Study, run_sweep: RunSweep) -> Parts:
        """Return forks of all networks and some runs from scratch, with each scheme as tuned for its network."""
        declared = study.declaration
        chosen = tuned_candidates(study, run_sweep)
        test = [str(declarations.test_folder()), *study.tests]
        parts: Parts = []
        for part in (FORKS, SCRATCH):
            changes = declared["parts"].get(part, {})
            grid = merged(declared, changes)["grid"]
            for network in grid["network"]:
                for scheme in grid.get("scheme", declared["tuning"]["schemes"]):
                    candidate = _changes(scheme, chosen[network, scheme], network)
                    if part == SCRATCH:  # longer runs with a learning rate of their own
                        candidate.pop("lr", None)
                    parts.append((part, study.sweep(merged(changes, candidate), test)))
        return parts

    def findings(self, table: pd.DataFrame) -> list[Finding]:
        """For each network, kind of training and set of images: BD-rate and loss against each other scheme."""
        runs, findings = table[table["part"].isin([FORKS, SCRATCH])], []
        for (part, network, images), rows in runs.groupby(["part", "network", "set"], sort=False):
            others = [scheme for scheme in rows["scheme"].unique() if scheme != METHOD]
            lmbdas = sorted(rows["lmbda"].unique())
            about = f"{network}{' from scratch' if part == SCRATCH else ''}, {images}"
            for scheme in others:  # pair by pair, because a run of another scheme may have failed
                levels = [(name, lmbda) for name in (METHOD, scheme) for lmbda in lmbdas]
                bpp, psnr, loss = (
                    values.reshape(*values.shape[:2], 2, len(lmbdas))
                    for values in (crossed(rows, name, ["scheme", "lmbda"], levels) for name in ("bpp", "psnr", "loss"))
                )
                rates = estimate(_bd_rate, bpp, psnr)
                text = f"{about}: BD-rate against {scheme}"
                main = scheme == REFERENCE or len(others) == 1
                findings.append(finding(text, rates, "below", log=False, percent=True, main=main))
                logs = np.log(loss[:, :, 0] / loss[:, :, 1])
                findings.append(finding(f"{about}: loss relative to {scheme}", estimate(np.mean, logs)))
        return findings


def _changes(scheme: str, candidate: dict[str, Any], network: str) -> dict[str, Any]:
    """Return the changes that a candidate makes to the declaration."""
    fields = {"preset": scheme, **{name: value for name, value in candidate.items() if name not in SETTINGS}}
    settings = {name: candidate[name] for name in SETTINGS if name in candidate}
    return {**settings, "grid": {"network": [network], "scheme": [scheme]}, "schemes": {scheme: fields}}


def tuned_candidates(study: Study, run_sweep: RunSweep) -> Chosen:
    """Return the best candidate of each network and scheme: that with the least mean log loss on training photographs.

    All schemes have the same number of candidates and steps, and share one trunk, whose seed the study itself does not
    use. The candidates, their losses and their costs are saved in study-tuning.parquet, which is used if it contains
    all of these runs. Without any results, the first candidate is chosen.

    Args:
        study: The study of the method.
        run_sweep: Function that trains the missing runs of a sweep.
    """
    import pandas as pd

    from labkit import evaluation
    from labkit.research.sweeps.settings import image_folders

    declared = study.declaration
    tuning = declared["tuning"]
    photos = [str(folder) for folder in image_folders({"data": study.data}, "data")]
    candidates = []
    for network, scheme in product(declared["grid"]["network"], tuning["schemes"]):
        for candidate in tuning["schemes"][scheme]:
            grid = {"seed": [tuning["seed"]], "lmbda": [tuning["lmbda"]]}
            changes = merged(_changes(scheme, candidate, network), {"grid": grid, "coded": False})
            sweep = study.sweep(changes, photos)
            candidates.append((network, scheme, candidate, sweep, short_name(sweep.runs()[-1].name)))
    path = tables.table_path("tuning", study.out)
    table = evaluation.read_table(path) if path.is_file() else pd.DataFrame({"run": []})
    if not {run for *_, run in candidates} <= set(table["run"]):
        frame = run_sweep(SweepGroup(tuple(sweep for *_, sweep, _ in candidates)))
        done = frame[frame["status"] == "done"] if len(frame) else frame
        rows = []
        for network, scheme, candidate, _, run in candidates:
            measured = done[done["run"].map(short_name) == run] if len(done) else done
            about = {"run": run, "network": network, "scheme": scheme}
            about |= {"candidate": ", ".join(f"{name} {value}" for name, value in candidate.items())}
            about |= {"lmbda": tuning["lmbda"], "seed": tuning["seed"]}
            loss = float(np.log(measured["loss"]).mean()) if len(measured) else math.inf
            hours = measured["seconds"].iloc[0] / 3600 if len(measured) else math.nan
            rows.append({**about, "log_loss": loss, "core_hours": hours})
        table = pd.DataFrame(rows)
        table["chosen"] = table.index.isin(table.groupby(["network", "scheme"])["log_loss"].idxmin())
        if len(done):
            tables.save(table, path)
    chosen = set(table["run"][table["chosen"]])
    return {(network, scheme): candidate for network, scheme, candidate, _, run in candidates if run in chosen}


def _bd_rate(bpp: Array, psnr: Array) -> float:
    """Return the BD-rate of the first scheme against the second, as a share, from means over seeds and images."""
    from labkit import evaluation

    (rates, other_rates), (qualities, other_qualities) = bpp.mean((0, 1)), psnr.mean((0, 1))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # evaluation warns if the curves share few qualities
        try:
            return evaluation.bd_rate((other_rates, other_qualities), (rates, qualities)) / 100
        except ValueError:  # a curve does not rise
            return math.nan

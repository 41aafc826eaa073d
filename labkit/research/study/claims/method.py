"""Claim 7: the method against seven schemes, each tuned on training photographs at equal cost."""

from __future__ import annotations

import math
import warnings
from itertools import product
from typing import Any

import numpy as np

from labkit.research.study.engine import Drive, Parts, Study, declared, merged, save, short, test_folder
from labkit.research.study.findings import Finding, crossed, finding
from labkit.statistics import estimate

METHOD, REFERENCE = "annealed", "noise"
FORKS, SCRATCH = "forks", "scratch"
SETTING = ("lr",)  # what a candidate says that is no field of its scheme


def parts(study: Study, drive: Drive) -> Parts:
    """Forks of all networks, and for some runs from scratch, each scheme as it was tuned for its network."""
    values = declared(study.name, study.scale)
    chosen = tuned(study, drive)
    test = [str(test_folder()), *study.tests]
    found: Parts = []
    for part in (FORKS, SCRATCH):
        changes = values["parts"].get(part, {})
        grid = merged(values, changes)["grid"]
        for network in grid["network"]:
            for scheme in grid.get("scheme", values["tuning"]["schemes"]):
                asked = _as_settings(scheme, chosen[network, scheme], network)
                if part == SCRATCH:  # trained for longer, with learning rates of its own
                    asked.pop("lr", None)
                found.append((part, study.sweep(merged(changes, asked), test)))
    return found


def _as_settings(scheme: str, candidate: dict[str, Any], network: str) -> dict[str, Any]:
    """What a candidate changes in the declared sweep."""
    fields = {"preset": scheme, **{name: value for name, value in candidate.items() if name not in SETTING}}
    settings = {name: candidate[name] for name in SETTING if name in candidate}
    return {**settings, "grid": {"network": [network], "scheme": [scheme]}, "schemes": {scheme: fields}}


def tuned(study: Study, drive: Drive) -> dict[tuple[str, str], dict[str, Any]]:
    """Of each network's and scheme's candidates the one with the least mean log loss on the training photographs.

    All have the same number of candidates, of steps, and one trunk, of a seed that the study itself does not have. What
    was tried, its loss and its cost go into study-tuning.parquet, which is believed where it has all of these runs.
    Where nothing was made, the first candidate.
    """
    import pandas as pd

    from labkit import evaluation
    from labkit.research.sweeps import Several
    from labkit.research.sweeps.grid import images

    values = declared(study.name, study.scale)
    tuning = values["tuning"]
    photos = [str(folder) for folder in images({"data": study.data}, "data")]
    tried = []
    for network, scheme in product(values["grid"]["network"], tuning["schemes"]):
        for candidate in tuning["schemes"][scheme]:
            asked = _as_settings(scheme, candidate, network)
            grid = {"seed": [tuning["seed"]], "lmbda": [tuning["lmbda"]]}
            sweep = study.sweep(merged(asked, {"grid": grid, "coded": False}), photos)
            tried.append((network, scheme, candidate, sweep, short(sweep.runs()[-1].name)))
    file = study.out / "study-tuning.parquet"
    table = evaluation.read_table(file) if file.is_file() else pd.DataFrame({"run": []})
    if not {run for *_, run in tried} <= set(table["run"]):
        frame = drive(Several(tuple(sweep for *_, sweep, _ in tried)))
        done = frame[frame["status"] == "done"] if len(frame) else frame
        rows = []
        for network, scheme, candidate, _, run in tried:
            mine = done[done["run"].map(short) == run] if len(done) else done
            loss = float(np.log(mine["loss"]).mean()) if len(mine) else math.inf
            told = ", ".join(f"{name} {value}" for name, value in candidate.items())
            hours = mine["seconds"].iloc[0] / 3600 if len(mine) else math.nan
            about = {"run": run, "network": network, "scheme": scheme, "candidate": told, "lmbda": tuning["lmbda"]}
            rows.append({**about, "seed": tuning["seed"], "log_loss": loss, "core_hours": hours})
        table = pd.DataFrame(rows)
        table["chosen"] = table.index.isin(table.groupby(["network", "scheme"])["log_loss"].idxmin())
        if len(done):
            save(table, file)
    chosen = set(table["run"][table["chosen"]])
    return {(network, scheme): candidate for network, scheme, candidate, _, run in tried if run in chosen}


def findings(table) -> list[Finding]:
    """For each network, training and test set: BD-rate and loss of the method against each other scheme."""
    runs, found = table[table["part"].isin([FORKS, SCRATCH])], []
    for (part, network, test), own in runs.groupby(["part", "network", "set"], sort=False):
        others = [scheme for scheme in own["scheme"].unique() if scheme != METHOD]
        lmbdas = sorted(own["lmbda"].unique())
        about = f"{network}{' from scratch' if part == SCRATCH else ''}, {test}"
        for scheme in others:  # pair by pair: of another scheme, a run may have failed
            levels = [(one, lmbda) for one in (METHOD, scheme) for lmbda in lmbdas]
            bpp, psnr, loss = (
                values.reshape(*values.shape[:2], 2, len(lmbdas))
                for values in (crossed(own, name, ["scheme", "lmbda"], levels) for name in ("bpp", "psnr", "loss"))
            )
            rates = estimate(_bd_rate, bpp, psnr)
            what = f"{about}, BD-rate against {scheme}"
            main = scheme == REFERENCE or len(others) == 1
            found.append(finding(what, rates, "below", log=False, percent=True, main=main))
            logs = np.log(loss[:, :, 0] / loss[:, :, 1])
            found.append(finding(f"{about}, loss against {scheme}", estimate(np.mean, logs)))
    return found


def _bd_rate(bpp: np.ndarray, psnr: np.ndarray) -> float:
    """Of the method (first) against the other, as a share, from the curves of means over seeds and images."""
    from labkit import evaluation

    (rates, other_rates), (qualities, others) = bpp.mean((0, 1)), psnr.mean((0, 1))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of qualities in common
        try:
            return evaluation.bd_rate((other_rates, others), (rates, qualities)) / 100
        except ValueError:  # a curve that does not rise
            return math.nan

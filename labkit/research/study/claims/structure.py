"""Claim 4: the best constant temperatures of different networks, of image codecs and of toys."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from itertools import combinations, permutations
from typing import TYPE_CHECKING, Any

import numpy as np

from labkit.disk import write_whole
from labkit.research.study.claim import Claim, Lines, Row
from labkit.research.study.claims.tradeoff import loss_curves, temperatures
from labkit.research.study.declarations import Study
from labkit.research.study.findings import Finding, best_level, crossed, finding
from labkit.research.study.tables import FORKS, TOYS, digest, rows_of
from labkit.statistics import Array, estimate

if TYPE_CHECKING:
    import pandas as pd

SAME = math.log(1.5)  # temperatures within this factor count as the same
GROUPS, POINTS = 8, 2**13  # groups of test points, in place of images, and the number of all points


class Structure(Claim):
    """Distance between the best temperatures of two networks, and the loss at the best temperature of the other."""

    name = "structure"
    summary = "the best temperature differs between networks"
    rule = "any"

    def toy_rows(self, study: Study, table: pd.DataFrame) -> Iterator[Row]:
        """Yield the rows of toy codes; the missing seeds of a source and a surrogate are trained as one stack."""
        declared = study.declaration
        for source in declared["toys"]["sources"]:
            for scheme, fields in declared["schemes"].items():
                request = {**declared["toys"], "source": source, "scheme": fields, "sources": None}
                request |= {"temperatures": declared["grid"]["temperature"]}
                # The first edition's default was `relaxed = false`, so its digests lack it
                named = {name: value for name, value in fields.items() if (name, value) != ("relaxed", False)}
                runs = {seed: digest(request | {"scheme": named, "seed": seed}) for seed in study.seed_list}
                rows = {seed: rows_of(table, run) for seed, run in runs.items()}
                if missing := [seed for seed in runs if not rows[seed]]:
                    for row in _trained_or_saved(study, request | {"seeds": missing}):
                        about = {"part": TOYS, "scheme": scheme, "run": runs[row["seed"]]}
                        rows[row["seed"]].append({**about, "network": source, "set": "points", **row})
                for seed_rows in rows.values():
                    yield from seed_rows

    def findings(self, table: pd.DataFrame) -> list[Finding]:
        """For each pair of codecs and of toys: the ratio of their best temperatures, and the loss at the other's."""
        findings = []
        runs = table[table["part"].isin([FORKS, TOYS])]
        levels = temperatures(runs)
        logs = np.log(np.array(levels, dtype=float))
        groups = [group for _, group in runs.groupby(["part", "scheme"], sort=False)]
        tests = sum(math.comb(group["network"].nunique(), 2) for group in groups)
        for group in groups:
            scheme, networks = group["scheme"].iloc[0], list(group["network"].unique())
            losses = {
                network: np.log(crossed(group[group["network"] == network], "loss", ["temperature"], levels))
                for network in networks
            }
            for one, other in combinations(networks, 2):
                ratio = estimate(
                    lambda a, b: _best_level(a, logs) - _best_level(b, logs), *_same_seeds(losses[one], losses[other])
                )
                text = f"{scheme}: best temperature of {one} relative to {other}"
                findings.append(finding(text, ratio, "different", tests=tests, negligible=SAME, main=True))
            for one, other in permutations(networks, 2):
                regret = estimate(_regret, *_same_seeds(losses[one], losses[other]))
                findings.append(
                    finding(f"{scheme}: loss of {one} at the best temperature of {other} relative to its own", regret)
                )
        return findings

    def curves(self, table: pd.DataFrame) -> tuple[str, Lines]:
        """Mean loss over the temperature, relative to the least loss of each network, in percent."""
        runs = table[table["part"].isin([FORKS, TOYS])]
        return "temperature τ", loss_curves(runs, ["network", "scheme"], "temperature")


def _trained_or_saved(study: Study, request: dict[str, Any]) -> list[Row]:
    """Return the rows of toys from the work folder, where they are saved after training."""
    path = study.work / "measured" / f"toys-{digest(request)}.json"
    if not path.exists():
        rows = list(_train_toys(request))
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, json.dumps(rows).encode())
    saved: list[Row] = json.loads(path.read_bytes())
    return saved


def _train_toys(request: dict[str, Any]) -> Iterator[Row]:
    import torch

    from labkit import datasets, networks, schedules, schemes, training

    kind, name = request["source"].split()
    source = getattr(datasets, name.capitalize())()
    fields = {key: value for key, value in request["scheme"].items() if key != "preset"}
    settings = [(seed, temperature) for seed in request["seeds"] for temperature in request["temperatures"]]
    nets = [
        getattr(networks, kind)(schemes.get(request["scheme"]["preset"], temperature=temperature, **fields), seed=seed)
        for seed, temperature in settings
    ]
    shared = {name: request[name] for name in ("lmbda", "steps", "batch_size")}
    runs = training.train_stack(
        nets, source, [{"seed": seed} for seed, _ in settings],
        threads=1, device="cpu", lr=schedules.cosine(1e-2, 5e-4), **shared,
    )  # fmt: skip
    points = source.draw(POINTS, torch.Generator().manual_seed(1_000_000)).chunk(GROUPS)
    for (seed, temperature), run in zip(settings, runs, strict=True):
        for group, x in enumerate(points):
            with torch.no_grad():
                loss = training.rate_distortion(run.net.eval()(x), x, shared["lmbda"])
            about = {"lmbda": shared["lmbda"], "seed": seed, "temperature": f"{temperature:g}", "name": str(group)}
            yield about | {"estimated_bpp": float(loss.rate), "mse255": float(loss.distortion)}


def _best_level(losses: Array, logs: Array) -> float:
    return best_level(losses.mean((0, 1)), logs)


def _regret(losses: Array, others: Array) -> float:
    means = losses.mean((0, 1))
    return float(means[others.mean((0, 1)).argmin()] - means.min())


def _same_seeds(a: Array, b: Array) -> tuple[Array, Array]:
    """Return both arrays with the same number of seeds; a study that was stopped may have more of one network."""
    seeds = min(len(a), len(b))
    return a[:seeds], b[:seeds]

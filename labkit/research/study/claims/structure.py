"""Claim 4: the best constant temperature of one network structure against another's, of image codecs and of toys."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from itertools import combinations, permutations
from typing import Any

import numpy as np

from labkit.research.study.claims.tradeoff import lines, temperatures
from labkit.research.study.engine import TOYS, Study, declared, digest, rows_of
from labkit.research.study.findings import Finding, best_level, crossed, finding
from labkit.statistics import estimate

ENOUGH = "any"
SAME = math.log(1.5)  # temperatures within this factor count as one
GROUPS, POINTS = 8, 2**13  # of test points, in the place of images


def toys(study: Study, own) -> Iterator[dict[str, Any]]:
    """Rows of toy codes, each source and surrogate trained as one stack, or the table's where it has them."""
    from labkit.disk import write_whole

    values = declared(study.name, study.scale)
    for source in values["toys"]["sources"]:
        for scheme, fields in values["schemes"].items():
            asked = {**values["toys"], "source": source, "scheme": fields, "sources": None}
            asked |= {"temperatures": values["grid"]["temperature"]}
            runs = {seed: digest(asked | {"seed": seed}) for seed in study.chosen}
            there = {seed: rows_of(own, run) for seed, run in runs.items()}
            missing = [seed for seed, rows in there.items() if not rows]
            kept = study.work / "measured" / f"toys-{digest(asked | {'seeds': missing})}.json"
            if missing and not kept.exists():
                made = [{"part": TOYS, "scheme": scheme, **row} for row in _trained(asked | {"seeds": missing})]
                kept.parent.mkdir(parents=True, exist_ok=True)
                write_whole(kept, json.dumps(made).encode())
            for row in json.loads(kept.read_bytes()) if missing else []:
                there[row["seed"]].append({"run": runs[row["seed"]], "network": source, "set": "points", **row})
            for rows in there.values():
                yield from rows


def _trained(asked: dict[str, Any]) -> Iterator[dict[str, Any]]:
    import torch

    from labkit import datasets, networks, schedules, schemes, training

    kind, name = asked["source"].split()
    source = getattr(datasets, name.capitalize())()
    fields = {key: value for key, value in asked["scheme"].items() if key != "preset"}
    each = [(seed, temperature) for seed in asked["seeds"] for temperature in asked["temperatures"]]
    nets = [
        getattr(networks, kind)(schemes.get(asked["scheme"]["preset"], temperature=temperature, **fields), seed=seed)
        for seed, temperature in each
    ]
    shared = {name: asked[name] for name in ("lmbda", "steps", "batch_size")}
    runs = training.train_stack(
        nets,
        source,
        [{"seed": seed} for seed, _ in each],
        threads=1,
        device="cpu",
        lr=schedules.cosine(1e-2, 5e-4),
        **shared,
    )
    points = source.draw(POINTS, torch.Generator().manual_seed(1_000_000)).chunk(GROUPS)
    for (seed, temperature), run in zip(each, runs, strict=True):
        for group, x in enumerate(points):
            with torch.no_grad():
                loss = training.rate_distortion(run.net.eval()(x), x, shared["lmbda"])
            measured = {"estimated_bpp": float(loss.rate), "mse255": float(loss.distortion)}
            about = {"lmbda": shared["lmbda"], "seed": seed, "temperature": f"{temperature:g}", "name": str(group)}
            yield about | measured


def findings(table) -> list[Finding]:
    """Each pair of codecs and each of toys: how far apart their best temperatures are, and what the other's costs."""
    found = []
    runs = table[table["part"].isin(["forks", TOYS])]
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
            a, b = _alike(losses[one], losses[other])
            apart = estimate(lambda a, b: _best(a, logs) - _best(b, logs), a, b)
            what = f"{scheme}, best temperature of {one} against {other}"
            found.append(finding(what, apart, "different", tests=tests, same=SAME, main=True))
        for one, other in permutations(networks, 2):
            regret = estimate(_regret, *_alike(losses[one], losses[other]))
            found.append(finding(f"{scheme}, loss of {one} with the best temperature of {other}", regret))
    return found


def _best(losses: np.ndarray, logs: np.ndarray) -> float:
    return best_level(losses.mean((0, 1)), logs)


def _regret(losses: np.ndarray, others: np.ndarray) -> float:
    means = losses.mean((0, 1))
    return float(means[others.mean((0, 1)).argmin()] - means.min())


def _alike(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Both with as many seeds, the first ones: of a study that was stopped, one may have more."""
    seeds = min(len(a), len(b))
    return a[:seeds], b[:seeds]


def curves(table) -> tuple[str, dict[str, tuple[list[float], list[float]]]]:
    """Mean loss over the temperature, relative to each network's least, in percent."""
    runs = table[table["part"].isin(["forks", TOYS])]
    return "temperature τ", lines(runs, ["network", "scheme"], "temperature")

"""Toys trained as one beside the same toys in turn: how long each takes, and how far apart they end."""

from __future__ import annotations

import copy
import json
import os
import statistics
import time
from pathlib import Path
from typing import Any

import torch

from labkit import datasets, networks, schedules, schemes
from labkit.disk import write_whole
from labkit.training.stacks import train_stack

LMBDAS, SEEDS = (1.0, 2.0, 4.0, 8.0), range(4)
TEMPERATURE = schedules.exponential(1.0, 0.1)


def print_table(scheme: str, batch_size: int, steps: int, rounds: int, threads: int, out: Path | None = None) -> None:
    """Print the figures with machine, threads and load; write them as JSON to `out`."""
    fields = {} if scheme in ("noise", "straight_through", "mixed", "soft_then_hard") else {"temperature": TEMPERATURE}
    each: list[dict[str, Any]] = [{"lmbda": lmbda, "seed": seed} for lmbda in LMBDAS for seed in SEEDS]
    nets = [networks.toy_2d(schemes.get(scheme, **fields), seed=own["seed"]) for own in each]
    seconds: dict[str, list[float]] = {"in turn": [], "stacked": []}
    ended = {}
    for _ in range(rounds):
        for how, times in seconds.items():
            start = time.perf_counter()
            ended[how] = train_stack(
                copy.deepcopy(nets), datasets.Banana(), each, steps=steps, batch_size=batch_size, how=how,
                threads=threads, progress=False,
            )  # fmt: skip
            times.append(time.perf_counter() - start)
    pairs = list(zip(ended["stacked"], ended["in turn"], strict=True))
    losses = max(abs(one.history[-1].loss / other.history[-1].loss - 1) for one, other in pairs)
    states = [(one.net.state_dict(), other.net.state_dict()) for one, other in pairs]
    trained = [name for name, _ in nets[0].named_parameters() if not name.endswith("quantiles")]
    weights = max(float((one[name] - other[name]).abs().max()) for one, other in states for name in trained)
    ratio = statistics.median(a / b for a, b in zip(seconds["stacked"], seconds["in turn"], strict=True))
    medians = {how: statistics.median(times) for how, times in seconds.items()}
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    print(f"torch {torch.__version__}, {threads} thread(s) of {os.cpu_count()} cores, load {load or 0:.2f}")
    print(f"{len(nets)} toys, scheme {scheme}, {steps} steps of {batch_size} points, medians of {rounds} rounds")
    print(f"in turn {medians['in turn']:.2f} s, stacked {medians['stacked']:.2f} s, a share of {ratio:.3f}")
    print(f"largest difference: {losses:.1e} of the last step's loss, {weights:.1e} of a weight")
    if out is not None:
        about = {"torch": torch.__version__, "threads": threads, "cores": os.cpu_count(), "load": load}
        what = {"scheme": scheme, "batch_size": batch_size, "steps": steps, "seconds": seconds, "ratio": ratio}
        write_whole(out, json.dumps({**about, **what, "loss": losses, "weights": weights}, indent=1).encode())

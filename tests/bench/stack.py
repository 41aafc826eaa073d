"""Trains toys as one stack and in turn, and compares the times and the results.

python -m tests.bench.stack --scheme annealed
"""

from __future__ import annotations

import copy
import statistics
import time
from pathlib import Path
from typing import Any

import click

from labkit import datasets, networks, schedules, schemes
from labkit.training.stacks import train_stack
from tests.bench.common import COMMAND, json_option, machine, machine_line, threads_option, write_json

LMBDAS, SEEDS = (1.0, 2.0, 4.0, 8.0), range(4)
TEMPERATURE = schedules.exponential(1.0, 0.1)
WITHOUT_TEMPERATURE = ("noise", "straight_through", "mixed", "soft_then_hard")


@click.command(context_settings=COMMAND)
@click.option("--scheme", default="noise", help="Name of the scheme.")
@click.option("--batch-size", type=click.IntRange(1), default=256, help="Number of points per step.")
@click.option("--steps", type=click.IntRange(1), default=200, help="Number of optimizer steps.")
@click.option("--rounds", type=click.IntRange(1), default=5, help="Number of rounds; each one trains both ways.")
@threads_option
@json_option
def main(scheme: str, batch_size: int, steps: int, rounds: int, threads: int, out: Path | None) -> None:
    """Train sixteen toys as one stack and in turn, and compare times and results."""
    options = {} if scheme in WITHOUT_TEMPERATURE else {"temperature": TEMPERATURE}
    settings: list[dict[str, Any]] = [{"lmbda": lmbda, "seed": seed} for lmbda in LMBDAS for seed in SEEDS]
    nets = [networks.toy_2d(schemes.get(scheme, **options), seed=each["seed"]) for each in settings]
    seconds: dict[str, list[float]] = {"in turn": [], "stacked": []}
    runs = {}
    for _ in range(rounds):
        for how, times in seconds.items():
            start = time.perf_counter()
            runs[how] = train_stack(
                copy.deepcopy(nets), datasets.Banana(), settings, steps=steps, batch_size=batch_size, how=how,
                threads=threads, progress=False,
            )  # fmt: skip
            times.append(time.perf_counter() - start)
    pairs = list(zip(runs["stacked"], runs["in turn"], strict=True))
    losses = max(abs(a.history[-1].loss / b.history[-1].loss - 1) for a, b in pairs)
    states = [(a.net.state_dict(), b.net.state_dict()) for a, b in pairs]
    trained = [name for name, _ in nets[0].named_parameters() if not name.endswith("quantiles")]
    weights = max(float((a[name] - b[name]).abs().max()) for a, b in states for name in trained)
    ratio = statistics.median(a / b for a, b in zip(seconds["stacked"], seconds["in turn"], strict=True))
    medians = {how: statistics.median(times) for how, times in seconds.items()}
    print(machine_line(threads))
    print(f"{len(nets)} toys, scheme {scheme}, {steps} steps of {batch_size} points, medians of {rounds} rounds")
    print(f"in turn {medians['in turn']:.2f} s, stacked {medians['stacked']:.2f} s, ratio {ratio:.3f}")
    print(f"largest differences: {losses:.1e} of the last loss (relative), {weights:.1e} of a weight (absolute)")
    task = {"scheme": scheme, "batch_size": batch_size, "steps": steps}
    write_json(
        out, {**machine(threads), **task, "seconds": seconds, "ratio": ratio, "loss": losses, "weights": weights}
    )


if __name__ == "__main__":
    main()

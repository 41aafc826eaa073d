"""The command `labkit bench`, which measures the speed of this machine."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from labkit.defaults import NETWORK


@click.group()
def bench() -> None:
    """Measure the speed of this machine, and report its load and the number of threads."""


@bench.command("train")
@click.option("--network", default=NETWORK, help="Network, by its name in labkit or in CompressAI.")
@click.option("--size", default="small", help="Size of the network: tiny, small or paper.")
@click.option("--batch-size", type=click.IntRange(1), default=8, help="Number of crops per step.")
@click.option("--crop", type=click.IntRange(64), default=128, help="Side of the square crops, in pixels.")
@click.option("--device", default="cpu", help="Device, such as cpu or cuda.")
@click.option("--rounds", type=click.IntRange(1), default=4, help="Number of rounds; each one times every variant.")
@click.option("--steps", type=click.IntRange(1), default=8, help="Number of steps of each variant per round.")
@click.option("--seeds", type=click.IntRange(1), default=3, help="Number of seeds; each one starts all variants again.")
@click.option("--json", "out", type=click.Path(path_type=Path), help="JSON file for the results.  [default: none]")
def bench_train(rounds: int, steps: int, seeds: int, out: Path | None, **fields: Any) -> None:
    """Compare the speed of labkit's training with the training loop in CompressAI's documentation.

    All variants start from the same weights, and the table shows the loss that each one reaches.
    """
    from labkit.training import bench as benchmark

    task = benchmark.Task(**fields)
    task.net()  # refuses an unknown name or size before the measurement starts
    benchmark.print_table(task, rounds, steps, seeds, out)


@bench.command("live")
@click.option("--rounds", type=click.IntRange(1), default=10, help="Number of rounds per measurement.")
@click.option("--threads", type=click.IntRange(1), default=1, help="Number of CPU threads.")
@click.option("--json", "out", type=click.Path(path_type=Path), help="JSON file for the results.  [default: none]")
def bench_live(rounds: int, threads: int, out: Path | None) -> None:
    """Measure how fast the live panels react, and how much of a core their training gets."""
    from labkit.live import bench as benchmark

    benchmark.print_table(rounds, threads, out)

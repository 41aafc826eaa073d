"""Moves the controls of a live panel at random for a long time, and watches memory, threads and errors.

There is no browser: controls are set as a browser sets them, and the messages of the panel go nowhere.

python -m tests.bench.soak --panel annealing --minutes 20
"""

from __future__ import annotations

import gc
import os
import random
import statistics
import threading
import time
from pathlib import Path
from typing import Any

import click
import psutil
from tqdm.auto import tqdm

from labkit import live
from labkit.live.controls import values_of
from labkit.live.panel import Panel
from tests.bench.common import COMMAND, json_option, write_json

WARM_UP = 0.1  # share of the time before the first memory measurement: caches fill and libraries load
PAUSES = (0.02, 0.2, 1.0, 4.0)  # seconds after a change; some runs are superseded at once, others finish


def soak(panel: Panel, seconds: float, seed: int = 0) -> dict[str, Any]:
    """Move the controls of a panel at random, cancel some runs, and close the panel.

    Returns:
        moves: number of changes; runs: number of runs that started; done and canceled: number of runs in each of these
        states; errors: number of runs with an error; error: the last error; memory_before and memory_after: memory of
        the process in MiB, as medians over the tenth of the time that follows the warm-up and over the last tenth;
        growth: their difference; threads_left: number of engine threads after the panel was closed.
    """
    rng, memory, moves = random.Random(seed), list[tuple[float, float]](), 0
    process, start, errors = psutil.Process(), time.monotonic(), list[str]()
    with tqdm(total=round(seconds), unit="s", disable=None, leave=False) as bar:
        while (elapsed := time.monotonic() - start) < seconds:
            control = panel.controls[rng.choice(list(panel.controls))]
            control.value = rng.choice(values_of(control))
            moves += 1
            time.sleep(rng.choice(PAUSES))
            if rng.random() < 0.1:
                panel.cancel()
            if panel.state == "error":
                errors.append(str(panel.history[-1].error))
            memory.append((elapsed, process.memory_info().rss / 2**20))
            bar.update(round(elapsed) - bar.n)
    states = [run.state for run in panel.history]
    panel.close()
    panel.engine.join(60)
    gc.collect()
    tenth = seconds * WARM_UP
    before = statistics.median([rss for at, rss in memory if tenth <= at < 2 * tenth] or [memory[0][1]])
    after = statistics.median([rss for at, rss in memory if at >= seconds - tenth] or [memory[-1][1]])
    return {
        "moves": moves,
        "runs": len(states),
        "done": states.count("done"),
        "canceled": states.count("canceled"),
        "errors": len(errors),
        "error": errors[-1] if errors else "",
        "memory_before": before,
        "memory_after": after,
        "growth": after - before,
        "threads_left": sum(thread.name == "labkit-live" for thread in threading.enumerate()),
    }


@click.command(context_settings=COMMAND)
@click.option("--panel", type=click.Choice(list(live.PANELS)), default="annealing", help="Name of the panel.")
@click.option("--minutes", type=click.FloatRange(0, min_open=True), default=20, help="Duration in minutes.")
@click.option("--seed", type=int, default=0, help="Seed for changes and pauses.")
@json_option
def main(panel: str, minutes: float, seed: int, out: Path | None) -> None:
    """Move the controls of a live panel at random for a long time, and watch memory, threads and errors."""
    figures = soak(getattr(live, live.PANELS[panel])(), 60 * minutes, seed)
    load = f", load {os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else ""
    print(f"{panel}: {minutes:g} minutes, seed {seed}, {os.cpu_count()} cores{load}")
    for name, value in figures.items():
        print(f"{name.replace('_', ' '):<22} {value:.1f}" if isinstance(value, float) else f"{name:<22} {value}")
    write_json(out, {"panel": panel, "minutes": minutes, "seed": seed, **figures})


if __name__ == "__main__":
    main()

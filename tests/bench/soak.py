"""A panel moved at random for a long while: does it keep its memory, its threads and its temper?

There is no browser: controls are set as a browser sets them, and what the panel sends goes nowhere.
"""

from __future__ import annotations

import gc
import json
import os
import random
import statistics
import threading
import time
from pathlib import Path
from typing import Any

import psutil
from tqdm.auto import tqdm

from labkit import live
from labkit.checks import check_name
from labkit.disk import write_whole
from labkit.live.panel import Panel, takes

PANELS = tuple(name.removesuffix("_panel") for name in live.MAKERS)
WARM_UP = 0.1  # share of the time after which memory is compared with: caches fill, libraries load
PAUSES = (0.02, 0.2, 1.0, 4.0)  # seconds after a move: some supersede the run at once, some let it end


def print_table(panel: str, minutes: float, seed: int, out: Path | None = None) -> None:
    """Print what came of it; write it as JSON to `out`. Raises ValueError for a panel that is not there."""
    check_name("panel", panel, PANELS)
    found = soak(getattr(live, f"{panel}_panel")(), 60 * minutes, seed)
    load = f", load {os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else ""
    print(f"{panel}: {minutes:g} minutes, seed {seed}, {os.cpu_count()} cores{load}")
    for name, value in found.items():
        print(f"{name.replace('_', ' '):<22} {value:.1f}" if isinstance(value, float) else f"{name:<22} {value}")
    if out is not None:
        write_whole(out, json.dumps({"panel": panel, "minutes": minutes, "seed": seed, **found}, indent=1).encode())


def soak(panel: Panel, seconds: float, seed: int = 0) -> dict[str, Any]:
    """Move the panel's controls at random for that long, and now and then cancel.

    moves; runs that began, done and canceled, and errors (the last one's text in `error`); the process' memory in MiB,
    the median of the tenth of the time after warming up and of the last tenth, and growth, their difference;
    threads_left: of engines, after the panel was closed.
    """
    moment, memory, moves = random.Random(seed), list[tuple[float, float]](), 0
    process, begun, errors = psutil.Process(), time.monotonic(), list[str]()
    with tqdm(total=round(seconds), unit="s", disable=None, leave=False) as bar:
        while (elapsed := time.monotonic() - begun) < seconds:
            name = moment.choice(list(panel.controls))
            control = panel.controls[name]
            control.value = moment.choice(takes(control))
            moves += 1
            time.sleep(moment.choice(PAUSES))
            if moment.random() < 0.1:
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

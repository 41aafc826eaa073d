"""How quickly the live panels answer, and how much of the machine's training they leave: beside bare training steps.

There is no browser: a frame counts as shown when the panel's widgets have it.
"""

from __future__ import annotations

import inspect
import json
import math
import os
import platform
import random
import statistics
import time
from contextlib import closing
from importlib.metadata import version
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from tqdm.auto import tqdm

from labkit.disk import write_whole
from labkit.live.codec import codec_panel
from labkit.live.engine import Engine
from labkit.live.retraining import RetrainingPanel
from labkit.live.toy import toy_panel

STEPS = 10**6  # more than any run here makes: each is superseded or canceled
FRAMES = 9  # of the run whose speed is taken
BARE = 8  # bare steps a round
MOST_FRAMES = inspect.signature(Engine).parameters["rate"].default  # a second: the engine drops the rest
TIMES = ("change to first frame, ms", "change in a run to its frame, ms", "cancel to idle worker, ms")
RATES = ("frames, per s", "training steps, per s")
Seen = list[tuple[float, int, int]]  # of each frame: when the panel had it, the run's number, steps made


def print_table(rounds: int, threads: int, out: Path | None = None) -> None:
    """Print both panels' figures with versions, load, and the bare steps' threads; write them as JSON to `out`."""
    torch.set_num_threads(threads)
    versions = {"python": platform.python_version(), "torch": torch.__version__, "plotly": version("plotly")}
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    about = {**versions, "threads": threads, "cores": os.cpu_count(), "load": load, "rounds": rounds}
    print(", ".join(f"{name} {number}" for name, number in versions.items()))
    print(f"{threads} thread(s) of {os.cpu_count()} cores, one in the panels, load {load or 0:.2f}; rounds: {rounds}")
    print(f"{'panel':<6} {'':<33} {'median':>8} {'worst':>8} {'bare step':>9} {'ratio':>6}")
    rows = []
    for name, panel in (("toy", toy_panel(steps=STEPS)), ("codec", codec_panel(steps=STEPS, seconds=math.inf))):
        with closing(panel):
            for row in measure(panel, rounds):
                rows.append({"panel": name, **row})
                times = f"{row['median']:>8.1f} {row['worst']:>8.1f} {row['bare']:>9.1f}"
                print(f"{name:<6} {row['what']:<33} {times} {row['ratio']:>6.2f}")
    if out is not None:
        write_whole(out, json.dumps({**about, "rows": rows}, indent=1).encode())


def measure(panel: RetrainingPanel, rounds: int) -> list[dict[str, Any]]:
    """One row a figure: median and worst of the rounds, what bare steps give, and the median over that.

    Bare steps and the panel take turns, so that a drift of the machine's speed meets both. Each time stands beside one
    step, which an engine that looks for news between steps waits for; each rate beside steps a second, of frames no
    more than the engine lets through.
    """
    seen: Seen = []

    def note(change: Any) -> None:  # the status line is what a panel writes last, with words only beside a frame
        if change.new["state"] == "running" and change.new["text"]:
            seen.append((time.perf_counter(), change.new["run"], len(panel.chart.losses)))

    panel.status.observe(note, "status")
    lmbdas = [value for _, value in panel.controls["lmbda"].options if value != panel.settings["lmbda"]][:2]
    _round(panel, seen, lmbdas, [0.0, 0.0])  # whatever is loaded or drawn for the first time
    bare, taken, moment = list[float](), list[tuple[float, ...]](), random.Random(0)
    for _ in tqdm(range(rounds), unit="round", disable=None, leave=False):
        bare += _bare_steps(panel)
        taken.append(_round(panel, seen, lmbdas, [moment.uniform(0, 2 * bare[-1]) for _ in range(2)]))
    step, rows = 1000 * statistics.median(bare), []
    bounds = (*[step] * len(TIMES), min(1000 / step, MOST_FRAMES), 1000 / step)
    for what, values, bound in zip((*TIMES, *RATES), zip(*taken, strict=True), bounds, strict=True):
        median, worst = statistics.median(values), (max if what in TIMES else min)(values)
        rows.append({"what": what, "median": median, "worst": worst, "bare": bound, "ratio": median / bound})
    return rows


def _bare_steps(panel: RetrainingPanel) -> list[float]:
    """Seconds of training steps of the panel's own job, so of its network, batch and crop; no view of it is drawn."""
    steps, ends = panel.job(panel.settings), []
    for _ in range(BARE + 3):  # the first set up and warm up
        next(steps)
        ends.append(time.perf_counter())
    steps.close()
    return [end - start for start, end in pairwise(ends[2:])]


def _round(panel: RetrainingPanel, seen: Seen, lmbdas: list[float], pauses: list[float]) -> tuple[float, ...]:
    """TIMES and RATES from idle to idle: a change, a change in that run, a cancel, these two after a pause each."""
    run = panel.status.status["run"]
    changed = time.perf_counter()
    panel.controls["lmbda"].value = lmbdas[0]
    first, second, *_, last = _frames(panel, seen, run + 1, FRAMES)
    time.sleep(pauses[0])
    superseded = time.perf_counter()
    panel.controls["lmbda"].value = lmbdas[1]
    (newer,) = _frames(panel, seen, run + 2, 1)
    time.sleep(pauses[1])
    canceled = time.perf_counter()
    panel.cancel()
    panel.engine.join()
    times = (first[0] - changed, newer[0] - superseded, time.perf_counter() - canceled)
    span = last[0] - second[0]
    return *(1000 * each for each in times), (FRAMES - 2) / span, (last[2] - second[2]) / span


def _frames(panel: RetrainingPanel, seen: Seen, run: int, n: int) -> Seen:
    """The first n frames of a run, once they are there; raises the run's error."""
    while len(found := [frame for frame in seen if frame[1] == run]) < n:
        if panel.state == "error":
            panel.wait()
        time.sleep(0.001)
    return found[:n]

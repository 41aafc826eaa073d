"""Response times and training speed of live panels, compared with plain training steps of the same network.

There is no browser: a frame counts as shown when it has reached the widgets of the panel.
"""

from __future__ import annotations

import inspect
import json
import os
import platform
import random
import statistics
import time
from collections.abc import Callable
from contextlib import closing
from importlib.metadata import version
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from tqdm.auto import tqdm

from labkit.disk import write_whole
from labkit.live.engine import Engine
from labkit.live.toy import ToyPanel
from labkit.live.training import TrainingPanel

TrainedPanel = ToyPanel | TrainingPanel

STEPS = 10**6  # no run completes so many steps: each one is superseded or canceled
FRAMES = 9  # frames of the run whose speed is measured
PLAIN_STEPS = 8  # plain training steps per round
MAX_FRAME_RATE = inspect.signature(Engine).parameters["rate"].default  # the engine drops frames above this rate
TIMES = ("change to first frame, ms", "change in a run to its frame, ms", "cancel to idle worker, ms")
RATES = ("frames, per s", "training steps, per s")
PANELS: dict[str, Callable[[], TrainedPanel]] = {
    "toy": lambda: ToyPanel(steps=STEPS),
    "training": lambda: TrainingPanel(steps=STEPS, seconds=float(STEPS)),
}
Frames = list[tuple[float, int, int]]  # time of a frame, number of its run, and steps so far


def print_table(rounds: int, threads: int, out: Path | None = None) -> None:
    """Print response times and rates of the toy panel and the training panel.

    Args:
        rounds: Number of rounds to measure.
        threads: Number of torch threads for the plain steps; panels always use one.
        out: JSON file for the results, or None.
    """
    torch.set_num_threads(threads)
    versions = {"python": platform.python_version(), "torch": torch.__version__, "plotly": version("plotly")}
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    about = {**versions, "threads": threads, "cores": os.cpu_count(), "load": load, "rounds": rounds}
    print(", ".join(f"{name} {number}" for name, number in versions.items()))
    print(f"{threads} thread(s) of {os.cpu_count()} cores, one in the panels, load {load or 0:.2f}; rounds: {rounds}")
    print(f"{'panel':<8} {'':<33} {'median':>8} {'worst':>8} {'plain':>9} {'ratio':>6}")
    rows = []
    for name, make in PANELS.items():
        with closing(make()) as panel:
            for row in measure(panel, rounds):
                rows.append({"panel": name, **row})
                numbers = f"{row['median']:>8.1f} {row['worst']:>8.1f} {row['plain']:>9.1f}"
                print(f"{name:<8} {row['quantity']:<33} {numbers} {row['ratio']:>6.2f}")
    if out is not None:
        write_whole(out, json.dumps({**about, "rows": rows}, indent=1).encode())


def measure(panel: TrainedPanel, rounds: int) -> list[dict[str, Any]]:
    """Measure one panel.

    Plain steps and the panel take turns, so changes in the machine's speed affect both.

    Args:
        panel: Panel with a control "lmbda" of at least three values.
        rounds: Number of rounds.

    Returns:
        One row per quantity: its name, the median and the worst over the rounds, the same quantity for plain steps, and
        the ratio of the median to the plain quantity. A time is compared with the duration of one step, because the
        engine reacts between steps. A rate is compared with the rate of plain steps; for frames, that is capped at the
        engine's limit.
    """
    frames: Frames = []

    def record(change: Any) -> None:  # a panel writes the status line last, and sets its text only with a frame
        if change.new["state"] == "running" and change.new["text"]:
            frames.append((time.perf_counter(), change.new["run"], len(panel.losses)))

    panel.status.observe(record, "status")
    lmbdas = [value for _, value in panel.controls["lmbda"].options if value != panel.settings["lmbda"]][:2]
    _round(panel, frames, lmbdas, [0.0, 0.0])  # warm-up: loads code and data
    plain, measured, moment = list[float](), list[tuple[float, ...]](), random.Random(0)
    for _ in tqdm(range(rounds), unit="round", disable=None, leave=False):
        plain += _plain_steps(panel)
        measured.append(_round(panel, frames, lmbdas, [moment.uniform(0, 2 * plain[-1]) for _ in range(2)]))
    step = 1000 * statistics.median(plain)
    references = (*[step] * len(TIMES), min(1000 / step, MAX_FRAME_RATE), 1000 / step)
    rows = []
    for name, values, reference in zip((*TIMES, *RATES), zip(*measured, strict=True), references, strict=True):
        median, worst = statistics.median(values), (max if name in TIMES else min)(values)
        rows.append(
            {"quantity": name, "median": median, "worst": worst, "plain": reference, "ratio": median / reference}
        )
    return rows


def _plain_steps(panel: TrainedPanel) -> list[float]:
    """Return the durations of training steps in seconds, for the panel's own job without drawing."""
    steps, ends = panel.job(panel.settings), []
    for _ in range(PLAIN_STEPS + 3):  # the first steps set up and warm up
        next(steps)
        ends.append(time.perf_counter())
    steps.close()
    return [end - start for start, end in pairwise(ends[2:])]


def _round(panel: TrainedPanel, frames: Frames, lmbdas: list[float], pauses: list[float]) -> tuple[float, ...]:
    """Return TIMES and RATES: change a control, change it again after a pause, and cancel that run after another."""
    run = panel.status.status["run"]
    changed = time.perf_counter()
    panel.controls["lmbda"].value = lmbdas[0]
    first, second, *_, last = _wait_for_frames(panel, frames, run + 1, FRAMES)
    time.sleep(pauses[0])
    superseded = time.perf_counter()
    panel.controls["lmbda"].value = lmbdas[1]
    (newer,) = _wait_for_frames(panel, frames, run + 2, 1)
    time.sleep(pauses[1])
    canceled = time.perf_counter()
    panel.cancel()
    panel.engine.join()
    times = (first[0] - changed, newer[0] - superseded, time.perf_counter() - canceled)
    span = last[0] - second[0]
    return *(1000 * seconds for seconds in times), (FRAMES - 2) / span, (last[2] - second[2]) / span


def _wait_for_frames(panel: TrainedPanel, frames: Frames, run: int, count: int) -> Frames:
    """Return the first `count` frames of a run once they exist; raise the error of the run."""
    while len(found := [frame for frame in frames if frame[1] == run]) < count:
        if panel.state == "error":
            panel.wait()
        time.sleep(0.001)
    return found[:count]

"""How long a training step takes on this machine."""

from __future__ import annotations

import os
import statistics
import time

import torch

from labkit import datasets, networks, schemes
from labkit.training.trainer import stream


def seconds_per_step(name: str, steps: int) -> float:
    """Median seconds of a training step of the tiny network `name` (4 crops of 256²), after three to warm up."""
    net = networks.get(name, "tiny", schemes.mixed())
    times, before = [], time.perf_counter()
    for _ in stream(net, datasets.photos("train")[:8], lmbda=0.01, steps=steps + 3):
        now = time.perf_counter()
        times.append(now - before)
        before = now
    return statistics.median(times[3:])


def toy_seconds() -> float:
    """Seconds that one retraining of the 2-D toy takes."""
    net = networks.toy_2d(schemes.annealed())
    before = time.perf_counter()
    for _ in stream(net, datasets.Banana(), lmbda=1.0, steps=300, batch_size=1024, lr=3e-3):
        pass
    return time.perf_counter() - before


def print_table(threads: int, steps: int) -> None:
    """Print the figures with the number of threads and the load they were taken under."""
    torch.set_num_threads(threads)
    load = f", load {os.getloadavg()[0]:.2f}" if hasattr(os, "getloadavg") else ""
    print(f"torch {torch.__version__}, {threads} thread(s) of {os.cpu_count()} cores{load}, float32")
    for name in networks.names():
        print(f"{name + ' tiny, one step':<40} {seconds_per_step(name, steps):8.3f} s  (median of {steps})")
    toy_seconds()  # the first run also imports and warms the optimiser
    print(f"{'toy_2d, 300 steps, batch 1024':<40} {toy_seconds():8.3f} s")

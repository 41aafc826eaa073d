"""What each surrogate costs: time of forward and backward, and peak memory, as ratios to additive uniform noise."""

from __future__ import annotations

import json
import os
import statistics
import time
import weakref
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from labkit import surrogates
from labkit.disk import write_whole
from labkit.surrogates import Surrogate

BOUNDS = {**dict.fromkeys(("ste", "sr", "uq", "dither", "sua"), 1.3), **dict.fromkeys(("soft", "ds"), 2.5)}
BOUNDS |= dict.fromkeys(("sga", "ssl", "sra", "ksr"), 6.0)
PASSES = (
    4  # least traffic of a random surrogate: write the draw, read it, read y, write ỹ; backward hands on a gradient
)


def measured() -> list[Surrogate]:
    """Every surrogate with its default options, and the variants whose arithmetic is another."""
    variants: list[tuple[str, dict[str, Any]]] = [
        ("soft", {"noise": True}),
        ("ssl", {"classes": 3}),
        ("sua", {"gradient": "expected"}),
    ]
    variants.append(("sua", {"relaxed": True}))
    return [surrogates.get(name) for name in surrogates.names()] + [
        surrogates.get(n, **options) for n, options in variants
    ]


class _PeakMemory(TorchDispatchMode):
    """Counts the bytes of every storage made inside, until it is freed: exact, on any platform."""

    def __init__(self, *known: Tensor):
        super().__init__()
        self.live = {tensor.untyped_storage()._cdata: 0 for tensor in known}
        self.now = self.peak = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if isinstance(tensor, Tensor) and (key := tensor.untyped_storage()._cdata) not in self.live:
                storage = tensor.untyped_storage()
                self.live[key] = storage.nbytes()
                self.now += storage.nbytes()
                self.peak = max(self.peak, self.now)
                weakref.finalize(storage, self._freed, key)
        return out

    def _freed(self, key: int) -> None:
        self.now -= self.live.pop(key, 0)


def peak_bytes(surrogate: Surrogate, n: int = 2**16, temperature: float = 0.5) -> int:
    """Bytes that forward and backward of n float32 latents hold at once, beyond the latents and the gradient given."""
    y, gradient = torch.randn(n).requires_grad_(), torch.ones(n)
    with _PeakMemory(y, gradient) as memory:
        surrogate(y, temperature).backward(gradient)
    return memory.peak


def measure(latents: int, rounds: int, temperature: float = 0.5) -> list[dict[str, Any]]:
    """One row a surrogate: median seconds, median ratio to aun's time of the same round, memory ratio, bytes moved.

    Every round times every surrogate once, so that a drift of the machine's speed meets all of them.
    """
    generator = torch.Generator().manual_seed(0)
    y = torch.randn(latents, generator=generator).mul(3).requires_grad_()
    gradient = torch.randn(latents, generator=generator)
    chosen = measured()
    seconds: dict[Surrogate, list[float]] = {one: [] for one in chosen}
    for turn in range(rounds + 1):
        for one in chosen:
            y.grad = None
            start = time.perf_counter()
            one(y, temperature, generator).backward(gradient)
            if turn:  # the first round warms up
                seconds[one].append(time.perf_counter() - start)
    aun = next(one for one in chosen if one.name == "aun")
    baseline = peak_bytes(aun)
    return [
        {
            "surrogate": str(one),
            "bound": BOUNDS.get(str(one)),
            "seconds": statistics.median(seconds[one]),
            "ratio": statistics.median(a / b for a, b in zip(seconds[one], seconds[aun], strict=True)),
            "memory_ratio": peak_bytes(one) / baseline,
        }
        for one in chosen
    ]


def floor_seconds(latents: int, rounds: int) -> tuple[float, float]:
    """Seconds of the least memory traffic, PASSES passes at the speed of a copy, and of making the draw."""
    source, target = torch.zeros(latents), torch.zeros(latents)
    copy, draw = [], []
    for _ in range(rounds):
        start = time.perf_counter()
        target.copy_(source)
        copied = time.perf_counter()
        target.uniform_()
        copy.append(copied - start)
        draw.append(time.perf_counter() - copied)
    return statistics.median(copy) / 2 * PASSES, statistics.median(draw)


def print_table(latents: int, rounds: int, threads: int, out: Path | None = None) -> None:
    """Print the figures with machine, threads, load and floor; write them as JSON to `out`."""
    torch.set_num_threads(threads)
    floor, draw = floor_seconds(latents, max(rounds, 5))
    rows = measure(latents, rounds)
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    about = {"torch": torch.__version__, "threads": threads, "cores": os.cpu_count(), "load": load, "latents": latents}
    print(f"torch {torch.__version__}, {threads} thread(s) of {os.cpu_count()} cores, load {load or 0:.2f}")
    print(f"{latents:,} float32 latents, forward and backward, medians of {rounds} alternating rounds, τ = 0.5")
    print(f"floor: {PASSES} passes over memory {floor * 1e3:.1f} ms; making the draw alone {draw * 1e3:.1f} ms\n")
    print(f"{'surrogate':<24} {'ms':>8} {'× aun':>7} {'bound':>6} {'× floor':>8} {'memory × aun':>13}")
    for row in rows:
        print(
            f"{row['surrogate']:<24} {row['seconds'] * 1e3:>8.1f} {row['ratio']:>7.2f} {row['bound'] or '':>6} "
            f"{row['seconds'] / floor:>8.1f} {row['memory_ratio']:>13.2f}"
        )
    if out is not None:
        figures = {**about, "floor_seconds": floor, "draw_seconds": draw, "rows": rows}
        write_whole(out, json.dumps(figures, indent=1).encode())

"""Measures time and peak memory of every surrogate, forward and backward, relative to additive uniform noise (AUN).

python -m tests.bench.surrogates --latents 1000000
"""

from __future__ import annotations

import statistics
import time
import weakref
from pathlib import Path
from typing import Any

import click
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from labkit import surrogates
from labkit.surrogates import Surrogate
from tests.bench.common import COMMAND, json_option, machine, machine_line, threads_option, write_json

BOUNDS = {**dict.fromkeys(("ste", "sr", "uq", "dither", "sua"), 1.3), **dict.fromkeys(("soft", "ds"), 2.5)}
BOUNDS |= dict.fromkeys(("sga", "ssl", "sra", "ksr"), 6.0)
PASSES = 4  # passes over memory of a random surrogate: write the draw, read the draw, read y, write ỹ


def all_surrogates() -> list[Surrogate]:
    """Return every surrogate with its default options, and the variants that compute something else."""
    variants: list[tuple[str, dict[str, Any]]] = [
        ("soft", {"noise": True}),
        ("ssl", {"classes": 3}),
        ("sua", {"gradient": "expected"}),
        ("sua", {"relaxed": True}),
    ]
    defaults = [surrogates.get(name) for name in surrogates.names()]
    return defaults + [surrogates.get(name, **options) for name, options in variants]


class _PeakMemory(TorchDispatchMode):
    """Counts the bytes of every new storage until it is freed; the count is exact on every platform."""

    def __init__(self, *existing: Tensor):
        super().__init__()
        self.live = {tensor.untyped_storage()._cdata: 0 for tensor in existing}
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
    """Measure the peak bytes of forward and backward for n float32 latents, except latents and output gradient."""
    y, gradient = torch.randn(n).requires_grad_(), torch.ones(n)
    with _PeakMemory(y, gradient) as memory:
        surrogate(y, temperature).backward(gradient)
    return memory.peak


def measure(latents: int, rounds: int, temperature: float = 0.5) -> list[dict[str, Any]]:
    """Return a row per surrogate: median seconds, and the ratios of time and memory to AUN.

    Every round times every surrogate once, so a change of the machine's speed affects all of them. The ratio of times
    is the median of the ratios within each round.
    """
    generator = torch.Generator().manual_seed(0)
    y = torch.randn(latents, generator=generator).mul(3).requires_grad_()
    gradient = torch.randn(latents, generator=generator)
    seconds: dict[Surrogate, list[float]] = {surrogate: [] for surrogate in all_surrogates()}
    for round_number in range(rounds + 1):
        for surrogate, times in seconds.items():
            y.grad = None
            start = time.perf_counter()
            surrogate(y, temperature, generator).backward(gradient)
            if round_number:  # the first round warms up
                times.append(time.perf_counter() - start)
    aun = next(surrogate for surrogate in seconds if surrogate.name == "aun")
    baseline = peak_bytes(aun)
    return [
        {
            "surrogate": str(surrogate),
            "bound": BOUNDS.get(str(surrogate)),
            "seconds": statistics.median(times),
            "ratio": statistics.median(a / b for a, b in zip(times, seconds[aun], strict=True)),
            "memory_ratio": peak_bytes(surrogate) / baseline,
        }
        for surrogate, times in seconds.items()
    ]


def floor_seconds(latents: int, rounds: int) -> tuple[float, float]:
    """Measure the seconds of PASSES passes over memory at the speed of a copy, and of a uniform draw."""
    source, target = torch.zeros(latents), torch.zeros(latents)
    copies, draws = [], []
    for _ in range(rounds):
        start = time.perf_counter()
        target.copy_(source)
        copied = time.perf_counter()
        target.uniform_()
        copies.append(copied - start)
        draws.append(time.perf_counter() - copied)
    return statistics.median(copies) / 2 * PASSES, statistics.median(draws)


@click.command(context_settings=COMMAND)
@click.option("--latents", type=click.IntRange(1), default=4 * 2**20, help="Number of latents.")
@click.option("--rounds", type=click.IntRange(1), default=15, help="Number of rounds; each one times every surrogate.")
@threads_option
@json_option
def main(latents: int, rounds: int, threads: int, out: Path | None) -> None:
    """Measure time and memory of every surrogate, forward and backward, relative to additive uniform noise."""
    torch.set_num_threads(threads)
    floor, draw = floor_seconds(latents, max(rounds, 5))
    rows = measure(latents, rounds)
    print(machine_line(threads))
    print(f"{latents:,} float32 latents, forward and backward, medians of {rounds} rounds, τ = 0.5")
    print(f"floor: {PASSES} passes over memory take {floor * 1e3:.1f} ms; the draw alone takes {draw * 1e3:.1f} ms\n")
    print(f"{'surrogate':<24} {'ms':>8} {'× aun':>7} {'bound':>6} {'× floor':>8} {'memory × aun':>13}")
    for row in rows:
        print(
            f"{row['surrogate']:<24} {row['seconds'] * 1e3:>8.1f} {row['ratio']:>7.2f} {row['bound'] or '':>6} "
            f"{row['seconds'] / floor:>8.1f} {row['memory_ratio']:>13.2f}"
        )
    write_json(
        out, {**machine(threads), "latents": latents, "floor_seconds": floor, "draw_seconds": draw, "rows": rows}
    )


if __name__ == "__main__":
    main()

"""How many crops per second the trainer's data give, beside what decoding or copying alone would."""

from __future__ import annotations

import json
import os
import statistics
import time
from collections.abc import Callable
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import PIL
import torch
from PIL import Image
from tqdm.auto import tqdm

from labkit import paths
from labkit.datasets import ImageFiles, PhotoSet, training_images
from labkit.disk import write_whole
from labkit.training.data import DATA, Images, batches, generator_for
from labkit.training.threads import cores

ROUNDS = 5
ENDLESS = 2**31  # steps


def crops_per_second(images: Images, crop: int, batch_size: int, workers: int, seconds: float) -> float:
    """Of `batches`, taken as fast as they come for so many seconds, once workers run and nothing lies ready."""
    settings: dict[str, Any] = {"permute_colors": False, "seed": 0, "device": "cpu"}
    with closing(
        batches(images, first=0, steps=ENDLESS, batch_size=batch_size, crop=crop, workers=workers, **settings)
    ) as found:
        for _ in range(2 * workers + 1):
            next(found)
        return batch_size * _per_second(lambda: next(found), seconds)


def decodes_per_second(files: ImageFiles, batch_size: int, seconds: float) -> float:
    """Files that Pillow alone decodes to RGB in one process, in the order in which the batches take them."""
    step = 0

    def one_batch() -> None:
        nonlocal step
        for index in torch.randint(len(files), (batch_size,), generator=generator_for(0, step, DATA)).tolist():
            with Image.open(files.paths[index]) as image:
                image.convert("RGB")
        step += 1

    return batch_size * _per_second(one_batch, seconds)


def copies_per_second(crop: int, batch_size: int, seconds: float) -> float:
    """Crops whose bytes memory alone copies."""
    source, target = torch.zeros(2, batch_size, 3, crop, crop, dtype=torch.uint8)
    return batch_size * _per_second(lambda: target.copy_(source), seconds)


def _per_second(call: Callable[[], Any], seconds: float) -> float:
    calls, start = 0, time.perf_counter()
    while (taken := time.perf_counter() - start) < seconds or not calls:
        call()
        calls += 1
    return calls / taken


def measure(data: Path, crop: int, batch_size: int, workers: int, seconds: float) -> list[dict[str, Any]]:
    """One row for the set in memory, where it fits, and one for files with 0, 1, … `workers` processes.

    Medians of ROUNDS rounds, each of which measures every row and both floors in turn, for `seconds` in all a row. The
    floor of n workers is Pillow's decoding in one process, times n or the cores, whichever is fewer.
    """
    images, files = training_images(data), training_images(data, memory=0)
    assert isinstance(files, ImageFiles)
    files.check_crop(crop)
    copy: list[float] = []
    decode: list[float] = []
    ways: list[tuple[str, Callable[[float], float], list[float], int]] = []  # name, way, its floor, times so many
    if isinstance(images, PhotoSet):
        ways.append(("in memory", partial(crops_per_second, images, crop, batch_size, 0), copy, 1))
    for n in range(workers + 1):
        name = f"files, {n} worker{'s' * (n != 1)}"
        times = max(1, min(n, cores()))
        ways.append((name, partial(crops_per_second, files, crop, batch_size, n), decode, times))
    found: list[list[float]] = [[] for _ in ways]
    each = seconds / ROUNDS
    for _ in tqdm(range(ROUNDS + 1), unit="round", disable=None, leave=False):  # the first warms up
        copy.append(copies_per_second(crop, batch_size, each))
        decode.append(decodes_per_second(files, batch_size, each))
        for rates, (_, way, _, _) in zip(found, ways, strict=True):
            rates.append(way(each))
    return [
        {
            "data": name,
            "crops_per_second": statistics.median(rates[1:]),
            "floor_crops_per_second": times * statistics.median(floor[1:]),
            "ratio": statistics.median(times * f / r for f, r in zip(floor[1:], rates[1:], strict=True)),
        }
        for rates, (name, _, floor, times) in zip(found, ways, strict=True)
    ]


def print_table(
    data: Path | None, crop: int, batch_size: int, threads: int, workers: int, seconds: float, out: Path | None
) -> None:
    """Print crops per second with machine, threads, workers, load and floors; write them as JSON to `out`.

    data: a folder of images; None takes the bundled training photographs. workers: the most to try.
    """
    torch.set_num_threads(threads)
    data = paths.data() / "photographs" / "train" if data is None else data
    rows = measure(data, crop, batch_size, workers, seconds)
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    about = {"torch": torch.__version__, "pillow": PIL.__version__, "threads": threads, "workers": workers}
    about |= {"cores": cores(), "load": load, "crop": crop, "batch_size": batch_size}
    print(f"torch {torch.__version__}, Pillow {PIL.__version__}, {threads} thread(s) of {cores()} cores", end=", ")
    print(f"up to {workers} worker(s), load {load or 0:.2f}")
    print(
        f"{batch_size} crops of {crop}×{crop} a batch, uint8 to float32 in [0, 1]; medians of {ROUNDS} rounds in turn"
    )
    print("floor: in memory, a bare copy of the crops' bytes; files, bare decoding by Pillow in as many processes\n")
    print(f"{'data':<20} {'crops/s':>10} {'floor, crops/s':>15} {'time × floor':>13}")
    for row in rows:
        rate, floor = row["crops_per_second"], row["floor_crops_per_second"]
        print(f"{row['data']:<20} {rate:>10,.0f} {floor:>15,.0f} {row['ratio']:>13.2f}")
    if out is not None:
        write_whole(out, json.dumps({**about, "rows": rows}, indent=1).encode())

"""Measures crops per second from memory and from files, against plain copying and plain decoding.

python -m tests.bench.data --workers 2
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import click
import PIL
import torch
from PIL import Image
from tqdm.auto import tqdm

from labkit import paths
from labkit.datasets import ImageFiles, PhotoSet, training_images
from labkit.training.data import DATA, Images, batches, generator_for
from labkit.training.threads import cores
from tests.bench.common import COMMAND, json_option, machine, machine_line, threads_option, write_json

ROUNDS = 5
ENDLESS = 2**31  # more steps than any measurement takes


def crops_per_second(images: Images, crop: int, batch_size: int, workers: int, seconds: float) -> float:
    """Measure crops per second, after all workers have started and all batches made in advance are used up."""
    settings: dict[str, Any] = {"permute_colors": False, "seed": 0, "device": "cpu"}
    with closing(
        batches(images, first=0, steps=ENDLESS, batch_size=batch_size, crop=crop, workers=workers, **settings)
    ) as stream:
        for _ in range(2 * workers + 1):
            next(stream)
        return batch_size * _per_second(lambda: next(stream), seconds)


def decodes_per_second(files: ImageFiles, batch_size: int, seconds: float) -> float:
    """Decode files to RGB with Pillow alone, in one process and in the order of the batches."""
    step = 0

    def decode_batch() -> None:
        nonlocal step
        for index in torch.randint(len(files), (batch_size,), generator=generator_for(0, step, DATA)).tolist():
            with Image.open(files.paths[index]) as image:
                image.convert("RGB")
        step += 1

    return batch_size * _per_second(decode_batch, seconds)


def copies_per_second(crop: int, batch_size: int, seconds: float) -> float:
    """Copy the bytes of crops in memory, without any other work."""
    source, target = torch.zeros(2, batch_size, 3, crop, crop, dtype=torch.uint8)
    return batch_size * _per_second(lambda: target.copy_(source), seconds)


def _per_second(call: Callable[[], Any], seconds: float) -> float:
    calls, start = 0, time.perf_counter()
    while (elapsed := time.perf_counter() - start) < seconds or not calls:
        call()
        calls += 1
    return calls / elapsed


def measure(data: Path, crop: int, batch_size: int, workers: int, seconds: float) -> list[dict[str, Any]]:
    """Measure a folder of images from memory, if it fits, and from files with 0, 1, … `workers` processes.

    Every round measures all rows and both lower bounds in turn, for `seconds` per row in total; the figures are medians
    of the rounds. The bound of n workers is the speed of Pillow's decoding in one process, times n or the number of
    cores, whichever is smaller.
    """
    images, files = training_images(data), training_images(data, memory=0)
    assert isinstance(files, ImageFiles)
    files.check_crop(crop)
    copies: list[float] = []
    decodes: list[float] = []
    variants: list[tuple[str, Callable[[float], float], list[float], int]] = []  # name, function, its bound, factor
    if isinstance(images, PhotoSet):
        variants.append(("in memory", partial(crops_per_second, images, crop, batch_size, 0), copies, 1))
    for n in range(workers + 1):
        name = f"files, {n} worker{'s' * (n != 1)}"
        factor = max(1, min(n, cores()))
        variants.append((name, partial(crops_per_second, files, crop, batch_size, n), decodes, factor))
    rates: list[list[float]] = [[] for _ in variants]
    slice_seconds = seconds / ROUNDS
    for _ in tqdm(range(ROUNDS + 1), unit="round", disable=None, leave=False):  # the first round warms up
        copies.append(copies_per_second(crop, batch_size, slice_seconds))
        decodes.append(decodes_per_second(files, batch_size, slice_seconds))
        for measured, (_, function, _, _) in zip(rates, variants, strict=True):
            measured.append(function(slice_seconds))
    return [
        {
            "data": name,
            "crops_per_second": statistics.median(measured[1:]),
            "floor_crops_per_second": factor * statistics.median(bound[1:]),
            "ratio": statistics.median(factor * b / m for b, m in zip(bound[1:], measured[1:], strict=True)),
        }
        for measured, (name, _, bound, factor) in zip(rates, variants, strict=True)
    ]


@click.command(context_settings=COMMAND)
@click.option("--data", type=click.Path(path_type=Path), help="Folder of images; without it, the bundled ones.")
@click.option("--crop", type=click.IntRange(1), default=256, help="Side of the crops in pixels.")
@click.option("--batch-size", type=click.IntRange(1), default=8, help="Number of crops per batch.")
@threads_option
@click.option("--workers", type=click.IntRange(0), default=2, help="Largest number of worker processes to try.")
@click.option("--seconds", type=float, default=3.0, help="Duration of each measurement.")
@json_option
def main(
    data: Path | None, crop: int, batch_size: int, threads: int, workers: int, seconds: float, out: Path | None
) -> None:
    """Measure crops per second from memory and from files, against plain copying and plain decoding."""
    torch.set_num_threads(threads)
    rows = measure(data or paths.data() / "photographs" / "train", crop, batch_size, workers, seconds)
    print(f"{machine_line(threads)}; Pillow {PIL.__version__}, up to {workers} worker(s)")
    print(f"{batch_size} crops of {crop}×{crop} per batch, uint8 to float32 in [0, 1]; medians of {ROUNDS} rounds")
    print("floor: for memory, a plain copy of the bytes; for files, decoding by Pillow in as many processes\n")
    print(f"{'data':<20} {'crops/s':>10} {'floor, crops/s':>15} {'time × floor':>13}")
    for row in rows:
        rate, floor = row["crops_per_second"], row["floor_crops_per_second"]
        print(f"{row['data']:<20} {rate:>10,.0f} {floor:>15,.0f} {row['ratio']:>13.2f}")
    settings = {"pillow": PIL.__version__, "workers": workers, "crop": crop, "batch_size": batch_size}
    write_json(out, {**machine(threads), **settings, "rows": rows})


if __name__ == "__main__":
    main()

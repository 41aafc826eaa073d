"""Codes and decodes large images, and reports seconds and peak memory.

python -m tests.bench.large --json FILE

Each image is made of bundled test photographs. A child process codes it to a .lkc file, and another one decodes the
file. Both start the clock when labkit is loaded. The images are .ppm files, so that little time goes into reading and
writing them. Rows in the JSON file are not measured again.
"""

from __future__ import annotations

import json
import math
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import click
import torch
from torch import Tensor

from labkit import datasets, networks, training
from labkit.files import conversion
from labkit.files.formats import write_image
from tests.bench.common import COMMAND, Rows, machine_line, rows_option

MEGAPIXELS = (3, 12, 48)
_CODE = "from tests.bench import large; large._print_costs(*{!r})"


def tiled(height: int, width: int) -> Tensor:
    """Return a uint8 image of shape (3, height, width) that repeats the bundled test photographs row by row."""
    photos = [photo if photo.size(1) < photo.size(2) else photo.mT for photo in datasets.photos("test").images]
    side = min(photo.size(1) for photo in photos)
    strips, width_so_far, row = [], 0, []
    for n in range(math.ceil(height / side) * math.ceil(width / side)):
        photo = photos[n % len(photos)][:, :side]
        row.append(photo)
        width_so_far += photo.size(2)
        if width_so_far >= width:
            strips.append(torch.cat(row, 2)[:, :, :width])
            row, width_so_far = [], 0
        if len(strips) * side >= height:
            break
    return torch.cat(strips, 1)[:, :height].contiguous()


def _print_costs(action: str, source: str, output: str, weights: str | None, threads: int, verify: bool) -> None:
    """Code or decode one file, and print the seconds and the peak memory of this process."""
    torch.set_num_threads(threads)
    start = time.perf_counter()
    net = training.load_checkpoint(weights)[0] if weights else networks.pretrained()
    if action == "encode":
        result: Any = conversion.compress_file(source, output, net, verify=verify)
    else:
        result = conversion.decompress_file(source, output, net)
    seconds = time.perf_counter() - start
    usage = resource.getrusage(resource.RUSAGE_SELF)
    row = {"seconds": seconds, "cpu_seconds": usage.ru_utime + usage.ru_stime, "bpp": result.container.bpp}
    status = Path("/proc/self/status").read_text()  # ru_maxrss would include the peak of the parent
    peak = next(line for line in status.splitlines() if line.startswith("VmHWM"))
    print(json.dumps(row | {"megabytes": int(peak.split()[1]) * 1024 / 1e6}))


def costs(megapixels: float, weights: Path | None, threads: int, verify: bool) -> dict[str, Any]:
    """Return seconds and megabytes of encoder and decoder for an image of 4:3."""
    width = round(math.sqrt(megapixels * 1e6 * 4 / 3))
    height = round(width * 3 / 4)
    row: dict[str, Any] = {"width": width, "height": height}
    with tempfile.TemporaryDirectory() as folder:
        files = [str(Path(folder) / name) for name in ("image.ppm", "image.lkc", "decoded.ppm")]
        write_image(files[0], tiled(height, width))
        for action, source, output in (("encode", *files[:2]), ("decode", *files[1:])):
            arguments = (action, source, output, str(weights) if weights else None, threads, verify)
            command = [sys.executable, "-W", "ignore", "-c", _CODE.format(arguments)]
            process = subprocess.run(command, capture_output=True, text=True, check=False)
            if process.returncode:
                raise ValueError(process.stderr.strip().splitlines()[-1])
            row[action] = json.loads(process.stdout.splitlines()[-1])
    return row


def line(row: dict[str, Any]) -> str:
    """Return a row of the table."""
    megapixels = row["width"] * row["height"] / 1e6
    cells = [f"{row['width']}×{row['height']:<6}"]
    for action in ("encode", "decode"):
        seconds, megabytes = row[action]["seconds"], row[action]["megabytes"]
        cells.append(f"{seconds:>8.2f} {seconds / megapixels:>8.3f} {megabytes:>8.0f} {megabytes / megapixels:>8.1f}")
    return "  ".join(cells) + f"  {row['encode']['bpp']:>6.3f}"


@click.command(context_settings=COMMAND)
@click.option("--weights", type=click.Path(path_type=Path), help="Checkpoint.  [default: the bundled weights]")
@click.option("--megapixels", type=float, multiple=True, default=MEGAPIXELS, help="Size of an image. Repeatable.")
@click.option("--threads", type=click.IntRange(1), default=2, help="Number of torch threads.")
@click.option("--verify/--no-verify", default=True, help="Let the encoder decode its file and store checksums.")
@rows_option
def main(weights: Path | None, megapixels: tuple[float, ...], threads: int, verify: bool, out: Path | None) -> None:
    """Code and decode large images in child processes, and print seconds and peak memory."""
    print(machine_line(threads))
    print(f"{'':<12}{'encode':^37}{'decode':^37}")
    print(f"{'image':<11} " + 2 * f"{'s':>8} {'s/MP':>8} {'MB':>8} {'MB/MP':>8}  " + f"{'bpp':>6}")
    rows, name = Rows(out), weights.name if weights else "bundled"
    for size in megapixels:
        key = f"{name} | {size:g} MP | {threads} threads" + ("" if verify else " | not verified")
        rows.measure(key, line, lambda size=size: costs(size, weights, threads, verify))


if __name__ == "__main__":
    main()

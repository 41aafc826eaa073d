"""Times evaluations by labkit and CompressAI of the same images, and measures how the cost grows with image size.

python -m tests.bench.evaluate --megapixels 1 --megapixels 4
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import click
import torch
from torch import Tensor
from tqdm.auto import tqdm

from labkit import datasets, networks, paths
from labkit.evaluation import Report, evaluate
from tests.bench.common import COMMAND, json_option, machine_line, threads_option, write_json

_CODE = "from tests.bench import evaluate; evaluate._print_cost({!r}, {!r}, {!r})"


def compare_with_compressai(net: networks.Codec, folder: Path, rounds: int) -> dict[str, Any]:
    """Time CompressAI's eval_model and `evaluate` on a folder in turn, and compare their results.

    Both read the files, code and decode every image, and measure PSNR and MS-SSIM, with the same number of threads.
    CompressAI estimates no rates. It pads images with zeros, while labkit repeats their edges; choose images that need
    no padding.
    """
    files = sorted(file for file in folder.iterdir() if file.suffix.lower() in datasets.SUFFIXES)
    threads = torch.get_num_threads()
    from compressai.utils.eval_model import __main__ as compressai_command  # its import sets one thread

    torch.set_num_threads(threads)
    net.eval()
    net.update()

    def compressai() -> dict[str, float]:
        options = {"architecture": "", "half": False, "per_image": False}
        return compressai_command.eval_model(net, Path(), Path(), files, **options)

    def labkit() -> Report:
        return evaluate(net, datasets.folder(folder), progress=False)

    seconds: dict[Any, list[float]] = {compressai: [], labkit: []}
    results: dict[Any, Any] = {}
    for _ in tqdm(range(rounds + 1), unit="round", disable=None, leave=False):  # the first round warms up
        for function, times in seconds.items():
            start = time.perf_counter()
            results[function] = function()
            times.append(time.perf_counter() - start)
    median = {function: statistics.median(times[1:]) for function, times in seconds.items()}
    mean = results[labkit].mean
    return {
        "images": len(files),
        "compressai_seconds": median[compressai],
        "labkit_seconds": median[labkit],
        "ratio": statistics.median(b / a for a, b in zip(*(times[1:] for times in seconds.values()), strict=True)),
        "bpp_difference": mean["bpp"] - results[compressai]["bpp"],
        "psnr_difference": mean["psnr"] - results[compressai]["psnr-rgb"],
        "ms_ssim_difference": mean["ms_ssim"] - results[compressai]["ms-ssim-rgb"],
    }


def growth(checkpoint: Path | None, megapixels: tuple[float, ...], threads: int) -> list[dict[str, float]]:
    """Measure seconds and peak memory of an evaluation of one image per size, each in a new process."""
    rows = []
    for size in tqdm(megapixels, unit="size", disable=None, leave=False):
        code = _CODE.format(str(checkpoint) if checkpoint else None, size, threads)
        process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
        if process.returncode:
            last = (process.stderr.strip() or f"ended with status {process.returncode}").splitlines()[-1]
            raise ValueError(f"{size:g} megapixels: {last}")
        rows.append(json.loads(process.stdout.splitlines()[-1]))
    return rows


def _print_cost(checkpoint: str | None, megapixels: float, threads: int) -> None:
    import resource  # Windows has no such module

    torch.set_num_threads(threads)
    net, image = _network(checkpoint), _image(megapixels)
    net.update()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    (row,) = evaluate(net, [image], progress=False).rows
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    columns = ("width", "height", "bytes", "bpp", "psnr", "encode_seconds", "decode_seconds")
    print(json.dumps({name: row[name] for name in columns} | {"peak_mib": peak, "before_mib": before}))


def _network(checkpoint: str | Path | None) -> networks.Codec:
    from labkit.training import load_checkpoint

    return load_checkpoint(checkpoint)[0] if checkpoint else networks.pretrained()


def _image(megapixels: float) -> Tensor:
    """Tile a test photograph and its mirror images to a size of 4:3."""
    photo = datasets.photos("test")[0]
    tile = torch.cat([torch.cat([photo, photo.flip(2)], 2), torch.cat([photo.flip(1), photo.flip((1, 2))], 2)], 1)
    height = round((megapixels * 1e6 * 3 / 4) ** 0.5)
    width = round(height * 4 / 3)
    across, down = -(-width // tile.size(2)), -(-height // tile.size(1))
    return tile.repeat(1, down, across)[:, :height, :width].contiguous()


@click.command(context_settings=COMMAND)
@click.option("--checkpoint", type=click.Path(path_type=Path), help="Checkpoint; without it, bundled weights.")
@click.option("--data", type=click.Path(path_type=Path), help="Folder of images; without it, the bundled ones.")
@click.option("--rounds", type=click.IntRange(1), default=5, help="Number of rounds; each one times both programs.")
@threads_option
@click.option(
    "--megapixels", type=float, multiple=True, default=(0.25, 1.0, 4.0, 16.0), help="Image sizes; repeat the option."
)
@json_option
def main(
    checkpoint: Path | None,
    data: Path | None,
    rounds: int,
    threads: int,
    megapixels: tuple[float, ...],
    out: Path | None,
) -> None:
    """Time an evaluation against CompressAI's own, and measure time and memory as images grow."""
    torch.set_num_threads(threads)
    print(machine_line(threads))
    net = _network(checkpoint)
    print(f"{net.kind} {net.size}: evaluations of a folder, in turn with CompressAI's eval_model")
    comparison = compare_with_compressai(net, data or paths.data() / "photographs" / "test", rounds)
    times = "CompressAI {compressai_seconds:.2f} s, labkit {labkit_seconds:.2f} s, ratio {ratio:.2f}"
    print(f"  {comparison['images']} images: {times.format(**comparison)}")
    print(
        "  differences (labkit − CompressAI): {bpp_difference:+.2g} bpp, {psnr_difference:+.2g} dB, "
        "{ms_ssim_difference:+.2g} MS-SSIM".format(**comparison)
    )
    rows = growth(checkpoint, megapixels, threads)
    print("growth: one image per size, each in a new process")
    heads = (("megapixels", 10), ("size", 12), ("encode s", 9), ("decode s", 9), ("s per MP", 9))
    print("  " + " ".join(f"{head:>{width}}" for head, width in (*heads, ("peak MiB", 9), ("per MP", 8))))
    for row in rows:
        pixels = row["width"] * row["height"] / 1e6
        seconds = row["encode_seconds"] + row["decode_seconds"]
        size = f"{row['width']}×{row['height']}"
        print(
            f"  {pixels:>10.2f} {size:>12} {row['encode_seconds']:>9.2f} {row['decode_seconds']:>9.2f} "
            f"{seconds / pixels:>9.3f} {row['peak_mib']:>9.0f} {(row['peak_mib'] - row['before_mib']) / pixels:>8.0f}"
        )
    write_json(out, {"threads": threads, "beside_compressai": comparison, "growth": rows})


if __name__ == "__main__":
    main()

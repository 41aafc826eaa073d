"""How long evaluating takes: beside CompressAI's own evaluation on the same images, and as images grow."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm.auto import tqdm

from labkit import datasets, networks, paths
from labkit.disk import write_whole
from labkit.evaluation import Report, evaluate

_ALONE = "from tests.bench import evaluate; evaluate._alone({!r}, {!r}, {!r})"


def beside_compressai(net: networks.Codec, folder: Path, rounds: int) -> dict[str, Any]:
    """Seconds of CompressAI's eval_model and of `evaluate` of a folder, in turn, medians; and how results differ.

    Both read the files, code and decode every image, and measure PSNR and MS-SSIM, with the threads of this process;
    CompressAI's estimates no rates. Its zero padding is another than labkit's: take images that need none.
    """
    files = sorted(file for file in folder.iterdir() if file.suffix.lower() in datasets.SUFFIXES)
    threads = torch.get_num_threads()
    from compressai.utils.eval_model import __main__ as theirs  # sets one thread on import

    torch.set_num_threads(threads)
    net.eval()
    net.update()

    def their_way() -> dict[str, float]:
        options = {"architecture": "", "half": False, "per_image": False}
        return theirs.eval_model(net, Path(), Path(), files, **options)

    def our_way() -> Report:
        return evaluate(net, datasets.folder(folder), progress=False)

    seconds: dict[Any, list[float]] = {their_way: [], our_way: []}
    results: dict[Any, Any] = {}
    for _ in tqdm(range(rounds + 1), unit="round", disable=None, leave=False):  # the first warms both up
        for way, taken in seconds.items():
            start = time.perf_counter()
            results[way] = way()
            taken.append(time.perf_counter() - start)
    median = {way: statistics.median(taken[1:]) for way, taken in seconds.items()}
    ratios = [ours / theirs for theirs, ours in zip(*(taken[1:] for taken in seconds.values()), strict=True)]
    mean = results[our_way].mean
    return {
        "images": len(files),
        "compressai_seconds": median[their_way],
        "labkit_seconds": median[our_way],
        "ratio": statistics.median(ratios),
        "bpp_difference": mean["bpp"] - results[their_way]["bpp"],
        "psnr_difference": mean["psnr"] - results[their_way]["psnr-rgb"],
        "ms_ssim_difference": mean["ms_ssim"] - results[their_way]["ms-ssim-rgb"],
    }


def growth(checkpoint: Path | None, megapixels: tuple[float, ...], threads: int) -> list[dict[str, float]]:
    """Seconds and peak memory of evaluating one picture of each size, each in a process of its own."""
    rows = []
    for size in tqdm(megapixels, unit="size", disable=None, leave=False):
        call = _ALONE.format(str(checkpoint) if checkpoint else None, size, threads)
        done = subprocess.run([sys.executable, "-c", call], capture_output=True, text=True, check=False)
        if done.returncode:
            last = (done.stderr.strip() or f"ended with status {done.returncode}").splitlines()[-1]
            raise ValueError(f"{size:g} megapixels: {last}")
        rows.append(json.loads(done.stdout.splitlines()[-1]))
    return rows


def _alone(checkpoint: str | None, megapixels: float, threads: int) -> None:
    import resource  # not on Windows

    torch.set_num_threads(threads)
    net, picture = _network(checkpoint), _picture(megapixels)
    net.update()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    (row,) = evaluate(net, [picture], progress=False).rows
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    kept = {key: row[key] for key in ("width", "height", "bytes", "bpp", "psnr", "encode_seconds", "decode_seconds")}
    print(json.dumps(kept | {"peak_mib": peak, "before_mib": before}))


def _network(checkpoint: str | Path | None) -> networks.Codec:
    from labkit.training import load_checkpoint

    return load_checkpoint(checkpoint)[0] if checkpoint else networks.pretrained()


def _picture(megapixels: float) -> Tensor:
    """A test photograph mirrored side by side to 4:3 and this size."""
    photo = datasets.photos("test")[0]
    tile = torch.cat([torch.cat([photo, photo.flip(2)], 2), torch.cat([photo.flip(1), photo.flip((1, 2))], 2)], 1)
    height = round((megapixels * 1e6 * 3 / 4) ** 0.5)
    width = round(height * 4 / 3)
    across, down = -(-width // tile.size(2)), -(-height // tile.size(1))
    return tile.repeat(1, down, across)[:, :height, :width].contiguous()


def print_tables(
    checkpoint: Path | None,
    data: Path | None,
    rounds: int,
    threads: int,
    megapixels: tuple[float, ...],
    out: Path | None = None,
) -> None:
    """Print both tables, with threads and load, and write their figures as JSON to `out`."""
    torch.set_num_threads(threads)
    load = f", load {os.getloadavg()[0]:.2f}" if hasattr(os, "getloadavg") else ""
    print(f"torch {torch.__version__}, {threads} thread(s) of {os.cpu_count()} cores{load}")
    net = _network(checkpoint)
    print(f"{net.kind} {net.size}: evaluating a folder, in turn with CompressAI's eval_model")
    beside = beside_compressai(net, data or paths.data() / "photographs" / "test", rounds)
    taken = "CompressAI {compressai_seconds:.2f} s, labkit {labkit_seconds:.2f} s, ratio {ratio:.2f}"
    print(f"  {beside['images']} images: {taken.format(**beside)}")
    print(
        "  differences (labkit − CompressAI): {bpp_difference:+.2g} bpp, {psnr_difference:+.2g} dB, "
        "{ms_ssim_difference:+.2g} MS-SSIM".format(**beside)
    )
    rows = growth(checkpoint, megapixels, threads)
    print("growth: one picture, each size in a process of its own")
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
    if out:
        figures = {"threads": threads, "beside_compressai": beside, "growth": rows}
        write_whole(out, json.dumps(figures, indent=2).encode())

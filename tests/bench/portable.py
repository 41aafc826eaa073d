"""Shows that portable strings decode to the same latents with other instruction sets, at no cost in bytes.

python -m tests.bench.portable --kodak FOLDER --json FILE                     # the instruction sets, and the bytes
python -m tests.bench.portable --kodak FOLDER --json FILE --floating-point    # the losses without fixed point
python -m tests.bench.portable --kodak FOLDER --json FILE --times             # seconds per image

Each row is written to the JSON file when it is measured, and is not measured again as long as the file has it.

The bundled weights code whole images. Every network of the zoo, in its tiny size, codes the central 256×256 pixels with
untrained weights, whose latents are scaled to a deviation of 2. This process codes the images one by one, and processes
with other settings decode them one by one and in batches. An image is lost if decoding raises an error or changes a
latent by more than half a step.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import click
import torch
from torch import Tensor

import labkit as lk
from labkit import datasets, networks
from labkit.evaluation.latents import replaced_latents, transforms_of
from labkit.networks.zoo import SIZES
from tests.bench.common import COMMAND, Rows, kodak_option, machine_line, rows_option
from tests.fixed_point import machines

SETTINGS = {"own": {}, **machines.SETTINGS}
CROP = 256
ROUNDS = 5

_CODE = "from tests.bench import portable; portable._print_counts({!r})"


def codecs() -> dict[str, Callable[[], networks.Codec]]:
    """Return a function that builds each network: the bundled weights, then the zoo."""
    bundled = {
        f"{kind} λ={lmbda:g}": lambda kind=kind, lmbda=lmbda: networks.pretrained(kind, lmbda)
        for kind in networks.names()
        for lmbda in networks.pretrained_lmbdas(kind)
    }
    return bundled | {kind: lambda kind=kind: machines.network(kind) for kind in networks.names()}


def images(folder: Path, whole: bool = True) -> list[Tensor]:
    """Return the Kodak images, or their central pixels, each of shape (1, 3, H, W)."""
    photos = [photo[None] for photo in datasets.folder(folder)]
    if whole:
        return photos
    tops = [((x.size(2) - CROP) // 2, (x.size(3) - CROP) // 2) for x in photos]
    return [x[..., top : top + CROP, left : left + CROP] for x, (top, left) in zip(photos, tops, strict=True)]


def compress(net: networks.Codec, x: Tensor) -> dict[str, Any]:
    """Code an image."""
    with nullcontext() if net.info else replaced_latents(net, *scaled_latents(net, x)):
        return net.compress(x)


def scaled_latents(net: networks.Codec, x: Tensor) -> tuple[Tensor, Tensor | None]:
    """Return the latents of an untrained network, scaled to a deviation of 2; without it, all symbols are 0."""
    g_a, h_a = transforms_of(net)
    y = g_a(x)
    y = y / y.std() * 2
    z = None if h_a is None else h_a(y)
    return y, None if z is None else z / z.std() * 2


def decompress(net: networks.Codec, coded: dict[str, Any]) -> tuple[Tensor, Tensor]:
    """Return latents and 8-bit images."""
    given: list[Tensor] = []
    handle = net.g_s.register_forward_pre_hook(lambda _, inputs: given.append(inputs[0]))
    try:
        x_hat = net.decompress(**coded)["x_hat"]
    finally:
        handle.remove()
    return given[0], x_hat.clamp(0, 1).mul(255).round().to(torch.uint8)


def code(name: str, folder: Path, floating_point: bool, file: Path) -> None:
    """Code all images with a network, and write them to a file with their latents and decoded images."""
    net = codecs()[name]()
    net.update()
    lk.portable(net, not floating_point)
    coded = [compress(net, x) for x in images(folder, whole=bool(net.info))]
    decoded = [decompress(net, one) for one in coded]
    torch.save({"name": name, "weights": net.state_dict(), "coded": coded, "decoded": decoded}, file)


def _print_counts(file: str) -> None:
    """Decode a file of `code` in this process, and print what differs."""
    torch.set_grad_enabled(False)
    torch.serialization.add_safe_globals([torch.Size])
    saved = torch.load(file, weights_only=True)
    net = codecs()[saved["name"]]()
    net.load_state_dict(saved["weights"])
    lk.portable(net, saved["coded"][0]["arithmetic"] != "floating-point")
    counts = {}
    for how, size in (("singly", 1), ("batch", len(saved["coded"]))):
        count = dict.fromkeys(("images", "lost", "latents_differ", "pixels_differ"), 0)
        for indexes in _batches(saved["coded"], size):
            group = [saved["coded"][i] for i in indexes]
            strings = [[one["strings"][k][0] for one in group] for k in range(len(group[0]["strings"]))]
            count["images"] += len(group)
            try:
                latents, pixels = decompress(net, {**group[0], "strings": strings})
            except Exception:  # garbage may raise anything
                for key in ("lost", "latents_differ", "pixels_differ"):
                    count[key] += len(group)
                continue
            for i, y_hat, x_hat in zip(indexes, latents, pixels, strict=True):
                y, x = saved["decoded"][i]
                count["lost"] += not (y_hat - y[0]).abs().max() <= 0.5  # also true of NaN
                count["latents_differ"] += not torch.equal(y_hat, y[0])
                count["pixels_differ"] += not torch.equal(x_hat, x[0])
        counts[how] = count
    print(json.dumps(counts))


def _batches(coded: list[dict[str, Any]], size: int) -> Iterator[list[int]]:
    """Yield the indexes of images that are decoded together: all of one shape, and at most `size`."""
    shapes = [str(one["shape"]) for one in coded]
    for shape in dict.fromkeys(shapes):
        same = [i for i, other in enumerate(shapes) if other == shape]
        yield from (same[i : i + size] for i in range(0, len(same), size))


def decoded_by_child(file: Path, environment: dict[str, str]) -> dict[str, dict[str, int]]:
    """Return what `_print_counts` prints in a process with this environment."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", **environment}
    command = [sys.executable, "-W", "ignore", "-c", _CODE.format(str(file))]
    process = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if process.returncode:
        raise ValueError((process.stderr.strip() or f"ended with status {process.returncode}").splitlines()[-1])
    counts: dict[str, dict[str, int]] = json.loads(process.stdout.splitlines()[-1])
    return counts


def total_bytes(net: networks.Codec, photos: list[Tensor]) -> int:
    """Return the length of all strings."""
    return sum(len(string) for x in photos for group in net.compress(x)["strings"] for string in group)


def seconds(net: networks.Codec, x: Tensor) -> dict[str, float]:
    """Time coding in floating point and in fixed point in turn, and return the medians.

    The latents of an untrained network are scaled before the clock starts.
    """
    g_a, h_a = transforms_of(net)
    y, z = scaled_latents(net, x)
    times: dict[str, list[float]] = {}
    for n in range(ROUNDS + 1):
        for way in ("floating", "fixed"):
            lk.portable(net, way == "fixed")
            start = time.perf_counter()
            analyzed = g_a(x)  # replaced latents leave out the transforms
            if h_a is not None:
                h_a(analyzed)
            with replaced_latents(net, y, z):
                coded = net.compress(x)
            middle = time.perf_counter()
            net.decompress(**coded)
            end = time.perf_counter()
            if n:  # the first round warms up
                times.setdefault(f"{way}_compress", []).append(middle - start)
                times.setdefault(f"{way}_decompress", []).append(end - middle)
    return {key: statistics.median(values) for key, values in times.items()}


def instruction_sets(rows: Rows, folder: Path, floating_point: bool) -> None:
    """Decode with every setting what every network codes with this process's own."""
    arithmetic = "floating point" if floating_point else "fixed point"
    print(f"{arithmetic}: images that are lost / whose latents differ / whose 8-bit pixels differ, of all")
    print(f"  {'network':<28} {'setting':<18} {'decoded singly':>18} {'decoded in batches':>18}")
    for name in codecs():
        with tempfile.TemporaryDirectory() as temporary:
            file = Path(temporary) / "coded.pt"

            def counts(setting: str, name: str = name, file: Path = file) -> dict[str, dict[str, int]]:
                if not file.exists():
                    code(name, folder, floating_point, file)
                return decoded_by_child(file, SETTINGS[setting])

            for setting in SETTINGS:
                rows.measure(
                    f"{arithmetic} | {name} | {setting}",
                    lambda row, name=name, setting=setting: (
                        f"  {name:<28} {setting:<18} " + " ".join(f"{_text(row[how]):>18}" for how in row)
                    ),
                    lambda counts=counts, setting=setting: counts(setting),
                )


def _text(count: dict[str, int]) -> str:
    return "{lost} / {latents_differ} / {pixels_differ} of {images}".format(**count)


def rates(rows: Rows, folder: Path) -> None:
    """Compare the bytes in fixed point and in floating point, summed over all images, for the bundled weights."""
    print("bytes of all images in fixed point against floating point")
    for kind in networks.names():
        for lmbda in networks.pretrained_lmbdas(kind):

            def sums(kind: str = kind, lmbda: float = lmbda) -> dict[str, float]:
                net, photos = networks.pretrained(kind, lmbda), images(folder)
                net.update()
                fixed, floating = (total_bytes(lk.portable(net, on), photos) for on in (True, False))
                return {"floating": floating, "fixed": fixed, "difference_percent": 100 * (fixed / floating - 1)}

            rows.measure(
                f"bytes | {kind} λ={lmbda:g}",
                lambda row, name=f"{kind} λ={lmbda:g}": (
                    f"  {name:<28} {row['floating']:>10,} → {row['fixed']:>10,} ({row['difference_percent']:+.4f}%)"
                ),
                sums,
            )


def times(rows: Rows, folder: Path) -> None:
    """Time coding in floating point and in fixed point on one image, in the sizes tiny and small."""
    print(f"seconds for one image, medians of {ROUNDS}: floating point → fixed point (ratio)")
    print(f"  {'network':<30} {'compress':>24} {'decompress':>24}")
    for size in ("tiny", "small"):
        for kind in (kind for kind in networks.names() if size in SIZES[kind]):

            def medians(kind: str = kind, size: str = size) -> dict[str, float]:
                net = networks.get(kind, size, seed=0).eval()
                net.update()
                return seconds(net, images(folder)[0])

            rows.measure(
                f"seconds | {kind} | {size}",
                lambda row, name=f"{kind} {size}": (
                    f"  {name:<30} {_ratio(row, 'compress'):>24} {_ratio(row, 'decompress'):>24}"
                ),
                medians,
            )


def _ratio(row: dict[str, float], what: str) -> str:
    before, after = row[f"floating_{what}"], row[f"fixed_{what}"]
    return f"{before:.3f} → {after:.3f} ({after / before:.2f}×)"


@click.command(context_settings=COMMAND)
@kodak_option
@click.option("--floating-point", is_flag=True, help="Code and decode in floating point, to see what is lost.")
@click.option("--times", "timed", is_flag=True, help="Measure times instead.")
@rows_option
@torch.no_grad()
def main(kodak: Path, floating_point: bool, timed: bool, out: Path | None) -> None:
    """Decode portable strings with other instruction sets, and compare bytes and times with floating point."""
    torch.set_num_threads(1)
    print(machine_line(1))
    rows = Rows(out)
    if timed:
        times(rows, kodak)
    else:
        instruction_sets(rows, kodak, floating_point)
        if not floating_point:
            rates(rows, kodak)


if __name__ == "__main__":
    main()

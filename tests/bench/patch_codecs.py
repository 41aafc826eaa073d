"""Measures how far patch codecs get in seconds, and compares codecs with JPEG and WebP on real bytes.

python -m tests.bench.patch_codecs budget --kodak FOLDER --validation FOLDER --json FILE
python -m tests.bench.patch_codecs curves --kodak FOLDER --json FILE [CHECKPOINT ...]

`budget` trains untrained codecs for some seconds on one thread, and then other ones for ten times the steps that this
took, with the schedule of the longer run. The loss has rounded latents and estimated bits, on the central 256×256
pixels of the validation images and on Kodak.

`curves` codes Kodak with checkpoints, with all bundled weights, and with codecs that it trains for some seconds.
BD-rate counts the qualities that the classical codec reaches from 0.15 to 0.6 bits per pixel.

Rows in the JSON file are not measured again.
"""

from __future__ import annotations

import dataclasses
import math
import statistics
import time
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from scipy.interpolate import PchipInterpolator

from labkit import datasets, evaluation, networks
from labkit.datasets import PhotoSet
from labkit.evaluation import Report
from labkit.evaluation.evaluator import rounded_losses
from labkit.training.from_scratch import train_from_scratch
from tests.bench.common import COMMAND, Rows, kodak_option, machine_line, rows_option

CROP = 256  # side of the central crops of the validation images
RANGE = (0.15, 0.6)  # bits per pixel between which BD-rate is measured
QUALITIES = {"jpeg": (1, 3, 5, 7, 10, 13, 17, 22, 28, 35, 45), "webp": (0, 2, 5, 10, 17, 25, 35, 45, 55, 70)}
ENDLESS = 10**9  # more steps, and more seconds, than any run takes

data_option = click.option(
    "--data", type=click.Path(path_type=Path), help="Folder of training images.  [default: the bundled ones]"
)


def central_crops(photos: PhotoSet, side: int) -> PhotoSet:
    """Return the central squares of photographs; smaller photographs stay whole."""
    crops = []
    for photo in photos.images:
        top, left = (max(0, (length - side) // 2) for length in photo.shape[1:])
        crops.append(photo[:, top : top + side, left : left + side])
    return PhotoSet(crops, photos.names)


def trained(
    network: str, lmbda: float, seed: int, photos: Any, steps: int = ENDLESS, seconds: float = ENDLESS
) -> tuple[networks.Codec, dict[str, float]]:
    """Train a codec until the steps or the seconds end, and return it with its numbers of steps and seconds."""
    net = networks.get(network, "tiny", seed=seed)
    start, taken = time.perf_counter(), 0
    for step in train_from_scratch(net, photos, lmbda=lmbda, steps=steps, seconds=seconds, seed=seed):
        taken = step.step if step else taken  # None is a part of the start
    return net.eval(), {"steps": taken, "seconds": time.perf_counter() - start}


def mean_loss(net: networks.Codec, photos: PhotoSet, lmbda: float) -> float:
    """Return the mean loss with rounded latents."""
    return statistics.fmean(rate + lmbda * distortion for rate, distortion in rounded_losses(net, photos))


def excess(short: list[float], long: list[float]) -> str:
    """Describe by how many percent losses exceed others of the same seeds: the median and the range."""
    percents = [100 * (a / b - 1) for a, b in zip(short, long, strict=True)]
    return f"{statistics.median(percents):+.2f}% ({min(percents):+.2f} to {max(percents):+.2f})"


@click.group(context_settings=COMMAND)
def main() -> None:
    """Measure patch codecs that train in seconds."""


@main.command(context_settings=COMMAND)
@kodak_option
@click.option("--validation", type=click.Path(path_type=Path, exists=True), required=True, help="Folder of images.")
@data_option
@click.option("--network", multiple=True, default=("patch_linear", "patch_hyperprior"), help="Network. Repeatable.")
@click.option("--lmbda", type=float, multiple=True, default=(0.0067,), help="λ. Repeatable.")
@click.option("--seconds", type=float, multiple=True, default=(15, 40, 60), help="Training time. Repeatable.")
@click.option("--seeds", type=click.IntRange(1), default=3, help="Number of seeds.")
@click.option("--factor", type=click.IntRange(1), default=10, help="Steps of the long run over those of the short one.")
@rows_option
def budget(
    kodak: Path,
    validation: Path,
    data: Path | None,
    network: tuple[str, ...],
    lmbda: tuple[float, ...],
    seconds: tuple[float, ...],
    seeds: int,
    factor: int,
    out: Path | None,
) -> None:
    """Train for seconds and for a multiple of the steps, and print by how much the short runs' losses are higher."""
    torch.set_num_threads(1)
    print(machine_line(1))
    rows, photos = Rows(out), datasets.folder(data) if data else datasets.photos("train")
    tests = {"validation": central_crops(datasets.folder(validation), CROP), "kodak": datasets.folder(kodak)}
    for name, weight, limit in ((n, w, s) for n in network for w in lmbda for s in seconds):
        pairs: list[list[dict[str, float]]] = []
        for seed in range(seeds):
            pair: list[dict[str, float]] = []
            for length in ("short", "long"):

                def measure(
                    name: str = name, weight: float = weight, limit: float = limit, seed: int = seed,
                    short: dict[str, float] | None = pair[0] if pair else None,
                ) -> dict[str, float]:  # fmt: skip
                    plan: dict[str, Any] = {"steps": int(factor * short["steps"])} if short else {"seconds": limit}
                    net, row = trained(name, weight, seed, photos, **plan)
                    return row | {test: mean_loss(net, images, weight) for test, images in tests.items()}

                key = f"budget | {name} λ={weight:g} | {limit:g} s | seed {seed} | {length} ×{factor}"
                rows.measure(key, lambda row, key=key: f"  {key:<72} {_losses(row)}", measure)
                pair.append(rows.rows[key])
            pairs.append(pair)
        shorts, longs = zip(*pairs, strict=True)
        for test in tests:
            text = excess([row[test] for row in shorts], [row[test] for row in longs])
            print(f"{name} λ={weight:g}, {limit:g} s, {test}: above {factor} times the steps by {text}", flush=True)


def _losses(row: dict[str, float]) -> str:
    return f"{row['steps']:>6} {row['seconds']:>6.1f} s {row['validation']:.4f} {row['kodak']:.4f}"


def within(reports: list[Report]) -> list[Report]:
    """Return the reports whose mean rate is in `RANGE`."""
    return [report for report in reports if RANGE[0] <= report.mean["bpp"] <= RANGE[1]]


def saving(anchor: list[Report], bpp: float, psnr: float) -> float:
    """Return by how many percent a point's rate differs from a curve's rate at equal PSNR; NaN outside the curve."""
    points = sorted((report.mean["psnr"], math.log(report.mean["bpp"])) for report in anchor)
    logarithm = PchipInterpolator(*np.array(points).T, extrapolate=False)(psnr)
    return float(100 * (bpp / np.exp(logarithm) - 1))


def bd_rate(anchor: list[Report], test: list[Report]) -> str:
    """Describe the BD-rate with its bootstrap interval over images, or why there is none."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            text = str(evaluation.bd_rate_interval(within(anchor), test))
        except ValueError as error:
            text = f"none ({error})"
    return text + "".join(f" ({warning.message})" for warning in caught)


def point(net: networks.Codec, photos: PhotoSet) -> dict[str, Any]:
    """Return the report of a network as a row."""
    return dataclasses.asdict(evaluation.evaluate(net, photos))


@main.command(context_settings=COMMAND)
@click.argument("checkpoints", type=click.Path(path_type=Path, exists=True), nargs=-1)
@kodak_option
@data_option
@click.option("--train", multiple=True, help="Network to train, such as patch_hyperprior. Repeatable.")
@click.option("--lmbda", type=float, multiple=True, default=(0.0018, 0.0035, 0.0067, 0.013), help="λ to train for.")
@click.option("--seconds", type=float, default=40.0, help="Training time.")
@click.option("--bundled/--no-bundled", default=True, help="Measure all bundled weights, too.")
@rows_option
def curves(
    checkpoints: tuple[Path, ...],
    kodak: Path,
    data: Path | None,
    train: tuple[str, ...],
    lmbda: tuple[float, ...],
    seconds: float,
    bundled: bool,
    out: Path | None,
) -> None:
    """Code Kodak to real bytes, and print rates, PSNR and BD-rates against JPEG and WebP."""
    torch.set_num_threads(1)
    print(machine_line(1))
    rows, photos = Rows(out), datasets.folder(kodak)
    images = datasets.folder(data) if data else datasets.photos("train")

    def classical(codec: str, quality: int) -> dict[str, Any]:
        return dataclasses.asdict(evaluation.classical(photos, codec, [quality])[0])

    def trained_point(name: str, weight: float) -> dict[str, Any]:
        return point(trained(name, weight, 0, images, seconds=seconds)[0], photos)

    plan: list[tuple[str, str, Callable[[], dict[str, Any]]]] = [  # curve, setting, and a function that measures it
        (codec, f"quality {q}", partial(classical, codec, q)) for codec in QUALITIES for q in QUALITIES[codec]
    ]
    for path in checkpoints:
        info = networks.read_info(path)
        curve = f"{info['network']}, {path.resolve().parent.name}"
        plan.append(
            (curve, f"λ = {info['lmbda']:g}", lambda path=path: point(networks.load_checkpoint(path)[0], photos))
        )
    for name in networks.names() if bundled else ():
        for weight in networks.pretrained_lmbdas(name):
            measure = lambda name=name, weight=weight: point(networks.pretrained(name, weight), photos)  # noqa: E731
            plan.append((f"{name}, bundled", f"λ = {weight:g}", measure))
    for name in train:
        plan += [
            (f"{name}, {seconds:g} s", f"λ = {weight:g}", partial(trained_point, name, weight)) for weight in lmbda
        ]

    reports: dict[str, list[Report]] = {}
    print(f"{'curve':<32} {'setting':<12} {'bpp':>7} {'PSNR':>6} {'JPEG':>7} {'WebP':>7}  bits in % at equal PSNR")
    for curve, setting, measure in plan:
        anchors = [] if curve in QUALITIES else [reports[codec] for codec in QUALITIES]
        rows.measure(
            f"curves | {curve} | {setting}",
            lambda row, curve=curve, setting=setting, anchors=anchors: _line(curve, setting, Report(**row), anchors),
            measure,
        )
        reports.setdefault(curve, []).append(Report(**rows.rows[f"curves | {curve} | {setting}"]))
    print(f"\nBD-rate in percent, over the qualities of the other codec from {RANGE[0]} to {RANGE[1]} bpp")
    for curve in reports:
        for codec in QUALITIES if curve not in QUALITIES else ():
            print(f"{curve} against {codec}: {bd_rate(reports[codec], reports[curve])}")


def _line(curve: str, setting: str, report: Report, anchors: list[list[Report]]) -> str:
    bpp, psnr = report.mean["bpp"], report.mean["psnr"]
    savings = " ".join(f"{saving(anchor, bpp, psnr):>+7.1f}" for anchor in anchors)
    return f"{curve:<32} {setting:<12} {bpp:>7.4f} {psnr:>6.2f} {savings}".rstrip()


if __name__ == "__main__":
    main()

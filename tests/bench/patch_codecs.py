"""Measures how far patch codecs get in seconds, and compares codecs with JPEG and WebP on real bytes.

python -m tests.bench.patch_codecs budget --kodak FOLDER --validation FOLDER --json FILE
python -m tests.bench.patch_codecs curves --kodak FOLDER --json FILE [CHECKPOINT ...]

`budget` trains untrained codecs for some seconds on one thread, and then others, from the start, for ten times the
steps that this took. The loss has rounded latents and estimated bits, on the central 256×256
pixels of the validation images and on Kodak.

`curves` codes Kodak with checkpoints, with all bundled weights, and with codecs that it trains for some seconds.
BD-rate counts the qualities that the classical codec reaches in a range of rates.

Rows in the JSON file are not measured again.
"""

from __future__ import annotations

import dataclasses
import itertools
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
from labkit.networks.checkpoints import read_info
from labkit.training.from_scratch import train_from_scratch
from tests.bench.common import COMMAND, Rows, kodak_option, machine_line, rows_option

CROP = 256  # side of the central crops of the validation images
RANGES = {"jpeg": (0.15, 0.6), "webp": (0.15, 0.4)}  # bits per pixel between which BD-rate is measured
RATE = 0.4  # bits per pixel at which codecs are also compared with JPEG
QUALITIES = {"jpeg": (1, 3, 5, 7, 10, 13, 17, 22, 28, 35, 45), "webp": (0, 2, 5, 10, 17, 25, 35, 45, 55, 70)}
TESTS = ("validation", "kodak")  # sets of images on which `budget` measures the loss
NAMES = {"jpeg": "JPEG", "webp": "WebP"}
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


def budget_summary(rows: dict[str, dict[str, float]]) -> list[str]:
    """Return a Markdown table of budgets: medians over the seeds, and the range of the excess over the long runs.

    Args:
        rows: Rows by name. Those of other commands, and budgets with a missing long run, are left out.
    """
    lines = [
        "| codec, λ, training | steps | loss, Kodak | above the long runs, validation | Kodak |",
        "| --- | --- | --- | --- | --- |",
    ]
    plans: dict[tuple[str, str], list[tuple[dict[str, float], dict[str, float]]]] = {}
    for key, short in rows.items():
        if key.startswith("budget") and " | short" in key:
            _, name, limit, *_ = key.split(" | ")
            plans.setdefault((name, limit), []).append((short, rows.get(key.replace(" | short", " | long"), {})))
    for (name, limit), pairs in plans.items():
        if all(long for _, long in pairs):
            steps, kodak = (statistics.median(short[what] for short, _ in pairs) for what in ("steps", "kodak"))
            cells = [f"{steps:,.0f}", f"{kodak:.4f}"]
            cells += [excess(*([row[test] for row in runs] for runs in zip(*pairs, strict=True))) for test in TESTS]
            lines.append(f"| `{name.replace(' λ=', '`, ')}, {limit} | {' | '.join(cells)} |")
    return lines


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
    images = (central_crops(datasets.folder(validation), CROP), datasets.folder(kodak))
    plans = [(name, weight, limit) for name in network for weight in lmbda for limit in seconds]

    def key(length: str, seed: int, name: str, weight: float, limit: float) -> str:
        return f"budget | {name} λ={weight:g} | {limit:g} s | seed {seed} | {length} ×{factor}"

    def measure(length: str, seed: int, name: str, weight: float, limit: float) -> dict[str, float]:
        if length == "short":
            net, row = trained(name, weight, seed, photos, seconds=limit)
        else:
            short = rows.rows[key("short", seed, name, weight, limit)]
            net, row = trained(name, weight, seed, photos, steps=int(factor * short["steps"]))
        return row | {test: mean_loss(net, each, weight) for test, each in zip(TESTS, images, strict=True)}

    # All short runs come first: only they are timed, and the long ones may be spread over several processes.
    for length, plan, seed in itertools.product(("short", "long"), plans, range(seeds)):
        label = key(length, seed, *plan)
        rows.measure(
            label, lambda row, label=label: f"  {label:<72} {_losses(row)}", partial(measure, length, seed, *plan)
        )
    print("\n".join(budget_summary(rows.rows)))


def _losses(row: dict[str, float]) -> str:
    return f"{row['steps']:>6} {row['seconds']:>6.1f} s {row['validation']:.4f} {row['kodak']:.4f}"


def within(reports: list[Report], low: float, high: float) -> list[Report]:
    """Return the reports whose mean rate lies between two rates in bits per pixel."""
    return [report for report in reports if low <= report.mean["bpp"] <= high]


def interpolated(reports: list[Report], at: float, inverse: bool = False) -> float:
    """Return the mean PSNR at the logarithm of a rate, or inversely; NaN outside the curve of the reports."""
    points = np.array(sorted((math.log(report.mean["bpp"]), report.mean["psnr"]) for report in reports))
    x, y = points.T[::-1] if inverse else points.T
    if len(points) < 2:
        return math.nan
    return float(PchipInterpolator(x, y, extrapolate=False)(at))


def saving(anchor: list[Report], bpp: float, psnr: float) -> float:
    """Return by how many percent a point's rate differs from a curve's rate at equal PSNR; NaN outside the curve."""
    return 100 * (bpp / math.exp(interpolated(anchor, psnr, inverse=True)) - 1)


def bd_rate(anchor: list[Report], test: list[Report]) -> str:
    """Describe the BD-rate with its bootstrap interval over images and its range of PSNR, or return a dash."""
    ranges = [sorted(report.mean["psnr"] for report in reports) for reports in (anchor, test)]
    low, high = max(psnrs[0] for psnrs in ranges), min(psnrs[-1] for psnrs in ranges)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a short range, which is printed here
        try:
            interval = evaluation.bd_rate_interval(anchor, test)
        except ValueError:  # the curves share too few qualities
            return "–"
    return f"{interval.estimate:+.1f}% [{interval.low:+.1f}, {interval.high:+.1f}], {low:.1f} to {high:.1f} dB"


def curves_summary(reports: dict[str, list[Report]]) -> list[str]:
    """Return a Markdown table of BD-rates against JPEG and WebP.

    Args:
        reports: Reports of each curve, those of JPEG and WebP included.
    """
    columns = [f"against {NAMES[codec]}, {low:g} to {high:g} bpp" for codec, (low, high) in RANGES.items()]
    lines = [f"| codec | {' | '.join(columns)} | against JPEG at {RATE:g} bpp |", "| --- | --- | --- | --- |"]
    for name, points in reports.items():
        if name not in RANGES:
            cells = [bd_rate(within(reports[codec], *limits), points) for codec, limits in RANGES.items()]
            one = saving(reports["jpeg"], RATE, interpolated(points, math.log(RATE)))
            cells.append("–" if math.isnan(one) else f"{one:+.1f}%")
            lines.append(f"| {name} | {' | '.join(cells)} |")
    return lines


def point(net: networks.Codec, photos: PhotoSet) -> dict[str, Any]:
    """Return the report of a network as a row."""
    return dataclasses.asdict(evaluation.evaluate(net, photos))


@main.command(context_settings=COMMAND)
@click.argument("checkpoints", type=click.Path(path_type=Path, exists=True), nargs=-1)
@kodak_option
@data_option
@click.option(
    "--train",
    type=(str, float),
    multiple=True,
    metavar="NETWORK SECONDS",
    help="Network to train, and for how long. Repeatable.",
)
@click.option("--lmbda", type=float, multiple=True, default=(0.0018, 0.0035, 0.0067, 0.013), help="λ to train for.")
@click.option("--bundled/--no-bundled", default=True, help="Measure all bundled weights, too.")
@click.option("--table", type=click.Path(path_type=Path), help="File for all measurements, .csv or .parquet.")
@rows_option
def curves(
    checkpoints: tuple[Path, ...],
    kodak: Path,
    data: Path | None,
    train: tuple[tuple[str, float], ...],
    lmbda: tuple[float, ...],
    bundled: bool,
    table: Path | None,
    out: Path | None,
) -> None:
    """Code Kodak to real bytes, and print rates, PSNR and BD-rates against JPEG and WebP."""
    torch.set_num_threads(1)
    print(machine_line(1))
    rows, photos = Rows(out), datasets.folder(kodak)
    images = datasets.folder(data) if data else datasets.photos("train")

    def classical(codec: str, quality: int) -> dict[str, Any]:
        return dataclasses.asdict(evaluation.classical(photos, codec, [quality])[0])

    def stored_point(path: Path) -> dict[str, Any]:
        return point(networks.load_checkpoint(path)[0], photos)

    def bundled_point(name: str, weight: float) -> dict[str, Any]:
        return point(networks.pretrained(name, weight), photos)

    def trained_point(name: str, seconds: float, weight: float) -> dict[str, Any]:
        net, row = trained(name, weight, 0, images, seconds=seconds)
        report = point(net, photos)
        return report | {"info": report["info"] | {"lmbda": weight, "total_steps": row["steps"]}}

    plan: list[tuple[str, str, Callable[[], dict[str, Any]]]] = [  # curve, setting, and a function that measures it
        (codec, f"quality {q}", partial(classical, codec, q)) for codec in QUALITIES for q in QUALITIES[codec]
    ]
    for path in checkpoints:
        info = read_info(path)
        name = f"{info['network']}, {info['total_steps']:,} steps"
        plan.append((name, f"λ = {info['lmbda']:g}", partial(stored_point, path)))
    for name in networks.names() if bundled else ():
        for weight in networks.pretrained_lmbdas(name):
            plan.append((f"{name}, bundled", f"λ = {weight:g}", partial(bundled_point, name, weight)))
    for name, seconds in train:
        plan += [
            (f"{name}, {seconds:g} s", f"λ = {weight:g}", partial(trained_point, name, seconds, weight))
            for weight in lmbda
        ]

    reports: dict[str, list[Report]] = {}
    print(f"{'curve':<32} {'setting':<12} {'bpp':>7} {'PSNR':>6} {'JPEG':>7} {'WebP':>7}  bits in % at equal PSNR")
    for curve, setting, function in plan:
        anchors = [] if curve in QUALITIES else [reports[codec] for codec in QUALITIES]
        rows.measure(
            f"curves | {curve} | {setting}",
            lambda row, curve=curve, setting=setting, anchors=anchors: _line(curve, setting, Report(**row), anchors),
            function,
        )
        reports.setdefault(curve, []).append(Report(**rows.rows[f"curves | {curve} | {setting}"]))
    print("\nBits at equal PSNR: BD-rate over the qualities of the other codec in a range of rates, and one rate\n")
    print("\n".join(curves_summary(reports)))
    if table is not None:
        evaluation.save_table(evaluation.to_frame(reports), table)


def _line(curve: str, setting: str, report: Report, anchors: list[list[Report]]) -> str:
    bpp, psnr = report.mean["bpp"], report.mean["psnr"]
    savings = " ".join(f"{saving(anchor, bpp, psnr):>+7.1f}" for anchor in anchors)
    return f"{curve:<32} {setting:<12} {bpp:>7.4f} {psnr:>6.2f} {savings}".rstrip()


if __name__ == "__main__":
    main()

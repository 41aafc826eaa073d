"""Bundles checkpoints with labkit: rounds weights to half precision, evaluates the result and writes it to data/.

python -m tests.bench.bundle patch_hyperprior-tiny-0.0067.safetensors --kodak KODAK
"""

from __future__ import annotations

import copy
import hashlib
import json
import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any

import click
import pandas as pd
import torch
from torch import Tensor, nn

from labkit import datasets, defaults, evaluation, networks, paths, schedules, schemes
from labkit.disk import write_whole
from labkit.networks import load_checkpoint, save_checkpoint, weights_hash
from tests.bench.common import COMMAND


def layers(net: nn.Module) -> list[nn.Parameter]:
    """Return the weights that are stored in half precision: all except the small networks of factorized models."""
    return [parameter for name, parameter in net.named_parameters() if "entropy_bottleneck" not in name]


@torch.no_grad()
def round_weights(net: networks.Codec) -> networks.Codec:
    """Return a float32 copy whose layers have values of half precision, with coder tables made from these values.

    Raises:
        ValueError: If a weight is too large for half precision.
    """
    rounded = copy.deepcopy(net)
    for parameter in layers(rounded):
        parameter.copy_(parameter.half())
        if not parameter.isfinite().all():
            raise ValueError("weights must be below 65,520 in size to be stored in half precision; keep float32")
    rounded.update(force=True)
    return rounded


def save_rounded(net: networks.Codec, file: Path) -> None:
    """Write a network of `round_weights`, with its layers in half precision. `load_checkpoint` gives float32 again."""
    stored = copy.deepcopy(net)
    for parameter in layers(stored):
        parameter.data = parameter.data.half()
    save_checkpoint(stored, file)
    if weights_hash(load_checkpoint(file)[0]) != weights_hash(net):
        raise ValueError(f"{file} does not give its weights back")


def command(info: dict[str, Any], file: Path) -> str:
    """Return the command that trained a checkpoint, where BOTH is a folder of training images.

    Raises:
        ValueError: If a setting that the command leaves at its default has another value.
    """
    info = info | {"scheme": schemes.from_dict(info["scheme"])}  # which adds the fields that older files lack
    usual = {
        "scheme": schemes.get(defaults.SCHEME),
        "lr": str(schedules.parse(defaults.LR)),
        "clip": defaults.CLIP,
        "ema": defaults.EMA,
        "permute_colors": False,
        "total_steps": info["steps"],
    }
    if other := [name for name, value in usual.items() if info[name] != value]:
        raise ValueError(f"{file}: bundle only writes commands with the default {', '.join(other)}")
    return (
        "labkit train --network {network} --size {size} --lmbda {lmbda:g} --steps {steps} --data BOTH "
        "--batch-size {batch_size} --crop {crop} --seed {seed} --precision {precision} --threads 1 --device cpu "
        f"--out {file.name}"
    ).format(**info)


def mean_losses(net: networks.Codec, photos: datasets.PhotoSet) -> Tensor:
    """Return bits per pixel, 255² · MSE and loss with rounded latents, averaged over the photographs."""
    rate, distortion = torch.tensor(evaluation.rounded_losses(net, photos), dtype=torch.float64).mean(0)
    return torch.stack([rate, distortion, rate + net.info["lmbda"] * distortion])


def means(report: evaluation.Report) -> dict[str, float]:
    """Return the means of a report that figures.json has."""
    digits = {"bpp": 4, "estimated_bpp": 4, "psnr": 3, "ms_ssim": 4}
    return {key: round(report.mean[key], places) for key, places in digits.items()}


def add_to_curves(net: networks.Codec, folder: Path, table: Path) -> evaluation.Report:
    """Evaluate a network on the Kodak images, and put the rows into the table of curves, in place of earlier ones."""
    report = evaluation.evaluate(net, datasets.folder(folder))
    frame = evaluation.to_frame({f"{net.kind} {net.size}": [report]})
    before = evaluation.read_table(table)
    earlier = (before["curve"] == frame["curve"][0]) & (before["lmbda"] == net.info["lmbda"])
    evaluation.save_table(pd.concat([before[~earlier], frame], ignore_index=True), table)
    return report


def bundle(checkpoint: Path, data: Path, kodak: Path | None = None) -> str:
    """Write the weights, their entry in figures.json and their results to the folder data, and describe them."""
    photos = datasets.photos("test")
    net, info = load_checkpoint(checkpoint)
    file = data / "weights" / f"{net.kind}-{net.size}-{info['lmbda']:g}.safetensors"
    rounded = round_weights(net)
    before, after = mean_losses(net, photos), mean_losses(rounded, photos)
    if abs(after[2] / before[2] - 1) > 0.001:
        raise ValueError(f"{checkpoint}: half precision changes the loss from {before[2]:.5f} to {after[2]:.5f}")
    save_rounded(rounded, file)
    report = evaluation.evaluate(load_checkpoint(file)[0], photos)
    frame = evaluation.to_frame({f"{net.kind} {net.size}": [report]})
    evaluation.save_table(frame, data / "results" / f"{file.stem}.csv")
    curves = data / "results" / "kodak.parquet"
    figures = data / "weights" / "figures.json"
    cards = json.loads(figures.read_text()) if figures.exists() else {}
    cards[file.name] = {
        "commands": [command(info, file), f"python -m tests.bench.bundle {file.name} --kodak KODAK"],
        "sha256": hashlib.sha256(file.read_bytes()).hexdigest(),
        "bytes": file.stat().st_size,
        "made_with": {
            "torch": torch.__version__,
            "compressai": version("compressai"),
            "python": platform.python_version(),
        },
        "images": len(photos),
        "mean": means(report),
        **({"kodak": means(add_to_curves(load_checkpoint(file)[0], kodak, curves))} if kodak else {}),
        "float32": {
            "bytes": checkpoint.stat().st_size,
            "loss": round(before[2].item(), 6),
            "loss_after_rounding": round(after[2].item(), 6),
        },
    }
    write_whole(figures, (json.dumps(dict(sorted(cards.items())), indent=2) + "\n").encode())
    return (
        f"{file.name}: {checkpoint.stat().st_size:,} → {file.stat().st_size:,} bytes, loss {before[2]:.5f} → "
        f"{after[2]:.5f} ({after[2] / before[2] - 1:+.4%})\n{report!r}"
    )


@click.command(context_settings=COMMAND)
@click.argument("checkpoints", type=click.Path(path_type=Path, exists=True), nargs=-1, required=True)
@click.option("--kodak", type=click.Path(path_type=Path, exists=True), help="Kodak images, for kodak.parquet.")
@click.option("--data", type=click.Path(path_type=Path), default=paths.data(), help="Folder that gets the files.")
def main(checkpoints: tuple[Path, ...], kodak: Path | None, data: Path) -> None:
    """Round the weights in CHECKPOINTS to half precision, and write them with their results to labkit's data folder."""
    torch.set_num_threads(1)
    for checkpoint in checkpoints:
        click.echo(bundle(checkpoint, data, kodak))


if __name__ == "__main__":
    main()

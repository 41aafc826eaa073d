"""Shows what a patch codec with M latents can reach without training, and how good its start is.

python -m tests.bench.patch_limits ceiling --kodak FOLDER --json FILE
python -m tests.bench.patch_limits untrained --kodak FOLDER --json FILE

`ceiling` gives the PSNR without any quantization. The DCT loses the energy outside its M vectors. The best linear
transform of the training patches (PCA) loses the energy outside the M first principal components.

`untrained` gives the loss with rounded latents and estimated bits of codecs that were only started: with the DCT, the
step that suits λ, and entropy models fitted to the first training batch. The ideal loss has the entropies of the test
latents themselves, one for each channel. JPEG and WebP have the same bits per pixel, interpolated between qualities.

Rows in the JSON file are not measured again.
"""

from __future__ import annotations

import math
from contextlib import closing
from pathlib import Path

import click
import numpy as np
import torch
from torch import Tensor

from labkit import datasets, networks, paths
from labkit.datasets import PhotoSet
from labkit.evaluation import read_table
from labkit.evaluation.evaluator import rounded_losses
from labkit.networks.patch_start import PATCH, dct_basis
from labkit.training.settings import Settings
from labkit.training.trainer import Training
from tests.bench.common import COMMAND, Rows, curve, kodak_option, machine_line, rows_option
from tests.bench.patch_codecs import interpolated

CHANNELS = (96, 128, 192, 256)
LMBDAS = (0.0009, 0.0025, 0.0067, 0.018)
CLASSICAL = ("jpeg", "webp")


def patches(image: Tensor, step: int = PATCH) -> Tensor:
    """Return the patches of an image whose corners lie on a grid, as rows of 768 values in float64.

    Args:
        image: Image of shape (3, H, W).
        step: Distance of the corners in pixels.
    """
    cut = image.unfold(1, PATCH, step).unfold(2, PATCH, step)  # (3, rows, columns, PATCH, PATCH)
    return cut.permute(1, 2, 0, 3, 4).reshape(-1, 3 * PATCH**2).double()


def principal_components(images: PhotoSet) -> tuple[Tensor, Tensor]:
    """Return the principal components of all patches, as rows from large to small variance, and the mean patch."""
    sums, products, count = torch.zeros(768).double(), torch.zeros(768, 768).double(), 0
    for image in images:
        x = patches(image, PATCH // 2)
        sums, products, count = sums + x.sum(0), products + x.T @ x, count + len(x)
    mean = sums / count
    _, vectors = torch.linalg.eigh(products / count - torch.outer(mean, mean))
    return vectors.flip(1).T, mean


def ceiling(x: Tensor, basis: Tensor, mean: Tensor) -> float:
    """Return the PSNR of patches that are projected to a basis.

    Args:
        x: Patches, (n, 768).
        basis: Orthonormal rows, (M, 768).
        mean: Patch that is subtracted first, (768,).
    """
    x = x - mean
    return -10 * math.log10((x - x @ basis.T @ basis).square().mean().item())


def channel_entropies(latents: list[Tensor]) -> Tensor:
    """Return the empirical entropy of each channel in bits per latent, over all images.

    Args:
        latents: Rounded latents of each image, (1, M, height, width).
    """
    values = torch.cat([y.squeeze(0).flatten(1) for y in latents], 1)
    counts = [channel.unique(return_counts=True)[1].double() / values.size(1) for channel in values]
    return torch.stack([-(p * p.log2()).sum() for p in counts])


def started(network: str, lmbda: float) -> networks.Codec:
    """Return a codec that is started for λ with the first batch of bundled training photographs, and not trained."""
    net = networks.get(network, "tiny")
    settings = Settings(lmbda=lmbda, steps=1, batch_size=8, crop=128, permute_colors=True, device="cpu")
    training = Training(net, datasets.photos("train"), settings)
    with closing(training.batches()) as batches:
        for _ in training.starting(next(batches)):
            pass
    return net.eval()


@torch.no_grad()
def untrained(network: str, lmbda: float, photos: PhotoSet) -> dict[str, float]:
    """Return mean bits per pixel, PSNR and loss of a started codec, and its loss with ideal factorized entropies."""
    net = started(network, lmbda)
    rates, distortions = (np.array(values) for values in zip(*rounded_losses(net, photos), strict=True))
    ideal = channel_entropies([net.g_a(x[None]).round() for x in photos]).sum().item() / PATCH**2
    loss = rates.mean() + lmbda * distortions.mean()
    psnr = float(np.mean(10 * np.log10(255**2 / distortions)))
    return {"bpp": rates.mean(), "psnr": psnr, "loss": loss, "ideal_loss": loss - rates.mean() + ideal}


@click.group(context_settings=COMMAND)
def main() -> None:
    """Measure the limits of patch codecs without training."""


@main.command("ceiling", context_settings=COMMAND)
@kodak_option
@click.option("--data", type=click.Path(path_type=Path), help="Training images.  [default: the bundled ones]")
@rows_option
def ceiling_command(kodak: Path, data: Path | None, out: Path | None) -> None:
    """Print the PSNR without quantization for each number of latents M."""
    rows, photos = Rows(out), datasets.folder(kodak)

    def measure() -> dict[str, dict[str, float]]:
        components, mean = principal_components(datasets.folder(data) if data else datasets.photos("train"))
        bases = {"DCT": (dct_basis(768).flatten(1).double(), torch.full_like(mean, 0.5)), "PCA": (components, mean)}
        xs = [patches(image) for image in photos]

        def psnr(M: int, name: str) -> float:
            basis, middle = bases[name]
            return float(np.mean([ceiling(x, basis[:M], middle) for x in xs]))

        return {str(M): {name: psnr(M, name) for name in bases} for M in CHANNELS}

    def table(row: dict[str, dict[str, float]]) -> str:
        return "\n".join(f"{M:>4} {values['DCT']:>8.2f} {values['PCA']:>8.2f}" for M, values in row.items())

    print(f"PSNR in dB without quantization, mean of {len(photos)} images\n{'M':>4} {'DCT':>8} {'PCA':>8}")
    rows.measure(f"ceiling | {data or 'bundled'}", table, measure)


@main.command("untrained", context_settings=COMMAND)
@kodak_option
@click.option("--network", multiple=True, help="Network. Repeatable.  [default: all patch codecs]")
@click.option("--lmbda", type=float, multiple=True, default=LMBDAS, help="λ. Repeatable.")
@rows_option
def untrained_command(kodak: Path, network: tuple[str, ...], lmbda: tuple[float, ...], out: Path | None) -> None:
    """Print the loss of codecs that were started and not trained, and the PSNR of JPEG and WebP at the same rate."""
    torch.set_num_threads(1)
    print(machine_line(1))
    rows, photos = Rows(out), datasets.folder(kodak)
    table = read_table(paths.data() / "results" / "kodak.parquet")
    curves = {codec: curve(table[table["curve"] == codec]) for codec in CLASSICAL}
    print(f"{'network':<18} {'λ':>7} {'bpp':>7} {'PSNR':>6} {'loss':>7} {'ideal':>7} {'JPEG':>6} {'WebP':>6}")
    for name in network or [name for name in networks.names() if name.startswith("patch_")]:
        for weight in lmbda:

            def measure(name: str = name, weight: float = weight) -> dict[str, float]:
                row = untrained(name, weight, photos)
                return row | {codec: interpolated(curves[codec], math.log(row["bpp"])) for codec in CLASSICAL}

            def line(row: dict[str, float], name: str = name, weight: float = weight) -> str:
                numbers = f"{row['bpp']:>7.4f} {row['psnr']:>6.2f} {row['loss']:>7.4f} {row['ideal_loss']:>7.4f}"
                return f"{name:<18} {weight:>7g} {numbers} {row['jpeg']:>6.2f} {row['webp']:>6.2f}"

            rows.measure(f"untrained | {name} λ={weight:g}", line, measure)


if __name__ == "__main__":
    main()

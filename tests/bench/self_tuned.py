"""Trains patch codecs with a temperature for each channel that follows from measurements during training.

python -m tests.bench.self_tuned --network patch_linear --seeds 3 --json FILE

According to the study's claim `prediction`, a small mismatch of the loss predicts a low final loss, and the variance of
the gradient adds nothing. So every 100 steps, each channel gets the temperature of the grid at which its part of the
mismatch is smallest, measured on the batch of that step:

    mean(bits(y + u) − bits(⌊y⌉)) + λ · 255²/3 · |J|² · mean((ỹ − y)² − (⌊y⌉ − y)²)

|J|² is the mean squared norm of the decoder's Jacobian for one latent of the channel. The result is compared with the
scheme `annealed` on the same batches, with rounded latents. Rows in the JSON file are not measured again.
"""

from __future__ import annotations

import statistics
from itertools import product
from operator import itemgetter
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from torch import Tensor

from labkit import datasets, networks, schemes, surrogates
from labkit.datasets import PhotoSet
from labkit.evaluation.evaluator import rounded_losses
from labkit.research.study.findings import finding
from labkit.statistics import estimate
from labkit.training.settings import Settings
from labkit.training.trainer import Training
from tests.bench.common import COMMAND, Rows, machine_line, rows_option

NETWORKS = ("patch_linear", "patch_mlp")  # those with a factorized entropy model
LEVELS = (0.05, 0.1, 0.2, 0.4, 0.8)
EVERY = 100  # steps between measurements
RAMP = surrogates.get("sua", relaxed=True)


class ChannelTemperatures:
    """Temperatures of the channels of the latent y of a codec with a factorized entropy model.

    The training loop sets one temperature for all channels before every step; a hook puts these in its place.
    """

    def __init__(self, net: networks.Codec, lmbda: float, seed: int):
        self.net, self.lmbda, self.model = net, lmbda, net.entropy_bottleneck
        self.noise = torch.Generator().manual_seed(seed)
        self.values = torch.full((net.M, 1, 1), net.scheme.temperature.start)
        self.model.temperature = self.values.clone()
        self.y = torch.empty(0)
        self.model.register_forward_pre_hook(self._before)

    def _before(self, _module: Any, inputs: tuple[Tensor, ...]) -> None:
        self.y = inputs[0].detach()
        self.model.temperature.copy_(self.values)

    @torch.no_grad()
    def _bits(self, y: Tensor) -> Tensor:
        """Return the mean bits of each channel."""
        likelihood, _, _ = self.model._likelihood(y.transpose(0, 1).flatten(1)[:, None])
        bits: Tensor = -likelihood.clamp_min(1e-9).log2().mean((1, 2))
        return bits

    def gain(self, y: Tensor) -> Tensor:
        """Estimate the mean squared norm of the decoder's Jacobian for one latent of each channel."""
        y = y.detach().requires_grad_()
        image = self.net.g_s(y)
        (slope,) = torch.autograd.grad((image * torch.randn(image.shape, generator=self.noise)).sum(), y)
        return slope.square().mean((0, 2, 3))

    def mismatch(self) -> Tensor:
        """Return each channel's part of the mismatch at each level, in bits per latent, of shape (levels, channels)."""
        median = self.model._get_medians().detach().view(-1, 1, 1)
        distance = self.y - median
        noise = torch.rand(distance.shape, generator=self.noise)
        rounded = distance.round()
        rate = self._bits(self.y + noise - 0.5) - self._bits(rounded + median)
        ramps = torch.stack([RAMP(distance, level, noise=noise) for level in LEVELS])
        error = ((ramps - distance) ** 2 - (rounded - distance) ** 2).mean((1, 3, 4))
        return rate + self.lmbda * 255**2 / 3 * self.gain(rounded + median) * error

    def choose(self) -> None:
        """Give each channel the level at which its part of the mismatch is smallest in size."""
        best = self.mismatch().abs().argmin(0)
        self.values.copy_(torch.tensor(LEVELS)[best].view(-1, 1, 1))


def trained(network: str, lmbda: float, seed: int, steps: int, photos: Any, tuned: bool) -> tuple[Any, list[float]]:
    """Train a codec as the study does, and return it with the share of the channels at each level."""
    net = networks.get(network, "tiny", scheme=schemes.annealed(), seed=seed)
    settings = Settings(
        lmbda=lmbda, steps=steps, batch_size=8, crop=128, permute_colors=True, seed=seed, device="cpu",
        precision="float32",
    )  # fmt: skip
    temperatures = ChannelTemperatures(net, lmbda, seed) if tuned else None
    for step in Training(net, photos, settings):
        if temperatures and step.step % EVERY == 0:
            temperatures.choose()
    shares = [float((temperatures.values == level).float().mean()) for level in LEVELS] if temperatures else []
    return net.eval(), shares


@click.command(context_settings=COMMAND)
@click.option("--network", multiple=True, type=click.Choice(NETWORKS), default=NETWORKS, help="Network. Repeatable.")
@click.option("--lmbda", type=float, multiple=True, default=(0.0018,), help="λ. Repeatable.")
@click.option("--seed", type=int, multiple=True, default=(0, 1, 2), help="Seed. Repeatable.")
@click.option("--steps", type=click.IntRange(1), default=2000, help="Training steps.")
@click.option("--images", type=click.Path(path_type=Path, exists=True), help="Further folder to test on.")
@rows_option
def main(
    network: tuple[str, ...], lmbda: tuple[float, ...], seed: tuple[int, ...], steps: int, images: Path | None,
    out: Path | None,
) -> None:  # fmt: skip
    """Train with and without the rule, and print the change of the loss with its 95% interval."""
    torch.set_num_threads(1)
    print(machine_line(1))
    rows, photos = Rows(out), datasets.photos("train")
    tests: dict[str, PhotoSet] = {"test": datasets.photos("test")}
    tests |= {images.name: datasets.folder(images)} if images else {}
    for name, weight, number, tuned in product(network, lmbda, seed, (False, True)):

        def measure(
            name: str = name, weight: float = weight, number: int = number, tuned: bool = tuned
        ) -> dict[str, Any]:
            net, shares = trained(name, weight, number, steps, photos, tuned)
            losses = {
                test: [rate + weight * error for rate, error in rounded_losses(net, each)]
                for test, each in tests.items()
            }
            return {
                "network": name,
                "lmbda": weight,
                "seed": number,
                "tuned": tuned,
                "shares": shares,
                "losses": losses,
            }

        key = f"{name} λ={weight:g} seed {number} {'tuned' if tuned else 'annealed'}"
        rows.measure(key, lambda row, key=key: f"  {key:<44} {_line(row)}", measure)
    print("\n".join(summary([*rows.rows.values()])))


def summary(rows: list[dict[str, Any]]) -> list[str]:
    """Return a Markdown table: the change of the loss by the rule, with its interval over seeds and images."""
    lines = ["| codec, λ | " + " | ".join(rows[0]["losses"]) + " |", "| --- |" + " --- |" * len(rows[0]["losses"])]
    for name, weight in dict.fromkeys((row["network"], row["lmbda"]) for row in rows):
        mine = sorted((row for row in rows if (row["network"], row["lmbda"]) == (name, weight)), key=itemgetter("seed"))
        cells = []
        for test in mine[0]["losses"]:
            with_it, without = (
                np.log([row["losses"][test] for row in mine if row["tuned"] == tuned]) for tuned in (1, 0)
            )
            cells.append(finding("", estimate(np.mean, with_it - without)).numbers)
        lines.append(f"| `{name}`, {weight:g} | " + " | ".join(cells) + " |")
    return lines


def _line(row: dict[str, Any]) -> str:
    losses = ", ".join(f"{test} {statistics.fmean(each):.4f}" for test, each in row["losses"].items())
    shares = " ".join(f"{level:g}:{share:.0%}" for level, share in zip(LEVELS, row["shares"], strict=False))
    return f"{losses}  {shares}"


if __name__ == "__main__":
    main()

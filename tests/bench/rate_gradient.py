"""Measures the variance of the rate's gradient on a trained codec, with and without expected gradients, and their cost.

python -m tests.bench.rate_gradient --network mean_scale_hyperprior --lmbda 0.0035
"""

from __future__ import annotations

import statistics
import time
from pathlib import Path
from typing import Any

import click
import torch
from torch import Tensor

from labkit import datasets, entropy, networks, schemes
from labkit.analysis.trained.images import random_batches
from labkit.analysis.trained.sums import Welford, in_double
from labkit.state_guard import seed_noise
from labkit.training import rate_distortion
from tests.bench.common import COMMAND, json_option, machine, machine_line, threads_option, write_json

EXPECTED = {"name": "aun", "gradient": "expected"}
SCHEMES = {
    "sampled": schemes.mixed(),
    "expected for y": schemes.mixed(rate=EXPECTED),
    "expected for y and z": schemes.mixed(rate=EXPECTED, hyper_rate=EXPECTED),
}


def gradients(net: networks.Codec, x: Tensor, lmbda: float) -> list[Tensor]:
    """Return the gradients of the rate, in bits per pixel, with respect to y and to the weights of g_a, as vectors."""
    latents: list[Tensor] = []
    hook = net.g_a.register_forward_hook(lambda _module, _inputs, y: latents.append(y))
    try:
        rate = rate_distortion(in_double(net(x)), x.double(), lmbda).rate
    finally:
        hook.remove()
    y, *weights = torch.autograd.grad(rate, [*latents, *net.g_a.parameters()])
    return [y.flatten(), torch.cat([weight.flatten() for weight in weights])]


def measure(net: networks.Codec, xs: list[Tensor], lmbda: float, draws: int) -> list[dict[str, Any]]:
    """Return a row per scheme: squared norm of the mean gradient and variance over the noise, means over batches."""
    rows = []
    for label, scheme in SCHEMES.items():
        entropy.set_scheme(net, scheme)
        row: dict[str, Any] = {"gradient": label}
        sums = [[Welford() for _ in range(2)] for _ in xs]
        for b, x in enumerate(xs):
            for draw in range(draws):
                seed_noise(net, 0, b, draw)
                for total, gradient in zip(sums[b], gradients(net, x, lmbda), strict=True):
                    total.add(gradient)
        for i, name in enumerate(("latent", "encoder")):
            row[f"{name}_signal"] = statistics.fmean(float(total[i].mean.norm()) ** 2 for total in sums)
            row[f"{name}_variance"] = statistics.fmean(total[i].variance for total in sums)
        rows.append(row)
    return rows


def step_seconds(net: networks.Codec, x: Tensor, lmbda: float, rounds: int) -> dict[str, float]:
    """Return the median seconds of forward and backward for each scheme; each round runs every scheme once."""
    seconds: dict[str, list[float]] = {label: [] for label in SCHEMES}
    for round_number in range(rounds + 1):
        for label, scheme in SCHEMES.items():
            entropy.set_scheme(net, scheme)
            start = time.perf_counter()
            rate_distortion(net(x), x, lmbda).total.backward()
            if round_number:  # the first round warms up
                seconds[label].append(time.perf_counter() - start)
    return {label: statistics.median(times) for label, times in seconds.items()}


@click.command(context_settings=COMMAND)
@click.option("--network", default="mean_scale_hyperprior", help="Architecture of the bundled weights.")
@click.option("--lmbda", default=0.0035, help="λ of the bundled weights.")
@click.option("--batches", type=click.IntRange(1), default=4, help="Number of batches.")
@click.option("--draws", type=click.IntRange(2), default=16, help="Number of draws of the noise per batch.")
@click.option("--crop", type=click.IntRange(1), default=128, help="Side of the crops, in pixels; 8 crops per batch.")
@click.option("--rounds", type=click.IntRange(1), default=15, help="Number of timed steps per scheme.")
@threads_option
@json_option
def main(
    network: str, lmbda: float, batches: int, draws: int, crop: int, rounds: int, threads: int, out: Path | None
) -> None:
    """Measure the variance of the rate's gradient, and the time of a step, on a trained codec."""
    torch.set_num_threads(threads)
    net = networks.pretrained(network, lmbda).train()
    lmbda = net.info["lmbda"]
    xs = random_batches(net, list(datasets.photos("train")), batches, 8, crop, seed=0)
    rows = measure(net, xs, lmbda, draws)
    seconds = step_seconds(net, xs[0], lmbda, rounds)
    print(machine_line(threads))
    print(
        f"{network}, λ = {lmbda:g}: gradient of the rate, {batches} batches of 8 crops of {crop}², {draws} draws each"
    )
    print("share: variance relative to sampled; noise: variance / squared norm of the mean; ms: forward and backward\n")
    print(f"{'gradient':<22} {'y: share':>9} {'noise':>8} {'g_a: share':>11} {'noise':>8} {'ms':>7} {'× sampled':>10}")
    for row in rows:
        row["seconds"] = seconds[row["gradient"]]
        cells = []
        for name in ("latent", "encoder"):
            variance = row[f"{name}_variance"]
            cells += [variance / rows[0][f"{name}_variance"], variance / row[f"{name}_signal"]]
        print(
            f"{row['gradient']:<22} {cells[0]:>9.3f} {cells[1]:>8.3g} {cells[2]:>11.3f} {cells[3]:>8.3g} "
            f"{row['seconds'] * 1e3:>7.1f} {row['seconds'] / rows[0]['seconds']:>10.2f}"
        )
    write_json(out, {**machine(threads), "network": network, "lmbda": lmbda, "rows": rows})


if __name__ == "__main__":
    main()

"""Designs the reference codes of the toy sources and stores them in data/results/toy-ecvq.json.

python -m tests.bench.ecvq
"""

from __future__ import annotations

import json
from concurrent.futures import ProcessPoolExecutor
from itertools import product
from typing import Any

import click
import torch

from labkit import datasets, disk, paths
from labkit.analysis import reference_codes
from labkit.live.toy import LMBDAS
from tests.bench.common import COMMAND

SOURCES = {"banana": datasets.Banana(), "ring": datasets.Ring()}


def design(name: str, lmbda: float, points: int, starts: int) -> tuple[str, dict[str, Any]]:
    """Return a line about the reference code of a source, and its entry in the file."""
    data, test = (SOURCES[name].draw(points, torch.Generator().manual_seed(seed)).numpy() for seed in (1, 2))
    quantizer = reference_codes.vector_quantizer(data, lmbda, starts=starts)
    loss = quantizer.loss_on(test)
    text = f"{name}, λ = {lmbda:g}: {len(quantizer.codewords)} codewords"
    return f"{text}, design {quantizer.loss.total:.4f}, test {loss.total:.4f}", {
        "loss": [round(value, 5) for value in loss],
        "codewords": quantizer.codewords.round(4).tolist(),
        "probabilities": [float(f"{p:.5g}") for p in quantizer.probabilities],
    }


@click.command(context_settings=COMMAND)
@click.option("--points", default=1 << 16, help="Number of points for the design, and for the test.")
@click.option("--starts", default=24, help="Number of starts.")
@click.option("--processes", default=2, help="Number of processes.")
def main(points: int, starts: int, processes: int) -> None:
    """Design and store the reference codes of the toy sources."""
    table: dict[str, dict[str, Any]] = {name: {} for name in SOURCES}
    pairs = list(product(SOURCES, LMBDAS))
    with ProcessPoolExecutor(processes) as pool:
        runs = [pool.submit(design, name, lmbda, points, starts) for name, lmbda in pairs]
        for (name, lmbda), run in zip(pairs, runs, strict=True):
            text, table[name][f"{lmbda:g}"] = run.result()
            print(text, flush=True)
    text = json.dumps(table) + "\n"
    disk.write_whole(paths.data() / "results" / reference_codes.STORED, text.encode())


if __name__ == "__main__":
    main()

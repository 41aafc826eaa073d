"""Measures what denormal numbers cost in training.

python -m tests.bench.denormals --network patch_hyperprior

Trains the bundled weights further at their own λ, with denormal numbers and with zeros in their place, in turn.
"""

from __future__ import annotations

import copy
import statistics
import time
from contextlib import nullcontext
from itertools import pairwise
from unittest import mock

import click
import torch

from labkit import datasets, networks, training
from labkit.training import trainer
from tests.bench.common import COMMAND, machine_line

ROUNDS, STEPS = 3, 20


def seconds(net: networks.Codec, lmbda: float, zero: bool) -> float:
    """Return the median seconds of the processor for a step."""
    times = []
    settings = {"batch_size": 8, "crop": 128, "device": "cpu", "precision": "float32"}
    with nullcontext() if zero else mock.patch.object(trainer, "denormals_are_zero", nullcontext):
        for _ in training.stream(copy.deepcopy(net), datasets.photos("train"), lmbda=lmbda, steps=STEPS, **settings):
            times.append(time.process_time())
    return statistics.median(after - before for before, after in pairwise(times))


@click.command(context_settings=COMMAND)
@click.option("--network", default="patch_hyperprior", help="Network with bundled weights.")
def main(network: str) -> None:
    """Time training steps with and without denormal numbers."""
    torch.set_num_threads(1)
    print(machine_line(1))
    print(f"seconds of a training step, medians of {ROUNDS} rounds: denormal numbers → zeros (ratio)")
    for lmbda in networks.pretrained_lmbdas(network):
        net = networks.pretrained(network, lmbda)
        pairs = [[seconds(net, lmbda, zero) for zero in (False, True)] for _ in range(ROUNDS)]
        before, after = (statistics.median(each) for each in zip(*pairs, strict=True))
        print(f"  λ={lmbda:<8g}{before:.3f} → {after:.3f} ({before / after:.2f}×)", flush=True)


if __name__ == "__main__":
    main()

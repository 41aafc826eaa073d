"""Kills training runs, at random and while they write a file, and checks that they resume to identical results.

python -m tests.bench.kills --kills 50
"""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import tempfile
import time
from pathlib import Path
from typing import Any

import click
import torch
from safetensors import safe_open
from tqdm.auto import tqdm

from labkit import datasets, networks, schemes
from labkit.training import run, states
from tests.bench.common import COMMAND

INTERVAL = 0.2  # seconds between two saved states; an ordinary run would save less often
LONGEST = 2.0  # most seconds until a run is killed, at once or at its next write


def _train(out: Path, steps: int) -> None:
    net = networks.get("mean_scale_hyperprior", "tiny", schemes.annealed(), seed=0)
    run.SAVING = 1.0
    run.train(
        net, datasets.photos("train")[:8], lmbda=0.01, steps=steps, batch_size=2, crop=64, ema=0.99,
        precision="float32", out=out, log=out.with_suffix(".csv"), save_every=INTERVAL, threads=1, progress=False,
    )  # fmt: skip


def _start(out: Path, steps: int) -> Any:
    process = multiprocessing.get_context("fork").Process(target=_train, args=(out, steps))
    process.start()
    return process


def _train_to_the_end(out: Path, steps: int) -> None:
    process = _start(out, steps)
    process.join()
    if process.exitcode:
        raise ValueError(f"a run ended with status {process.exitcode}")


def _is_writing(folder: Path) -> bool:
    return any(entry.name.endswith(".tmp") for entry in os.scandir(folder))


def _kill(out: Path, steps: int, rng: random.Random, while_writing: bool) -> bool:
    """Start or resume a run and kill it after a while or at its next write; return False if it ended earlier."""
    process = _start(out, steps)
    end = time.perf_counter() + rng.uniform(0.0, LONGEST)
    while process.is_alive() and time.perf_counter() < end:
        time.sleep(0.001)
    while while_writing and process.is_alive() and not _is_writing(out.parent):
        pass
    time.sleep(rng.uniform(0, 0.004) if while_writing else 0)
    process.kill()
    process.join()
    return process.exitcode != 0


def _lost(out: Path) -> tuple[int, float]:
    """Return the number and the seconds of the steps that are in the log but not in the saved state."""
    rows = out.with_suffix(".csv").read_text().splitlines()[1:] if out.with_suffix(".csv").exists() else []
    part = Path(f"{out}.part")
    saved = states.read(part)["step"] if part.exists() else 0
    seconds = [float(row.split(",")[-2]) for row in rows[saved:] if row.count(",") == 8]
    if sum(seconds[:-2]) > INTERVAL:
        raise ValueError(f"{len(seconds)} steps of {sum(seconds):.2f} s were lost, more than {INTERVAL} s")
    return len(seconds), sum(seconds)


def _contents(out: Path) -> tuple[dict[str, Any], dict[str, torch.Tensor], list[str]]:
    """Return the description and tensors of the checkpoint, and the rows of the log, without times."""
    with safe_open(out, framework="pt") as file:
        info = json.loads(file.metadata()["info"])
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (it is not a dictionary)
    rows = out.with_suffix(".csv").read_text().splitlines()
    return {**info, "seconds": 0}, tensors, [row.rsplit(",", 2)[0] for row in rows]


@click.command(context_settings=COMMAND)
@click.option("--kills", type=click.IntRange(1), default=50, help="Number of kills.")
@click.option("--steps", type=click.IntRange(1), default=400, help="Number of optimizer steps per run.")
@click.option("--seed", type=int, default=0, help="Seed for the times of the kills.")
def main(kills: int, steps: int, seed: int) -> None:
    """Kill training runs at random and while they write, and check that they resume to identical results."""
    torch.set_num_threads(1)
    rng, count, writing, runs, most = random.Random(seed), 0, 0, 0, (0, 0.0)
    with tempfile.TemporaryDirectory() as folder, tqdm(total=kills, unit="kill", disable=None, leave=False) as bar:
        reference, killed = Path(folder) / "whole" / "net.safetensors", Path(folder) / "parts" / "net.safetensors"
        _train(Path(folder) / "warm.safetensors", 2)  # forked processes inherit all modules that this run loads
        _train_to_the_end(reference, steps)
        expected_info, expected_tensors, expected_rows = _contents(reference)
        while count < kills:
            killed.parent.mkdir(exist_ok=True)
            while count < kills and _kill(killed, steps, rng, while_writing := rng.random() < 0.5):
                count, writing = count + 1, writing + (while_writing and _is_writing(killed.parent))
                most = max(most, _lost(killed), key=lambda lost: lost[1])
                bar.update()
            _train_to_the_end(killed, steps)
            runs += 1
            info, tensors, rows = _contents(killed)
            same = info == expected_info and rows == expected_rows and tensors.keys() == expected_tensors.keys()
            if not same or not all(torch.equal(value, expected_tensors[name]) for name, value in tensors.items()):
                raise ValueError(f"after {count} kills, the result differs from that of the uninterrupted run")
            for file in killed.parent.iterdir():
                file.unlink()
    print(f"{count} kills over {runs} runs of {steps} steps, {writing} of them while a file was being written")
    print(f"at most {most[0]} steps of {most[1]:.2f} s were lost; a state is due every {INTERVAL} s")
    print("every checkpoint and every log, except for times, equals that of the uninterrupted run")


if __name__ == "__main__":
    main()

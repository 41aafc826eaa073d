"""A run that is killed again and again, at random and while it writes its state, must end as if nothing had been."""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from tqdm.auto import tqdm

from labkit import datasets, networks, schemes
from labkit.training import run, states

INTERVAL = 0.2  # seconds between two states, of which one takes more than the share that a run gives it
LONGEST = 2.0  # seconds until a run is killed, or is killed when it next writes


def _train(out: Path, steps: int) -> None:
    net = networks.get("mean_scale_hyperprior", "tiny", schemes.annealed(), seed=0)
    run.SAVING = 1.0
    run.train(
        net, datasets.photos("train")[:8], lmbda=0.01, steps=steps, batch_size=2, crop=64, ema=0.99,
        precision="float32", out=out, log=out.with_suffix(".csv"), save_every=INTERVAL, threads=1, progress=False,
    )  # fmt: skip


def _writing(folder: Path) -> bool:
    return any(entry.name.endswith(".tmp") for entry in os.scandir(folder))


def _killed(out: Path, steps: int, chance: random.Random, while_writing: bool) -> bool:
    """Start or go on, and kill after some seconds, or the next moment that it writes; False where it ended before."""
    process = multiprocessing.get_context("fork").Process(target=_train, args=(out, steps))
    process.start()
    end = time.perf_counter() + chance.uniform(0.0, LONGEST)
    while process.is_alive() and time.perf_counter() < end:
        time.sleep(0.001)
    while while_writing and process.is_alive() and not _writing(out.parent):
        pass
    time.sleep(chance.uniform(0, 0.004) if while_writing else 0)
    process.kill()
    process.join()
    return process.exitcode != 0


def _lost(out: Path) -> tuple[int, float]:
    """Steps, and seconds of them, that the log has and the state has not."""
    rows = out.with_suffix(".csv").read_text().splitlines()[1:] if out.with_suffix(".csv").exists() else []
    part = Path(f"{out}.part")
    kept = states.read(part)["step"] if part.exists() else 0
    seconds = [float(row.split(",")[-2]) for row in rows[kept:] if row.count(",") == 8]
    if sum(seconds[:-2]) > INTERVAL:
        raise ValueError(f"{len(seconds)} steps were lost, {sum(seconds):.2f} s, more than {INTERVAL} s")
    return len(seconds), sum(seconds)


def _contents(out: Path) -> tuple[dict[str, Any], dict[str, torch.Tensor], list[str]]:
    with safe_open(out, framework="pt") as file:
        info = json.loads(file.metadata()["info"])
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (no mapping)
    rows = out.with_suffix(".csv").read_text().splitlines()
    return {**info, "seconds": 0}, tensors, [row.rsplit(",", 2)[0] for row in rows]  # but for the times


def print_table(kills: int, steps: int, seed: int) -> None:
    """Kill runs so many times in all, and print what was lost. Raises ValueError where a result is another."""
    torch.set_num_threads(1)
    chance, done, writing, runs, most = random.Random(seed), 0, 0, 0, (0, 0.0)
    with tempfile.TemporaryDirectory() as folder, tqdm(total=kills, unit="kill", disable=None, leave=False) as bar:
        whole, parts = Path(folder) / "whole" / "net.safetensors", Path(folder) / "parts" / "net.safetensors"
        _train(Path(folder) / "warm.safetensors", 2)  # what a process starts with need not be loaded in each
        _in_a_process(whole, steps)
        wanted = _contents(whole)
        while done < kills:
            parts.parent.mkdir(exist_ok=True)
            while done < kills and _killed(parts, steps, chance, while_writing := chance.random() < 0.5):
                done, writing = done + 1, writing + (while_writing and _writing(parts.parent))
                most = max(most, _lost(parts), key=lambda lost: lost[1])
                bar.update()
            _in_a_process(parts, steps)
            runs += 1
            info, tensors, rows = _contents(parts)
            same = info == wanted[0] and rows == wanted[2] and tensors.keys() == wanted[1].keys()
            if not same or not all(torch.equal(value, wanted[1][name]) for name, value in tensors.items()):
                raise ValueError(f"after {done} kills the result is not that of the run that was left alone")
            for file in parts.parent.iterdir():
                file.unlink()
    print(f"{done} kills over {runs} runs of {steps} steps, {writing} of them while a file was being written")
    print(f"lost at most {most[0]} steps, {most[1]:.2f} s, where a state is due every {INTERVAL} s")
    print("every result, and every row of every log but for its times, is that of the run that was left alone")


def _in_a_process(out: Path, steps: int) -> None:
    process = multiprocessing.get_context("fork").Process(target=_train, args=(out, steps))
    process.start()
    process.join()
    if process.exitcode:
        raise ValueError(f"a run ended with status {process.exitcode}")

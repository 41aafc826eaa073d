"""Sweeps measured: two workers beside one, what a run costs beyond its own work, and what survives being killed."""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pandas as pd
import psutil
from PIL import Image
from tqdm.auto import tqdm

from labkit import datasets
from labkit.research.sweeps import driver, work
from labkit.research.sweeps.grid import Sweep
from labkit.research.sweeps.results import Results

RATIO, MEMORY = 0.6, 500e6  # of two workers' time to one's; of the driver, resident
CHECKED = 20  # runs of the many that are made once more, to compare
TIMES = ["seconds", "encode_seconds", "decode_seconds"]


def print_speed(steps: int) -> None:
    """Time of 8 equal runs with one worker, and with two. Raises ValueError for more than 0.6 of it."""
    seconds = {}
    with tempfile.TemporaryDirectory() as folder:
        for workers in (1, 2):
            sweep = _toys(Path(folder, str(workers)), steps, range(8))
            begun = time.perf_counter()
            _commanded(sweep, workers)
            seconds[workers] = time.perf_counter() - begun
    ratio = seconds[2] / seconds[1]
    print(f"8 runs of {steps} steps: {seconds[1]:.1f} s with one worker, {seconds[2]:.1f} s with two: {ratio:.2f}")
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
    if ratio > RATIO:
        raise ValueError(f"two workers take {ratio:.2f} of one's time, more than {RATIO}")


def print_many(runs: int) -> None:
    """Memory of the driver, and overhead of a run, over so many of one step. Raises ValueError for a wrong table."""
    with tempfile.TemporaryDirectory() as folder:
        sweep = _toys(Path(folder), 1, range(runs), "toy_1d", hidden=1, batch_size=1)
        begun = time.perf_counter()
        peak = _commanded(sweep, 2)
        wall = time.perf_counter() - begun
        wanted, table = sweep.runs(), Results(sweep.out).frame([run.name for run in sweep.runs()])
        if table["run"].tolist() != [run.name for run in wanted] or (table["status"] != "done").any():
            raise ValueError(f"the table does not have each of {runs} runs once, done")
        for run in random.Random(0).sample(wanted, min(runs, CHECKED)):
            (again,) = work.do(run, str(Path(folder, "again")))
            (row,) = table[table["run"] == run.name].to_dict("records")
            if any(row[name] != again[name] for name in ("rate", "distortion", "loss", "weights")):
                raise ValueError(f"{run.name} is not what it is alone")
        left = sum(path.is_file() for path in sweep.out.rglob("*")) - 1
    each = (2 * wall - table["seconds"].sum()) / runs
    print(f"{runs} runs in {wall:.0f} s, each in the table once, {CHECKED} of them made again and equal")
    own = 1e3 * table["seconds"].mean()
    print(f"a run takes {own:.0f} ms of a worker's time for itself, and {1e3 * each:.0f} ms more")
    print(f"the driver took {peak / 1e6:.0f} MB at most")
    print(f"{left} files left beside the table; {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
    if peak > MEMORY:
        raise ValueError(f"the driver took {peak / 1e6:.0f} MB, more than {MEMORY / 1e6:.0f} MB")


def _toys(out: Path, steps: int, seeds: range, network: str = "toy_2d", **settings: Any) -> Sweep:
    return Sweep(out / "sweep", {"network": network, "lmbda": 2.0, "steps": steps, **settings}, {"seed": list(seeds)})


def _commanded(sweep: Sweep, workers: int) -> float:
    """Run a sweep as one would, and give the most memory that its driver had, in bytes resident."""
    file = sweep.out.with_suffix(".toml")
    file.parent.mkdir(parents=True, exist_ok=True)
    lines = [f"{name} = {json.dumps(value)}" for name, value in {"out": str(sweep.out), **sweep.settings}.items()]
    file.write_text("\n".join([*lines, "[grid]", *(f"{name} = {value}" for name, value in sweep.grid.items())]))
    command = [sys.executable, "-W", "ignore", "-m", "labkit.cli", "sweep", str(file), "--workers", str(workers)]
    peak = 0
    with subprocess.Popen(command, stdout=sys.stderr) as process:
        while process.poll() is None:
            with suppress(psutil.NoSuchProcess):
                peak = max(peak, psutil.Process(process.pid).memory_info().rss)
            time.sleep(0.1)
    if process.returncode:
        raise ValueError(f"the sweep ended with status {process.returncode}")
    return peak


# Kills ----------------------------------------------------------------------------------------------------------------


def print_kills(kills: int, seed: int) -> None:
    """Kill a worker, the driver or the scheduler, in turn, each in a sweep that is done to its end after that.

    Raises ValueError where a result is lost, is there twice, or is not that of the sweep that was left alone.
    """
    chance, kinds = random.Random(seed), ("worker", "driver", "scheduler")
    counts = dict.fromkeys(kinds, 0)
    with tempfile.TemporaryDirectory() as folder, tqdm(total=kills, unit="kill", disable=None, leave=False) as bar:
        sweep = _small(Path(folder))
        with _driver(sweep, None) as process:
            _until(lambda: _holders(sweep), process)
            begun = time.perf_counter()
            process.join()
        span, wanted = time.perf_counter() - begun, _contents(sweep)
        while sum(counts.values()) < kills:
            kind = kinds[sum(counts.values()) % len(kinds)]
            shutil.rmtree(sweep.out, ignore_errors=True)
            if not _killed(sweep, kind, chance.uniform(0, span)):
                continue
            counts[kind] += 1
            bar.update()
            if not _contents(sweep).equals(wanted):
                raise ValueError(f"after the kill of a {kind} the table is not that of the sweep that was left alone")
    told = ", ".join(f"{count} of a {kind}" for kind, count in counts.items())
    print(f"{kills} kills, {told}: every table is that of the sweep that was left alone, but for the times")


def _killed(sweep: Sweep, kind: str, seconds: float) -> bool:
    """Start a sweep, kill some seconds after its first run has begun, and see it done; False where it was before."""
    with _cluster(kind) as (scheduler, address), _driver(sweep, address) as process:
        _until(lambda: _holders(sweep), process)
        process.join(seconds)
        victims = _holders(sweep) if kind == "worker" else [process.pid if kind == "driver" else scheduler]
        if not process.is_alive() or not victims:
            return False
        os.kill(victims[0], signal.SIGKILL)
        process.join()
        if (process.exitcode == 0) != (kind == "worker"):
            raise ValueError(f"after the kill of a {kind} the driver ended with status {process.exitcode}")
    with _cluster(kind) as (_, address), _driver(sweep, address) as process:
        process.join()
        if process.exitcode:
            raise ValueError(f"started again after the kill of a {kind}, the driver ended with {process.exitcode}")
    return True


@contextmanager
def _driver(sweep: Sweep, address: str | None) -> Iterator[Any]:
    process = multiprocessing.get_context("fork").Process(target=_drive, args=(sweep, address))
    process.start()
    try:
        yield process
    finally:
        process.kill()
        process.join()


def _drive(sweep: Sweep, address: str | None) -> None:
    try:
        driver.run(sweep, workers=2, address=address, progress=False)
    except ConnectionError:
        sys.exit(2)  # as the command does


@contextmanager
def _cluster(kind: str) -> Iterator[tuple[int, str | None]]:
    """For the kill of a scheduler, one in a process of its own, with two workers: its process and its address."""
    if kind != "scheduler":
        yield 0, None
        return
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "scheduler.json")
        scheduler = _dask("scheduler", "--port", "0", "--scheduler-file", str(file), "--no-dashboard")
        workers = _dask("worker", "--scheduler-file", str(file), "--nthreads", "1", "--nworkers", "2", "--no-dashboard")
        try:
            while not file.exists() or not file.read_text().endswith("}"):
                time.sleep(0.05)
            yield scheduler.pid, json.loads(file.read_text())["address"]
        finally:
            for process in (workers, scheduler):
                children = psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []
                process.kill()
                process.wait()
                for child in children:
                    with suppress(psutil.NoSuchProcess):
                        child.kill()


def _dask(part: str, *options: str) -> subprocess.Popen:
    command = [sys.executable, "-W", "ignore", "-m", f"distributed.cli.dask_{part}", *options]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def _small(folder: Path) -> Sweep:
    """Four short trainings of an image codec, on few and small pictures."""
    for split in ("train", "test"):
        Path(folder, split).mkdir()
        for index, photo in enumerate(datasets.photos(split).images[:2]):
            picture = Image.fromarray(photo[:, :128, :192].permute(1, 2, 0).contiguous().numpy())
            picture.save(Path(folder, split, f"{index}.png"))
    settings = {"network": "factorized_prior", "steps": 60, "batch_size": 1, "crop": 64, "save_every": 0.2}
    settings |= {"data": str(folder / "train"), "test": str(folder / "test")}
    return Sweep(folder / "sweep", settings, {"lmbda": [0.005, 0.02], "seed": [0, 1]})


def _holders(sweep: Sweep) -> list[int]:
    """The processes that are at work on a run."""
    return [int(words[1]) for path in Results(sweep.out).runs.glob("*.lock") if (words := path.read_text().split())]


def _until(condition: Callable[[], Any], process: Any) -> None:
    while process.is_alive() and not condition():
        time.sleep(0.01)


def _contents(sweep: Sweep):
    """The table, but for the times, in an order of its own."""
    if left := list(Results(sweep.out).runs.glob("*.json")):
        raise ValueError(f"{left[0]} is not in the table")
    table = pd.read_parquet(Results(sweep.out).table).drop(columns=TIMES)
    return table.sort_values(["run", "name"], ignore_index=True)

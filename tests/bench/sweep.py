"""Measures sweeps: the speed with two workers, overhead per run, memory of the driver, and recovery from kills.

python -m tests.bench.sweep
python -m tests.bench.sweep --trivial 10000
python -m tests.bench.sweep --kills 30
"""

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

import click
import pandas as pd
import psutil
from PIL import Image
from tqdm.auto import tqdm

from labkit import datasets
from labkit.research.sweeps import driver, worker
from labkit.research.sweeps.grid import Sweep
from labkit.research.sweeps.results import ResultsFolder
from tests.bench.common import COMMAND

RATIO, MEMORY = 0.6, 500e6  # limits: time of two workers relative to one, and resident memory of the driver in bytes
CHECKED = 20  # number of runs that are repeated to compare their results
TIMES = ["seconds", "encode_seconds", "decode_seconds"]


def print_speed(steps: int) -> None:
    """Time 8 equal runs with one worker and with two.

    Raises:
        ValueError: If two workers take more than RATIO of the time of one.
    """
    seconds = {}
    with tempfile.TemporaryDirectory() as folder:
        for workers in (1, 2):
            sweep = _toy_sweep(Path(folder, str(workers)), steps, range(8))
            start = time.perf_counter()
            _run_command(sweep, workers)
            seconds[workers] = time.perf_counter() - start
    ratio = seconds[2] / seconds[1]
    print(f"8 runs of {steps} steps: {seconds[1]:.1f} s with one worker, {seconds[2]:.1f} s with two: {ratio:.2f}")
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
    if ratio > RATIO:
        raise ValueError(f"two workers take {ratio:.2f} of the time of one, more than {RATIO}")


def print_many(runs: int) -> None:
    """Measure the driver's memory and the overhead per run over many runs of one step.

    Raises:
        ValueError: If the table is wrong or the driver takes more than MEMORY.
    """
    with tempfile.TemporaryDirectory() as folder:
        sweep = _toy_sweep(Path(folder), 1, range(runs), "toy_1d", hidden=1, batch_size=1)
        start = time.perf_counter()
        peak = _run_command(sweep, 2)
        wall = time.perf_counter() - start
        expected, table = sweep.runs(), ResultsFolder(sweep.out).frame([run.name for run in sweep.runs()])
        if table["run"].tolist() != [run.name for run in expected] or (table["status"] != "done").any():
            raise ValueError(f"the table must have each of {runs} runs once, with status done")
        for run in random.Random(0).sample(expected, min(runs, CHECKED)):
            (again,) = worker.execute(run, str(Path(folder, "again")))
            (row,) = table[table["run"] == run.name].to_dict("records")
            if any(row[name] != again[name] for name in ("rate", "distortion", "loss", "weights")):
                raise ValueError(f"{run.name} has other results when it runs alone")
        files = sum(path.is_file() for path in sweep.out.rglob("*")) - 1
    overhead = (2 * wall - table["seconds"].sum()) / runs
    print(f"{runs} runs in {wall:.0f} s, each once in the table; {CHECKED} of them were repeated with equal results")
    print(f"a run takes {1e3 * table['seconds'].mean():.0f} ms of a worker's time, and {1e3 * overhead:.0f} ms more")
    print(f"the driver took at most {peak / 1e6:.0f} MB")
    print(f"{files} files remain beside the table; {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
    if peak > MEMORY:
        raise ValueError(f"the driver took {peak / 1e6:.0f} MB, more than {MEMORY / 1e6:.0f} MB")


def _toy_sweep(out: Path, steps: int, seeds: range, network: str = "toy_2d", **settings: Any) -> Sweep:
    return Sweep(out / "sweep", {"network": network, "lmbda": 2.0, "steps": steps, **settings}, {"seed": list(seeds)})


def _run_command(sweep: Sweep, workers: int) -> float:
    """Run a sweep with `labkit sweep`, and return the peak resident memory of the driver in bytes."""
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
    """Kill a worker, the driver or the scheduler in turn, and let each sweep finish afterwards.

    Raises:
        ValueError: If a result is lost, appears twice, or differs from that of the uninterrupted sweep.
    """
    rng, victims = random.Random(seed), ("worker", "driver", "scheduler")
    counts = dict.fromkeys(victims, 0)
    with tempfile.TemporaryDirectory() as folder, tqdm(total=kills, unit="kill", disable=None, leave=False) as bar:
        sweep = _codec_sweep(Path(folder))
        with _driver(sweep, None) as process:
            _wait_until(lambda: _busy_processes(sweep), process)
            start = time.perf_counter()
            process.join()
        span, expected = time.perf_counter() - start, _contents(sweep)
        while sum(counts.values()) < kills:
            victim = victims[sum(counts.values()) % len(victims)]
            shutil.rmtree(sweep.out, ignore_errors=True)
            if not _kill(sweep, victim, rng.uniform(0, span)):
                continue
            counts[victim] += 1
            bar.update()
            if not _contents(sweep).equals(expected):
                raise ValueError(
                    f"after a kill of the {victim}, the table differs from that of the uninterrupted sweep"
                )
    numbers = ", ".join(f"{count} of a {victim}" for victim, count in counts.items())
    print(f"{kills} kills ({numbers}): except for times, every table equals that of the uninterrupted sweep")


def _kill(sweep: Sweep, victim: str, seconds: float) -> bool:
    """Kill a process some seconds after the first run has started, then finish the sweep.

    Returns:
        False if the sweep ended before the kill.
    """
    with _cluster(victim) as (scheduler, address), _driver(sweep, address) as process:
        _wait_until(lambda: _busy_processes(sweep), process)
        process.join(seconds)
        processes = {"worker": _busy_processes(sweep), "driver": [process.pid], "scheduler": [scheduler]}[victim]
        if not process.is_alive() or not processes:
            return False
        os.kill(processes[0], signal.SIGKILL)
        process.join()
        if (process.exitcode == 0) != (victim == "worker"):
            raise ValueError(f"after a kill of the {victim}, the driver ended with status {process.exitcode}")
    with _cluster(victim) as (_, address), _driver(sweep, address) as process:
        process.join()
        if process.exitcode:
            raise ValueError(f"after a kill of the {victim}, the second driver ended with status {process.exitcode}")
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
        sys.exit(2)  # as `labkit sweep` does


@contextmanager
def _cluster(victim: str) -> Iterator[tuple[int, str | None]]:
    """Start a scheduler with two workers if the scheduler is the victim, and yield its process id and address."""
    if victim != "scheduler":
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


def _codec_sweep(folder: Path) -> Sweep:
    """Return a sweep of four short training runs of an image codec on a few small images."""
    for split in ("train", "test"):
        Path(folder, split).mkdir()
        for index, photo in enumerate(datasets.photos(split).images[:2]):
            image = Image.fromarray(photo[:, :128, :192].permute(1, 2, 0).contiguous().numpy())
            image.save(Path(folder, split, f"{index}.png"))
    settings = {"network": "factorized_prior", "steps": 60, "batch_size": 1, "crop": 64, "save_every": 0.2}
    settings |= {"data": str(folder / "train"), "test": str(folder / "test")}
    return Sweep(folder / "sweep", settings, {"lmbda": [0.005, 0.02], "seed": [0, 1]})


def _busy_processes(sweep: Sweep) -> list[int]:
    """Return the ids of the processes that are executing a run."""
    locks = [path.read_text().split() for path in ResultsFolder(sweep.out).runs.glob("*.lock")]
    return [int(fields[1]) for fields in locks if fields]


def _wait_until(condition: Callable[[], Any], process: Any) -> None:
    while process.is_alive() and not condition():
        time.sleep(0.01)


def _contents(sweep: Sweep) -> pd.DataFrame:
    """Return the table without times, in a fixed order."""
    if remaining := list(ResultsFolder(sweep.out).runs.glob("*.json")):
        raise ValueError(f"{remaining[0]} is not in the table")
    table = pd.read_parquet(ResultsFolder(sweep.out).table).drop(columns=TIMES)
    return table.sort_values(["run", "name"], ignore_index=True)


@click.command(context_settings=COMMAND)
@click.option("--steps", type=click.IntRange(1), default=4000, help="Number of optimizer steps of each of the 8 runs.")
@click.option("--trivial", type=click.IntRange(1), help="Measure memory and overhead with so many runs of one step.")
@click.option("--kills", type=click.IntRange(1), help="Kill so many workers, drivers and schedulers instead.")
@click.option("--seed", type=int, default=0, help="Seed for the times of the kills.")
def main(steps: int, trivial: int | None, kills: int | None, seed: int) -> None:
    """Compare the time of 8 equal runs with two workers and with one."""
    if trivial:
        print_many(trivial)
    elif kills:
        print_kills(kills, seed)
    else:
        print_speed(steps)


if __name__ == "__main__":
    main()

"""Runs on the workers of a Dask cluster, and their results into one table.

The driver has one run in flight for each worker, so that of a worker that is killed only that run is suspected, and a
list of runs, however long, is not Dask's to keep. It does without torch (see `labkit.research.sweeps.grid`).

A cluster of one's own needs labkit, and the folder of results under one path, on every machine, and workers of one
thread each, as in `dask worker ADDRESS --nthreads 1 --nworkers 4`. For runs on GPUs it needs one such worker for each
run that a GPU is to take at a time, started with `--resources GPU=1` and that GPU in its CUDA_VISIBLE_DEVICES. Where
runs have processes that read images (`workers`), its configuration has `distributed.worker.daemon: false`.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import queue
import signal
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager, nullcontext, suppress
from statistics import fmean
from typing import TYPE_CHECKING, Any

from tqdm.auto import tqdm

from labkit.checks import check_at_least
from labkit.progress import progress_bar
from labkit.research.sweeps.grid import Run, Several, Sweep
from labkit.research.sweeps.results import Results, Row

if TYPE_CHECKING:
    import pandas as pd
    from distributed import Client, Future

DEATHS = 3  # of workers, after which their run is taken to be the cause; another cluster has a setting of its own
LOOK_EVERY = 2.0  # seconds between two looks at how many workers there are
LOST = 120.0  # seconds without any worker, on this machine, until that is an error
MERGE_EVERY, MERGING = 5.0, 0.02  # seconds between two tables, more where writing one takes more than 2% of that
GOES_ON = "the same command goes on from there"
LOST_SCHEDULER = f"the scheduler is lost: {GOES_ON}"
CONFIG = {
    "distributed.scheduler.allowed-failures": DEATHS - 1,
    "distributed.worker.daemon": False,  # a run may have processes that read images
    "distributed.worker.profile.enabled": False,
}
# Of a worker here: Ctrl-C is the driver's, and all of them load torch at once, not each when its first run comes
START = "import signal; signal.signal(signal.SIGINT, signal.SIG_IGN); import labkit.research.sweeps.work"

Ended = dict[str, tuple[str, float]]


def run(
    sweep: Sweep | Several,
    *,
    workers: int | None = None,
    address: str | None = None,
    gpus: int | None = None,
    per_gpu: int = 1,
    retry_failed: bool = False,
    dry_run: bool = False,
    progress: bool | None = None,
) -> pd.DataFrame:
    """Do what is missing of a sweep, and give the table's rows of its runs, in the grid's order.

    workers: processes on this machine, by default as many as there are cores for; with an address, the most that are
    used. address: of a Dask scheduler, in place of a cluster on this machine. gpus: how many to use, with per_gpu runs
    at a time on each; without it, runs on this machine are the CPU's, and those elsewhere go to any worker.
    retry_failed: do those again that have failed. dry_run: only say what would be done, and how long it would take.
    progress: False says nothing at all.

    A run that fails is kept with its error, and stops no other but its forks, which fail too. A sweep that was stopped
    or killed goes on when this is called again. Raises ValueError for a setting that is wrong, and where another driver
    works in the same folder; ConnectionError where the scheduler or all workers are lost.
    """
    check_at_least(1, workers=workers or 1, gpus=gpus or 1, per_gpu=per_gpu)
    try:
        import distributed  # noqa: F401
    except ImportError:
        raise ValueError('sweeps take Dask: pip install "quantization-labkit[sweep]"') from None
    for handler in logging.getLogger("distributed").handlers:  # what matters of workers and schedulers is said here
        handler.setLevel(logging.CRITICAL)
    say = (lambda text: None) if progress is False else tqdm.write
    results = Results(sweep.out)
    with _main_hidden(), nullcontext() if dry_run else results.driven():
        runs = _runs(sweep)
        if not dry_run:
            results.merge(results.waiting())
        ended = results.ended()
        again = ("missing", "failed") if retry_failed else ("missing",)
        missing = [run for run in runs if _state(run, ended) in again]
        say(f"{_counted(runs, ended)} in {sweep.out}")
        if missing:
            most = gpus * per_gpu if gpus else workers
            how: dict[str, Any] = {"resources": {"GPU": 1}} if gpus else {}
            with _elsewhere(address) if address else _here(missing, most, gpus) as client:
                if address and (gpus or not _workers(client)):
                    say(f"runs wait for workers at {address}" + " with --resources GPU=1" * bool(gpus))
                client.wait_for_workers(1)
                places = min(most or sys.maxsize, len(missing))
                if progress is not False:
                    say(_predicted(client, missing, _costs(runs, ended), places, how))
                if not dry_run:
                    with progress_bar(total=len(missing), unit="run", progress=progress, leave=True) as bar:
                        failed = {name for name, (status, _) in ended.items() if status == "failed"}
                        failed -= {run.name for run in missing}
                        _drive(client, results, missing, failed, places, how, not address, bar)
            if not dry_run:
                say(f"{_counted(runs, results.ended())} in {results.table}")
    return results.frame([run.name for run in runs])


def _runs(sweep: Sweep | Several) -> list[Run]:
    """The sweep's runs, made by a process of its own where torch is not loaded yet: that would take half a GB here."""
    if "torch" in sys.modules:
        return sweep.runs()
    spawn, deaf = multiprocessing.get_context("spawn"), (signal.SIGINT, signal.SIG_IGN)
    with ProcessPoolExecutor(1, spawn, signal.signal, deaf) as pool:
        return pool.submit(sweep.runs).result()


@contextmanager
def _main_hidden() -> Iterator[None]:
    """Processes started meanwhile do not import the script that runs, as from a notebook: it needs no guard."""
    main = sys.modules["__main__"]
    hidden = {name: value for name, value in vars(main).items() if name in ("__file__", "__spec__")}
    main.__spec__ = None
    vars(main).pop("__file__", None)
    try:
        yield
    finally:
        vars(main).update(hidden)


def _state(run: Run, ended: Ended) -> str:
    return ended[run.name][0] if run.name in ended else "missing"


def _counted(runs: list[Run], ended: Ended) -> str:
    states = [_state(run, ended) for run in runs]
    counts = [f"{states.count(state)} {state}" for state in ("done", "failed", "missing") if state in states]
    return f"{len(runs)} runs: {', '.join(counts)}"


# Clusters -------------------------------------------------------------------------------------------------------------


@contextmanager
def _here(missing: list[Run], most: int | None, gpus: int | None) -> Iterator[Client]:
    """A cluster on this machine that ends with the block: a process for each run at a time."""
    import dask
    from dask.system import CPU_COUNT
    from distributed import Client, Nanny, Scheduler, SpecCluster

    threads = max(run.settings["threads"] for run in missing)
    visible = os.environ.get("CUDA_VISIBLE_DEVICES") or ",".join(map(str, range(gpus or 0)))
    devices = visible.split(",")[:gpus] if gpus else [""]  # without --gpus a worker sees none
    if gpus and len(devices) < gpus:
        raise ValueError(f"gpus: CUDA_VISIBLE_DEVICES has {len(devices)}, got {gpus}")
    common: dict[str, Any] = {"host": "127.0.0.1", "dashboard": False, "dashboard_address": "127.0.0.1:0"}
    nanny = common | {"nthreads": 1, "memory_limit": 0, "silence_logs": logging.CRITICAL, "preload": [START]}
    nanny |= {"resources": {"GPU": 1} if gpus else {}}
    processes = {
        place: {"cls": Nanny, "options": nanny | {"env": {"CUDA_VISIBLE_DEVICES": devices[place % len(devices)]}}}
        for place in range(min(most or max(1, CPU_COUNT // threads), len(missing)))
    }
    scheduler = {"cls": Scheduler, "options": common | {"port": 0}}
    with (
        dask.config.set(CONFIG),
        SpecCluster(processes, scheduler, silence_logs=logging.CRITICAL) as cluster,
        Client(cluster) as client,
    ):
        try:
            yield client
        finally:
            for worker in cluster.workers.values():  # a run that is under way goes on from its last checkpoint
                worker.close_gracefully()  # or the process would be started again
                if worker.pid:
                    os.kill(worker.pid, signal.SIGKILL)


@contextmanager
def _elsewhere(address: str) -> Iterator[Client]:
    from distributed import Client

    with Client(address) as client:
        yield client


def _workers(client: Client) -> int:
    try:
        return len(client.nthreads())
    except (AttributeError, OSError):  # of a client that has lost its scheduler, or given it up
        raise ConnectionError(LOST_SCHEDULER) from None


# Sharing runs out -----------------------------------------------------------------------------------------------------


def _drive(
    client: Client,
    results: Results,
    missing: list[Run],
    failed: set[str],
    most: int,
    how: dict[str, Any],
    here: bool,
    bar: tqdm,
) -> None:
    """Give each worker a run, and the next when it has ended, to `most` at a time; in the end the table has them all.

    failed: runs that have, of which no fork can be made. how: for `Client.submit`. here: the workers are this process's
    own, and none joins later.
    """
    finished: queue.SimpleQueue[Future] = queue.SimpleQueue()
    flying: dict[Any, tuple[Run, Future]] = {}
    waiting, awaited, rows, done, places = list(missing), {run.name for run in missing}, list[Row](), 0, 0
    look = due = seen = time.monotonic()
    before = len(failed)

    def end(run: Run, ended: list[Row]) -> None:
        nonlocal done
        rows.extend(ended)
        awaited.remove(run.name)
        if ended[0]["status"] == "failed":
            failed.add(run.name)
        done += 1  # a bar that is not shown counts nothing
        bar.set_postfix({"failed": len(failed) - before} if len(failed) > before else {}, refresh=False)
        bar.update()

    try:
        while waiting or flying:
            if (now := time.monotonic()) >= look:
                places, look = min(_workers(client), most), now + LOOK_EVERY
                seen = now if places or not here else seen
                if now - seen > LOST:
                    raise ConnectionError(f"all workers are lost: {GOES_ON}")
            while len(flying) < places and (run := _next(waiting, awaited)):
                if run.trunk in failed:
                    end(run, [run.row("failed", f"its trunk failed: {run.trunk}", seconds=0.0)])
                    continue
                key = ("labkit-run", str(results.out.resolve()), run.name)
                flying[key] = run, client.submit(_do, run, key[1], key=key, **how)
                flying[key][1].add_done_callback(finished.put)
            with suppress(queue.Empty):
                future = finished.get(timeout=1.0)
                run = flying[future.key][0]
                ended = _outcome(future, run)
                del flying[future.key]
                end(run, ended)
            if (now := time.monotonic()) > due:
                results.merge(rows)
                rows.clear()
                due = now + max(MERGE_EVERY, (time.monotonic() - now) / MERGING)
    except KeyboardInterrupt:
        raise KeyboardInterrupt(f"stopped after {done} of {len(missing)} runs: {GOES_ON}") from None
    finally:
        results.merge(rows)


def _next(waiting: list[Run], awaited: set[str]) -> Run | None:
    """Take the first run whose trunk has ended, if it has one; None where all wait for trunks that are under way."""
    for place, run in enumerate(waiting):
        if run.trunk not in awaited:
            return waiting.pop(place)
    return None


def _outcome(future: Future, run: Run) -> list[Row]:
    """The rows of a run that has ended, also of one that killed its workers. Raises what went wrong beyond it."""
    if future.status == "finished":
        return future.result()
    if future.status != "error":
        raise ConnectionError(LOST_SCHEDULER)
    error = future.exception()
    if type(error).__name__ != "KilledWorker":
        raise error
    why = "KilledWorker: every worker that took this run was killed, perhaps for want of memory"
    return [run.row("failed", why, seconds=0.0)]


def _do(run: Run, out: str) -> list[Row]:
    from labkit.research.sweeps import work  # on the worker: this loads torch

    return work.do(run, out)


# What it costs --------------------------------------------------------------------------------------------------------


def _costs(runs: list[Run], ended: Ended) -> dict[str, float]:
    """Mean seconds of the runs that are done, by kind."""
    known: dict[str, list[float]] = {}
    for run in runs:
        if _state(run, ended) == "done":
            known.setdefault(run.kind, []).append(ended[run.name][1])
    return {kind: fmean(seconds) for kind, seconds in known.items()}


def _predicted(client: Client, missing: list[Run], costs: dict[str, float], most: int, how: dict[str, Any]) -> str:
    """About how long it will take; of kinds whose cost is unknown, one run is tried for a few steps on a worker."""
    kinds = {run.kind: run for run in missing if run.kind not in costs}
    measured = client.gather(client.map(_seconds, list(kinds.values()), pure=False, **how))
    costs = costs | {kind: seconds for kind, seconds in zip(kinds, measured, strict=True) if seconds}
    found = [costs[run.kind] for run in missing if run.kind in costs]
    if not found:
        return "how long it takes cannot be told: no run could be tried"
    places, source = min(_workers(client), most), "from a few steps" if kinds else "as those that are done"
    total, each = _time(sum(found) / places), _time(fmean(found))
    return f"about {total} for {len(missing)} runs, {places} at a time: {each} each, {source}"


def _seconds(run: Run) -> float | None:
    from labkit.research.sweeps import work

    return work.seconds(run)


def _time(seconds: float) -> str:
    for unit, length in (("days", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.1f} {unit}"
    return f"{seconds:.2g} s"

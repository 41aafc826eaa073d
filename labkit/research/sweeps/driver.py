"""Runs a sweep on the workers of a Dask cluster and collects the results in one table.

The driver submits one run per worker at a time. A killed worker therefore implicates only the run it was executing,
and Dask never holds a long list of tasks. The driver does not load torch (see `labkit.research.sweeps.grid`).

If you provide the cluster, every machine needs labkit, the results folder under the same path, and workers with one
thread each: `dask worker ADDRESS --nthreads 1 --nworkers 4`. For runs on GPUs, start one such worker for each run that
a GPU executes at a time, with `--resources GPU=1` and this GPU in its CUDA_VISIBLE_DEVICES. If runs use processes that
read images (`workers`), the cluster's configuration needs `distributed.worker.daemon: false`.
"""

from __future__ import annotations

import logging
import multiprocessing
import queue
import signal
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager, nullcontext, suppress
from typing import TYPE_CHECKING, Any

from tqdm.auto import tqdm

from labkit.checks import check_at_least
from labkit.progress import progress_bar
from labkit.research.sweeps import costs
from labkit.research.sweeps.cluster import RESUME, SCHEDULER_LOST, local_client, remote_client, worker_count
from labkit.research.sweeps.grid import Sweep, SweepGroup, SweepRun
from labkit.research.sweeps.results import Finished, ResultsFolder, Row

if TYPE_CHECKING:
    import pandas as pd
    from distributed import Client, Future

LOOK_EVERY = 2.0  # seconds between counts of the workers
WORKERS_LOST = 120.0  # seconds without any worker on this machine before the driver gives up
MERGE_EVERY, MERGE_SHARE = 5.0, 0.02  # smallest interval between tables in seconds; largest share of time for writing


def run(
    sweep: Sweep | SweepGroup,
    *,
    workers: int | None = None,
    address: str | None = None,
    gpus: int | None = None,
    per_gpu: int = 1,
    retry_failed: bool = False,
    dry_run: bool = False,
    progress: bool | None = None,
) -> pd.DataFrame:
    """Make the missing runs of a sweep, and return the table rows of its runs in the order of the grid.

    A failed run is recorded with its error. It stops no other runs except its forks, which fail, too. Call this
    function again to resume a sweep that was stopped or killed.

    Args:
        sweep: The sweep, or several sweeps that share a results folder.
        workers: Number of processes on this machine. The default is as many as the cores can serve. If there is an
            address, this is the largest number of workers to use.
        address: Address of a Dask scheduler, instead of a cluster on this machine.
        gpus: Number of GPUs to use. Without it, runs on this machine use the CPU, and runs elsewhere use any worker.
        per_gpu: Number of concurrent runs on each GPU.
        retry_failed: Whether to repeat the runs that failed.
        dry_run: Whether to only report the missing runs and the time that they would take.
        progress: False turns off all messages and the progress bar.

    Raises:
        ValueError: If a setting is wrong, Dask is not installed, or another driver uses the same folder.
        ConnectionError: If the scheduler or all workers are lost.
    """
    check_at_least(1, workers=workers or 1, gpus=gpus or 1, per_gpu=per_gpu)
    try:
        import distributed  # noqa: F401
    except ImportError:
        raise ValueError('sweeps need Dask. Run: pip install "quantization-labkit[sweep]"') from None
    for handler in logging.getLogger("distributed").handlers:  # the driver itself reports everything that users need
        handler.setLevel(logging.CRITICAL)
    say = (lambda text: None) if progress is False else tqdm.write
    results = ResultsFolder(sweep.out)
    with _main_module_hidden(), nullcontext() if dry_run else results.driven():
        runs = _runs(sweep)
        if not dry_run:
            results.merge(results.pending())
        finished = results.finished()
        unwanted = ("done",) if retry_failed else ("done", "failed")
        missing = [run for run in runs if _status(run, finished) not in unwanted]
        say(f"{_counts(runs, finished)} in {sweep.out}")
        if missing:
            limit = gpus * per_gpu if gpus else workers
            resources: dict[str, Any] = {"resources": {"GPU": 1}} if gpus else {}
            with remote_client(address) if address else local_client(missing, limit, gpus) as client:
                if address and (gpus or not worker_count(client)):
                    say(f"waiting for workers at {address}" + " with --resources GPU=1" * bool(gpus))
                client.wait_for_workers(1)
                limit = min(limit or sys.maxsize, len(missing))
                if progress is not False:
                    say(costs.forecast(client, missing, costs.measured_costs(runs, finished), limit, resources))
                if not dry_run:
                    with progress_bar(total=len(missing), unit="run", progress=progress, leave=True) as bar:
                        failed = {name for name, (status, _) in finished.items() if status == "failed"}
                        failed -= {run.name for run in missing}
                        _drive(client, results, missing, failed, limit, resources, not address, bar)
            if not dry_run:
                say(f"{_counts(runs, results.finished())} in {results.table}")
    return results.frame([run.name for run in runs])


def _runs(sweep: Sweep | SweepGroup) -> list[SweepRun]:
    """Build the runs in a separate process unless torch is already loaded, which saves half a GB here."""
    if "torch" in sys.modules:
        return sweep.runs()
    spawn, ignore = multiprocessing.get_context("spawn"), (signal.SIGINT, signal.SIG_IGN)
    with ProcessPoolExecutor(1, spawn, signal.signal, ignore) as pool:
        return pool.submit(sweep.runs).result()


@contextmanager
def _main_module_hidden() -> Iterator[None]:
    """Keep new processes from importing the running script, so scripts and notebooks do not need a main guard."""
    main = sys.modules["__main__"]
    hidden = {name: value for name, value in vars(main).items() if name in ("__file__", "__spec__")}
    main.__spec__ = None
    vars(main).pop("__file__", None)
    try:
        yield
    finally:
        vars(main).update(hidden)


def _status(run: SweepRun, finished: Finished) -> str:
    return finished[run.name][0] if run.name in finished else "missing"


def _counts(runs: list[SweepRun], finished: Finished) -> str:
    statuses = [_status(run, finished) for run in runs]
    counts = [f"{statuses.count(status)} {status}" for status in ("done", "failed", "missing") if status in statuses]
    return f"{len(runs)} runs: {', '.join(counts)}"


def _drive(
    client: Client,
    results: ResultsFolder,
    missing: list[SweepRun],
    failed: set[str],
    limit: int,
    resources: dict[str, Any],
    local: bool,
    bar: tqdm,
) -> None:
    """Keep up to `limit` workers busy with one run each; the forks of a failed trunk fail without being started."""
    completed: queue.SimpleQueue[Future[Any]] = queue.SimpleQueue()
    running: dict[Any, tuple[SweepRun, Future[Any]]] = {}
    waiting, unfinished, rows, count, places = list(missing), {run.name for run in missing}, list[Row](), 0, 0
    next_look = next_merge = last_seen = time.monotonic()
    failed_before = len(failed)

    def finish(run: SweepRun, run_rows: list[Row]) -> None:
        nonlocal count
        rows.extend(run_rows)
        unfinished.remove(run.name)
        if run_rows[0]["status"] == "failed":
            failed.add(run.name)
        count += 1  # counted here, because a hidden bar counts nothing
        failures = len(failed) - failed_before
        bar.set_postfix({"failed": failures} if failures else {}, refresh=False)
        bar.update()

    try:
        while waiting or running:
            if (now := time.monotonic()) >= next_look:
                places, next_look = min(worker_count(client), limit), now + LOOK_EVERY
                last_seen = now if places or not local else last_seen
                if now - last_seen > WORKERS_LOST:
                    raise ConnectionError(f"all workers are lost; {RESUME}")
            while len(running) < places and (run := _next_run(waiting, unfinished)):
                if run.trunk in failed:
                    finish(run, [run.row("failed", f"its trunk failed: {run.trunk}", seconds=0.0)])
                    continue
                key = ("labkit-run", str(results.out.resolve()), run.name)
                running[key] = run, client.submit(_execute, run, key[1], key=key, **resources)
                running[key][1].add_done_callback(completed.put)
            with suppress(queue.Empty):
                future = completed.get(timeout=1.0)
                run = running[future.key][0]
                run_rows = _outcome(future, run)
                del running[future.key]
                finish(run, run_rows)
            if (now := time.monotonic()) > next_merge:
                results.merge(rows)
                rows.clear()
                next_merge = now + max(MERGE_EVERY, (time.monotonic() - now) / MERGE_SHARE)
    except KeyboardInterrupt:
        raise KeyboardInterrupt(f"stopped after {count} of {len(missing)} runs; {RESUME}") from None
    finally:
        results.merge(rows)


def _next_run(waiting: list[SweepRun], unfinished: set[str]) -> SweepRun | None:
    """Remove and return the first run whose trunk, if it has one, is finished."""
    for place, run in enumerate(waiting):
        if run.trunk not in unfinished:
            return waiting.pop(place)
    return None


def _outcome(future: Future[Any], run: SweepRun) -> list[Row]:
    """Return the rows of a run, even if it killed its workers, or raise the error of the cluster."""
    if future.status == "finished":
        rows: list[Row] = future.result()
        return rows
    if future.status != "error":
        raise ConnectionError(SCHEDULER_LOST)
    error = future.exception()
    if type(error).__name__ != "KilledWorker":
        raise error
    message = "KilledWorker: every worker that executed this run was killed, perhaps because it ran out of memory"
    return [run.row("failed", message, seconds=0.0)]


def _execute(run: SweepRun, out: str) -> list[Row]:
    from labkit.research.sweeps import worker  # imports torch, on the worker

    return worker.execute(run, out)

"""Dask clusters for sweeps: worker processes on this machine, or a scheduler at an address."""

from __future__ import annotations

import logging
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from labkit.research.sweeps.grid import SweepRun

if TYPE_CHECKING:
    from distributed import Client

DEATHS = 3  # workers that a run may kill before it is recorded as failed; a cluster at an address has its own setting
RESUME = "the same command resumes the sweep"
SCHEDULER_LOST = f"the scheduler is lost; {RESUME}"
CONFIG = {
    "distributed.scheduler.allowed-failures": DEATHS - 1,
    "distributed.worker.daemon": False,  # a run may start processes that read images
    "distributed.worker.profile.enabled": False,
}
# Workers ignore Ctrl-C, which the driver handles, and load torch when they start instead of with their first run
PRELOAD = "import signal; signal.signal(signal.SIGINT, signal.SIG_IGN); import labkit.research.sweeps.worker"


@contextmanager
def local_client(missing: list[SweepRun], limit: int | None, gpus: int | None) -> Iterator[Client]:
    """Start a cluster on this machine for the duration of a block, with one process per concurrent run.

    Args:
        missing: The runs to make.
        limit: Largest number of processes. By default, it depends on the number of cores.
        gpus: Number of GPUs. Without this argument, workers see no GPU.

    Raises:
        ValueError: If CUDA_VISIBLE_DEVICES lists fewer GPUs than `gpus`.
    """
    import dask
    from dask.system import CPU_COUNT
    from distributed import Client, Nanny, Scheduler, SpecCluster

    threads = max(run.settings["threads"] for run in missing)
    visible = os.environ.get("CUDA_VISIBLE_DEVICES") or ",".join(map(str, range(gpus or 0)))
    devices = visible.split(",")[:gpus] if gpus else [""]
    if gpus and len(devices) < gpus:
        raise ValueError(f"gpus must be at most {len(devices)}, as CUDA_VISIBLE_DEVICES lists no more, got {gpus}")
    common: dict[str, Any] = {"host": "127.0.0.1", "dashboard": False, "dashboard_address": "127.0.0.1:0"}
    nanny = common | {"nthreads": 1, "memory_limit": 0, "silence_logs": logging.CRITICAL, "preload": [PRELOAD]}
    nanny |= {"resources": {"GPU": 1} if gpus else {}}
    workers = {
        place: {"cls": Nanny, "options": nanny | {"env": {"CUDA_VISIBLE_DEVICES": devices[place % len(devices)]}}}
        for place in range(min(limit or max(1, CPU_COUNT // threads), len(missing)))
    }
    scheduler = {"cls": Scheduler, "options": common | {"port": 0}}
    with (
        dask.config.set(CONFIG),
        SpecCluster(workers, scheduler, silence_logs=logging.CRITICAL) as cluster,
        Client(cluster) as client,
    ):
        try:
            yield client
        finally:
            for worker in cluster.workers.values():  # a run in progress can be resumed from its last checkpoint
                worker.close_gracefully()  # otherwise the nanny would restart the process
                if worker.pid:
                    os.kill(worker.pid, signal.SIGKILL)


@contextmanager
def remote_client(address: str) -> Iterator[Client]:
    """Connect to a scheduler for the duration of a block."""
    from distributed import Client

    with Client(address) as client:
        yield client


def worker_count(client: Client) -> int:
    """Return the number of workers.

    Raises:
        ConnectionError: If the scheduler is lost.
    """
    try:
        return len(client.nthreads())
    except (AttributeError, OSError):  # raised by a client that has lost its scheduler
        raise ConnectionError(SCHEDULER_LOST) from None

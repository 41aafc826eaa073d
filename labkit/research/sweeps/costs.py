"""How long the missing runs of a sweep will take, estimated from finished runs or from a few steps on a worker."""

from __future__ import annotations

from statistics import fmean
from typing import TYPE_CHECKING, Any

from labkit.research.sweeps.cluster import worker_count
from labkit.research.sweeps.grid import SweepRun
from labkit.research.sweeps.results import Finished

if TYPE_CHECKING:
    from distributed import Client


def measured_costs(runs: list[SweepRun], finished: Finished) -> dict[str, float]:
    """Return the mean seconds of the finished runs, by cost class."""
    seconds: dict[str, list[float]] = {}
    for run in runs:
        status, time = finished.get(run.name, ("missing", 0.0))
        if status == "done":
            seconds.setdefault(run.cost_class, []).append(time)
    return {key: fmean(values) for key, values in seconds.items()}


def forecast(
    client: Client, missing: list[SweepRun], costs: dict[str, float], limit: int, resources: dict[str, Any]
) -> str:
    """Describe how long the missing runs will take.

    Args:
        client: The cluster. For cost classes without a finished run, a worker times a few steps of one run.
        missing: The runs to make.
        costs: Seconds by cost class.
        limit: Largest number of concurrent runs.
        resources: Options for `Client.map`.
    """
    untimed = {run.cost_class: run for run in missing if run.cost_class not in costs}
    timed = client.gather(client.map(_seconds, list(untimed.values()), pure=False, **resources))
    costs = costs | {key: seconds for key, seconds in zip(untimed, timed, strict=True) if seconds}
    seconds = [costs[run.cost_class] for run in missing if run.cost_class in costs]
    if not seconds:
        return "the time cannot be estimated, because no run could be tried"
    places, source = min(worker_count(client), limit), "a few steps" if untimed else "finished runs"
    total, each = _duration(sum(seconds) / places), _duration(fmean(seconds))
    return f"about {total} for {len(missing)} runs, {places} at a time and {each} each, estimated from {source}"


def _seconds(run: SweepRun) -> float | None:
    from labkit.research.sweeps import worker  # imports torch, on the worker

    return worker.estimate_seconds(run)


def _duration(seconds: float) -> str:
    for unit, length in (("days", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.1f} {unit}"
    return f"{seconds:.2g} s"

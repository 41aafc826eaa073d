"""The work on one run, in a worker process: train it or resume it, measure it, and save its rows."""

from __future__ import annotations

import functools
import math
import platform
import threading
import time
import traceback
from pathlib import Path
from statistics import stdev
from typing import Any

import torch

from labkit import __version__, datasets, entropy, evaluation, networks, schemes, training
from labkit.disk import write_whole
from labkit.research.sweeps.grid import SweepRun
from labkit.research.sweeps.results import ResultsFolder, Row, locked
from labkit.research.sweeps.settings import image_folders, trainer_settings

TEST_POINTS = 2**14  # number of points on which a toy is measured, the same for every run
TEST_SEED = 1_000_000
DRAWS = 2  # noise samples per image for the training loss; an image has many latents, so two samples are enough
TIMED_STEPS = 4  # steps from which the cost of a run is estimated; the first one is ignored
# Threads and random state belong to the process, so two simultaneous runs would interfere with each other
_one_run_at_a_time = threading.Lock()


def execute(run: SweepRun, out: str) -> list[Row]:
    """Train and measure a run, and save its rows.

    Work that an earlier worker finished is not repeated. A failed run gets a row with its error and a file with the
    traceback.

    Args:
        run: The run.
        out: Folder for the results.

    Returns:
        One row, or one per image.

    Raises:
        ValueError: If the results cannot be written.
    """
    results = ResultsFolder(out)
    with _one_run_at_a_time, locked(results.file(run.name, "lock")):
        rows = results.read(run.name)
        if rows is None:
            rows = _rows(run, results)
            results.write(rows)
        return rows


def _rows(run: SweepRun, results: ResultsFolder) -> list[Row]:
    start, trace = time.perf_counter(), results.file(run.name, "txt")
    # torch.__version__ is an instance of a torch class: without str, reading the row would import torch
    versions = {"labkit": __version__, "torch": str(torch.__version__)}
    try:
        torch.set_num_threads(run.settings["threads"])
        rows = _train_toy(run) if run.is_toy else _train_codec(run, results)
        trace.unlink(missing_ok=True)
        return [run.row("done", **row, **versions) for row in rows]
    except Exception as error:
        write_whole(trace, traceback.format_exc().encode())
        message = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        return [run.row("failed", message, seconds=time.perf_counter() - start, **versions)]


def _train_toy(run: SweepRun) -> list[Row]:
    start = time.perf_counter()
    net, source = _network(run), _source(run)
    for _ in training.stream(net, source, **_training_settings(run)):
        pass
    return [_measure_toy(run, net) | {"seconds": time.perf_counter() - start}]


@torch.no_grad()
def _measure_toy(run: SweepRun, net: networks.ToyTransformCode) -> Row:
    """Return the loss of a toy on test points, with real rounding."""
    device = next(net.parameters()).device
    points = _source(run).draw(TEST_POINTS, torch.Generator().manual_seed(TEST_SEED)).to(device)
    loss = training.rate_distortion(net.eval()(points), points, run.settings["lmbda"])
    return {
        **{"rate": float(loss.rate), "distortion": float(loss.distortion), "loss": float(loss.total)},
        "weights": training.weights_hash(net),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine(),
    }


def _train_codec(run: SweepRun, results: ResultsFolder) -> list[Row]:
    """Return one row per image, with the standard deviation of the log loss over the last third of the training."""
    out, photos = results.file(run.name, "safetensors"), _photos(*image_folders(run.settings, "data"))
    trunk = results.file(run.trunk, "safetensors") if run.trunk else None
    trained = training.train(
        _network(run, trunk), photos, out=out, log=out.with_suffix(".csv"), threads=run.settings["threads"],
        progress=False, save_every=run.settings["save_every"], **_training_settings(run),
    )  # fmt: skip
    start = time.perf_counter()
    # If a run was resumed after its last step, only the checkpoint contains the trained weights
    net, _ = training.load_checkpoint(out)
    net = net.to(_device(run))
    rows = [row for folder in image_folders(run.settings, "test") for row in _measure_codec(net, folder, run)]
    seconds = trained.seconds + time.perf_counter() - start
    logs = [math.log(step.loss) for step in trained.history[-max(2, len(trained.history) // 3) :]]
    spread = stdev(logs) if len(logs) > 1 else math.nan
    return [{**row, "train_spread": spread, "seconds": seconds} for row in rows]


def _measure_codec(net: networks.Codec, folder: Path, run: SweepRun) -> list[Row]:
    """Return one row per image of a folder: bits, the loss with rounding, and the training loss at the last τ."""
    test, lmbda = datasets.folder(folder), run.settings["lmbda"]
    report = evaluation.evaluate(net, test if run.settings["coded"] else test[:0], progress=False)
    coded = report.rows or [{"name": name} for name in test.names]
    stage = schemes.last_stage(net.scheme)
    entropy.set_scheme(net, stage)
    entropy.set_temperature(net, stage.temperature.end)
    draws = [evaluation.surrogate_losses(net, test, seed) for seed in range(DRAWS)]
    about = {key: report.info[key] for key in ("weights", "device")}
    rows = []
    for row, rounded, *drawn in zip(coded, evaluation.rounded_losses(net, test), *draws, strict=True):
        row = {"set": folder.name, **row}
        for prefix, losses in (("", [rounded]), ("train_", drawn)):
            rate, distortion = (sum(values) / len(losses) for values in zip(*losses, strict=True))
            row |= {f"{prefix}rate": rate, f"{prefix}distortion": distortion}
            row |= {f"{prefix}loss": rate + lmbda * distortion}
        rows.append({**row, **about})
    return rows


def estimate_seconds(run: SweepRun) -> float | None:
    """Estimate the duration of a run on this worker from a few steps and one image.

    Returns:
        Seconds, or None if the run fails. The run itself then reports its error.
    """
    try:
        with _one_run_at_a_time:
            torch.set_num_threads(run.settings["threads"])
            net, times = _network(run), [time.perf_counter()]
            source = _source(run) if run.is_toy else _photos(*image_folders(run.settings, "data"))
            for step in training.stream(net, source, **_training_settings(run) | {"steps": TIMED_STEPS}):
                step.loss  # noqa: B018  (reading the loss waits for the accelerator)
                times.append(time.perf_counter())
            per_step = (times[-1] - times[1]) / (TIMED_STEPS - 1)
            start = time.perf_counter()
            if run.is_toy:
                _measure_toy(run, net)
                measuring = time.perf_counter() - start
            else:
                tests = [datasets.folder(folder) for folder in image_folders(run.settings, "test")]
                if run.settings["coded"]:
                    evaluation.evaluate(net, tests[0][:1], progress=False)
                else:
                    evaluation.rounded_losses(net, tests[0][: DRAWS + 1])
                measuring = (time.perf_counter() - start) * sum(map(len, tests))
        return float(run.settings["steps"] * per_step + measuring)
    except Exception:
        return None


def _network(run: SweepRun, trunk: Path | None = None) -> Any:
    """Return a run's initial network. Without its trunk's checkpoint, a fork gets one of the same structure."""
    settings, scheme = run.settings, schemes.from_dict(run.scheme)
    if run.is_toy:
        return getattr(networks, settings["network"])(scheme, settings["hidden"], settings["seed"])
    start = trunk or settings["start"]
    if start is None:
        return networks.get(settings["network"], settings["size"], scheme, settings["seed"])
    net, _ = training.load_checkpoint(start)
    net.set_scheme(scheme)
    return net


def _source(run: SweepRun) -> Any:
    return getattr(datasets, run.settings["source"].capitalize())()


def _training_settings(run: SweepRun) -> dict[str, Any]:
    return trainer_settings(run.settings) | {"device": _device(run)}


def _device(run: SweepRun) -> str:
    return run.settings["device"] or ("cuda" if torch.cuda.is_available() else "cpu")


@functools.lru_cache(2)
def _photos(folder: Path) -> datasets.PhotoSet | datasets.ImageFiles:
    return datasets.training_images(folder)

"""What a worker does with one run: train it, or go on with it, measure it, and keep the rows."""

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
from labkit.research.sweeps.grid import Run, images, trainer_settings
from labkit.research.sweeps.results import Results, Row, locked

TEST_POINTS = 2**14  # that a toy's code is measured on, the same for every run
TEST_SEED = 1_000_000
DRAWS = 2  # of noise, for what training sees of an image; its many latents leave little of it
TIMED = 4  # steps that a run's cost is told from; the first is not counted
_alone = threading.Lock()  # threads and the random state are the process's, so that two runs would disturb each other


def do(run: Run, out: str) -> list[Row]:
    """A run's rows: one, or one for each image. One that fails has a row that says why, and a file with the traceback.

    What an earlier worker did of it is not done again. Raises ValueError where results cannot be written.
    """
    results = Results(out)
    with _alone, locked(results.file(run.name, "lock")):
        rows = results.read(run.name)
        if rows is None:
            rows = _rows(run, results)
            results.write(rows)
        return rows


def _rows(run: Run, results: Results) -> list[Row]:
    begun, traced = time.perf_counter(), results.file(run.name, "txt")
    about = {"labkit": __version__, "torch": str(torch.__version__)}  # its own type would load torch where it is read
    try:
        torch.set_num_threads(run.settings["threads"])
        measured = _toy(run) if run.toy else _codec(run, results)
        traced.unlink(missing_ok=True)
        return [run.row("done", **row, **about) for row in measured]
    except Exception as error:
        write_whole(traced, traceback.format_exc().encode())
        words = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        return [run.row("failed", words, seconds=time.perf_counter() - begun, **about)]


def _toy(run: Run) -> list[Row]:
    begun = time.perf_counter()
    net, source = _network(run), _source(run)
    for _ in training.stream(net, source, **_training(run)):
        pass
    return [_rounded(run, net) | {"seconds": time.perf_counter() - begun}]


@torch.no_grad()
def _rounded(run: Run, net: networks.ToyTransformCode) -> Row:
    """The loss of a toy with real rounding, on test points."""
    device = next(net.parameters()).device
    points = _source(run).draw(TEST_POINTS, torch.Generator().manual_seed(TEST_SEED)).to(device)
    loss = training.rate_distortion(net.eval()(points), points, run.settings["lmbda"])
    return {
        **{"rate": float(loss.rate), "distortion": float(loss.distortion), "loss": float(loss.total)},
        "weights": training.weights_hash(net),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine(),
    }


def _codec(run: Run, results: Results) -> list[Row]:
    """A row for each image; train_spread: standard deviation of the training loss's log over the last third."""
    out, photos = results.file(run.name, "safetensors"), _photos(*images(run.settings, "data"))
    trunk = results.file(run.trunk, "safetensors") if run.trunk else None
    trained = training.train(
        _network(run, trunk), photos, out=out, log=out.with_suffix(".csv"), threads=run.settings["threads"],
        progress=False, save_every=run.settings["save_every"], **_training(run),
    )  # fmt: skip
    begun = time.perf_counter()
    net, _ = training.load_checkpoint(out)  # not the network at hand: one that went on from its checkpoint has no other
    net = net.to(_device(run))
    rows = [row for folder in images(run.settings, "test") for row in _measured(net, folder, run)]
    seconds = trained.seconds + time.perf_counter() - begun
    last = [math.log(step.loss) for step in trained.history[-max(2, len(trained.history) // 3) :]]
    spread = stdev(last) if len(last) > 1 else math.nan
    return [{**row, "train_spread": spread, "seconds": seconds} for row in rows]


def _measured(net: networks.Codec, folder: Path, run: Run) -> list[Row]:
    """A row for each image of a folder: its real bits, the loss with rounded latents, and the loss that training sees.

    That is with the scheme's last temperature (of its second stage, where it has two).
    """
    test, lmbda = datasets.folder(folder), run.settings["lmbda"]
    report = evaluation.evaluate(net, test if run.settings["coded"] else test[:0], progress=False)
    coded = report.rows or [{"name": name} for name in test.names]
    last = schemes.last_stage(net.scheme)
    entropy.set_scheme(net, last)
    entropy.set_temperature(net, last.temperature.end)
    seen = [evaluation.surrogate_losses(net, test, seed) for seed in range(DRAWS)]
    about = {key: report.info[key] for key in ("weights", "device")}
    rows = []
    for row, rounded, *drawn in zip(coded, evaluation.rounded_losses(net, test), *seen, strict=True):
        row = {"set": folder.name, **row}
        for name, losses in (("", [rounded]), ("train_", drawn)):
            rate, distortion = (sum(values) / len(losses) for values in zip(*losses, strict=True))
            row |= {f"{name}rate": rate, f"{name}distortion": distortion, f"{name}loss": rate + lmbda * distortion}
        rows.append({**row, **about})
    return rows


def seconds(run: Run) -> float | None:
    """About how long a run will take here, from a few of its steps and one of its images; None where it fails."""
    try:
        with _alone:
            torch.set_num_threads(run.settings["threads"])
            net, times = _network(run), [time.perf_counter()]
            source = _source(run) if run.toy else _photos(*images(run.settings, "data"))
            for step in training.stream(net, source, **_training(run) | {"steps": TIMED}):
                step.loss  # noqa: B018  (an accelerator makes the step by then)
                times.append(time.perf_counter())
            per_step = (times[-1] - times[1]) / (TIMED - 1)
            begun = time.perf_counter()
            if run.toy:
                _rounded(run, net)
                after = time.perf_counter() - begun
            else:
                tests = [datasets.folder(folder) for folder in images(run.settings, "test")]
                if run.settings["coded"]:
                    evaluation.evaluate(net, tests[0][:1], progress=False)
                else:
                    evaluation.rounded_losses(net, tests[0][: DRAWS + 1])
                after = (time.perf_counter() - begun) * sum(map(len, tests))
        return run.settings["steps"] * per_step + after
    except Exception:  # the run itself will say so
        return None


def _network(run: Run, trunk: Path | None = None) -> Any:
    """Of a fork without its trunk's checkpoint, one of the same structure."""
    settings, scheme = run.settings, schemes.from_dict(run.scheme)
    if run.toy:
        return getattr(networks, settings["network"])(scheme, settings["hidden"], settings["seed"])
    start = trunk or settings["start"]
    if start is None:
        return networks.get(settings["network"], settings["size"], scheme, settings["seed"])
    net, _ = training.load_checkpoint(start)
    net.set_scheme(scheme)
    return net


def _source(run: Run) -> Any:
    return getattr(datasets, run.settings["source"].capitalize())()


def _training(run: Run) -> dict[str, Any]:
    return trainer_settings(run.settings) | {"device": _device(run)}


def _device(run: Run) -> str:
    return run.settings["device"] or ("cuda" if torch.cuda.is_available() else "cpu")


@functools.lru_cache(2)
def _photos(folder: Path) -> datasets.PhotoSet | datasets.ImageFiles:
    return datasets.training_images(folder)

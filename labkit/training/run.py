"""A long training run: progress, number of threads, log, and files for resuming it."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

import torch

from labkit import defaults
from labkit.checks import check_at_least, check_positive
from labkit.networks import ToyTransformCode
from labkit.progress import progress_bar
from labkit.schedules import Schedule
from labkit.training import processes, states
from labkit.training.data import Source
from labkit.training.logs import History, Log, read_rows
from labkit.training.settings import Settings
from labkit.training.steps import Step
from labkit.training.threads import Threads, cores
from labkit.training.trainer import Network, Training

if TYPE_CHECKING:
    import pandas as pd

SAVING = 0.02  # largest fraction of a run's time that may be spent on saving; slow saves happen less often


@dataclass(repr=False)
class TrainingRun:
    """A finished training run.

    Attributes:
        net: The trained network.
        settings: Settings of the run as JSON-compatible values.
        seconds: Duration of the run, including the parts before it was resumed.
        threads: Number of torch threads at the end; None if an earlier process made all steps.
        history: The steps. Steps of an earlier process are included only if the run kept a log.
    """

    net: Network
    settings: dict[str, Any]
    seconds: float
    threads: int | None
    history: History

    def __repr__(self) -> str:
        loss = f", loss {self.history[-1].loss:.4g}" if self.history else ""
        return f"{type(self).__name__}({type(self.net).__name__}, {self.settings['steps']} steps{loss})"

    @property
    def waited(self) -> float:
        """Fraction of the steps' time that was spent waiting for batches."""
        seconds = sum(step.seconds for step in self.history)
        return sum(step.waited for step in self.history) / seconds if seconds else 0.0

    def __str__(self) -> str:
        threads = f" with {self.threads} thread{'s' * (self.threads > 1)}" if self.threads else ", made earlier"
        text = f"{self.settings['steps']} steps in {self.seconds:.0f} s{threads}"
        last = self.history[-max(1, len(self.history) // 20) :]
        if not last:
            return text
        values = {name: sum(getattr(step, name) for step in last) / len(last) for name in Step.COLUMNS[1:4]}
        means = [f"{name} {value:,.0f}" if value >= 1000 else f"{name} {value:.4g}" for name, value in values.items()]
        return f"{text}, {self.waited:.1%} of it waiting for data; means of the last {len(last)}: {', '.join(means)}"

    def to_frame(self) -> pd.DataFrame:
        """Return the history as a pandas table with one row per step."""
        return self.history.to_frame()


def train(
    net: Network,
    source: Source,
    *,
    lmbda: float,
    steps: int,
    batch_size: int = defaults.BATCH_SIZE,
    crop: int = defaults.CROP,
    permute_colors: bool = defaults.PERMUTE_COLORS,
    lr: float | str | Schedule = defaults.LR,
    clip: float = defaults.CLIP,
    ema: float | None = defaults.EMA,
    seed: int = defaults.SEED,
    device: str | None = defaults.DEVICE,
    precision: str | None = defaults.PRECISION,
    compile: bool = defaults.COMPILE,
    workers: int | None = defaults.WORKERS,
    threads: int | None = defaults.THREADS,
    out: str | Path | None = None,
    log: str | Path | None = None,
    tensorboard: str | Path | None = None,
    save_every: float = defaults.SAVE_EVERY,
    fresh: bool = False,
    progress: bool | None = None,
) -> TrainingRun:
    """Train a network in place.

    With `out`, the run writes a checkpoint at the end, and saves its state in the file OUT.part along the way. If a run
    was interrupted or killed, the same call resumes it from OUT.part and gives the same numbers as an uninterrupted
    run.

    Under torchrun, every process makes this call with the same arguments. The processes train together (see
    `labkit.training.Training`), and only the first one writes files. All processes must be able to read `out`. A
    different number of processes can resume the run.

    Args:
        net: One of labkit's networks, or a CompressAI model to which `labkit.adopt` has added a scheme.
        source: Photographs (`datasets.PhotoSet` or `datasets.ImageFiles`), or points such as `datasets.Banana()`.
        lmbda: Weight of the distortion, on CompressAI's scale (λ · 255² · MSE for images).
        steps: Number of optimizer steps.
        batch_size: Number of crops or points per step, over all processes.
        crop: Side of the training crops in pixels.
        permute_colors: True trains with a random order of the color channels in half of the crops.
        lr: Learning rate of Adam: a number, a schedule, or a schedule as text such as "cosine:8e-4:1e-5".
        clip: Largest gradient norm; gradients with a larger norm are scaled down to it.
        ema: Decay of an exponential moving average of the weights. The network ends with the averaged weights. None
            turns averaging off.
        seed: Seed for batches and quantization noise.
        device: Name of a torch device. None uses a GPU if there is one.
        precision: "float32" or "bfloat16", for the transforms. None keeps the precision of a run that is resumed. A new
            run uses the faster one for images (see `labkit.training.native_precision`) and float32 for points.
        compile: True compiles the transforms with `torch.compile`, which needs a C++ compiler and takes about a minute.
        workers: Number of processes that read images if the images do not fit into memory. None chooses a number.
        threads: Number of torch threads on a CPU. None chooses a number by timing steps.
        out: Checkpoint to write.
        log: CSV file to which each step adds a row.
        tensorboard: Folder for TensorBoard.
        save_every: Seconds between saves of OUT.part.
        fresh: True starts over and overwrites existing output files.
        progress: True shows a progress bar and False hides it. None shows it on a terminal and in a notebook.

    Returns:
        The run, with its history and settings.

    Raises:
        ValueError: If a setting is out of range, if an image is smaller than the crops, if a file cannot be written, or
            if `out` belongs to another run.
        FloatingPointError: If the loss or the gradient is no longer finite. OUT.part keeps the last saved state.
        KeyboardInterrupt: After Ctrl-C, once the current step has been completed and saved.

    >>> import labkit as lk
    >>> run = lk.train(lk.networks.toy_2d(), lk.datasets.Banana(), lmbda=1.0, steps=3, batch_size=64, threads=1)
    >>> len(run.history)
    3
    """
    if out is not None and isinstance(net, ToyTransformCode):
        raise ValueError("out must be None for a toy: toys train in seconds and have no checkpoints")
    check_positive(save_every=save_every)
    check_at_least(1, threads=1 if threads is None else threads)
    if precision is None and out is not None and not fresh:
        precision = states.stored(Path(out)).get("precision")
    settings = Settings(
        lmbda=lmbda, steps=steps, batch_size=batch_size, crop=crop, permute_colors=permute_colors, lr=lr, clip=clip,
        ema=ema, seed=seed, device=device, precision=precision, compile=compile, workers=workers,
    )  # fmt: skip
    training, history = Training(net, source, settings), History(steps)
    described = training.settings.to_dict()
    files = states.Files(training, out, fresh) if out is not None else None
    first, earlier, begun = training.step, files.seconds if files else 0.0, time.perf_counter()
    if files and files.finished:
        history.extend(read_rows(log, steps))
        return TrainingRun(net, described, earlier, None, history)
    rank, count = processes.ranks()
    if training.fabric.device.type != "cpu":
        threads = threads or torch.get_num_threads()
    elif count > 1:  # timing steps would include the time spent waiting for other processes
        threads = threads or max(1, cores() // processes.local_world_size())
    if rank:
        log = tensorboard = None
        progress = False
    due = begun + save_every

    def save(files: states.Files) -> float:
        """Write the log and then the state; return the time at which the next save is due."""
        table.flush()
        start = time.perf_counter()
        files.save(earlier + start - begun)
        end = time.perf_counter()
        return end + max(save_every, (end - start) / SAVING)

    with (
        Log(log, tensorboard, history, first) as table,
        Threads(threads) as chosen,
        _stop_requests() as stop,
        progress_bar(total=steps, initial=first, unit="step", progress=progress, leave=True) as bar,
        closing(training.__iter__()) as iterator,
    ):
        try:
            if files:
                due = save(files)  # if the folder cannot be written, this fails before the first step
            for step in iterator:
                chosen.timed(step.seconds)
                table.add(step)
                bar.set_postfix_str(table.status, refresh=False)
                bar.update()
                if stop.is_set() and step.step < steps and rank == 0:  # the others have already begun the next step
                    if files:
                        save(files)
                    raise KeyboardInterrupt(f"stopped after step {step.step} of {steps}")
                if files and time.perf_counter() > due:
                    due = save(files)
            table.flush()
        except (FloatingPointError, KeyboardInterrupt) as reason:
            if files:
                reason.args = (f"{reason.args[0] if reason.args else 'stopped'}; {files.resumable}",)
            raise
        except RuntimeError:
            if rank and stop.is_set():
                raise KeyboardInterrupt("stopped together with the first process") from None
            raise
    run = TrainingRun(net, described, earlier + time.perf_counter() - begun, chosen.number, history)
    if files:
        files.finish(run.seconds)
    return run


@contextmanager
def _stop_requests() -> Iterator[threading.Event]:
    """Yield an event that Ctrl-C or SIGTERM sets, so that the step can finish; a second signal acts as usual."""
    requested = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield requested
        return
    handlers: dict[int, Any] = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def request(number: int, _: FrameType | None) -> None:
        requested.set()
        signal.signal(number, handlers[number])

    for number in handlers:
        signal.signal(number, request)
    try:
        yield requested
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)

"""A long run: progress, threads, a log, and files to go on from when it is stopped."""

from __future__ import annotations

import signal
import threading
import time
from array import array
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, overload

import torch

from labkit.checks import check_at_least, check_positive
from labkit.disk import write_whole
from labkit.networks import ToyTransformCode
from labkit.progress import progress_bar
from labkit.training import processes, states
from labkit.training.data import Source
from labkit.training.threads import Threads, cores
from labkit.training.trainer import LOOK_EVERY, Network, Settings, Step, Training

SAVING = 0.02  # share of a run's time that saving may take: where it takes long, it is done less often


class History(Sequence[Step]):
    """The steps of a run, in 72 bytes each: a run of a million keeps them all."""

    def __init__(self, steps: int):
        self.steps, self._values = steps, array("d")

    def extend(self, rows: Iterable[Sequence[float]]) -> None:
        """Add steps, each as `Step.row` gives it."""
        for row in rows:
            self._values.extend(row)

    def __len__(self) -> int:
        return len(self._values) // len(Step.COLUMNS)

    @overload
    def __getitem__(self, index: int) -> Step: ...
    @overload
    def __getitem__(self, index: slice) -> list[Step]: ...
    def __getitem__(self, index):
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        width = len(Step.COLUMNS)
        start = range(len(self))[index] * width
        return Step.from_row(self._values[start : start + width], self.steps)


@dataclass
class TrainingRun:
    """A training run.

    history: its steps; those that an earlier process made are there if it kept a log. seconds: that the run took, over
    all its parts. threads: of torch, that the last step was made with; None where an earlier process made it.
    """

    net: Network
    settings: dict[str, Any]
    seconds: float
    threads: int | None
    history: History = field(repr=False)

    @property
    def waited(self) -> float:
        """Share of the time of its steps in which there was no batch yet."""
        seconds = sum(step.seconds for step in self.history)
        return sum(step.waited for step in self.history) / seconds if seconds else 0.0

    def __str__(self) -> str:
        last = self.history[-max(1, len(self.history) // 20) :]
        means = {name: sum(getattr(step, name) for step in last) / max(1, len(last)) for name in Step.COLUMNS[1:4]}
        told = ", ".join(f"{name} {value:.4g}" for name, value in means.items())
        how = f" with {self.threads} thread{'s' * (self.threads > 1)}" if self.threads else ", made before"
        made = f"{self.settings['steps']} steps in {self.seconds:.0f} s{how}"
        if not last:
            return made
        return f"{made}, {self.waited:.1%} of it waiting for data; over the last {len(last)}: {told}"

    def to_frame(self):
        """The history as a pandas table, one row a step."""
        import pandas as pd

        return pd.DataFrame([step.row() for step in self.history], columns=list(Step.COLUMNS))


def train(
    net: Network,
    source: Source,
    *,
    out: str | Path | None = None,
    log: str | Path | None = None,
    save_every: float = 60.0,
    fresh: bool = False,
    threads: int | None = None,
    tensorboard: str | Path | None = None,
    progress: bool | None = None,
    **settings: Any,
) -> TrainingRun:
    """Train `net` in place and, given `out`, write a checkpoint at the end, and meanwhile what to go on from.

    source: photographs (`datasets.PhotoSet`, `datasets.ImageFiles`) or points. settings: see `training.Settings`; lmbda
    and steps are required.

    out: a run that was stopped or killed goes on from OUT.part when the same call is made again, and ends with the same
    numbers, to the bit on a CPU with the same number of threads; a finished one is read, not made again. fresh: start
    over. save_every: seconds between two states in OUT.part, more where writing one takes more than 2% of that.
    log: CSV file that gets a row for each step. tensorboard: folder for TensorBoard, where it is installed. threads: on
    a CPU; None chooses by measuring (see `training.Threads`), which may turn out otherwise another time. progress: True
    or False; None shows the bar on a terminal or in a notebook only.

    Under torchrun every process makes this call, with the same arguments: they train together (see `Training`), and the
    first one writes. `out` lies where all find it, and may be gone on with by another number of processes.

    Ctrl-C ends the run after the step at hand, saves it, and raises KeyboardInterrupt. Raises ValueError for a bad
    setting, for images too small, for files that cannot be written and for an `out` of another run; FloatingPointError
    when loss or gradient are no longer finite, with the last state kept.
    """
    if out is not None and isinstance(net, ToyTransformCode):
        raise ValueError("out: the toy is trained in two seconds and has no checkpoint")
    check_positive(save_every=save_every)
    check_at_least(1, threads=1 if threads is None else threads)
    training = Training(net, source, Settings(**settings))
    total, history = training.settings.steps, History(training.settings.steps)
    files = states.Files(training, out, fresh) if out is not None else None
    first, earlier, begun = training.step, files.seconds if files else 0.0, time.perf_counter()
    if files and files.finished:
        history.extend(_rows(log, total))
        return TrainingRun(net, training.settings.to_dict(), earlier, None, history)
    rank, count = processes.ranks()
    if torch.device(training.settings.device).type != "cpu":
        threads = threads or torch.get_num_threads()
    elif count > 1:  # timing steps would find out how long the others take
        threads = threads or max(1, cores() // processes.local_world_size())
    if rank:
        log = tensorboard = None
        progress = False
    due = begun + save_every

    def save(files: states.Files) -> float:
        """Write what the run goes on from, the log first, and say when that is due again."""
        table.flush()
        start = time.perf_counter()
        files.save(earlier + start - begun)
        end = time.perf_counter()
        return end + max(save_every, (end - start) / SAVING)

    with (
        _Log(log, tensorboard, history, first) as table,
        Threads(threads) as chosen,
        _stop_requests() as stop,
        progress_bar(total=total, initial=first, unit="step", progress=progress, leave=True) as bar,
        closing(training.__iter__()) as steps,
    ):
        try:
            if files:
                due = save(files)  # at once: a folder that takes no file says so now
            for step in steps:
                chosen.timed(step.seconds)
                table.add(step)
                bar.set_postfix_str(table.words, refresh=False)
                bar.update()
                if stop.is_set() and step.step < total and rank == 0:  # the others are in the next step already
                    if files:
                        save(files)
                    raise KeyboardInterrupt(f"stopped after step {step.step} of {total}")
                if files and time.perf_counter() > due:
                    due = save(files)
            table.flush()
        except (FloatingPointError, KeyboardInterrupt) as reason:
            if files:
                reason.args = (f"{reason.args[0] if reason.args else 'stopped'}; {files.kept}",)
            raise
        except RuntimeError:
            if rank and stop.is_set():
                raise KeyboardInterrupt("stopped with the first process") from None
            raise
    run = TrainingRun(net, training.settings.to_dict(), earlier + time.perf_counter() - begun, chosen.number, history)
    if files:
        files.finish(run.seconds)
    return run


class _Log:
    """Steps on their way into the history, the CSV file and TensorBoard: at once on a CPU, in bundles elsewhere."""

    def __init__(self, path: str | Path | None, board: str | Path | None, history: History, first: int):
        self.path, self.history, self.waiting, self.words = path, history, list[Step](), ""
        self.file: Any = None
        self.board: Any = _tensorboard(board, first) if board is not None else None
        if path is not None:
            history.extend(_rows(path, first))
            lines = [",".join(Step.COLUMNS), *(_line(step) for step in history)]
            Path(path).parent.mkdir(parents=True, exist_ok=True)
            write_whole(path, "".join(f"{line}\n" for line in lines).encode())
            self.file = open(path, "a", encoding="utf-8")  # noqa: SIM115  (closed in __exit__)

    def __enter__(self) -> _Log:
        return self

    def add(self, step: Step) -> None:
        """Take a step, which on an accelerator may not have been made yet."""
        self.waiting.append(step)
        if step.ready or len(self.waiting) == LOOK_EVERY:
            self.flush()

    def flush(self) -> None:
        """Raises FloatingPointError for a step that is not finite, ValueError where the file cannot be written."""
        waiting, self.waiting = self.waiting, []
        for step in waiting:
            step.check()
            self.history.extend([list(step.row().values())])
            for name, value in step.row().items() if self.board else ():
                self.board.add_scalar(name, value, step.step)
            self.words = f"loss {step.loss:.3f}"
        if self.file:
            try:
                self.file.writelines(f"{_line(step)}\n" for step in waiting)
                self.file.flush()
            except OSError as error:
                raise ValueError(f"{self.path} cannot be written: {error.strerror}") from None

    def __exit__(self, *_: object) -> None:
        for writer in (self.file, self.board):
            with suppress(OSError):  # `flush` has said it
                if writer:
                    writer.close()


def _line(step: Step) -> str:
    return ",".join(repr(value) for value in step.row().values())


def _rows(path: str | Path | None, last: int) -> list[list[float]]:
    """The rows of a log up to a step; none of a file that is no log.

    A process that was killed may have left half a line, and steps that will be made again.
    """
    try:
        head, *lines = Path(path).read_text(encoding="utf-8").splitlines() if path and last else [""]
    except (OSError, ValueError):
        return []
    rows: list[list[float]] = []
    for line in lines if head == ",".join(Step.COLUMNS) else []:
        values = line.split(",")
        follows = values[0] == str(int(rows[-1][0]) + 1) if rows else values[0].isdigit()
        if len(values) != len(Step.COLUMNS) or not follows or int(values[0]) > last:
            break
        rows.append([float(value) for value in values])
    return rows


def _tensorboard(folder: str | Path, first: int) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise ValueError("tensorboard: takes the package of that name, which is not installed") from None
    return SummaryWriter(str(folder), purge_step=first + 1)


@contextmanager
def _stop_requests() -> Iterator[threading.Event]:
    """Set by Ctrl-C, or by a request to end, so that a step is made to its end; the second one acts as usual."""
    asked = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield asked
        return
    before: dict[int, Any] = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def ask(number: int, _: Any) -> None:
        asked.set()
        signal.signal(number, before[number])

    for number in before:
        signal.signal(number, ask)
    try:
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)

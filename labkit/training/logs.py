"""The record of a run: a history in memory, and optionally a CSV file and a TensorBoard folder."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

from labkit.disk import write_whole
from labkit.training.steps import Step
from labkit.training.trainer import LOOK_EVERY

if TYPE_CHECKING:
    import pandas as pd


class History(Sequence[Step]):
    """The steps of a run as a sequence of `Step`, stored in 72 bytes each.

    Args:
        steps: Number of steps in the run.
    """

    def __init__(self, steps: int):
        self.steps, self._values = steps, array("d")

    def __repr__(self) -> str:
        return f"History({len(self)} of {self.steps} steps)"

    def extend(self, rows: Iterable[Sequence[float]]) -> None:
        """Add steps.

        Args:
            rows: One row of values per step, in the order of `Step.COLUMNS`.
        """
        for row in rows:
            self._values.extend(row)

    def __len__(self) -> int:
        return len(self._values) // len(Step.COLUMNS)

    @overload
    def __getitem__(self, index: int) -> Step: ...
    @overload
    def __getitem__(self, index: slice) -> list[Step]: ...
    def __getitem__(self, index: int | slice) -> Step | list[Step]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        width = len(Step.COLUMNS)
        start = range(len(self))[index] * width
        return Step.from_row(self._values[start : start + width], self.steps)

    def to_frame(self) -> pd.DataFrame:
        """Return the history as a pandas table with one row per step."""
        import pandas as pd

        return pd.DataFrame([step.row() for step in self], columns=list(Step.COLUMNS))


class Log:
    """Writes steps to the history, the CSV file and TensorBoard: immediately on a CPU, in groups on an accelerator.

    Args:
        path: CSV file, or None. The rows of an interrupted run up to step `first` are kept.
        tensorboard: Folder for TensorBoard, or None.
        history: History to extend.
        first: Number of steps that have already been made.

    Raises:
        ValueError: If the file cannot be written, or TensorBoard is not installed.
    """

    def __init__(self, path: str | Path | None, tensorboard: str | Path | None, history: History, first: int):
        self.path, self.history, self.status = path, history, ""
        self._waiting: list[Step] = []
        self._file: Any = None
        self._board: Any = _tensorboard_writer(tensorboard, first) if tensorboard is not None else None
        if path is not None:
            history.extend(read_rows(path, first))
            lines = [",".join(Step.COLUMNS), *(_line(step) for step in history)]
            Path(path).parent.mkdir(parents=True, exist_ok=True)
            write_whole(path, "".join(f"{line}\n" for line in lines).encode())
            self._file = open(path, "a", encoding="utf-8")  # noqa: SIM115  (closed in __exit__)

    def __enter__(self) -> Log:
        return self

    def add(self, step: Step) -> None:
        """Add a step, which an accelerator may still be computing."""
        self._waiting.append(step)
        if step.ready or len(self._waiting) == LOOK_EVERY:
            self.flush()

    def flush(self) -> None:
        """Write all steps that have not been written yet.

        Raises:
            FloatingPointError: If the loss or the gradient of a step is not finite.
            ValueError: If the file cannot be written.
        """
        waiting, self._waiting = self._waiting, []
        for step in waiting:
            step.check()
            self.history.extend([list(step.row().values())])
            for name, value in step.row().items() if self._board else ():
                self._board.add_scalar(name, value, step.step)
            self.status = f"loss {step.loss:.3f}"
        if self._file:
            try:
                self._file.writelines(f"{_line(step)}\n" for step in waiting)
                self._file.flush()
            except OSError as error:
                raise ValueError(f"{self.path} cannot be written: {error.strerror}") from None

    def __exit__(self, *_: object) -> None:
        for writer in (self._file, self._board):
            with suppress(OSError):  # `flush` has already reported it
                if writer:
                    writer.close()


def read_rows(path: str | Path | None, last: int) -> list[list[float]]:
    """Read the rows of a log up to a step; a file that is not a log yields no rows.

    A process that was killed may have left an incomplete line, and rows of steps that the resumed run repeats.

    Args:
        path: CSV file, or None for no rows.
        last: Number of the last step to read.

    Returns:
        One row of values per step, in the order of `Step.COLUMNS`.
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


def _line(step: Step) -> str:
    return ",".join(repr(value) for value in step.row().values())


def _tensorboard_writer(folder: str | Path, first: int) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise ValueError("tensorboard needs a package that is not installed: pip install tensorboard") from None
    return SummaryWriter(str(folder), purge_step=first + 1)

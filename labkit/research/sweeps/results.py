"""The folder of a sweep: the table of results, and the files of runs that are not in the table yet.

    OUT/table.parquet           one row per run, or per run and image; only the driver writes it
    OUT/runs/NAME.json          rows of a finished run, until the table contains them
    OUT/runs/NAME.safetensors   checkpoint, from which forks start; .part: state for resuming; .csv: log
    OUT/runs/NAME.txt           traceback of a failed run

Nothing is lost or counted twice, no matter which process is killed and when:

- A worker writes all rows of a run in one step before it reports that the run has ended.
- The driver writes a new table, renames it over the old one, and deletes the JSON files afterwards.
- New rows replace existing rows of the same run, so repeating a merge changes nothing.
- When a driver starts, it first reads the existing JSON files.
- A lock keeps out a second driver. It ends with the process that holds it.
- A lock for each run makes a worker wait for another worker that was believed lost but still trains that run. The
  waiting worker then reads the result.

The locks use flock. Across machines they work on NFS version 4 and later, and on other file systems that support them.
"""

from __future__ import annotations

import fcntl
import json
import os
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from labkit.disk import whole, write_whole

if TYPE_CHECKING:
    import pandas as pd

Row = dict[str, Any]
Finished = dict[str, tuple[str, float]]


class ResultsFolder:
    """The folder of a sweep, as described at the top of this file.

    Args:
        out: Path of the folder. It is created when something is written to it.
    """

    def __init__(self, out: str | Path):
        self.out = Path(out)
        self.table, self.runs = self.out / "table.parquet", self.out / "runs"

    def __repr__(self) -> str:
        return f"ResultsFolder({str(self.out)!r})"

    def file(self, name: str, suffix: str) -> Path:
        """Return the path of a run's file with this suffix."""
        return self.runs / f"{name}.{suffix}"

    def write(self, rows: Sequence[Row]) -> None:
        """Save the rows of a finished run."""
        self.runs.mkdir(parents=True, exist_ok=True)
        write_whole(self.file(rows[0]["run"], "json"), json.dumps(list(rows)).encode())

    def read(self, name: str) -> list[Row] | None:
        """Return the rows of a finished run that is not in the table yet, or None."""
        try:
            rows: list[Row] = json.loads(self.file(name, "json").read_bytes())
        except FileNotFoundError:
            return None
        return rows

    def pending(self) -> list[Row]:
        """Return the rows of all finished runs that this driver has not put into the table yet."""
        return [row for path in sorted(self.runs.glob("*.json")) for row in json.loads(path.read_bytes())]

    def finished(self) -> Finished:
        """Return the status ("done" or "failed") and the seconds of every finished run, by name."""
        import pyarrow.parquet as pq

        columns = ["run", "status", "seconds"]
        rows = pq.read_table(self.table, columns=columns).to_pylist() if self.table.exists() else []
        return {row["run"]: (row["status"], row["seconds"]) for row in [*rows, *self.pending()]}

    def merge(self, rows: Sequence[Row]) -> None:
        """Add rows to the table, replacing the rows of the same runs."""
        import pandas as pd
        import pyarrow as pa
        import pyarrow.compute as pc
        import pyarrow.parquet as pq

        if not rows:
            return
        table = pa.Table.from_pandas(pd.DataFrame(rows), preserve_index=False).replace_schema_metadata()
        names = table["run"].unique()
        if self.table.exists():
            before = pq.read_table(self.table)
            others = before.filter(pc.invert(pc.is_in(before["run"], names)))
            table = pa.concat_tables([others, table], promote_options="permissive")
        with whole(self.table) as temporary:
            pq.write_table(table, temporary)
        for name in names.to_pylist():
            self.file(name, "json").unlink(missing_ok=True)

    def frame(self, names: Sequence[str]) -> pd.DataFrame:
        """Return the table's rows of these runs, in this order."""
        import pandas as pd

        table = pd.read_parquet(self.table) if self.table.exists() else pd.DataFrame({"run": []})
        order = {name: place for place, name in enumerate(names)}
        table = table[table["run"].isin(order)]
        return table.sort_values("run", key=lambda column: column.map(order), kind="stable", ignore_index=True)

    @contextmanager
    def driven(self) -> Iterator[None]:
        """Reserve the folder for one driver.

        Raises:
            ValueError: If another driver has reserved it.
        """
        path = self.out / "lock"
        try:
            with locked(path, wait=False):
                yield
        except BlockingIOError:
            holder = path.read_text(encoding="utf-8").strip()
            raise ValueError(f"{self.out} is in use by another driver, {holder}. Wait for it or stop it") from None


@contextmanager
def locked(path: Path, wait: bool = True) -> Iterator[None]:
    """Hold a lock that excludes all other processes and threads and that ends when the process is killed.

    Args:
        path: File of the lock. It exists while the lock is held, and names the holder.
        wait: Whether to wait until the lock is free.

    Raises:
        BlockingIOError: If the lock is held elsewhere and wait is False.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    while True:
        with open(path, "a", encoding="utf-8") as file:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            if not _is_open_file(path, file.fileno()):  # the previous holder deleted the file, so this lock is void
                continue
            file.truncate(0)
            file.write(f"process {os.getpid()} on {socket.gethostname()}\n")
            file.flush()
            try:
                yield
            finally:
                path.unlink(missing_ok=True)
            return


def _is_open_file(path: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(os.stat(path), os.fstat(descriptor))
    except FileNotFoundError:
        return False

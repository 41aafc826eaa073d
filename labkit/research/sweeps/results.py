"""A sweep's folder: the table of results, and the files of the runs that are on their way into it.

    OUT/table.parquet           one row a run, or a row an image; written by the driver alone
    OUT/runs/NAME.json          rows of a run that has ended, from the moment it has until the table has them
    OUT/runs/NAME.safetensors   checkpoint, which forks start from; .part: what a run goes on from; .csv: its log
    OUT/runs/NAME.txt           traceback of a run that failed

Why nothing is lost and nothing counts twice, whoever is killed, and when: a worker writes a run's rows whole or not at
all before it says that the run has ended; the driver puts rows into a new table that takes the old one's place in one
rename, and deletes a JSON file only after that; rows take the place of those that the table has of their run, so that
doing it again changes nothing. A driver that starts reads what JSON files there are first. One lock, which dies with
the process that holds it, keeps a second driver out, and another for each run makes a worker that comes to a run still
trained by a worker that was thought lost wait, and read that one's result.

The locks are flock's: between machines they hold on NFS from version 4 on, elsewhere if the file system says so.
"""

from __future__ import annotations

import fcntl
import json
import os
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from labkit.disk import whole, write_whole

Row = dict[str, Any]


class Results:
    """See above. out: the folder, made when something is written to it."""

    def __init__(self, out: str | Path):
        self.out = Path(out)
        self.table, self.runs = self.out / "table.parquet", self.out / "runs"

    def file(self, name: str, suffix: str) -> Path:
        """The file of a run."""
        return self.runs / f"{name}.{suffix}"

    def write(self, rows: Sequence[Row]) -> None:
        """Keep the rows of a run that has ended."""
        self.runs.mkdir(parents=True, exist_ok=True)
        write_whole(self.file(rows[0]["run"], "json"), json.dumps(list(rows)).encode())

    def read(self, name: str) -> list[Row] | None:
        """The rows of a run that has ended and is not in the table yet."""
        try:
            return json.loads(self.file(name, "json").read_bytes())
        except FileNotFoundError:
            return None

    def waiting(self) -> list[Row]:
        """The rows of every run that has ended and, as far as this driver knows, is not in the table yet."""
        return [row for path in sorted(self.runs.glob("*.json")) for row in json.loads(path.read_bytes())]

    def ended(self) -> dict[str, tuple[str, float]]:
        """Of each run that has ended, by name: done or failed, and the seconds that it took."""
        import pyarrow.parquet as pq

        columns = ["run", "status", "seconds"]
        rows = pq.read_table(self.table, columns=columns).to_pylist() if self.table.exists() else []
        return {row["run"]: (row["status"], row["seconds"]) for row in [*rows, *self.waiting()]}

    def merge(self, rows: Sequence[Row]) -> None:
        """Put rows into the table, in the place of those that it has of the same runs."""
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
            kept = before.filter(pc.invert(pc.is_in(before["run"], names)))
            table = pa.concat_tables([kept, table], promote_options="permissive")
        with whole(self.table) as temporary:
            pq.write_table(table, temporary)
        for name in names.to_pylist():
            self.file(name, "json").unlink(missing_ok=True)

    def frame(self, names: Sequence[str]):
        """The table's rows of these runs, in this order, as pandas has them."""
        import pandas as pd

        table = pd.read_parquet(self.table) if self.table.exists() else pd.DataFrame({"run": []})
        order = {name: place for place, name in enumerate(names)}
        table = table[table["run"].isin(order)]
        return table.sort_values("run", key=lambda column: column.map(order), kind="stable", ignore_index=True)

    @contextmanager
    def driven(self) -> Iterator[None]:
        """While the results of this folder are this driver's to write. Raises ValueError where another drives it."""
        path = self.out / "lock"
        try:
            with locked(path, wait=False):
                yield
        except BlockingIOError:
            holder = path.read_text(encoding="utf-8").strip()
            raise ValueError(f"{self.out}: another driver works there ({holder}): wait for it, or stop it") from None


@contextmanager
def locked(path: Path, wait: bool = True) -> Iterator[None]:
    """Hold a lock that no other process or thread holds, and that a killed one lets go; the file says whose it is.

    wait: until it is free; otherwise BlockingIOError is raised. The file is there while the lock is held.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    while True:
        with open(path, "a", encoding="utf-8") as file:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            if not _is(path, file.fileno()):  # deleted by whoever had the lock: another file is locked by now
                continue
            file.truncate(0)
            file.write(f"process {os.getpid()} on {socket.gethostname()}\n")
            file.flush()
            try:
                yield
            finally:
                path.unlink(missing_ok=True)
            return


def _is(path: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(os.stat(path), os.fstat(descriptor))
    except FileNotFoundError:
        return False

"""Options and output that several benchmarks share."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import pandas as pd
import torch

from labkit.disk import write_whole
from labkit.evaluation import Report

COMMAND = {"help_option_names": ["-h", "--help"], "show_default": True}  # settings of every command

threads_option = click.option("--threads", type=click.IntRange(1), default=1, help="Number of torch threads.")
rows_option = click.option(
    "--json", "out", type=click.Path(path_type=Path), help="JSON file of rows; a run resumes from it."
)
kodak_option = click.option(
    "--kodak", type=click.Path(path_type=Path, exists=True), required=True, help="Folder of images."
)
json_option = click.option("--json", "out", type=click.Path(path_type=Path), help="JSON file for the figures.")


def machine(threads: int) -> dict[str, Any]:
    """Return the properties of this machine that the JSON file of a benchmark contains."""
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    return {"torch": torch.__version__, "threads": threads, "cores": os.cpu_count(), "load": load}


def machine_line(threads: int) -> str:
    """Describe this machine in one line."""
    properties = machine(threads)
    return "torch {torch}, {threads} thread(s) of {cores} cores, load {load:.2f}".format(
        **properties | {"load": properties["load"] or 0}
    )


def write_json(out: Path | None, figures: dict[str, Any]) -> None:
    """Write figures to a JSON file, if there is one."""
    if out is not None:
        write_whole(out, json.dumps(figures, indent=1).encode())


def curve(points: pd.DataFrame) -> list[Report]:
    """Return the reports of one curve, one for each λ or quality.

    Args:
        points: The rows of the curve in a table of `evaluation.to_frame`.
    """
    settings = points["lmbda"].fillna(points["quality"])
    return [Report(rows.to_dict("records"), {}) for _, rows in points.groupby(settings)]


class Rows:
    """The rows of a JSON file, which is written after each of them."""

    def __init__(self, out: Path | None):
        self.out = out
        self.rows: dict[str, Any] = json.loads(out.read_text()) if out and out.exists() else {}

    def measure(self, key: str, line: Callable[[Any], str], function: Callable[[], Any]) -> None:
        """Measure a row unless the file has it, and print it."""
        if key not in self.rows:
            self.rows[key] = function()
            write_json(self.out, self.rows)
        print(line(self.rows[key]), flush=True)

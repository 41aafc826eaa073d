"""Tests a claim: the missing runs are trained, checkpoints are measured, and the results become one table.

claims/protocol.toml ─┐                     ┌─► OUT/study-NAME.parquet ─► report
claims/NAME.toml ─────┴─► sweeps, all into ─┤
                          one work folder   └─► checkpoint of a trunk ─► measurements by claims/NAME.py
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tqdm.auto import tqdm

from labkit import first_edition
from labkit.disk import write_whole
from labkit.research import sweeps
from labkit.research.study import claims, declarations, figures, tables
from labkit.research.study.claim import Parts, Row, RunSweep, Trunk
from labkit.research.study.declarations import Study
from labkit.research.study.report import ClaimReport, claim_report
from labkit.research.study.tables import COLUMNS, MEASURED, RESULTS, SETTINGS, TRUNK, digest, short_hash, short_name
from labkit.research.sweeps import Sweep, SweepGroup, SweepRun
from labkit.research.sweeps.results import ResultsFolder

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, repr=False)
class StudyResult:
    """The outcome of a study.

    Attributes:
        report: The verdict on the claim, with its findings.
        table: The claim's table.
        path: File of the table. The figure has the same name with the suffix .svg.
        failed: Rows of the runs that failed.
    """

    report: ClaimReport
    table: pd.DataFrame
    path: Path
    failed: pd.DataFrame

    def __repr__(self) -> str:
        return f"StudyResult({self.report.name}: {self.report.verdict}, {len(self.table)} rows)"

    def __str__(self) -> str:
        return f"{self.report}\n{self.path}: {len(self.table)} rows, {self.path.stat().st_size / 1000:.0f} kB"


class _Runner:
    """Makes the missing runs of sweeps, or only reads their results, and collects the rows of failed runs."""

    def __init__(self, train: bool, options: dict[str, Any]):
        self.train, self.options = train, options
        self.failed: list[pd.DataFrame] = []

    def __call__(self, sweep: Sweep | SweepGroup) -> pd.DataFrame:
        if not self.train:
            return ResultsFolder(sweep.out).frame([run.name for run in sweep.runs()])
        table = sweeps.run(sweep, **self.options)
        if len(table):
            self.failed.append(table[table["status"] == "failed"])
        return table


def run(study: Study, *, train: bool = True, **options: Any) -> StudyResult:
    """Test a claim: train the missing runs, and write the table and the figure.

    Runs that a claim's table in the study's folder contains are not repeated, because a run's name stands for
    everything that decides its result. Seeds that are not part of the study stay in the table. Call this function again
    to resume a study that was stopped or killed.

    Args:
        study: The claim, with its folders and settings.
        train: False uses only the results that exist.
        options: Options of `labkit.research.sweeps.run`.

    Raises:
        ValueError: If no run of the claim is done.
    """
    import pandas as pd

    runner = _Runner(train, options)
    table = updated_table(study, runner)
    path = tables.table_path(study.name, study.out)
    tables.save(table, path)
    saved = tables.read(study.name, study.out)
    report = claim_report(study.name, saved)
    figures.draw(report, saved, path.with_suffix(".svg"))
    return StudyResult(report, table, path, pd.concat(runner.failed) if runner.failed else table[:0])


def preview(study: Study, **options: Any) -> bool:
    """Print the missing runs of a study and the time that they would take.

    Args:
        study: The claim, with its folders and settings.
        options: Options of `labkit.research.sweeps.run`.

    Returns:
        False if no run is missing.
    """
    runner = _Runner(True, options | {"dry_run": True})
    missing = missing_runs(study, claims.get(study.name).parts(study, runner))
    if not missing.runs():
        return False
    runner(missing)
    return True


def updated_table(study: Study, run_sweep: RunSweep) -> pd.DataFrame:
    """Make the missing runs of a claim and return its table: rows of runs and images, then of measurements.

    Args:
        study: The claim, with its folders and settings.
        run_sweep: Function that trains the missing runs of a sweep and returns their rows.
    """
    import pandas as pd

    claim = claims.get(study.name)
    parts = claim.parts(study, run_sweep)
    missing, before = missing_runs(study, parts), tables.read_or_empty(study.name, study.out)
    results = run_sweep(missing) if missing.runs() else pd.DataFrame()
    other_seeds, runs = before[~before["seed"].isin(study.seed_list)], _run_rows(study, parts, results)
    measured = pd.DataFrame([*claim.toy_rows(study, before), *_measured_rows(study, parts, before)])
    table = pd.concat([frame for frame in (other_seeds, runs, measured) if len(frame)], ignore_index=True)
    return table.reindex(columns=[name for name in COLUMNS if name in table])


def missing_runs(study: Study, parts: Parts) -> SweepGroup:
    """Return the runs that tables lack. A trunk is missing too if something remains to be measured on it."""
    existing = set(_existing_rows(study, parts)["run"])
    measured = set(tables.read_or_empty(study.name, study.out)["run"])
    existing -= {short_name(run.name) for run, key in _measurements(study, parts) if key not in measured}
    known = frozenset(run.name for _, run in named_runs(parts) if short_name(run.name) in existing)
    return SweepGroup(tuple(sweep for _, sweep in parts), known)


def named_runs(parts: Parts) -> Iterator[tuple[str, SweepRun]]:
    """Yield every run with the name of its part; trunks are yielded once, in a part of their own."""
    trunks: set[str] = set()
    for part, sweep in parts:
        for run in sweep.runs():
            if not sweep.trunk or run.trunk:
                yield part, run
            elif run.name not in trunks:
                trunks.add(run.name)
                yield TRUNK, run


def _existing_rows(study: Study, parts: Parts) -> pd.DataFrame:
    """Return the rows that tables contain of the claim's runs.

    Runs are compared if they fork from the same trunk, and another machine trains a trunk to different weights.
    Therefore the rows of a trunk and its forks come from one table that has all of them, the claim's own table before
    others. Tables that lack some count only if their trunk has the weights of the trunk in the work folder.
    """
    import pandas as pd

    families: dict[str, set[str]] = {}  # a trunk with its forks, or a run without a trunk
    for _, run in named_runs(parts):
        families.setdefault(run.trunk or run.name, set()).add(short_name(run.name))
    trained_here = ResultsFolder(study.work).frame([*families])
    local = {row.run: short_hash(row.weights) for row in trained_here.itertuples() if isinstance(row.weights, str)}
    order = sorted(claims.CLAIMS, key=lambda name: name != study.name)
    all_tables = [tables.read_or_empty(name, study.out) for name in order]
    frames = []
    for trunk, family in families.items():
        candidates = [table[table["run"].isin(family)] for table in all_tables]
        complete = [rows for rows in candidates if set(rows["run"]) == family]
        frames += complete[:1] or [rows for rows in candidates if _trunk_weights(rows, trunk) == local.get(trunk, "")]
    frame = pd.concat(frames, ignore_index=True) if frames else pd.DataFrame(columns=[*COLUMNS])
    return frame.reindex(columns=["run", *RESULTS.values()]).drop_duplicates(["run", "set", "name"])


def _trunk_weights(rows: pd.DataFrame, trunk: str) -> str | None:
    weights = rows["weights"][rows["run"] == short_name(trunk)]
    return weights.iloc[0] if len(weights) else None


def _run_rows(study: Study, parts: Parts, results: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of the claim's runs, from tables and from new results, with the claim's own labels."""
    import pandas as pd

    rows = _existing_rows(study, parts)
    if len(results):
        new = results.reindex(columns=["run", *RESULTS])  # if no run is done yet, columns are missing
        new = new.assign(run=new["run"].map(short_name), weights=new["weights"].map(short_hash, na_action="ignore"))
        new["error"] = new["error"].map(lambda text: text.partition(";")[0], na_action="ignore")  # paths follow
        new = new.rename(columns=RESULTS)
        rows = pd.concat([rows, new[~new["run"].isin(rows["run"])]]) if len(rows) else new
    labels = []
    for part, run in named_runs(parts):
        about = {"part": part, "run": short_name(run.name), **{name: run.settings[name] for name in SETTINGS}}
        labels.append({**about, "start": short_name(run.trunk), "command": study.command})
    table = pd.DataFrame(labels).merge(rows, on="run")
    if not table["bpp"].notna().any():
        raise ValueError(f"no run of {study.name} is done in {study.work}")
    return table


def _measurements(study: Study, parts: Parts) -> Iterator[tuple[SweepRun, str]]:
    """Yield the runs whose checkpoints are measured, each with a hash of everything that decides the result."""
    claim = claims.get(study.name)
    if not claim.measures_trunks:
        return
    runs = list(named_runs(parts))
    trunks = {run.trunk for _, run in runs if run.trunk}
    forks = {run.settings["scheme"]: run.scheme for part, run in runs if part != TRUNK}
    name = first_edition.original(study.name, first_edition.CLAIMS)
    grid, schemes = first_edition.original([study.declaration["grid"], forks], first_edition.SCHEMES)
    for part, run in runs:
        measured = claim.measured_scheme in (None, run.settings["scheme"])
        if run.name in trunks or (part != TRUNK and not trunks and measured):
            yield run, digest([name, {**grid, "seed": None}, run.name, schemes])


def _measured_rows(study: Study, parts: Parts, before: pd.DataFrame) -> Iterator[Row]:
    """Yield the measurements on checkpoints, from the table or new; `run` is their hash, `start` the trunk."""
    measurements = list(_measurements(study, parts))
    if not measurements:
        return
    import torch

    from labkit import datasets, schemes, training

    torch.set_num_threads(1)
    device = "cuda" if study.scale == "gpu" and torch.cuda.is_available() else "cpu"
    forks = {run.settings["scheme"]: schemes.from_dict(run.scheme) for part, run in named_runs(parts) if part != TRUNK}
    for run, key in tqdm(measurements, unit="trunk", disable=None, leave=False):
        if rows := tables.rows_of(before, key):
            yield from rows
            continue
        checkpoint = ResultsFolder(study.work).file(run.name, "safetensors")
        if not checkpoint.exists():  # the run failed, as its rows report
            continue
        path = study.work / "measured" / f"{study.name}-{key}.json"
        if not path.exists():
            net, _ = training.load_checkpoint(checkpoint)
            photos = datasets.folder(declarations.test_folder())
            trunk = Trunk(net.to(device), photos, run.settings, forks, study.declaration)
            rows = [{"part": MEASURED, **row} for row in claims.get(study.name).measure(trunk)]
            path.parent.mkdir(parents=True, exist_ok=True)
            write_whole(path, json.dumps(rows).encode())
        about = {setting: run.settings[setting] for setting in ("network", "lmbda", "seed")}
        about |= {"run": key, "start": short_name(run.name), "set": declarations.test_folder().name}
        for row in json.loads(path.read_bytes()):
            yield about | row

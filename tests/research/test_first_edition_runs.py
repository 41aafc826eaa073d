"""Runs and measurements keep the names that the first edition of labkit gave them."""

import json
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from labkit import paths
from labkit.research import sweeps
from labkit.research.study import CLAIMS, Study, engine, tables
from labkit.research.study.claims import method, structure
from labkit.research.sweeps.results import ResultsFolder

WRITTEN = Path(__file__).parents[1] / "first_edition"
RESULTS = paths.data() / "results"
ABSENT = {"mismatch": 21, "zero_center": 42}  # declared forks of the channel-wise network that the tables lack
SHARED = {"mismatch": 39}  # rows of three such forks that are in the table of another claim (structure)
ROWS = {
    "mismatch": 2427, "gradients": 2187, "tradeoff": 2439, "structure": 3141, "bound": 676, "zero_center": 1128,
    "method": 9936, "variations": 845, "elsewhere": 744,
}  # fmt: skip


@pytest.fixture(scope="module")
def kodak(tmp_path_factory) -> str:
    """Make files with the names and sizes of the Kodak images, since the names of runs depend only on these."""
    folder = tmp_path_factory.mktemp("images") / "kodak"
    folder.mkdir()
    for name, size in json.loads((WRITTEN / "kodak.json").read_text()).items():
        with open(folder / name, "wb") as file:
            file.truncate(size)
    return str(folder)


def no_training(*_):
    raise AssertionError("the table lacks a run that it should have")


def test_a_sweep_file_of_the_first_edition_gives_the_same_names():
    """The preset `annealed` has another slope now, so the file says that the slope is 1."""
    sweep = sweeps.Sweep.from_file(WRITTEN / "sweep.toml")
    runs = replace(sweep, schemes={"slow": {**sweep.schemes["slow"], "relaxed": False}}).runs()
    assert [run.name for run in runs] == json.loads((WRITTEN / "sweep_runs.json").read_text())
    assert all(run.settings["permute_colors"] for run in runs)


@pytest.mark.slow
@pytest.mark.parametrize("name", ROWS)
def test_every_row_of_a_table_belongs_to_a_declared_run(name, kodak, tmp_path, monkeypatch):
    """Compute the table again from the declarations, and take every row and number from the table itself."""
    monkeypatch.setattr(structure, "_train_toys", no_training)
    table = pd.read_parquet(tables.table_path(name))
    tests = (kodak,) if "kodak" in set(table["set"]) else ()
    study = Study(name, tmp_path, RESULTS, seeds=table["seed"].nunique(), tests=tests)
    parts = CLAIMS[name].parts(study, no_training)
    missing = [run for run in engine.missing_runs(study, parts).runs() if run.trunk]
    assert len(missing) == ABSENT.get(name, 0)
    assert {run.settings["network"] for run in missing} <= {"channel_autoregressive"}
    weights = dict(zip(table["run"], table["weights"], strict=True)) if missing else {}
    trunks = {run.name: run for _, sweep in parts for run in sweep.runs() if not run.trunk}
    trunk_rows = [run.row("done", weights=weights[tables.short_name(run.name)]) for run in trunks.values() if missing]
    ResultsFolder(study.work).merge(trunk_rows)  # incomplete groups of runs are used only with their trunk
    again = engine.updated_table(study, lambda _: pd.DataFrame())
    keys = [key for key in ("part", "run", "set", "name", "label", "temperature", "quantity") if key in table]
    columns = [column for column in table if column != "command"]
    assert len(again) == len(table) + SHARED.get(name, 0) and len(table) == ROWS[name]
    again = again[again["run"].isin(table["run"])]
    assert not again.get("error", pd.Series(dtype=str)).notna().any() or "error" in columns
    again, table = (frame.sort_values(keys, ignore_index=True)[columns] for frame in (again, table))
    pd.testing.assert_frame_equal(again, table, check_dtype=False, check_exact=True)


def test_every_run_of_the_tuning_table_is_declared(tmp_path):
    study = Study("method", tmp_path, RESULTS)
    assert len(method.tuned_candidates(study, no_training)) == 3 * 8  # all 96 candidates are in the table
    assert len(pd.read_parquet(RESULTS / "study-tuning.parquet")) == 96

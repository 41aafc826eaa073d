"""The cost of starting: which modules load, and how soon `labkit train` finishes its first step."""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from pathlib import Path

import pytest

INTERFACE = {"IPython", "anywidget", "ipywidgets", "jupyterlab", "matplotlib", "plotly"}
HEAVY = INTERFACE | {"compressai", "lightning_fabric", "numpy", "pandas", "torch", "traitlets"}
TRAIN = ["train", "--lmbda", "0.01", "--steps", "1", "--crop", "64", "--batch-size", "1"]
BOUND = 1.5  # largest ratio of the first step's time to the import time of torch and CompressAI
ROUNDS = 3


def packages_added(code: str, to: str = "") -> set[str]:
    """Return the packages that the code loads in a new interpreter after the code `to` has run."""
    names = "{name.partition('.')[0] for name in sys.modules}"
    code = f"import sys\n{to}\nbefore = {names}\n{code}\nprint('added', *{names} - before)"
    process = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=True)
    return set(process.stdout.splitlines()[-1].split()[1:])


@pytest.mark.parametrize("module", ["labkit", "labkit.live", "labkit.cli"])
def test_importing_labkit_loads_no_heavy_package(module):
    assert not HEAVY & packages_added(f"import {module}")


def test_importing_labkit_changes_no_warning_filter():
    code = "import warnings; before = list(warnings.filters); import labkit; assert warnings.filters == before"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.slow
def test_no_module_prints_a_warning_when_it_is_imported_alone():
    """Importing CompressAI prints one except in labkit.entropy, which every module must therefore import first.

    It is enough to try the modules that import CompressAI themselves. Each is imported in a fork of its own, which ends
    where the import of CompressAI begins.
    """
    code = """
import importlib.abc, os, pathlib, re, sys
import torch
import labkit

class Watch(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name == "compressai":
            os._exit(0 if "labkit.entropy" in sys.modules else 1)

sys.meta_path.insert(0, Watch())
folder = pathlib.Path(labkit.__file__).parent
files = [file for file in folder.rglob("*.py") if re.search(r"^(from|import) compressai", file.read_text(), re.M)]
assert len(files) > 10 and "compressai" not in sys.modules
for file in files:
    name = ".".join(file.relative_to(folder.parent).with_suffix("").parts)
    if not os.fork():
        importlib.import_module(name)
        os._exit(2)
    if os.wait()[1]:
        print(name, file=sys.stderr)
"""
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert process.returncode == 0 and process.stderr == "", process.stderr


@pytest.mark.slow
def test_importing_every_module_changes_no_warning_filter_and_prints_no_warning():
    """Other packages, which set filters when they are imported, are imported before labkit."""
    code = """
import importlib, pkgutil, warnings
import labkit.entropy  # imports CompressAI, whose dependencies set filters of their own
import anywidget, bjontegaard, distributed, jupyterlab, lightning_fabric, matplotlib.pyplot, pandas, plotly.express
import scipy.optimize, scipy.stats, torch.utils.tensorboard
before = list(warnings.filters)
import labkit
for module in pkgutil.walk_packages(labkit.__path__, "labkit."):
    importlib.import_module(module.name)
assert warnings.filters == before, set(warnings.filters) ^ set(before)
"""
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert process.returncode == 0 and process.stderr == "", process.stderr


@pytest.mark.slow
def test_training_and_evaluation_load_no_user_interface():
    code = "import labkit as lk; lk.train; lk.evaluate; lk.networks.toy_2d()"
    assert not {"IPython", "plotly", "ipywidgets"} & packages_added(code)


@pytest.mark.slow
def test_the_command_train_loads_no_user_interface(tmp_path):
    """CompressAI itself loads pandas and other packages, which labkit cannot avoid."""
    arguments = [*TRAIN, "--out", str(tmp_path / "net.safetensors")]
    code = f"from labkit.cli import main; main({arguments}, standalone_mode=False)"
    packages = packages_added(code, to="import torch, compressai")
    assert "labkit" in packages and not INTERFACE & packages


def test_the_probe_finds_loaded_packages():
    assert packages_added("import ipywidgets, anywidget, plotly") >= {"ipywidgets", "anywidget", "plotly"}


def import_seconds() -> float:
    """Return the time in which a new interpreter imports torch and CompressAI, without the time in which it exits."""
    command = [sys.executable, "-W", "ignore", "-c", "import torch, compressai; print('imported', flush=True)"]
    start = time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "imported\n"
        return time.perf_counter() - start


def first_step_seconds(folder: Path) -> float:
    """Return the time until `labkit train` has written the row of its first step."""
    folder.mkdir()
    log, out = folder / "log.csv", folder / "net.safetensors"
    command = [sys.executable, "-W", "ignore", "-m", "labkit.cli", *TRAIN, "--out", str(out), "--log", str(log)]
    start = time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
        while not (log.exists() and log.read_bytes().count(b"\n") > 1):  # the first line names the columns
            assert process.poll() is None or log.exists(), process.communicate()[1]
            time.sleep(0.005)
        seconds = time.perf_counter() - start
        assert process.wait(60) == 0, process.communicate()[1]  # so that it does not disturb the next measurement
    return seconds


def ratio(folder: Path) -> float:
    """Return the median time of the first step divided by the median import time of torch and CompressAI."""
    folder.mkdir()
    times = [(import_seconds(), first_step_seconds(folder / str(i))) for i in range(ROUNDS)]
    imported, stepped = (statistics.median(column) for column in zip(*times, strict=True))
    print(f"import torch, compressai {imported:.2f} s, first step {stepped:.2f} s: {stepped / imported:.2f}")
    return stepped / imported


@pytest.mark.slow
@pytest.mark.alone
def test_the_first_step_takes_at_most_one_and_a_half_times_the_import_time(tmp_path):
    first_step_seconds(tmp_path / "warm")  # reads every file once and compiles the bytecode
    ratios = [ratio(tmp_path / "rounds")]
    if ratios[0] > BOUND:  # another process may have disturbed the measurement: repeat it once
        ratios.append(ratio(tmp_path / "again"))
    assert ratios[-1] <= BOUND

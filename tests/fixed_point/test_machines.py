"""Strings decode to the same latents with every instruction set that this processor can be told to use."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from labkit import networks
from tests.fixed_point.machines import SETTINGS

QUICK = ("SSE4.1", "default capability")
CASES = [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in SETTINGS]
ROOT = Path(__file__).resolve().parents[2]


def child(*arguments, **settings):
    command = [sys.executable, "-W", "ignore", "-m", "tests.fixed_point.machines", *map(str, arguments)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **settings}
    return subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def coded(tmp_path_factory):
    path = tmp_path_factory.mktemp("machines") / "coded.pt"
    done = child("encode", path)
    assert done.returncode == 0, done.stderr[-2000:]
    here = child("decode", path)
    assert len(here.stdout.splitlines()) == len(networks.names()), here.stderr[-2000:]
    return path, here.stdout


@pytest.mark.parametrize("name", CASES)
def test_latents_are_equal(coded, name):
    path, here = coded
    assert child("decode", path, **SETTINGS[name]).stdout == here


@pytest.mark.slow
def test_without_fixed_point_latents_differ(coded, tmp_path):
    """The test can fail: in floating point, another instruction set gives other latents."""
    path = tmp_path / "floating.pt"
    assert child("encode", path, "--floating-point").returncode == 0
    here = child("decode", path, "--floating-point").stdout.splitlines()
    there = child("decode", path, "--floating-point", **SETTINGS["SSE4.1"]).stdout.splitlines()
    missing = len(here) - len(there)
    assert len(here) == len(networks.names()) and sum(a != b for a, b in zip(here, there, strict=False)) + missing >= 4

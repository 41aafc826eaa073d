"""Fixtures for the tests of the course. Each test has its own learner's record."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from labkit.course import record


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    """Return the folder of the learner's record, which does not exist yet."""
    monkeypatch.setenv("LABKIT_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(record, "_memory", None)
    return tmp_path / "home"


@pytest.fixture
def python(home):
    """Return a function that runs code in a new process, with the same learner's record, and returns its output."""

    def run(code: str) -> str:
        path = os.pathsep.join(filter(None, [str(Path(__file__).resolve().parents[2]), os.environ.get("PYTHONPATH")]))
        environment = {**os.environ, "PYTHONPATH": path, "LABKIT_HOME": str(home)}
        process = subprocess.run(
            [sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=120
        )
        assert process.returncode == 0 and process.stderr == "", process.stderr  # not even warnings of other packages
        return process.stdout

    return run

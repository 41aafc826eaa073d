"""Every test of the course has a record of its own."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from labkit.course import record


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    """The folder of the record. It does not exist yet."""
    monkeypatch.setenv("LABKIT_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(record, "_memory", None)
    return tmp_path / "home"


@pytest.fixture
def python(home):
    """A function that runs code in another process, which shares the record, and returns its output."""

    def run(code: str) -> str:
        path = os.pathsep.join(filter(None, [str(Path(__file__).resolve().parents[2]), os.environ.get("PYTHONPATH")]))
        environment = {**os.environ, "PYTHONPATH": path, "LABKIT_HOME": str(home)}
        done = subprocess.run(
            [sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=120
        )
        assert done.returncode == 0 and done.stderr == "", done.stderr  # warnings of imported packages included
        return done.stdout

    return run

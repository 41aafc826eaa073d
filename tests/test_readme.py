"""The README's example runs as it stands, and its two lines are the ones that CI runs."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from labkit.cli import main
from labkit.research.sweeps import Sweep

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize(
    "number, shown",
    [
        pytest.param(0, r"^mean +\d\.\d{4} +\d\.\d{4} ", marks=pytest.mark.slow),
        (1, "sua"),
        (2, "dither"),
        pytest.param(3, "^after .* dB", marks=pytest.mark.slow),
        (4, r"^\['"),
    ],
)
def test_the_examples_run(number, shown, tmp_path):
    example = blocks("python")[number]
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", example], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert re.search(shown, done.stdout, re.MULTILINE), done.stdout


def test_every_example_is_run():
    assert len(blocks("python")) == 5


def test_the_files_and_commands_are_understood(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name, file in zip(("run.toml", "sweep.toml"), blocks("toml"), strict=True):
        Path(name).write_text(file)
    assert len(Sweep.from_file("sweep.toml").runs()) == 24
    lines = [shlex.split(line, comments=True) for line in blocks("sh")[0].splitlines()]
    for _, name, *arguments in (line[line.index("labkit") :] for line in lines):
        main.commands[name].make_context(name, arguments)


def test_two_lines():
    (lines,) = blocks("bash")
    install, test = lines.strip().splitlines()
    assert install.endswith("&& .venv/bin/labkit lessons") and test == ".venv/bin/python -m pytest -n 2 --dist loadfile"


def test_every_picture_and_file_it_names_is_there():
    for path in [*re.findall(r"!\[[^]]+\]\(([^)]+)\)", README), "data/photographs/sources.csv", "data/weights"]:
        assert (ROOT / path).exists(), path

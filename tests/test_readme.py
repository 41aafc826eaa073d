"""The examples in the README run, and CI runs its two commands."""

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


@pytest.mark.parametrize("number, expected", [(1, "sua"), (2, "dither"), (5, r"^\['")])
def test_a_quick_example_runs(number, expected, tmp_path, monkeypatch, capsys):
    """The examples share a process, because importing torch is slower than running them. Each has its own variables."""
    monkeypatch.chdir(tmp_path)
    exec(compile(blocks("python")[number], f"README.md, example {number}", "exec"), {"__name__": "example"})
    output = capsys.readouterr().out
    assert re.search(expected, output, re.MULTILINE), output


@pytest.mark.slow
@pytest.mark.parametrize("number, expected", [(0, r"^mean +\d\.\d{4} +\d\.\d{4} "), (3, "^after .* dB")])
def test_a_slow_example_runs(number, expected, tmp_path):
    command = [sys.executable, "-W", "ignore", "-c", blocks("python")[number]]
    process = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert process.returncode == 0, process.stderr[-2000:]
    assert re.search(expected, process.stdout, re.MULTILINE), process.stdout


def test_the_doctor_prints_what_the_readme_shows(capsys):
    """Another processor may give other last digits."""
    exec(compile(blocks("python")[4], "README.md, example 4", "exec"), {"__name__": "example"})
    texts = capsys.readouterr().out, blocks("text")[0]
    printed, shown = (re.sub(r"\d+(?:\.\d+)?", "#", text).split() for text in texts)
    assert printed == shown
    printed, shown = ([float(number) for number in re.findall(r"\d+(?:\.\d+)?", text)] for text in texts)
    assert printed == pytest.approx(shown, rel=0.05, abs=0.5)


def test_every_example_has_a_test():
    assert len(blocks("python")) == 6


def test_the_toml_files_and_commands_are_valid(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name, file in zip(("run.toml", "sweep.toml"), blocks("toml"), strict=True):
        Path(name).write_text(file)
    assert len(Sweep.from_file("sweep.toml").runs()) == 24
    lines = [shlex.split(line, comments=True) for line in blocks("sh")[0].splitlines()]
    for _, name, *arguments in (line[line.index("labkit") :] for line in lines):
        main.commands[name].make_context(name, arguments)


def test_the_readme_contains_the_two_commands_that_ci_runs():
    (lines,) = blocks("bash")
    install, test = lines.strip().splitlines()
    assert install.endswith("&& .venv/bin/labkit lessons") and test == ".venv/bin/python -m pytest -n 2 --dist loadfile"


def test_every_image_and_linked_file_exists():
    links = [link for link in re.findall(r"\]\(([^)]+)\)", README) if not link.startswith("https://")]
    assert len(links) >= 5
    for link in [*links, "data/photographs/sources.csv", "data/weights"]:
        path, _, anchor = link.partition("#")
        assert (ROOT / path).exists(), path
        heading = f"# {anchor.replace('-', ' ')}\n"
        assert not anchor or heading in (ROOT / path).read_text(encoding="utf-8").lower(), link

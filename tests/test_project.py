"""The repository is a complete public project: its archives, licenses, checks and top level."""

from __future__ import annotations

import csv
import re
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]
TOP_LEVEL = {"pyproject.toml", "lessons", "labkit", "data", "tests", "README.md", "LICENSE"}
ARCHIVED = {
    "LICENSE",
    "README.md",
    "pyproject.toml",
    ".assets/panel.png",
    "data/photographs/sources.csv",
    "labkit/py.typed",
}


@pytest.fixture(scope="module")
def archives(tmp_path_factory) -> Path:
    """Build the source archive and the wheel, and return their folder."""
    folder = tmp_path_factory.mktemp("archives")
    command = [sys.executable, "-m", "hatchling", "build", "-d", str(folder)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    return folder


def test_the_source_archive_contains_license_readme_images_and_tests(archives):
    (path,) = archives.glob("*.tar.gz")
    with tarfile.open(path) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    images = set(re.findall(r"!\[[^]]+\]\(([^)]+)\)", (ROOT / "README.md").read_text(encoding="utf-8")))
    assert images and images | ARCHIVED | {"tests/test_project.py", ".ci/run"} <= names


def test_the_wheel_contains_license_types_and_photographs(archives):
    (path,) = archives.glob("*.whl")
    with zipfile.ZipFile(path) as wheel:
        names = set(wheel.namelist())
        (metadata,) = (name for name in names if name.endswith(".dist-info/METADATA"))
        text = wheel.read(metadata).decode()
    licenses = metadata.replace("METADATA", "licenses/")
    assert {licenses + "LICENSE", licenses + "data/photographs/GPL-2.0.txt", "labkit/py.typed"} <= names
    assert "labkit/_bundled/data/photographs/sources.csv" in names

    # The license expression names the license of the code and of every photograph
    expression = set(re.search(r"^License-Expression: (.*)$", text, re.MULTILINE)[1].split(" AND "))
    with open(ROOT / "data/photographs/sources.csv", encoding="utf-8", newline="") as file:
        photographs = {
            row["license"].replace("public domain", "LicenseRef-Public-Domain") for row in csv.DictReader(file)
        }
    assert expression == {"BSD-3-Clause"} | photographs


def test_the_top_level_contains_only_the_listed_names():
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False)
    if tracked.returncode:
        pytest.skip("this is not a git checkout")
    names = {name.partition("/")[0] for name in tracked.stdout.splitlines()}
    assert {name for name in names if not name.startswith(".")} == TOP_LEVEL


def test_hooks_and_hosted_checks_run_what_ci_runs():
    script = (ROOT / ".ci/run").read_text(encoding="utf-8").splitlines()
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))["repos"][0]["hooks"]
    assert [hook["entry"] for hook in hooks if hook["entry"] not in script] == []
    assert {"ruff", "codespell_lib", "mypy"} <= {word for hook in hooks for word in hook["entry"].split()}
    workflow = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text(encoding="utf-8"))
    assert {"run": ".ci/run"} in workflow["jobs"]["checks-and-tests"]["steps"]


def test_codespell_finds_british_spellings_in_prose(tmp_path):
    (tmp_path / "page.md").write_text("Quantisation,\nfactorised priors\nand a centre.\n\nQuantization is fine.\n")
    command = [sys.executable, "-m", "codespell_lib", str(tmp_path / "page.md")]
    process = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert [line.rpartition(".md:")[2] for line in process.stdout.splitlines()] == [
        "1: Quantisation ==> Quantization",
        "2: factorised ==> factorized",
        "3: centre ==> center",
    ]

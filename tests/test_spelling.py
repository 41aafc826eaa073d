"""Identifiers and file names have American spelling. codespell does not split them into words."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = ("labkit", "lessons", "data", "tests", ".ci", ".github")
TEXT = {".cff", ".css", ".csv", ".ipynb", ".js", ".md", ".py", ".sh", ".toml", ".txt", ".yaml", ".yml", ""}
EXEMPT = {  # names of the first edition, the dictionary of British spellings, and the tests of both
    Path("labkit/first_edition.py"),
    Path("labkit/course/first_edition.py"),
    Path("tests/first_edition"),
    Path(".ci/american.txt"),
    Path("tests/cli/test_cli.py"),
    Path("tests/test_project.py"),
    Path("tests/test_spelling.py"),
}

# Stems that American English continues with -iz- instead of -is-, then other British spellings
_IZE = (
    "binar|capital|categor|custom|digit|discret|equal|factor|final|general|initial|linear|"
    "local|marginal|maxim|memor|minim|normal|optim|organ|orthogonal|parametr|penal|polar|"
    "quant|random|recogn|regular|serial|special|stabil|standard|summar|symmetr|synchron|token|"
    "util|vector|visual"
)
BRITISH = re.compile(
    rf"(?:{_IZE})is(?:e|ed|er|ers|es|ing|ation|ations|able)$"
    "|centre|centring|colour|behaviour|neighbour|favour|honour|analys(?:e|ed|er|ers|ing)$"
    "|modell|labell|cancell(?:ed|ing)$|signall|levell|travell|fibre|licence|artefact|catalogue|greyscale|^grey$"
    "|(?:^|milli|kilo|centi)metres?$|^programmes?$|judgement|whilst|amongst|learnt|sceptic|defence"
)


def british_words(text: str) -> list[str]:
    """Return the British spellings in a text after splitting identifiers at underscores and capitals."""
    words = re.findall(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])", text)
    return [word for word in words if BRITISH.search(word.lower())]


def project_files(root: Path) -> Iterator[Path]:
    """Yield the files of the project, without caches and environments."""
    yield from (path for path in sorted(root.iterdir()) if path.is_file() and path.name != ".git")
    for folder in FOLDERS:
        for parent, folders, names in os.walk(root / folder):
            folders[:] = sorted(name for name in folders if name not in ("__pycache__", ".ipynb_checkpoints"))
            yield from (Path(parent) / name for name in sorted(names))


def findings(root: Path) -> list[str]:
    results = []
    for path in project_files(root):
        name = path.relative_to(root)
        if EXEMPT & {name, *name.parents}:
            continue
        results += [f"{name}: file name: {word}" for word in british_words(str(name))]
        if path.suffix in TEXT:
            lines = path.read_text(encoding="utf-8").splitlines()
            results += [f"{name}:{i}: {word}" for i, line in enumerate(lines, 1) for word in british_words(line)]
    return results


def test_identifiers_and_file_names_have_american_spelling():
    assert findings(ROOT) == []


@pytest.mark.parametrize(
    "name",
    [
        "quantisation",
        "zero_centre",
        "permute_colours",
        "DequantisedLatent",
        "nearestNeighbour",
        "GREYSCALE_IMAGE",
        "n_optimisers",
    ],
)
def test_planted_british_spellings_are_found(name, tmp_path):
    (tmp_path / "labkit").mkdir()
    (tmp_path / "labkit" / "latents.py").write_text(f"def compute(x):\n    {name} = x\n    return {name}\n")
    (tmp_path / "labkit" / f"{name}.svg").write_text("")
    locations = {finding.rpartition(": ")[0] for finding in findings(tmp_path)}
    assert locations == {f"labkit/{name}.svg: file name", "labkit/latents.py:2", "labkit/latents.py:3"}


@pytest.mark.parametrize(
    "text",
    ["zero_center", "analysis", "analyses of a parameter", "optimistic", "symmetric", "the programmer's diameter"],
)
def test_american_spellings_pass(text):
    assert british_words(text) == []

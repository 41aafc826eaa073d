"""The notation page and the glossary explain every symbol, every surrogate and every work that lessons cite."""

import re
import unicodedata
from urllib.parse import quote

import nbformat
import pytest

from labkit import course, paths, surrogates

GLOSSARY = "notation_and_glossary.ipynb"
NOTEBOOKS = sorted(file.name for file in paths.lessons().glob("*.ipynb"))
WORK = re.compile(r"arXiv:\d{4}\.\d{4,5}|doi:10\.[^\s,;]*[^\s,;.)]")
TITLES = {lesson.number: lesson.title for lesson in course.LESSONS.values()}
SYMBOLS = "x x̂ y ⌊y⌉ r ỹ ŷ c z g_a g_s h_a h_s μ σ R D bpp λ ℓ g u d τ θ n"


def cells(name: str) -> list[str]:
    notebook = nbformat.read(paths.lessons() / name, 4)
    return [cell.source for cell in notebook.cells if cell.cell_type == "markdown"]


def headings(name: str, marks: str = "#+") -> list[str]:
    found = re.findall(rf"^{marks} (.+)$", "\n\n".join(cells(name)), flags=re.M)
    return [re.sub(r"[*`]|\[([^\]]*)\]\([^)]*\)", lambda part: part[1] or "", text).strip() for text in found]


def entries() -> dict[str, str]:
    parts = [cell.split("\n\n", 1) for cell in cells(GLOSSARY) if cell.startswith("### ")]
    return {heading.removeprefix("### "): text for heading, text in parts}


def part(title: str) -> str:
    """A part of the notation page, by its title."""
    return next(cell for cell in cells(GLOSSARY) if cell.startswith(f"## {title}\n"))


def rows(title: str) -> list[list[str]]:
    lines = re.findall(r"^\| (.*) \|$", part(title), flags=re.M)[2:]  # without the header and its rule
    return [line.split(" | ") for line in lines]


def test_valid_and_stripped():
    notebook = nbformat.read(paths.lessons() / GLOSSARY, 4)
    nbformat.validate(notebook)
    lesson = nbformat.read(paths.lessons() / NOTEBOOKS[0], 4)
    assert notebook.metadata == lesson.metadata
    assert all(cell.cell_type == "markdown" and cell.metadata == {} for cell in notebook.cells)


def test_headings_are_unique_and_entries_sorted():
    names = headings(GLOSSARY)
    assert len({name.replace(" ", "-") for name in names}) == len(names)
    assert list(entries()) == sorted(entries(), key=str.casefold)
    assert len(entries()) == len(headings(GLOSSARY, "###"))


@pytest.mark.parametrize("name", entries())
def test_entry_is_short_and_names_a_lesson(name):
    text, _, where = entries()[name].rpartition(" → ")
    assert 1 <= len(re.findall(r"\.(?= |$)", re.sub(r"\([^()]*\)", "", text))) <= 4
    assert len(text.split()) <= 90 and text.endswith(".")
    links = re.findall(r"\[(\d\d) ([^\]]+)\]\((\d\d)_\w+\.ipynb\)", where)
    assert links and all(number == file and TITLES[number] == title for number, title, file in links)


@pytest.mark.parametrize("name", [name for name in entries() if not name.isascii()])
def test_entry_beyond_ascii_has_the_anchor_that_links_in_jupyterlab_look_for(name):
    assert entries()[name].startswith(f'<span id="{quote(name.replace(" ", "-"))}"></span>')


def test_every_surrogate_has_its_row_and_its_entry():
    table = {row[0].strip("`"): row for row in rows("Surrogates by name")}
    assert tuple(table) == surrogates.names()
    for name, row in table.items():
        made = surrogates.get(name)
        assert str(made.year) in row[3] or name in ("round", "dither", "aun"), row
        assert "#" in row[4]  # where it leads is checked with all links
        if made.derivative == "0":
            assert row[2] == "0"
        if made.derivative == "exact":
            assert row[2] == "exact"
        if made.derivative == "1":
            assert row[2].startswith("1")


def test_every_symbol_is_explained_and_placed():
    symbols = {symbol: row for row in rows("Notation") for symbol in row[0].split(", ")}
    assert not set(SYMBOLS.split()) - set(symbols)
    for row in rows("Notation"):
        assert len(row) == 3 and re.fullmatch(r"\[(\d\d)\]\(\1_\w+\.ipynb\)", row[2]), row


def test_every_work_is_in_the_references():
    listed = set(WORK.findall(part("References")))
    for name in NOTEBOOKS:
        missing = set(WORK.findall("\n\n".join(cells(name)))) - listed
        assert missing == set(), name


def test_references_are_in_order():
    lines = re.findall(r"^- (.+)$", part("References"), flags=re.M)
    families = [re.sub(r"^(?:[A-Z]\. ?)+", "", line).split(",")[0].split(" & ")[0].split(" et al")[0] for line in lines]
    plain = [unicodedata.normalize("NFKD", family).encode("ascii", "ignore").lower() for family in families]
    assert plain == sorted(plain) and len(set(lines)) == len(lines)
    assert all(re.search(r", (19|20)\d\d, |, ICIP 20\d\d", line) for line in lines)

"""The notation and glossary page explains every symbol and surrogate, and lists every work that the lessons cite."""

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
SYMBOLS = "x x̂ y ⌊y⌉ r ỹ ŷ c z g_a g_s h_a h_s μ σ R D bpp λ ℓ g u d τ n F q Q b s κ M"
TEX = {
    "ỹ": "tilde y",
    "ŷ": "hat y",
    "x̂": "hat x",
    "μ": "mu",
    "σ": "sigma",
    "τ": "tau",
    "κ": "kappa",
    "Φ": "Phi",
    "ℓ": "ell",
}
UNIQUE = ["g_a", "h_s", "bpp", "λ", "k", "r", "Q", *TEX]  # symbols of which every use in a lesson can be found


def cells(name: str) -> list[str]:
    notebook = nbformat.read(paths.lessons() / name, 4)
    return [cell.source for cell in notebook.cells if cell.cell_type == "markdown"]


def headings(name: str, marks: str = "#+") -> list[str]:
    titles = re.findall(rf"^{marks} (.+)$", "\n\n".join(cells(name)), flags=re.M)
    return [re.sub(r"[*`]|\[([^\]]*)\]\([^)]*\)", lambda match: match[1] or "", title).strip() for title in titles]


def entries() -> dict[str, str]:
    sections = [cell.split("\n\n", 1) for cell in cells(GLOSSARY) if cell.startswith("### ")]
    return {heading.removeprefix("### "): text for heading, text in sections}


def section(title: str) -> str:
    """Return the section of the page with this title."""
    return next(cell for cell in cells(GLOSSARY) if cell.startswith(f"## {title}\n"))


def rows(title: str) -> list[list[str]]:
    lines = re.findall(r"^\| (.*) \|$", section(title), flags=re.M)[2:]  # without the header and the line below it
    return [line.split(" | ") for line in lines]


def test_the_page_is_a_valid_notebook_of_text_cells():
    notebook = nbformat.read(paths.lessons() / GLOSSARY, 4)
    nbformat.validate(notebook)
    lesson = nbformat.read(paths.lessons() / NOTEBOOKS[0], 4)
    assert notebook.metadata == lesson.metadata
    assert all(cell.cell_type == "markdown" and cell.metadata == {} for cell in notebook.cells)


def test_headings_are_unique_and_entries_are_sorted():
    names = headings(GLOSSARY)
    assert len({name.replace(" ", "-") for name in names}) == len(names)
    assert list(entries()) == sorted(entries(), key=str.casefold)
    assert len(entries()) == len(headings(GLOSSARY, "###"))


@pytest.mark.parametrize("name", entries())
def test_an_entry_is_short_and_names_a_lesson(name):
    text, _, lesson_links = entries()[name].rpartition(" → ")
    assert 1 <= len(re.findall(r"\.(?= |$)", re.sub(r"\([^()]*\)", "", text))) <= 4
    assert len(text.split()) <= 90 and text.endswith(".")
    links = re.findall(r"\[(\d\d) ([^\]]+)\]\((\d\d)_\w+\.ipynb\)", lesson_links)
    assert links and all(number == file and TITLES[number] == title for number, title, file in links)


@pytest.mark.parametrize("name", [name for name in entries() if not name.isascii()])
def test_a_non_ascii_entry_has_the_anchor_that_jupyterlab_looks_for(name):
    assert entries()[name].startswith(f'<span id="{quote(name.replace(" ", "-"))}"></span>')


def test_every_surrogate_has_a_row_and_a_link_to_its_entry():
    table = {row[0].strip("`"): row for row in rows("Surrogates by name")}
    assert tuple(table) == surrogates.names()
    for name, row in table.items():
        surrogate = surrogates.get(name)
        assert str(surrogate.year) in row[3] or name in ("round", "dither", "aun"), row
        assert "#" in row[4]  # test_links.py checks that the target exists
        if surrogate.derivative == "0":
            assert row[2] == "0"
        if surrogate.derivative == "exact":
            assert row[2] == "exact"
        if surrogate.derivative == "1":
            assert row[2].startswith("1")


def test_every_symbol_is_explained_and_linked_to_a_lesson():
    symbols = {symbol: row for row in rows("Notation") for symbol in row[0].split(", ")}
    assert not set(SYMBOLS.split()) - set(symbols)
    for row in rows("Notation"):
        assert len(row) == 3 and re.fullmatch(r"\[(\d\d)\]\(\1_\w+\.ipynb\)", row[2]), row


@pytest.mark.parametrize("symbol", UNIQUE)
def test_the_notation_names_the_lesson_in_which_a_symbol_first_appears(symbol):
    tex = rf"|\\{TEX[symbol]}" if symbol in TEX else ""
    use = re.compile(rf"(?<!\w)({symbol}{tex})(?!\w)")
    first = next(name for name in NOTEBOOKS if use.search("\n".join(cells(name))))
    (row,) = [row for row in rows("Notation") if symbol in row[0].split(", ")]
    assert f"({first})" in row[2]


def test_the_references_contain_every_cited_work():
    listed = set(WORK.findall(section("References")))
    for name in NOTEBOOKS:
        missing = set(WORK.findall("\n\n".join(cells(name)))) - listed
        assert missing == set(), name


def test_the_references_are_in_alphabetical_order():
    lines = re.findall(r"^- (.+)$", section("References"), flags=re.M)
    families = [re.sub(r"^(?:[A-Z]\. ?)+", "", line).split(",")[0].split(" & ")[0].split(" et al")[0] for line in lines]
    sort_keys = [unicodedata.normalize("NFKD", family).encode("ascii", "ignore").lower() for family in families]
    assert sort_keys == sorted(sort_keys) and len(set(lines)) == len(lines)
    assert all(re.search(r", (19|20)\d\d, |, ICIP 20\d\d", line) for line in lines)

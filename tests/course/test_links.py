"""Links between notebooks have existing targets, and the numbers of lessons agree with their titles."""

import re
from pathlib import Path
from urllib.parse import unquote

import nbformat
import pytest

from labkit import course, paths
from labkit.course.exercises import all_exercises, visible_number

NOTEBOOKS = sorted(file.name for file in paths.lessons().glob("*.ipynb"))
TITLES = {lesson.number: lesson.title for lesson in course.LESSONS.values()}
NUMBERS = list(TITLES)
LINK = re.compile(r"\]\(([^)#\s:]*\.ipynb)?(#[^)\s]*)?\)")
TITLED = re.compile(
    r"(?<![\d.])(\d\d),? \[\*?([^\]]*?)\*?\]\((\d\d)_\w+\.ipynb\)|\[(\d\d) ([^\]]+)\]\((\d\d)_\w+\.ipynb\)"
)
README = Path(__file__).resolve().parents[2] / "README.md"


def prose(name: str) -> str:
    notebook = nbformat.read(paths.lessons() / name, 4)
    return "\n\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")


def headings(name: str) -> list[str]:
    titles = re.findall(r"^#+ (.+)$", prose(name), flags=re.M)
    return [re.sub(r"[*`]|\[([^\]]*)\]\([^)]*\)", lambda match: match[1] or "", title).strip() for title in titles]


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_every_link_has_an_existing_target(name):
    for file, fragment in LINK.findall(prose(name)):
        target = file or name
        assert (paths.lessons() / target).is_file(), f"{name}: there is no {target}"
        if fragment:  # JupyterLab replaces the spaces of a heading with hyphens and keeps the rest
            anchors = [heading.replace(" ", "-") for heading in headings(target)]
            assert unquote(fragment[1:]) in anchors, f"{name}: {target} has no {fragment}"


def test_the_pattern_finds_links():
    line = "[a](02_b.ipynb) [c](notation_and_glossary.ipynb#bits-per-pixel) [d](#e) [f](https://example.org/g.ipynb)"
    assert LINK.findall(line) == [("02_b.ipynb", ""), ("notation_and_glossary.ipynb", "#bits-per-pixel"), ("", "#e")]


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_a_number_next_to_a_title_is_the_number_of_that_lesson(name):
    text = re.sub(r"\*\*(\d\d)\*\*", r"\1", prose(name))
    for match in TITLED.findall(text):
        number, title, target = match[:3] if match[0] else match[3:]
        assert number == target and TITLES[number] == title, f"{name}: {match}"
    for number, target in re.findall(r"\[(?:lesson )?(\d\d)\]\((\d\d)_\w+\.ipynb\)", text):
        assert number == target, f"{name}: [{number}] leads to {target}"


def test_the_pattern_finds_numbers_next_to_titles():
    line = "It: 03, [*A–b*](03_a.ipynb). → [04 C d](04_c.ipynb), 05 [E](06_e.ipynb), [06](06_e.ipynb)"
    assert [[part for part in match if part] for match in TITLED.findall(line)] == [
        ["03", "A–b", "03"],
        ["04", "C d", "04"],
        ["05", "E", "06"],
    ]


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_every_lesson_and_exercise_named_in_the_prose_exists(name):
    text = prose(name)
    ranges = [number for pair in re.findall(r"[Ll]essons (\d\d) (?:to|and) (\d\d)", text) for number in pair]
    assert set(re.findall(r"[Ll]esson (\d\d)", text) + ranges) <= set(NUMBERS)
    assert set(re.findall(r"[Ll]esson (\d)\b", text)) == set()
    assert set(re.findall(r"[Ee]xercise (\d\d\.\d)", text)) <= set(map(visible_number, all_exercises().values()))


@pytest.mark.parametrize("number", NUMBERS)
def test_a_lesson_begins_with_its_title_and_names_its_neighbors(number):
    (name,) = [notebook for notebook in NOTEBOOKS if notebook.startswith(f"{number}_")]
    opening = prose(name).split("## ")[0]
    assert opening.startswith(f"# {number} · {TITLES[number]}\n")
    position = NUMBERS.index(number)
    for label, neighbor in (("Before it", NUMBERS[:position][-1:]), ("After it", NUMBERS[position + 1 : position + 2])):
        assert re.findall(rf"{label}: (\d\d), ", opening) == neighbor
    cells = nbformat.read(paths.lessons() / name, 4).cells
    assert all(cell.id.startswith(f"{number}-") for cell in cells)


def test_the_readme_lists_the_lessons():
    rows = re.findall(r"^\| (\d\d) ([^|]+?) \|", README.read_text(encoding="utf-8"), flags=re.M)
    assert rows == [(number, title[0].lower() + title[1:]) for number, title in TITLES.items()]

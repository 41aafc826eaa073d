"""A map of the course, and of what was done in it."""

from __future__ import annotations

from dataclasses import dataclass
from html import escape
from typing import Any

from labkit import paths
from labkit.course import record
from labkit.course.cards import Card
from labkit.course.exercises import PASSED, exercises

LESSONS = {
    "00": "Start here",
    "02": "Uniform scalar quantization",
    "03": "Train–test mismatch",
    "04": "Gradient risk",
    "05": "Annealing",
    "06": "A lower bound for the scale",
    "07": "Zero-center quantization",
    "08": "The whole method",
    "09": "Your own model",
}
GLOSSARY = "notation_and_glossary.ipynb"
_MARKS = {"done": "✓", "begun": "◐", "not opened yet": "○"}


@dataclass(frozen=True)
class _Row:
    """What the record says of one lesson. unsolved: its exercises that are still to do, as "02.2, Straight through"."""

    lesson: str
    state: str  # a key of _MARKS
    guessed: int
    exercises: int
    unsolved: tuple[str, ...]

    @property
    def name(self) -> str:
        return f"{self.lesson} {LESSONS[self.lesson]}"

    @property
    def cells(self) -> tuple[str, str, str]:
        solved = f"{self.exercises - len(self.unsolved)} of {self.exercises} exercises solved"
        return self.state, f"{self.guessed} guessed", solved


def progress() -> Card:
    """A map of the course: of each lesson its state, guesses made and exercises solved; and what comes next."""
    done = record.read()
    rows = [_row(lesson, done) for lesson in LESSONS]
    where = f"Kept in {record.path()}."
    if not record.kept():
        where = f"{record.path()} cannot be written: kept until the kernel stops."
    onward, link = _next(rows)
    html = "".join(
        f'<tr><td style="text-align:left">{_MARKS[row.state]} {_linked(row.name, row.lesson)}</td>'
        + "".join(f'<td style="text-align:left">{escape(cell)}</td>' for cell in row.cells)
        + "</tr>"
        for row in rows
    )
    lines = [" · ".join([f"{_MARKS[row.state]} {row.name}", *row.cells]) for row in rows]
    return Card(
        f"<b>The course so far</b><table>{html}</table><p>{_linked(onward, link) if link else escape(onward)}</p>"
        f'<small><a href="{GLOSSARY}">Notation and glossary</a>. {escape(where)}</small>',
        "\n".join([*lines, onward, where]),
        "note",
    )


def _row(lesson: str, done: dict[str, dict[str, Any]]) -> _Row:
    mine = exercises(lesson)
    unsolved = [each for key, each in mine.items() if done["exercises"].get(key, {}).get("state") != PASSED]
    begun = "begun" if unsolved else "done"
    return _Row(
        lesson,
        state=begun if lesson in done["lessons"] else "not opened yet",
        guessed=sum(key.startswith(f"{lesson}.") for key in done["guesses"]),
        exercises=len(mine),
        unsolved=tuple(f"{each.key}, {each.title}" for each in unsolved),
    )


def _next(rows: list[_Row]) -> tuple[str, str]:
    """What to do next, in words, and the lesson it is in (none at the end)."""
    for row in rows:
        if row.state == "begun":
            return f"Next: exercise {row.unsolved[0]}, in lesson {row.name}.", row.lesson
        if row.state == "not opened yet":
            return f"Next: lesson {row.name}.", row.lesson
    return "Every lesson was opened, and every exercise solved.", ""


def _linked(text: str, lesson: str) -> str:
    """Text as a link to the lesson's notebook, which lies beside the one that is open; plain where it is not there."""
    notebook = next(paths.lessons().glob(f"{lesson}_*.ipynb"), None)
    return f'<a href="{escape(notebook.name)}">{escape(text)}</a>' if notebook else escape(text)

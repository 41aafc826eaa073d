"""A map of the course with the learner's progress."""

from __future__ import annotations

from dataclasses import dataclass
from html import escape

from labkit.course import record
from labkit.course.capstone.catalog import STAGES, Stage
from labkit.course.cards import Card
from labkit.course.exercises import Exercise, exercises, visible_number
from labkit.course.exercises.base import PASSED
from labkit.course.lessons import LESSONS, Lesson

GLOSSARY = "notation_and_glossary.ipynb"
_MARKS = {"done": "✓", "begun": "◐", "not opened yet": "○"}


@dataclass(frozen=True)
class _Row:
    """One lesson on the map."""

    lesson: Lesson
    state: str  # a key of _MARKS
    guesses: int
    questions: int
    exercises: int
    unsolved: tuple[Exercise | Stage, ...]

    @property
    def cells(self) -> tuple[str, ...]:
        kind = "stages" if self.lesson.key == "capstone" else "exercises"
        solved = f"{self.exercises - len(self.unsolved)} of {self.exercises} {kind} solved"
        answered = f"{self.questions} question{'' if self.questions == 1 else 's'} answered"
        return self.state, f"{self.guesses} guessed", solved, answered


def progress() -> Card:
    """Return a map of the course: what the learner has done in each lesson, and what to do next."""
    done = record.read()
    rows = [_row(lesson, done) for lesson in LESSONS.values()]
    place = f"Recorded in {record.path()}."
    if not record.is_saved():
        place = f"{record.path()} cannot be written, so this record lasts until the kernel stops."
    next_step, next_lesson = _next(rows)
    html = "".join(
        f'<tr><td style="text-align:left">{_MARKS[row.state]} {_link(str(row.lesson), row.lesson)}</td>'
        + "".join(f'<td style="text-align:left">{escape(cell)}</td>' for cell in row.cells)
        + "</tr>"
        for row in rows
    )
    lines = [" · ".join([f"{_MARKS[row.state]} {row.lesson}", *row.cells]) for row in rows]
    return Card(
        f"<b>Your progress</b><table>{html}</table><p>{_link(next_step, next_lesson)}</p>"
        f'<small><a href="{GLOSSARY}">Notation and glossary</a>. {escape(place)}</small>',
        "\n".join([*lines, next_step, place]),
        "note",
    )


def tasks(lesson: Lesson) -> dict[str, Exercise | Stage]:
    """Return the exercises of a lesson, or the stages of the capstone, by key."""
    stages = {stage.key: stage for stage in STAGES if lesson.key == "capstone"}
    return {**exercises(lesson.key), **stages}


def _row(lesson: Lesson, done: record.Record) -> _Row:
    members = tasks(lesson)
    unsolved = [exercise for key, exercise in members.items() if done["exercises"].get(key, {}).get("state") != PASSED]
    opened = "begun" if unsolved else "done"
    return _Row(
        lesson,
        state=opened if lesson.key in done["lessons"] else "not opened yet",
        guesses=sum(key.startswith(f"{lesson.key}.") for key in done["guesses"]),
        questions=sum(key.startswith(f"{lesson.key}.") for key in done["questions"]),
        exercises=len(members),
        unsolved=tuple(unsolved),
    )


def _next(rows: list[_Row]) -> tuple[str, Lesson | None]:
    """Return a sentence about the next step, and its lesson (None if nothing is left)."""
    for row in rows:
        if row.state == "begun":
            task = row.unsolved[0]
            name = f"stage {task.number}" if isinstance(task, Stage) else f"exercise {visible_number(task)}"
            return f"Next: {name}, {task.title}, in lesson {row.lesson}.", row.lesson
        if row.state == "not opened yet":
            return f"Next: lesson {row.lesson}.", row.lesson
    return "You have opened every lesson and solved every exercise.", None


def _link(text: str, lesson: Lesson | None) -> str:
    """Return the text as a link to the lesson's notebook, or without a link if the notebook is missing."""
    notebook = lesson and lesson.notebook
    return f'<a href="{escape(notebook.name)}">{escape(text)}</a>' if notebook else escape(text)

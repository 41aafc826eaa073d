"""A map of the course, and of what was done in it."""

from __future__ import annotations

from html import escape

from labkit.course import record
from labkit.course.cards import Card
from labkit.course.exercises import exercises

LESSONS = {"00": "Start here", "01": "Uniform scalar quantisation"}  # those that exist


def progress() -> Card:
    """What was done in each lesson: opened, guesses made, exercises solved."""
    done = record.read()
    rows = []
    for lesson, title in LESSONS.items():
        mine = exercises(lesson)
        solved = sum(done["exercises"].get(key, {}).get("state") == "passed" for key in mine)
        guessed = sum(key.startswith(f"{lesson}.") for key in done["guesses"])
        opened = "opened" if lesson in done["lessons"] else "not opened yet"
        rows.append((f"{lesson} {title}", opened, f"{guessed} guessed", f"{solved} of {len(mine)} exercises solved"))
    where = f"Kept in {record.path()}."
    if not record.kept():
        where = f"{record.path()} cannot be written: kept until the kernel stops."
    cells = "".join(f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>" for row in rows)
    text = "\n".join(" · ".join(row) for row in rows)
    return Card(f"<table>{cells}</table><small>{escape(where)}</small>", f"{text}\n{where}", "note")

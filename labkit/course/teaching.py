"""The teacher's kit: notebooks for students, and a folder for the instructor.

    labkit lessons --release my-class/

The pages for the instructor repeat the texts of the lessons and exercises. Students can read the solutions in labkit,
so the course is for practice and not for an examination.
"""

from __future__ import annotations

import ast
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from labkit import paths
from labkit.course.capstone import STAGES, Stage
from labkit.course.capstone.catalog import FILE
from labkit.course.exercises import Exercise, exercises, visible_number
from labkit.course.export import summary
from labkit.course.grading import RECORD
from labkit.course.lessons import LESSONS, Lesson
from labkit.course.overview import GLOSSARY, tasks
from labkit.course.questions import RIGHT, questions_in

if TYPE_CHECKING:
    from nbformat import NotebookNode

PRACTICE = "Solutions are readable in the labkit package: this is practice, not an examination."
HAND_IN = f"""# Run this cell before you hand in the folder: it copies your answers to the questions to {RECORD}.
import shutil

shutil.copyfile(lk.course.record.path(), "{RECORD}")"""

WEEKS: tuple[tuple[str | int, ...], ...] = (  # lessons and stages of the capstone, in a course of twelve weeks
    ("codec", "bits"), ("scalar",), ("mismatch",), ("risk",), ("annealing",), ("bound",), ("center",), ("method",),
    ("model", 1), (2, 3, 4), (5, 6), (7, 8),
)  # fmt: skip
DISCUSSION = {
    "codec": "A company calls its codec better because its latent is half as large. What do you ask for?",
    "bits": "Would you save 5% of a file with the coder, its tables or the model? Which number of the ledger decides?",
    "scalar": "The loss of every sample is flat. What exactly does a training step with a surrogate follow?",
    "mismatch": "When does a training loss with the wrong value still lead to the right codec?",
    "risk": "You can double the batch or halve the bias. When does each help, and what do you measure first?",
    "annealing": "What would show that a schedule helped by its end, and not by its start?",
    "bound": "Training reports twice the bits of the files. Name three causes, and a measurement that separates them.",
    "center": "The stop-gradient changes nothing at slope 1. What can an experiment use such a run for?",
    "method": "Which single result would have changed the verdict on the whole method?",
    "model": "Which finding of the course would you test again first in your own model, and how?",
    "capstone": "Which part of your codec would you replace first, and how would you show that this helped?",
}


def release(folder: str | Path) -> Path:
    """Write students/ with the notebooks, and instructor/ with solutions, syllabus, rubric and common mistakes.

    Args:
        folder: New or empty folder.

    Returns:
        The folder.

    Raises:
        ValueError: If the folder contains files, which are never overwritten.
    """
    import nbformat

    folder = Path(folder)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ValueError(f"{folder} must be a new or empty folder; labkit overwrites no files")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}.") as scratch:
        new = Path(scratch) / "new"
        students, instructor = new / "students", new / "instructor"
        students.mkdir(parents=True)
        (instructor / "solutions").mkdir(parents=True)
        shutil.copyfile(paths.lessons() / GLOSSARY, students / GLOSSARY)
        for lesson, name, notebook in _notebooks():
            nbformat.write(solved(notebook, lesson), instructor / "solutions" / name)
            notebook.cells.append(nbformat.v4.new_code_cell(HAND_IN))
            nbformat.write(notebook, students / name)
        pages = {"syllabus": _syllabus(), "rubric": _rubric(), "common_mistakes": _mistakes()}
        for title, text in pages.items():
            heading = f"# {title.replace('_', ' ').capitalize()}\n\n{PRACTICE}\n\n"
            (instructor / f"{title}.md").write_text(heading + "\n".join(text) + "\n", encoding="utf-8")
        os.replace(new, folder)
    return folder


def solved(notebook: NotebookNode, lesson: Lesson) -> NotebookNode:
    """Return a copy of a lesson's notebook with solutions in place of the stubs of its exercises.

    Args:
        notebook: Notebook of the lesson.
        lesson: The lesson.
    """
    import nbformat

    notebook = nbformat.from_dict(notebook)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    for key, exercise in exercises(lesson.key).items():
        for place, cell in enumerate(cells):
            if check := re.search(rf'exercise\(\s*"{re.escape(key)}"\s*\)\.check\((\w+)\)', cell.source):
                for stub in reversed(cells[: place + 1]):
                    if (source := _replaced(stub.source, check[1], exercise)) != stub.source:
                        stub.source = source
                        break
    return notebook


def _replaced(source: str, name: str, exercise: Exercise) -> str:
    """Return the source of a cell with the solution in place of the stub with this name, if the cell has this stub."""
    if name not in source:
        return source
    for node in ast.parse(source).body:
        targets = [node.name] if isinstance(node, ast.FunctionDef) else []
        if isinstance(node, ast.Assign):
            targets = [ast.unparse(target) for target in node.targets]
        if name in targets:
            answer = str(exercise.solution()).rstrip()
            if isinstance(node, ast.Assign):  # a submitted value
                answer += f"\n\n\n{name} = {exercise.answer.__name__}()"
            elif exercise.answer.__name__ != name:
                answer += f"\n\n\n{name} = {exercise.answer.__name__}"
            lines = source.splitlines()
            return "\n".join([*lines[: node.lineno - 1], answer, *lines[node.end_lineno :]])
    return source


def _notebooks() -> Iterator[tuple[Lesson, str, NotebookNode]]:
    """Yield each lesson that has a notebook, the name of its file, and the notebook."""
    import nbformat

    for lesson in LESSONS.values():
        if file := lesson.notebook:
            yield lesson, file.name, nbformat.read(file, as_version=4)


def _syllabus() -> Iterator[str]:
    """Yield the lines of a page with a plan by weeks, and what each lesson takes, corrects and teaches."""
    notebooks = {lesson.key: (lesson, *summary(notebook)) for lesson, _, notebook in _notebooks()}
    yield "## Twelve weeks\n\nThe minutes of the stages are those without debugging, which doubles them at least.\n"
    yield "| week | lessons | minutes |\n| ---: | --- | ---: |"
    for week, items in enumerate(WEEKS, start=1):
        present = [item for item in items if (item if isinstance(item, str) else "capstone") in notebooks]
        names = [f"10, stage {item}" if isinstance(item, int) else str(notebooks[item][0]) for item in present]
        minutes = [STAGES[i - 1].minutes if isinstance(i, int) else _minutes(notebooks[i][2]) for i in present]
        if present:
            yield f"| {week} | {', '.join(names)} | {sum(minutes)} |"
    yield ""
    for lesson, wrong, length, goals in notebooks.values():
        tasks = exercises(lesson.key).values()
        of_these = (
            f", of which {sum(task.minutes for task in tasks)} minutes for {len(tasks)} exercises" if tasks else ""
        )
        yield f"## {lesson}\n\n{length}{of_these}.\n\n{wrong}\n\nAfterwards a student can:\n\n{goals}\n"
        yield f"For discussion: {DISCUSSION[lesson.key]}\n"


def _minutes(length: str) -> int:
    """Return the number in "About 50 minutes"."""
    return int("".join(filter(str.isdigit, length)))


def _rubric() -> Iterator[str]:
    """Yield the lines of a page with the marks for each exercise and question, and for the page of lesson 08."""
    yield "`labkit lessons --grade FOLDER` gives 1 mark for a passed exercise, and 0.5 for one of the common mistakes."
    yield "Any other wrong answer gives 0, even one that is nearly right: read these yourself."
    yield "A question gives 1 mark if the first answer is right, and 0.5 if a later one is.\n"
    yield "| exercise or question | key | marks | minutes | difficulty | importance |"
    yield "| --- | --- | --- | --- | --- | --- |"
    for lesson in LESSONS.values():
        for key, task in tasks(lesson).items():
            if isinstance(task, Stage):
                yield f"| {lesson.number}, stage {task.number}: {task.title} | {key} | 1 | {task.minutes} | | |"
                continue
            name, weight = f"{visible_number(task)} {task.title}", f"{task.difficulty} of 3 | {task.importance} of 3"
            yield f"| {name} | {key} | 1 | {task.minutes} | {weight} |"
        for key, (text, _) in questions_in(lesson).items():
            text = text.replace("|", "\\|")
            yield f"| {text} | {key} | 1 | | | |"
    for lesson, _, notebook in _notebooks():
        text = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
        if page := re.search(r"^\| points \|(?:.*\|\n?)+", text, flags=re.M):
            yield f"\n## The page of lesson {lesson.number}\n\nMark it by hand.\n\n{page[0].strip()}"


def _mistakes() -> Iterator[str]:
    """Yield the lines of a page with the messages of the exercises and the feedback of the questions."""
    for lesson in LESSONS.values():
        yield f"## {lesson}\n"
        for task in exercises(lesson.key).values():
            yield f"### {visible_number(task)} {task.title}\n"
            yield from (f"- {message}" for message in task.misconceptions.values())
            yield ""
        for stage in tasks(lesson).values():
            if isinstance(stage, Stage) and (messages := _named_mistakes(stage)):
                yield f"### Stage {stage.number}: {stage.title}\n"
                yield from (f"- {message}" for message in messages)
                yield ""
        for text, options in questions_in(lesson).values():
            yield f"### {text}\n"
            for option, line in options.items():
                right = line is None or line.startswith(RIGHT)
                yield f"- **{option}** {line or RIGHT + '.'}" if right else f"- {option}: {line}"
            yield ""


def _named_mistakes(stage: Stage) -> list[str]:
    """Return the messages of a stage's check that name a mistake: those of Wrong, and the keys of first_match."""
    tree = ast.parse((FILE / "stages" / f"{stage.module}.py").read_text(encoding="utf-8"))
    messages: list[ast.expr | None] = []
    for call in ast.walk(tree):
        if isinstance(call, ast.Call) and isinstance(call.func, ast.Name):
            if call.func.id == "Wrong":
                messages += call.args
            elif call.func.id == "first_match" and isinstance(call.args[1], ast.Dict):
                messages += call.args[1].keys
    return [each.value for each in messages if isinstance(each, ast.Constant) and isinstance(each.value, str)]

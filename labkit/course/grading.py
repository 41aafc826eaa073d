"""Marks for the notebooks that students submit.

    labkit lessons --grade submissions/

Each notebook runs in its own kernel, with the rights of the user who grades. It has its own learner's record, in which
the checks of its exercises record their verdicts. Solutions are readable in labkit, and a notebook can write anything
to its record, so the marks are for practice and not for an examination.
"""

from __future__ import annotations

import csv
import io
import json
import logging
import math
import os
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from tqdm.auto import tqdm

from labkit.course import first_edition, record
from labkit.course.capstone import Stage
from labkit.course.exercises import Exercise
from labkit.course.exercises.base import FAILED, PASSED
from labkit.course.export import CHECK
from labkit.course.lessons import LESSONS, Lesson
from labkit.course.overview import GLOSSARY, tasks
from labkit.course.questions import questions_in
from labkit.disk import write_whole

if TYPE_CHECKING:
    from nbformat import NotebookNode

GRADES, RECORD = "grades.csv", "progress.json"  # files in the folder of submissions, and in the folder of a student


class Mark(NamedTuple):
    """One line of the table of marks.

    Attributes:
        student: Name of the student's folder, or the part of the file's name before the number of the lesson.
        lesson: Key of the lesson; empty if the notebook has none.
        item: Key of the exercise or question; empty in a line about a whole notebook.
        marks: 1, 0.5 or 0.
        message: What is wrong or missing; empty for full marks.
        file: Submitted file, relative to the folder of submissions.
    """

    student: str
    lesson: str
    item: str
    marks: float
    message: str
    file: str


def grade(folder: str | Path, seconds: float = 900, progress: bool = True) -> list[Mark]:
    """Run submitted notebooks, and write the marks to grades.csv in their folder after each notebook.

    A passed exercise gives 1 mark, and a wrong answer that the check recognizes gives 0.5. A question gives 1 mark if
    the first answer was right, and 0.5 if a later one was. Answers to questions are read from a progress.json next to
    the notebook. A notebook that cannot be read or does not finish gets a line of its own.

    Args:
        folder: Folder with a folder per student, or with files such as ada_03_train_test_mismatch.ipynb.
        seconds: Time limit per notebook.
        progress: Whether to show a progress bar.

    Returns:
        The lines of grades.csv.

    Raises:
        ValueError: If the folder contains no submissions, or a grades.csv with other columns.
    """
    folder = Path(folder)
    grades = folder / GRADES
    header = ",".join(Mark._fields)
    if grades.exists() and grades.read_bytes().splitlines()[:1] != [header.encode()]:
        raise ValueError(f"{grades} has other columns than {header}; rename or remove the file")
    submissions = list(_submissions(folder)) if folder.is_dir() else []
    if not submissions:
        raise ValueError(f"{folder} must be a folder with a folder or a notebook per student")
    marks: list[Mark] = []
    for student, file in tqdm(submissions, unit="notebook", disable=not progress):
        name = str(file.relative_to(folder))
        marks += [Mark(_plain(student), *rest, _plain(name)) for rest in _graded(file, file.parent != folder, seconds)]
        text = io.StringIO(newline="")
        csv.writer(text).writerows([Mark._fields, *marks])
        write_whole(grades, text.getvalue().encode("utf-8", "replace"))
    return marks


def _submissions(folder: Path) -> Iterator[tuple[str, Path]]:
    """Yield the name of a student and a file, or the folder of a student who submitted no notebook."""
    for entry in sorted(folder.iterdir()):
        if entry.name.startswith(".") or entry.name == GRADES:
            continue
        if entry.is_dir():
            files = [file for file in sorted(entry.rglob("*.ipynb")) if ".ipynb_checkpoints" not in file.parts]
            for file in [file for file in files if file.name != GLOSSARY] or [entry]:
                yield entry.name, file
        else:
            yield re.split(r"[_ -]+(?=\d\d_)", entry.stem)[0], entry


def _graded(file: Path, has_folder: bool, seconds: float) -> list[tuple[str, str, float, str]]:
    """Return lesson, item, marks and message for each line about a file."""
    try:
        notebook = _read(file)
        lesson = _lesson(notebook, file.name)
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as scratch:
            work, home = Path(scratch) / "work", Path(scratch) / "home"
            home.mkdir()
            if has_folder:  # copies the other files, such as my_codec.py
                shutil.copytree(file.parent, work, ignore=shutil.ignore_patterns(".*"), symlinks=True)
                answers = (record.load(file.parent / RECORD) or {}).get("questions", {})
                (home / RECORD).write_text(json.dumps({"questions": answers}), encoding="utf-8")
            else:
                work.mkdir()
            trouble, finished = _run(notebook, work, home, seconds)
            entries = record.load(home / RECORD) or {}
    except (ValueError, OSError) as error:
        return [("", "", 0, _plain(str(error)))]
    source = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "code")
    lines = [] if finished else [(lesson.key, "", 0.0, _plain(trouble))]
    for key, task in tasks(lesson).items():
        marks, message = _task(task, entries.get("exercises", {}).get(key))
        if not message and not marks:
            checks = isinstance(task, Stage) or f'"{key}"' in source
            missing = "not attempted" if checks else "the notebook does not check this exercise"
            message = "; ".join(filter(None, [missing, trouble]))
        lines.append((lesson.key, key, marks, _plain(message)))
    for key in questions_in(lesson):
        lines.append((lesson.key, key, *_question(entries.get("questions", {}).get(key))))
    return lines


def _task(task: Exercise | Stage, entry: dict[str, Any] | None) -> tuple[float, str]:
    """Return the marks and the message for the result that the check recorded; no message if it recorded nothing."""
    state, message = (entry or {}).get("state", ""), str((entry or {}).get("message", ""))
    if state == PASSED:
        return 1, ""
    if state == FAILED:
        known = isinstance(task, Exercise) and message in task.misconceptions.values()
        return 0.5 if known else 0, message or "wrong answer"
    return 0, state


def _question(entry: dict[str, Any] | None) -> tuple[float, str]:
    if not entry:
        return 0, f"no answer in the notebook or in a {RECORD} beside it"
    if not entry.get("solved"):
        return 0, "wrong answer"
    return (1, "") if entry.get("first") else (0.5, f"right, but not at first: {entry.get('tries')} tries")


def _read(file: Path) -> NotebookNode:
    """Return the notebook in a file. Raise ValueError with a readable message if anything is wrong with the file."""
    import nbformat

    if file.is_dir():
        raise ValueError(f"{file.name} contains no notebook")
    try:
        notebook: NotebookNode = nbformat.read(file, as_version=4)
        nbformat.validate(notebook)
    except Exception as error:
        raise ValueError(f"{file.name} is not a notebook: {type(error).__name__}") from None
    return notebook


def _lesson(notebook: NotebookNode, name: str) -> Lesson:
    source = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "code")
    for key in re.findall(r"course\.start\(\s*[\"']([^\"']*)[\"']", source):
        if (present := first_edition.present_key("lessons", key)) in LESSONS:
            return LESSONS[present]
    raise ValueError(f'{name} is not a lesson: it has no cell with lk.course.start("…") and the key of a lesson')


def _run(notebook: NotebookNode, work: Path, home: Path, seconds: float) -> tuple[str, bool]:
    """Run all cells in a new kernel.

    Returns:
        The first error of a cell or the reason why the kernel stopped, in one line, and whether the last cell finished.
    """
    from nbclient import NotebookClient
    from nbclient.exceptions import CellTimeoutError, DeadKernelError

    class Client(NotebookClient):
        def output(self, *_: Any) -> None:
            """Keep no outputs, because they might fill the memory."""

    end, errors, reached = math.inf, [], 0

    def start(cell: NotebookNode, cell_index: int) -> None:
        nonlocal end, reached
        end, reached = min(end, time.monotonic() + seconds), cell_index + 1  # the start of the kernel is not counted

    def fail(cell: NotebookNode, cell_index: int, execute_reply: dict[str, Any]) -> None:
        content = execute_reply["content"]
        errors.append(f"cell {cell_index + 1} raised {content.get('ename')}: {content.get('evalue')}")

    quiet = logging.Logger("labkit")
    quiet.addHandler(logging.NullHandler())  # nothing is printed when a time limit is reached
    client = Client(
        notebook,
        allow_errors=True,
        kernel_name="python3",
        log=quiet,
        on_cell_error=fail,
        on_cell_start=start,
        resources={"metadata": {"path": str(work)}},
        shutdown_kernel="immediate",
        skip_cells_with_tag=CHECK,
        timeout_func=lambda _: max(1, round(end - time.monotonic())),
    )
    environment = {**os.environ, "LABKIT_HOME": str(home), "IPYTHONDIR": str(home / "ipython")}
    try:
        client.execute(env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    except CellTimeoutError:
        return f"stopped in cell {reached}: the notebook took more than {seconds:g} seconds", False
    except AssertionError:  # raised after Ctrl-C, because nbclient has ended the kernel and no longer finds it
        raise KeyboardInterrupt from None
    except (DeadKernelError, RuntimeError) as error:
        return f"stopped in cell {reached}: {str(error) or type(error).__name__}", False
    return "".join(errors[:1]), True


def _plain(text: str) -> str:
    """Return text in one line that a spreadsheet does not interpret as a formula."""
    line = " ".join(text.split())
    return f"'{line}" if line[:1] in tuple("=+-@") else line

"""The lessons of the course, in order."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from labkit import paths
from labkit.checks import check_name


@dataclass(frozen=True)
class Lesson:
    """A lesson of the course.

    Attributes:
        key: Word that identifies the lesson in the learner's record and in the cells of the notebook.
        number: Two digits at the beginning of the notebook's name. Numbers may change between editions.
        title: Title of the notebook.
    """

    key: str
    number: str
    title: str

    def __str__(self) -> str:
        return f"{self.number} {self.title}"

    @property
    def notebook(self) -> Path | None:
        """Path of the notebook, or None if the notebook is missing."""
        return next(paths.lessons().glob(f"{self.number}_*.ipynb"), None)


LESSONS = {
    lesson.key: lesson
    for lesson in (
        Lesson("codec", "00", "Start here"),
        Lesson("bits", "01", "Bits"),
        Lesson("scalar", "02", "Uniform scalar quantization"),
        Lesson("mismatch", "03", "Train–test mismatch"),
        Lesson("risk", "04", "Gradient risk"),
        Lesson("annealing", "05", "Annealing"),
        Lesson("bound", "06", "A lower bound for the scale"),
        Lesson("center", "07", "Zero-center quantization"),
        Lesson("method", "08", "Does the paper hold?"),
        Lesson("model", "09", "Your own model"),
        Lesson("capstone", "10", "A codec from an empty file"),
    )
}


def lesson(key: str) -> Lesson:
    """Return the lesson with this key.

    Args:
        key: Key of a lesson, such as "mismatch".

    Raises:
        ValueError: If no lesson has this key.
    """
    check_name("lesson", key, LESSONS)
    return LESSONS[key]

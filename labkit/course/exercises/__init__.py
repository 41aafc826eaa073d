"""The exercises of the course. Each module has the exercises of one lesson, with checks, hints and solutions."""

from labkit.course.exercises.base import Exercise, Verdict
from labkit.course.exercises.catalog import all_exercises, exercise, exercises, visible_number

__all__ = ["Exercise", "Verdict", "all_exercises", "exercise", "exercises", "visible_number"]

"""All exercises of the course, by lesson and by key."""

from __future__ import annotations

from functools import cache

from labkit.checks import check_name
from labkit.course import first_edition
from labkit.course.exercises.base import Exercise
from labkit.course.lessons import lesson


@cache
def all_exercises() -> dict[str, Exercise]:
    """Return the exercises of all lessons by key."""
    # These modules import torch and scipy, which `import labkit.course` does not need.
    from labkit.course.exercises import (
        annealing,
        bits,
        bound,
        center,
        codec,
        doctor,
        method,
        mismatch,
        model,
        risk,
        scalar,
    )

    modules = (codec, bits, scalar, mismatch, risk, annealing, bound, center, method, model, doctor)
    return {exercise.key: exercise for module in modules for exercise in module.EXERCISES}


def exercises(key: str) -> dict[str, Exercise]:
    """Return the exercises of a lesson by key, in the order of the notebook.

    Args:
        key: Key of a lesson, such as "mismatch".

    Raises:
        ValueError: If no lesson has this key.
    """
    prefix = f"{lesson(key).key}."
    return {name: exercise for name, exercise in all_exercises().items() if name.startswith(prefix)}


def exercise(key: str) -> Exercise:
    """Return the exercise with this key.

    A key of the first edition is also accepted; a printed line then gives the current key.

    Args:
        key: Key of an exercise, such as "mismatch.sampled".

    Raises:
        ValueError: If no exercise has this key. The message suggests similar keys.

    >>> import labkit as lk
    >>> lk.course.exercise("scalar.gain").title
    'The best gain'
    """
    present = first_edition.present_key("exercises", key)
    check_name("exercise", present, all_exercises())
    if present != key:
        print(f'Exercise {key} of the first edition is now lk.course.exercise("{present}").')
    return all_exercises()[present]


def visible_number(exercise: Exercise) -> str:
    """Return the number of an exercise in the notebook's headings, such as "03.1"."""
    topic = exercise.key.partition(".")[0]
    return f"{lesson(topic).number}.{list(exercises(topic)).index(exercise.key) + 1}"

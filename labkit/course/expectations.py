"""Checks of a lesson: each compares a computed value with the text of the lesson that states it."""

from __future__ import annotations

import os
from typing import Any

import numpy as np

from labkit.course.cards import number


def expect(words: str, value: Any, wanted: Any = True, within: Any = 0.0) -> None:
    """Check that a value agrees with the text of the lesson.

    The course's tests run every lesson and treat a difference as an error. A learner who has changed a number only sees
    one line.

    Args:
        words: Words that occur exactly once in the text of the lesson, including the number that they state.
        value: The computed value: a number, an array of numbers, or a condition.
        wanted: The number or numbers that the words state. The default is for a condition, which must be True.
        within: Largest difference that still agrees with the words, in the unit of the value.

    Raises:
        AssertionError: If the value differs while pytest runs the lesson.

    >>> import labkit as lk
    >>> lk.course.expect("0.249 too low", 2.415 - 2.166, 0.249, within=0.0005)
    """
    got, stated = (np.asarray(each, dtype=np.float64) for each in (value, wanted))
    if np.all(np.abs(got - stated) <= within):  # False for NaN
        return
    if "PYTEST_VERSION" in os.environ:
        figures = "is not so" if wanted is True else f"got {number(got)}, expected {number(stated)} ± {within}"
        raise AssertionError(f"“{words}”: {figures}")
    print(f"This differs from the text: “{words}”" + ("." if wanted is True else f"; here it is {number(got)}."))

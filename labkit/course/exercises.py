"""Exercises: a stub that the learner fills in, a check, a hint, and a solution.

A check never compares an answer with the solution, but with an oracle: the same quantity by another route. Where the
two differ, the check looks for a misconception that gives what the learner gave, and says what it is.
"""

from __future__ import annotations

import inspect
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from difflib import get_close_matches
from html import escape
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from labkit.course import record
from labkit.course.cards import Card, code, fold, number

SEEDS = (0, 1, 2)
NOT_ATTEMPTED, PASSED, FAILED = "not attempted", "passed", "failed"


class NotAttempted(Exception):
    """The stub was left as it is."""


class Verdict(Card):
    """What a check came to: `state` is "not attempted", "passed" or "failed"."""

    def __init__(self, title: str, state: str, message: str) -> None:
        self.state, self.message = state, message
        mark, accent = {NOT_ATTEMPTED: ("○", "plain"), PASSED: ("✓", "good"), FAILED: ("✗", "bad")}[state]
        head = f"{mark} {title}: {'not there yet' if state == FAILED else state}"
        super().__init__(f"<b>{escape(head)}.</b> {escape(message)}", f"{head}. {message}", accent)

    def __bool__(self) -> bool:
        return self.state == PASSED


def _answer(answer: Callable, *arguments: Any) -> Any:
    return answer(*arguments)


@dataclass(frozen=True)
class Exercise:
    """One exercise. The answer is a function (or, where `cases` gives no arguments, a value).

    clue: the hint; answer: the solution; cases: arguments for a seed; oracle: the right result for these arguments, by
    another route than the solution; misconceptions: wrong answers, each with the message meant for whoever gives it;
    probe: what is compared, if it is not simply the answer's value; tolerance: relative, and absolute near zero.
    """

    key: str
    title: str
    difficulty: int  # 1 to 3
    importance: int  # 1 to 3
    minutes: int
    clue: str
    answer: Callable
    cases: Callable[[int], tuple]
    oracle: Callable
    misconceptions: dict[Callable, str] = field(repr=False)
    probe: Callable = _answer
    tolerance: float = 1e-3

    def check(self, answer: Any) -> Verdict:
        """Judge an answer; record the verdict unless the exercise was not attempted. Never raises."""
        try:
            message = self._judge(answer if callable(answer) else lambda *_: answer)
        except NotAttempted:
            todo = "Replace the … and run the cell again. (A function must return its result.)"
            return self._verdict(NOT_ATTEMPTED, todo)
        except Exception as error:
            return self._conclude(FAILED, _where(error))
        return self._conclude(FAILED, message) if message else self._conclude(PASSED, "Well done.")

    def hint(self) -> Card:
        """A nudge, short of the solution."""
        return Card(f"<b>Hint.</b> {escape(self.clue)}", f"Hint. {self.clue}", "note")

    def solution(self) -> Card:
        """The solution, as the Python code that the tests run."""
        source = inspect.getsource(self.answer)
        return Card(f"<b>A solution</b> to {escape(self.key)}{code(source)}", source, "note")

    def __repr__(self) -> str:
        return f"Exercise {self.key}, {self.title}: {self._weight()}. It has .check(answer), .hint() and .solution()."

    def _repr_html_(self) -> str:
        head = f"<b>Exercise {self.key}, {escape(self.title)}</b><br>{self._weight()}"
        hint, solution = fold("Hint", escape(self.clue)), fold("Solution", code(inspect.getsource(self.answer)))
        return Card(f"{head}{hint}{solution}", repr(self), "note")._repr_html_()

    def _weight(self) -> str:
        dots = ["●" * n + "○" * (3 - n) for n in (self.difficulty, self.importance)]
        return f"difficulty {dots[0]}, importance {dots[1]}, about {self.minutes} minutes"

    def _judge(self, answer: Callable) -> str:
        """The message for a wrong answer; empty for a right one."""

        def attempt(*arguments: Any) -> Any:
            result = answer(*arguments)
            if result is None or result is ...:
                raise NotAttempted
            return result

        for seed in SEEDS:
            arguments = self.cases(seed)
            got, want = _array(self.probe(attempt, *arguments)), _array(self.oracle(*arguments))
            if got.shape != want.shape:
                return f"The result has the shape {got.shape}; it should be {want.shape or 'a single number'}."
            if self._close(got, want):
                continue
            for wrong, message in self.misconceptions.items():
                if self._close(got, _array(self.probe(wrong, *arguments))):
                    return message
            return f"In one of the trials the result was {number(got)}, and should have been {number(want)}."
        return ""

    def _close(self, a: np.ndarray, b: np.ndarray) -> bool:
        return a.shape == b.shape and np.allclose(a, b, rtol=self.tolerance, atol=self.tolerance)

    def _conclude(self, state: str, message: str) -> Verdict:
        before = record.read()["exercises"].get(self.key, {})
        state_kept = PASSED if before.get("state") == PASSED else state  # what was solved once stays solved
        record.write("exercises", self.key, {"state": state_kept, "tries": before.get("tries", 0) + 1})
        return self._verdict(state, message)

    def _verdict(self, state: str, message: str) -> Verdict:
        return Verdict(f"Exercise {self.key}, {self.title}", state, message)


def _array(result: Any) -> np.ndarray:
    """Numbers from whatever the answer returned; raises TypeError for what holds none."""
    if hasattr(result, "detach"):
        result = result.detach().cpu().numpy()
    return np.asarray(result, dtype=np.float64)


def _where(error: Exception) -> str:
    """The learner's own error in one line; its place, if that is in the learner's code."""
    line = traceback.extract_tb(error.__traceback__)[-1]
    place = "" if Path(line.filename).parent == Path(__file__).parent else f" (in {line.name}, line {line.lineno})"
    return f"It raised {type(error).__name__}: {error}{place}."


def exercises(lesson: str) -> dict[str, Exercise]:
    """The exercises of a lesson by key, if it has any. Raises ValueError for a lesson that is not there."""
    from labkit.course.overview import LESSONS

    if lesson not in LESSONS:
        raise ValueError(f"there is no lesson {lesson!r}: lessons have two digits, as in '02'")
    module = f"labkit.course.lesson_{lesson}"
    if find_spec(module) is None:
        return {}
    return {each.key: each for each in import_module(module).EXERCISES}


def exercise(key: str) -> Exercise:
    """The exercise of that key, such as "02.1". Raises ValueError with the near matches for an unknown one."""
    mine = exercises(key.split(".")[0])
    if key not in mine:
        near = get_close_matches(key, mine, n=3, cutoff=0.1)
        raise ValueError(f"there is no exercise {key!r}; did you mean {' or '.join(near)}?")
    return mine[key]

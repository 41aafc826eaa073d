"""Exercises: a stub that the learner completes, a check, a hint and a solution.

A check never compares an answer with the solution. It compares it with an oracle, which computes the same quantity in a
different way. If the two differ, the check looks for a misconception that gives the learner's result, and explains it.
"""

from __future__ import annotations

import inspect
import traceback
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from labkit.course import record
from labkit.course.cards import Card, code, fold, number
from labkit.statistics import Array

if TYPE_CHECKING:
    import torch

SEEDS = (0, 1, 2)
NOT_ATTEMPTED, PASSED, FAILED = "not attempted", "passed", "failed"

Numbers = Any  # numbers, and tensors or arrays of them
Answer = Callable[..., Numbers]


_hints_shown: Counter[str] = Counter()  # number of hints shown in this session, by the key of the exercise


class NotAttempted(Exception):
    """The learner has not changed the stub."""


class Verdict(Card):
    """Result of a check. It is true if the answer passed.

    Attributes:
        state: "not attempted", "passed" or "failed".
        message: What to do next, or what is wrong with the answer.
    """

    def __init__(self, title: str, state: str, message: str) -> None:
        self.state, self.message = state, message
        mark, accent = {NOT_ATTEMPTED: ("○", "plain"), PASSED: ("✓", "good"), FAILED: ("✗", "bad")}[state]
        head = f"{mark} {title}: {'not there yet' if state == FAILED else state}"
        super().__init__(f"<b>{escape(head)}.</b> {escape(message)}", f"{head}. {message}", accent)

    def __bool__(self) -> bool:
        return self.state == PASSED


def _call(answer: Answer, *arguments: Any) -> Numbers:
    return answer(*arguments)


def _no_arguments(seed: int) -> tuple[Any, ...]:
    return ()


def value_and_gradient(quantize: Callable[[torch.Tensor], Any], y: torch.Tensor) -> torch.Tensor:
    """Return the values of a function of a latent, and the gradient of their sum, as two rows."""
    import torch

    leaf = y.clone().requires_grad_()
    value = quantize(leaf)
    if not isinstance(value, torch.Tensor) or value.shape != y.shape:
        raise ValueError("return a tensor with the shape of y")
    gradient = torch.autograd.grad(value.sum(), leaf)[0] if value.requires_grad else torch.zeros_like(y)
    return torch.stack([value.detach(), gradient])


@dataclass(frozen=True, kw_only=True)
class Exercise:
    """One exercise. Its answer is a function, or a value if `cases` gives no arguments.

    Attributes:
        key: A word for the lesson and a word for the exercise, such as "mismatch.sampled".
        title: Title, as in the heading of the notebook.
        difficulty: Difficulty from 1 to 3.
        importance: Importance from 1 to 3.
        minutes: Time that a learner needs.
        hints: Three hints, each of which reveals more than the previous one.
        answer: The solution.
        cases: Function that returns arguments of the answer for a seed. By default, there are none: the learner reads a
            value from a panel or computes it, and submits that value.
        oracle: Function that computes the right result for these arguments without using the solution.
        misconceptions: Wrong answers, each with the message for a learner who gives it.
        probe: Function of the answer and its arguments that returns the numbers to compare. By default, these are the
            numbers that the answer returns.
        tolerance: Largest difference that counts as equal, relative and (near zero) absolute.
    """

    key: str
    title: str
    difficulty: int
    importance: int
    minutes: int
    answer: Answer
    oracle: Answer
    misconceptions: dict[Answer, str] = field(repr=False)
    hints: tuple[str, str, str]
    cases: Callable[[int], tuple[Any, ...]] = _no_arguments
    probe: Answer = _call
    tolerance: float = 1e-3

    def check(self, answer: Any) -> Verdict:
        """Judge an answer, and record the verdict if the exercise was attempted.

        Args:
            answer: The learner's function or value. An error that it raises becomes part of the verdict.
        """
        try:
            message = self._judge(answer if callable(answer) else lambda *_: answer)
        except NotAttempted:
            todo = "Replace the … and run the cell again. A function must return its result."
            if self.cases is _no_arguments and not callable(answer):
                todo = "Replace None by your answer and run the cell again."
            return self._verdict(NOT_ATTEMPTED, todo)
        except Exception as error:
            return self._record(FAILED, _describe(error))
        return self._record(FAILED, message) if message else self._record(PASSED, "Well done.")

    def hint(self) -> Card:
        """Return the next hint. After the last hint, return it again."""
        steps = self.steps
        place = min(_hints_shown[self.key], len(steps) - 1)
        _hints_shown[self.key] += 1
        title, text = list(steps.items())[place]
        title += f" of {len(steps)}"
        return Card(f"<b>{title}.</b> {escape(text)}", f"{title}. {text}", "note")

    @property
    def steps(self) -> dict[str, str]:
        """Hints by title, such as "Hint 1"."""
        return {f"Hint {place}": text for place, text in enumerate(self.hints, start=1)}

    def solution(self) -> Card:
        """Return the solution, as the Python code that the tests run."""
        source = self._source()
        return Card(f"<b>A solution</b> of “{escape(self.title)}”{code(source)}", source, "note")

    def __repr__(self) -> str:
        return f"Exercise {self.key}, {self.title}: {self._weight()}. It has .check(answer), .hint() and .solution()."

    def _repr_html_(self) -> str:
        head = f"<b>Exercise: {escape(self.title)}</b><br>{self._weight()}"
        hints = "".join(fold(title, escape(text)) for title, text in self.steps.items())
        return Card(f"{head}{hints}{fold('Solution', code(self._source()))}", repr(self), "note")._repr_html_()

    def _weight(self) -> str:
        dots = ["●" * n + "○" * (3 - n) for n in (self.difficulty, self.importance)]
        return f"difficulty {dots[0]}, importance {dots[1]}, about {self.minutes} minutes"

    def _source(self) -> str:
        """Return the code of the solution with the signature of the learner's stub, which has no type hints."""
        _, _, body = inspect.getsource(self.answer).partition(":\n")
        return f"def {self.answer.__name__}({', '.join(inspect.signature(self.answer).parameters)}):\n{body}"

    def _judge(self, answer: Answer) -> str:
        """Return the message for a wrong answer, or an empty string for a right one."""

        def attempt(*arguments: Any) -> Any:
            result = answer(*arguments)
            if result is None or result is ...:
                raise NotAttempted
            return result

        trials = [self.cases(seed) for seed in SEEDS]
        for arguments in trials if trials[0] else trials[:1]:
            got, expected = _array(self.probe(attempt, *arguments)), _array(self.oracle(*arguments))
            if got.shape != expected.shape:
                return f"The result has the shape {got.shape}; expected {expected.shape or 'a single number'}."
            if self._close(got, expected):
                continue
            for wrong, message in self.misconceptions.items():
                if self._close(got, _array(self.probe(wrong, *arguments))):
                    return message
            if not arguments:  # printing the right value would give the solution away
                return f"Your answer, {number(got)}, is not right. Measure it again, or read a hint."
            return f"In one of the trials the result was {number(got)}; it should have been {number(expected)}."
        return ""

    def _close(self, a: Array, b: Array) -> bool:
        return a.shape == b.shape and bool(np.allclose(a, b, rtol=self.tolerance, atol=self.tolerance))

    def _record(self, state: str, message: str) -> Verdict:
        before = record.read()["exercises"].get(self.key, {})
        recorded = PASSED if before.get("state") == PASSED else state  # a passed exercise stays passed
        entry = {"state": recorded, "tries": before.get("tries", 0) + 1}
        record.write("exercises", self.key, entry if recorded == PASSED else {**entry, "message": message})
        return self._verdict(state, message)

    def _verdict(self, state: str, message: str) -> Verdict:
        return Verdict(self.title, state, message)


def _array(result: Numbers) -> Array:
    """Return the numbers of a result. Raises TypeError if it contains none."""
    if hasattr(result, "detach"):
        result = result.detach().cpu().numpy()
    return np.asarray(result, dtype=np.float64)


def _describe(error: Exception) -> str:
    """Describe an error in one line, including its location if it is in the learner's code."""
    line = traceback.extract_tb(error.__traceback__)[-1]
    place = "" if Path(line.filename).parent == Path(__file__).parent else f" (in {line.name}, line {line.lineno})"
    return f"Your answer raised {type(error).__name__}: {error}{place}."

"""Values that change over the steps of a training run, such as a temperature or a learning rate."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise

from labkit.checks import check_name, check_positive

SHAPES = ("constant", "linear", "exponential", "cosine")  # described by at most two values
KINDS = (*SHAPES, "delayed_exponential", "piecewise")


@dataclass(frozen=True)
class Schedule:
    """A value that changes from `start` at the first training step to `end` at the last.

    Calling the schedule gives the value at a step. Each function of this module makes one kind of schedule.

    Attributes:
        kind: One of `KINDS`.
        start: Value at the first step, positive.
        end: Value at the last step, positive.
        delay: Fraction of the training during which a delayed exponential stays at `start`.
        points: For a piecewise schedule, pairs (fraction of the training, value) in order, from fraction 0 to 1. The
            value is interpolated linearly between them, and jumps where two pairs have the same fraction. `start` and
            `end` are the first and the last value.

    Raises:
        ValueError: If the kind is unknown, a value is not positive and finite, or the fractions are out of range.

    Example:
        >>> import labkit as lk
        >>> schedule = lk.schedules.exponential(1.0, 0.01)
        >>> schedule(0, 101), round(schedule(50, 101), 3), round(schedule(100, 101), 3)
        (1.0, 0.1, 0.01)
    """

    kind: str
    start: float
    end: float
    delay: float = 0.0
    points: tuple[tuple[float, float], ...] = ()

    def __post_init__(self) -> None:
        check_name("kind of schedule", self.kind, KINDS)
        object.__setattr__(self, "points", tuple((float(share), float(value)) for share, value in self.points))
        values = {f"points[{i}][1]": value for i, (_, value) in enumerate(self.points)}
        check_positive(start=self.start, end=self.end, **values)
        if not 0 <= self.delay < 1:
            raise ValueError(f"delay must be a fraction of at least 0 and below 1, got {self.delay!r}")
        if (self.kind == "piecewise") != bool(self.points):
            raise ValueError("points must be given for a piecewise schedule, and for no other kind")
        shares = [share for share, _ in self.points]
        if shares and (shares[0] != 0 or shares[-1] != 1 or sorted(shares) != shares):
            raise ValueError(f"the fractions in points must increase from 0 to 1, got {shares}")

    def __call__(self, step: int, steps: int) -> float:
        """Return the value at a training step.

        Args:
            step: Index of the step, from 0 to steps − 1.
            steps: Number of steps of the whole training run.
        """
        t = min(max(step / (steps - 1), 0.0), 1.0) if steps > 1 else 0.0
        if self.kind == "piecewise":
            return self._between_points(t)
        if self.kind == "delayed_exponential":
            t = max(0.0, t - self.delay) / (1 - self.delay)
        if self.kind == "linear":
            return self.start + t * (self.end - self.start)
        if self.kind.endswith("exponential"):
            return float(self.start * (self.end / self.start) ** t)
        if self.kind == "cosine":
            return self.end + (self.start - self.end) * (1 + math.cos(math.pi * t)) / 2
        return self.start

    def _between_points(self, t: float) -> float:
        for (left, before), (right, after) in pairwise(self.points):
            if left <= t < right:
                return before + (t - left) / (right - left) * (after - before)
        return self.end

    def table(self, steps: int, rows: int = 6) -> str:
        """Return the schedule as a text table of steps and values.

        Args:
            steps: Number of steps of the training run.
            rows: Number of rows of the table, at evenly spaced steps.
        """
        marks = sorted({round(i * (steps - 1) / (rows - 1)) for i in range(rows)}) if steps > 1 else [0]
        return "\n".join(["    step     value", *(f"{step:>8}  {self(step, steps):>8.4g}" for step in marks)])

    def __str__(self) -> str:
        if self.kind == "constant":
            return f"{self.start:g}"
        if self.kind == "piecewise":
            return "piecewise " + ", ".join(f"{share:g} = {value:g}" for share, value in self.points)
        delay = f" after {self.delay:.0%} of the training" if self.kind == "delayed_exponential" else ""
        return f"{self.kind} {self.start:g} → {self.end:g}{delay}"


def constant(value: float) -> Schedule:
    """Return a schedule that stays at one value."""
    return Schedule("constant", value, value)


def linear(start: float, end: float) -> Schedule:
    """Return a schedule that changes by the same amount in every step."""
    return Schedule("linear", start, end)


def exponential(start: float, end: float) -> Schedule:
    """Return a schedule that changes by the same factor in every step: a straight line on a logarithmic axis."""
    return Schedule("exponential", start, end)


def cosine(start: float, end: float) -> Schedule:
    """Return a schedule that follows half a period of a cosine, with slope zero at both ends."""
    return Schedule("cosine", start, end)


def between(shape: str, start: float, end: float) -> Schedule:
    """Return a schedule, given the name of its shape.

    Args:
        shape: One of `SHAPES`.
        start: Value at the first step.
        end: Value at the last step; a constant schedule ignores it.

    Raises:
        ValueError: If the shape is unknown.
    """
    check_name("schedule", shape, SHAPES)
    return Schedule(shape, start, start if shape == "constant" else end)


def delayed_exponential(start: float = 0.5, end: float = 0.1, delay: float = 0.35) -> Schedule:
    """Return a schedule that stays at `start` for a while and then changes by the same factor in every step.

    Stochastic Gumbel annealing uses this schedule (Yang, Bamler & Mandt, 2020, https://arxiv.org/abs/2006.04240):
    τ = min(τ_max, exp(−ct)). Its released code stays at 0.5 for 700 of 2,000 steps.

    Args:
        start: Value at the first step.
        end: Value at the last step.
        delay: Fraction of the training during which the value stays at `start`.
    """
    return Schedule("delayed_exponential", start, end, delay)


def piecewise(*points: tuple[float, float]) -> Schedule:
    """Return a schedule that interpolates linearly between points.

    Args:
        *points: Pairs (fraction of the training, value), from fraction 0 to 1. Two pairs with the same fraction make a
            jump.

    Raises:
        ValueError: If no points are given, or if they do not reach from fraction 0 to 1.
    """
    if not points:
        raise ValueError("points must be pairs (fraction of the training, value) from fraction 0 to 1, got none")
    return Schedule("piecewise", points[0][1], points[-1][1], points=points)


def parse(text: str) -> Schedule:
    """Read a schedule from text.

    Args:
        text: A number such as 0.5, KIND:START:END, delayed_exponential:START:END:DELAY, or a list of points such as
            piecewise:0=1,0.5=0.3,1=0.1.

    Raises:
        ValueError: If the text does not have one of these forms.

    Example:
        >>> import labkit as lk
        >>> print(lk.schedules.parse("exponential:0.5:0.05"))
        exponential 0.5 → 0.05
    """
    kind, *rest = text.split(":")
    if not rest:
        return constant(*_numbers([kind], 1, text))
    if kind == "piecewise":
        points = [_numbers(point.split("="), 2, text) for point in rest[0].split(",")]
        return piecewise(*((share, value) for share, value in points))
    start, end, *delay = _numbers(rest, 3 if kind == "delayed_exponential" else 2, text)
    return Schedule(kind, start, end, delay=delay[0] if delay else 0.0)


def _numbers(parts: list[str], count: int, text: str) -> list[float]:
    try:
        numbers = [float(part) for part in parts]
    except ValueError:
        numbers = []
    if len(numbers) != count:
        raise ValueError(f"a schedule must be a number or KIND:START:END, as in exponential:1:0.05, got {text!r}")
    return numbers

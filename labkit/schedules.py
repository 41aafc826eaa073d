"""Values that change over training: a temperature, a learning rate."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise

from labkit.checks import check_name

SHAPES = ("constant", "linear", "exponential", "cosine")  # what two values, or one, say all of
KINDS = (*SHAPES, "delayed_exponential", "piecewise")


@dataclass(frozen=True)
class Schedule:
    """From `start` at the first step to `end` at the last; calling it gives the value at a step.

    delay: share of the training for which a delayed exponential stays at `start`.
    points: for a piecewise schedule, (share of the training, value) in order, from share 0 to 1; straight lines between
    them, and a jump where two have the same share. `start` and `end` are the first and the last value.

    Raises ValueError for an unknown kind and for values that are not positive and finite.
    """

    kind: str
    start: float
    end: float
    delay: float = 0.0
    points: tuple[tuple[float, float], ...] = ()

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"kind: a schedule is one of {', '.join(KINDS)}, got {self.kind!r}")
        object.__setattr__(self, "points", tuple((float(share), float(value)) for share, value in self.points))
        for field, value in (
            ("start", self.start),
            ("end", self.end),
            *(("points", value) for _, value in self.points),
        ):
            if not (value > 0 and math.isfinite(value)):
                raise ValueError(f"{field}: a schedule takes positive finite values, got {value!r}")
        if not 0 <= self.delay < 1:
            raise ValueError(f"delay: takes a share of the training, from 0 to below 1, got {self.delay!r}")
        if (self.kind == "piecewise") != bool(self.points):
            raise ValueError("points: a piecewise schedule takes them, and no other does")
        shares = [share for share, _ in self.points]
        if shares and (shares[0] != 0 or shares[-1] != 1 or sorted(shares) != shares):
            raise ValueError(f"points: shares of the training rise from 0 to 1, got {shares}")

    def __call__(self, step: int, steps: int) -> float:
        """The value at `step` of `steps`, the first being 0 and the last steps − 1."""
        t = min(max(step / (steps - 1), 0.0), 1.0) if steps > 1 else 0.0
        if self.kind == "piecewise":
            return self._between_points(t)
        if self.kind == "delayed_exponential":
            t = max(0.0, t - self.delay) / (1 - self.delay)
        if self.kind == "linear":
            return self.start + t * (self.end - self.start)
        if self.kind.endswith("exponential"):
            return self.start * (self.end / self.start) ** t
        if self.kind == "cosine":
            return self.end + (self.start - self.end) * (1 + math.cos(math.pi * t)) / 2
        return self.start

    def _between_points(self, t: float) -> float:
        for (left, before), (right, after) in pairwise(self.points):
            if left <= t < right:
                return before + (t - left) / (right - left) * (after - before)
        return self.end

    def table(self, steps: int, rows: int = 6) -> str:
        """The schedule as text: its value at `rows` steps of a training of `steps`, evenly spaced."""
        marks = sorted({round(i * (steps - 1) / (rows - 1)) for i in range(rows)}) if steps > 1 else [0]
        return "\n".join(["    step     value", *(f"{step:>8}  {self(step, steps):>8.4g}" for step in marks)])

    def __str__(self) -> str:
        """As `parse` reads it, but with an arrow."""
        if self.kind == "constant":
            return f"{self.start:g}"
        if self.kind == "piecewise":
            return "piecewise " + ", ".join(f"{share:g} = {value:g}" for share, value in self.points)
        delay = f", from {self.delay:g} of the training on" if self.kind == "delayed_exponential" else ""
        return f"{self.kind} {self.start:g} → {self.end:g}{delay}"


def constant(value: float) -> Schedule:
    """The same value throughout."""
    return Schedule("constant", value, value)


def linear(start: float, end: float) -> Schedule:
    """A straight line."""
    return Schedule("linear", start, end)


def exponential(start: float, end: float) -> Schedule:
    """A constant factor per step: a straight line on a logarithmic axis."""
    return Schedule("exponential", start, end)


def cosine(start: float, end: float) -> Schedule:
    """Half a period of a cosine: flat at both ends."""
    return Schedule("cosine", start, end)


def between(shape: str, start: float, end: float) -> Schedule:
    """The one of SHAPES from `start` to `end`; a constant stays at `start`. Raises ValueError for another shape."""
    check_name("schedule", shape, SHAPES)
    return Schedule(shape, start, start if shape == "constant" else end)


def delayed_exponential(start: float = 0.5, end: float = 0.1, delay: float = 0.35) -> Schedule:
    """`start` for a share of the training, then a constant factor per step.

    The form of stochastic Gumbel annealing (Yang, Bamler & Mandt 2020), τ = min(τ_max, exp(−ct)), whose released code
    holds 0.5 for 700 of 2,000 steps.
    """
    return Schedule("delayed_exponential", start, end, delay)


def piecewise(*points: tuple[float, float]) -> Schedule:
    """Straight lines through (share of the training, value) points, from share 0 to 1; equal shares make a jump."""
    if not points:
        raise ValueError("points: a piecewise schedule takes (share, value) points from share 0 to 1, got none")
    return Schedule("piecewise", points[0][1], points[-1][1], points=points)


def parse(text: str) -> Schedule:
    """A schedule from text: 0.5, KIND:START:END, delayed_exponential:START:END:DELAY or piecewise:0=1,0.5=0.3,1=0.1.

    Raises ValueError that says what is taken.
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
        raise ValueError(f"schedule {text!r}: takes a number or KIND:START:END, as in exponential:1:0.05")
    return numbers

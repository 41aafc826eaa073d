"""Values that change over training: a temperature, a learning rate."""

from __future__ import annotations

import math
from dataclasses import dataclass

KINDS = ("constant", "linear", "exponential", "cosine")


@dataclass(frozen=True)
class Schedule:
    """From `start` at the first step to `end` at the last; calling it gives the value at a step.

    Raises ValueError for an unknown kind and for values that are not positive and finite.
    """

    kind: str
    start: float
    end: float

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"kind: a schedule is one of {', '.join(KINDS)}, got {self.kind!r}")
        for field in ("start", "end"):
            value = getattr(self, field)
            if not (value > 0 and math.isfinite(value)):
                raise ValueError(f"{field}: a schedule takes positive finite values, got {value!r}")

    def __call__(self, step: int, steps: int) -> float:
        """The value at `step` of `steps`, the first being 0 and the last steps − 1."""
        t = min(max(step / (steps - 1), 0.0), 1.0) if steps > 1 else 0.0
        if self.kind == "linear":
            return self.start + t * (self.end - self.start)
        if self.kind == "exponential":
            return self.start * (self.end / self.start) ** t
        if self.kind == "cosine":
            return self.end + (self.start - self.end) * (1 + math.cos(math.pi * t)) / 2
        return self.start

    def __str__(self) -> str:
        return f"{self.start:g}" if self.kind == "constant" else f"{self.kind} {self.start:g} → {self.end:g}"


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

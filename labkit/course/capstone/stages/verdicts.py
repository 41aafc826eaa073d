"""The results and errors of a stage's check, and helpers that read the learner's results."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]


class Wrong(Exception):
    """The learner's code is wrong. The message says what is wrong and, if possible, why."""


@dataclass
class Result:
    """The measurements of a passed stage.

    Attributes:
        message: One or two sentences for the learner.
        figures: Measured numbers by name.
        picture: Arrays for the picture: images, and points of rate and PSNR.
    """

    message: str
    figures: dict[str, float] = field(default_factory=dict)
    picture: dict[str, Array] = field(default_factory=dict)


def require(condition: Any, message: str) -> None:
    """Raise Wrong with the message if the condition is false."""
    if not condition:
        raise Wrong(message)


def array(value: Any, name: str, shape: tuple[int, ...] | None = None) -> Array:
    """Return the numbers of a tensor in float64.

    Args:
        value: Result of the learner's code.
        name: Name of the value in messages.
        shape: Required shape, or None for any shape.

    Raises:
        Wrong: If the value is not a tensor, has another shape, or contains numbers that are not finite.
    """
    if value is None or value is ...:
        raise Wrong(f"{name} returned nothing; end it with a return statement.")
    if not hasattr(value, "detach"):
        raise Wrong(f"{name} must return a tensor, got {type(value).__name__}.")
    numbers: Array = value.detach().cpu().double().numpy()
    if shape is not None and numbers.shape != shape:
        raise Wrong(f"{name} must have the shape {shape}, got {numbers.shape}.")
    require(np.isfinite(numbers).all(), f"{name} contains numbers that are not finite.")
    return numbers


def close(a: Array, b: Array, within: float = 1e-4) -> bool:
    """Return whether all numbers agree within a relative tolerance, or an absolute one near zero."""
    return a.shape == b.shape and bool(np.allclose(a, b, rtol=within, atol=within))


def first_match(got: Array, wrong: dict[str, Callable[[], Array]], otherwise: str, within: float = 1e-3) -> str:
    """Return the message for the first wrong answer that gives the same numbers, or `otherwise` if there is none."""
    return next((message for message, answer in wrong.items() if close(got, answer(), within)), otherwise)

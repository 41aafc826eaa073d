"""What a check of a stage raises and returns, and helpers to read the learner's results."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]


class Wrong(Exception):
    """The learner's code is wrong; the message says what and, where it can tell, why."""


@dataclass
class Result:
    """What a passed stage has measured.

    Attributes:
        message: One or two sentences for the learner.
        figures: Measured numbers by name.
        picture: Arrays for the picture: images, and points of rate and PSNR.
    """

    message: str
    figures: dict[str, float] = field(default_factory=dict)
    picture: dict[str, Array] = field(default_factory=dict)


def require(condition: Any, message: str) -> None:
    """Raise Wrong with the message unless the condition holds."""
    if not condition:
        raise Wrong(message)


def array(value: Any, name: str, shape: tuple[int, ...] | None = None) -> Array:
    """Return the numbers of a tensor in float64.

    Args:
        value: What the learner's code returned.
        name: What to call it in messages.
        shape: The shape that it must have.

    Raises:
        Wrong: If it is no tensor, has another shape, or has numbers that are not finite.
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
    """Return whether all numbers agree, relatively or (near zero) absolutely."""
    return a.shape == b.shape and bool(np.allclose(a, b, rtol=within, atol=within))


def first_match(got: Array, wrong: dict[str, Callable[[], Array]], otherwise: str, within: float = 1e-3) -> str:
    """Return the message of the first wrong answer that gives the same numbers, or another message."""
    return next((message for message, answer in wrong.items() if close(got, answer(), within)), otherwise)

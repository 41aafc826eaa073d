"""Checks of arguments. Each error names the argument, the expected value and the value that was given."""

from __future__ import annotations

import math
from collections.abc import Iterable
from difflib import get_close_matches
from typing import Any


def check_positive(**values: Any) -> None:
    """Check that every value is a positive finite number.

    Args:
        **values: Values to check, each under the name of its argument.

    Raises:
        ValueError: If a value is not a positive finite number.
    """
    for name, value in values.items():
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
            raise ValueError(f"{name} must be a positive finite number, got {value!r}")


def check_at_least(least: int, **values: Any) -> None:
    """Check that every value is an integer that is at least `least`.

    Args:
        least: Smallest allowed value.
        **values: Values to check, each under the name of its argument.

    Raises:
        ValueError: If a value is not an integer or is smaller than `least`.
    """
    for name, value in values.items():
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise ValueError(f"{name} must be an integer ≥ {least}, got {value!r}")


def check_name(kind: str, name: Any, names: Iterable[str], where: object = None) -> None:
    """Check that a name is one of the known names.

    Args:
        kind: Noun for the error message, such as "scheme".
        name: Name to check.
        names: All known names.
        where: File or argument that the name comes from; the message starts with it.

    Raises:
        ValueError: If the name is unknown. The message suggests similar names, or lists all names if none is similar.
    """
    names = list(names)
    if name not in names:
        similar = get_close_matches(str(name), names, n=2, cutoff=0.4)
        hint = f"did you mean {' or '.join(similar)}?" if similar else f"expected one of {', '.join(names)}"
        prefix = "" if where is None else f"{where}: "
        raise ValueError(f"{prefix}unknown {kind} {name!r}; {hint}")

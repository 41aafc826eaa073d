"""Checks of arguments, each ending in one line that names the argument, what it got, and what it takes."""

from __future__ import annotations

import math
from collections.abc import Iterable
from difflib import get_close_matches
from typing import Any


def check_positive(**values: Any) -> None:
    """Raise ValueError for a value that is no finite number above zero."""
    for name, value in values.items():
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
            raise ValueError(f"{name}: takes a positive number, got {value!r}")


def check_at_least(least: int, **values: Any) -> None:
    """Raise ValueError for a value that is no whole number from `least` on."""
    for name, value in values.items():
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise ValueError(f"{name}: takes a whole number from {least} on, got {value!r}")


def check_name(what: str, name: Any, names: Iterable[str]) -> None:
    """Raise ValueError, with the near matches, for a name that is not among those there are; what: of what they are."""
    names = list(names)
    if name not in names:
        near = get_close_matches(str(name), names, n=2, cutoff=0.4)
        hint = f"; did you mean {' or '.join(near)}?" if near else ""
        raise ValueError(f"{what} is named {name!r}{hint} (there are {', '.join(names)})")

"""What the laboratory measures: surrogates and schemes, made or by name, at one temperature or several."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from labkit import schemes, surrogates
from labkit.checks import check_name
from labkit.schemes import QuantizationScheme
from labkit.surrogates import Surrogate

One = str | Surrogate | QuantizationScheme
What = One | Sequence[One] | Mapping[str, One]
Temperatures = float | Iterable[float]


def labeled(
    what: What, alone: Callable[[Surrogate], QuantizationScheme], **fields: Any
) -> dict[str, QuantizationScheme]:
    """Schemes by their labels: one's own in a mapping, else the name, or a surrogate with its options.

    alone: the scheme of a surrogate that comes without one; fields: of presets that come by name.
    Raises ValueError for what is no surrogate or scheme, for an unknown name (with the near matches), for two of the
    same label, and for a scheme of two stages, which has two laws.
    """
    if isinstance(what, Mapping):
        pairs = [(str(label), one) for label, one in what.items()]
    elif isinstance(what, Iterable) and not isinstance(what, str):
        pairs = [(_label(one), one) for one in what]
    else:
        pairs = [(_label(what), what)]
    if not pairs:
        raise ValueError("what: takes a surrogate, a preset or a scheme, or several of them, got none")
    labels = [label for label, _ in pairs]
    if twice := sorted({label for label in labels if labels.count(label) > 1}):
        raise ValueError(f"what: two are labeled {twice[0]!r}: give a dictionary with labels of your own")
    return {label: _scheme(one, alone, fields) for label, one in pairs}


def _scheme(one: Any, alone: Callable[[Surrogate], QuantizationScheme], fields: dict[str, Any]) -> QuantizationScheme:
    if isinstance(one, str):
        known = (*surrogates.names(), *schemes.names())
        check_name("surrogate or preset", one, known)
        one = surrogates.get(one) if one in surrogates.names() else schemes.get(one, **fields)
    if isinstance(one, Surrogate):
        return alone(one)
    if isinstance(one, schemes.TwoStages):
        raise ValueError("what: takes schemes of one stage, got one of two: give its `first` or its `second`")
    if not isinstance(one, QuantizationScheme):
        raise ValueError(f"what: takes a surrogate, a preset or a scheme, got {one!r}")
    return one


def _label(one: Any) -> str:
    return f"{one.rate} | {one.distortion}" if isinstance(one, QuantizationScheme) else str(one)


def temperatures_of(temperatures: Temperatures) -> list[float]:
    """One temperature or several as a list. Raises ValueError for one that is not a positive number."""
    values = list(temperatures) if isinstance(temperatures, Iterable) else [temperatures]
    return [schemes.as_schedule(value).end for value in values]

"""Surrogates for rounding: one class each, under one roof, with no dependency on the rest of labkit."""

from __future__ import annotations

from difflib import get_close_matches
from typing import Any

from labkit.surrogates.base import Surrogate
from labkit.surrogates.gumbel import StochasticGumbelAnnealing
from labkit.surrogates.hard import HardRounding, StochasticRounding, StraightThrough
from labkit.surrogates.noise import AdditiveUniformNoise, UniversalQuantization
from labkit.surrogates.soft import DerivativeSubstitution, SoftRounding
from labkit.surrogates.uniform import StochasticUniformAnnealing

_REGISTRY: dict[str, type[Surrogate]] = {
    cls.name: cls
    for cls in (
        HardRounding,
        AdditiveUniformNoise,
        StraightThrough,
        StochasticRounding,
        UniversalQuantization,
        DerivativeSubstitution,
        SoftRounding,
        StochasticGumbelAnnealing,
        StochasticUniformAnnealing,
    )
}


def names() -> tuple[str, ...]:
    """The short names that `get` takes."""
    return tuple(_REGISTRY)


def get(name: str, **options: Any) -> Surrogate:
    """Make a surrogate by its short name, with its options.

    Raises ValueError for an unknown name (with the near matches) or an unknown option.
    """
    if name not in _REGISTRY:
        near = get_close_matches(str(name), _REGISTRY, n=3, cutoff=0.4)
        hint = f"; did you mean {' or '.join(near)}?" if near else ""
        raise ValueError(f"no surrogate is named {name!r}{hint} (there are {', '.join(_REGISTRY)})")
    try:
        return _REGISTRY[name](**options)
    except TypeError as error:
        raise ValueError(f"surrogate {name!r}: {error}") from None


__all__ = [
    "AdditiveUniformNoise",
    "DerivativeSubstitution",
    "HardRounding",
    "SoftRounding",
    "StochasticGumbelAnnealing",
    "StochasticRounding",
    "StochasticUniformAnnealing",
    "StraightThrough",
    "Surrogate",
    "UniversalQuantization",
    "get",
    "names",
]

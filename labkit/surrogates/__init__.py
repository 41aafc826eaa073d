"""Surrogates for rounding: one class each, under one roof, with no dependency on the rest of labkit."""

from __future__ import annotations

import dataclasses
from typing import Any

from labkit.checks import check_name
from labkit.surrogates.base import Surrogate
from labkit.surrogates.gumbel import SigmoidScaledLogit, StochasticGumbelAnnealing
from labkit.surrogates.hard import HardRounding, StochasticRounding, StochasticRoundingAnnealing, StraightThrough
from labkit.surrogates.noise import AdditiveUniformNoise, AnnealedDither, UniversalQuantization
from labkit.surrogates.soft import DerivativeSubstitution, KumaraswamySoftRounding, SoftRounding
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
        StochasticRoundingAnnealing,
        SoftRounding,
        KumaraswamySoftRounding,
        StochasticGumbelAnnealing,
        SigmoidScaledLogit,
        AnnealedDither,
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
    check_name("surrogate", name, _REGISTRY)
    try:
        return _REGISTRY[name](**options)
    except TypeError as error:
        raise ValueError(f"surrogate {name!r}: {error}") from None


def table():
    """Every surrogate, made with its default options, as a pandas table: its law and metadata, by its short name.

    In the laws y is the latent, r = y − ⌊y⌋, u uniform on (−½, ½), d a distance to a candidate, τ the temperature,
    s soft rounding and r(·) its posterior mean, both with α = 1/τ. `options` are what `get` takes, with defaults.
    """
    import pandas as pd

    columns = ("forward", "derivative", "integer", "annealed", "random", "unbiased", "year", "paper")
    made = {name: cls() for name, cls in _REGISTRY.items()}
    rows = [
        {column: getattr(one, column) for column in columns}
        | {"options": ", ".join(f"{f.name}={f.default!r}" for f in dataclasses.fields(one))}
        for one in made.values()
    ]
    return pd.DataFrame(rows, index=pd.Index(made, name="surrogate"))


__all__ = [
    "AdditiveUniformNoise",
    "AnnealedDither",
    "DerivativeSubstitution",
    "HardRounding",
    "KumaraswamySoftRounding",
    "SigmoidScaledLogit",
    "SoftRounding",
    "StochasticGumbelAnnealing",
    "StochasticRounding",
    "StochasticRoundingAnnealing",
    "StochasticUniformAnnealing",
    "StraightThrough",
    "Surrogate",
    "UniversalQuantization",
    "get",
    "names",
    "table",
]

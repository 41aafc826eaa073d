"""Surrogates for rounding, which training uses in place of the quantized latent."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

from labkit.checks import check_name
from labkit.surrogates.base import Surrogate
from labkit.surrogates.gumbel import SigmoidScaledLogit, StochasticGumbelAnnealing
from labkit.surrogates.hard import HardRounding, StochasticRounding, StochasticRoundingAnnealing, StraightThrough
from labkit.surrogates.noise import AdditiveUniformNoise, AnnealedDither, UniversalQuantization
from labkit.surrogates.soft import DerivativeSubstitution, KumaraswamySoftRounding, SoftRounding
from labkit.surrogates.uniform import StochasticUniformAnnealing

if TYPE_CHECKING:
    from pandas import DataFrame

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
    """Return the short names of all surrogates."""
    return tuple(_REGISTRY)


def get(name: str, **options: Any) -> Surrogate:
    """Make a surrogate by its short name.

    Args:
        name: One of `names()`.
        **options: Options of the surrogate's class.

    Raises:
        ValueError: If the name or an option is unknown. The message suggests similar names.

    Example:
        >>> import labkit as lk, torch
        >>> rounding = lk.surrogates.get("ste")
        >>> rounding(torch.tensor([0.2, 1.7]))
        tensor([0., 2.])
    """
    check_name("surrogate", name, _REGISTRY)
    try:
        return _REGISTRY[name](**options)
    except TypeError as error:
        raise ValueError(f"surrogate {name!r}: {error}") from None


def table() -> DataFrame:
    """Return a table of all surrogates with their default options.

    The columns give the forward law, the derivative, the properties and the source of each surrogate, and the options
    of `get` with their defaults. In the laws, y is the latent, r = y − ⌊y⌋, u is uniform on (−½, ½), d is the distance
    to a candidate integer and τ is the temperature. s(·) is soft rounding and r(·) is its posterior mean, both with
    α = 1/τ.

    Returns:
        A pandas table with one row per surrogate, indexed by its short name.
    """
    import pandas as pd

    columns = ("forward", "derivative", "integer", "annealed", "random", "unbiased", "year", "paper")
    rows = [
        {column: getattr(surrogate, column) for column in columns}
        | {"options": ", ".join(f"{f.name}={f.default!r}" for f in dataclasses.fields(surrogate))}
        for surrogate in (cls() for cls in _REGISTRY.values())
    ]
    return pd.DataFrame(rows, index=pd.Index(_REGISTRY, name="surrogate"))


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

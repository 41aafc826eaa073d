"""Quantization schemes: which surrogate is used on which path of a codec."""

from labkit.schemes.description import SchemeDescription
from labkit.schemes.presets import (
    annealed,
    get,
    gumbel,
    mixed,
    names,
    noise,
    soft_rounding,
    soft_then_hard,
    stochastic_rounding,
    straight_through,
    universal_ds,
)
from labkit.schemes.scheme import (
    PATHS,
    Noise,
    QuantizationScheme,
    Scheme,
    TwoStages,
    as_schedule,
    first_stage,
    from_dict,
    last_stage,
)

__all__ = [
    "PATHS",
    "Noise",
    "QuantizationScheme",
    "Scheme",
    "SchemeDescription",
    "TwoStages",
    "annealed",
    "as_schedule",
    "first_stage",
    "from_dict",
    "get",
    "gumbel",
    "last_stage",
    "mixed",
    "names",
    "noise",
    "soft_rounding",
    "soft_then_hard",
    "stochastic_rounding",
    "straight_through",
    "universal_ds",
]

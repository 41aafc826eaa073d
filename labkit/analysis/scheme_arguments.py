"""Turning the `schemes` argument of the measures into labeled schemes, and `temperatures` into a list.

A measure accepts surrogates, presets and schemes, as objects or by name, one or several:

    "aun"   ["ste", lk.schemes.annealed()]   {"my label": lk.surrogates.get("sua", gradient="expected")}
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from labkit import schemes as presets
from labkit import surrogates
from labkit.checks import check_name
from labkit.schemes import QuantizationScheme
from labkit.surrogates import Surrogate

SchemeLike = str | Surrogate | QuantizationScheme
SchemesLike = SchemeLike | Sequence[SchemeLike] | Mapping[str, SchemeLike]
Temperatures = float | Iterable[float]

_EXPECTED = "schemes must be a surrogate, a preset, a scheme, or several of them"


def labeled_schemes(
    schemes: SchemesLike, of_surrogate: Callable[[Surrogate], QuantizationScheme], **fields: Any
) -> dict[str, QuantizationScheme]:
    """Return schemes by label.

    A mapping provides its own labels. Otherwise the label is the name, or the surrogate with its options.

    Args:
        schemes: Surrogates, presets or schemes, one or several, as objects or by name.
        of_surrogate: Function that builds the scheme for a bare surrogate.
        **fields: Fields of the scheme for presets that are given by name.

    Raises:
        ValueError: If an entry is neither a surrogate, a preset nor a scheme, if a name is unknown, if two entries
            have the same label, or if a scheme has two stages and therefore two laws.
    """
    if isinstance(schemes, Mapping):
        pairs = [(str(label), scheme) for label, scheme in schemes.items()]
    elif isinstance(schemes, Iterable) and not isinstance(schemes, str):
        pairs = [(_label(scheme), scheme) for scheme in schemes]
    else:
        pairs = [(_label(schemes), schemes)]
    if not pairs:
        raise ValueError(f"{_EXPECTED}, got none")
    labels = [label for label, _ in pairs]
    if repeated := sorted({label for label in labels if labels.count(label) > 1}):
        raise ValueError(f"schemes has two entries with the label {repeated[0]!r}: pass a dictionary of labels")
    return {label: _scheme(scheme, of_surrogate, fields) for label, scheme in pairs}


def scalar_schemes(schemes: SchemesLike, zero_center: bool) -> dict[str, QuantizationScheme]:
    """Return schemes for one latent by label; a bare surrogate is used on both paths.

    Args:
        schemes: Surrogates, presets or schemes, one or several, as objects or by name.
        zero_center: Whether a bare surrogate quantizes y − μ (True) or y itself (False).

    Raises:
        ValueError: As for `labeled_schemes`.
    """
    return labeled_schemes(
        schemes, lambda surrogate: QuantizationScheme(rate=surrogate, distortion=surrogate, zero_center=zero_center)
    )


def _scheme(
    scheme: Any, of_surrogate: Callable[[Surrogate], QuantizationScheme], fields: dict[str, Any]
) -> QuantizationScheme:
    if isinstance(scheme, str):
        check_name("surrogate or preset", scheme, (*surrogates.names(), *presets.names()), "schemes")
        scheme = surrogates.get(scheme) if scheme in surrogates.names() else presets.get(scheme, **fields)
    if isinstance(scheme, Surrogate):
        return of_surrogate(scheme)
    if isinstance(scheme, presets.TwoStages):
        raise ValueError("schemes must have one stage, got one with two: pass its `first` or its `second`")
    if not isinstance(scheme, QuantizationScheme):
        raise ValueError(f"{_EXPECTED}, got {scheme!r}")
    return scheme


def _label(scheme: Any) -> str:
    return f"{scheme.rate} | {scheme.distortion}" if isinstance(scheme, QuantizationScheme) else str(scheme)


def as_temperatures(temperatures: Temperatures) -> list[float]:
    """Return a temperature, or several of them, as a list.

    Raises:
        ValueError: If a temperature is not a positive number.
    """
    values = list(temperatures) if isinstance(temperatures, Iterable) else [temperatures]
    return [presets.as_schedule(value).end for value in values]

"""The settings that a measure on a trained network visits: every scheme at every temperature."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from torch import nn

from labkit import entropy, schemes, surrogates
from labkit.analysis.scheme_arguments import SchemesLike, Temperatures, as_temperatures, labeled_schemes
from labkit.schemes import QuantizationScheme
from labkit.surrogates import Surrogate


@dataclass(frozen=True)
class Setting:
    """A scheme at a temperature.

    Attributes:
        label: Label of the scheme in tables.
        temperature: Temperature τ; NaN if no path's law depends on it.
        scheme: The scheme.
    """

    label: str
    temperature: float
    scheme: QuantizationScheme

    def install(self, net: nn.Module, **changes: Any) -> None:
        """Set the scheme and the temperature of a network.

        Args:
            net: Network that carries a scheme.
            **changes: Fields of the scheme to change.
        """
        entropy.set_scheme(net, self.scheme.replace(**changes))
        if not math.isnan(self.temperature):
            entropy.set_temperature(net, self.temperature)


def settings_of(net: nn.Module, schemes_like: SchemesLike, temperatures: Temperatures | None) -> list[Setting]:
    """Return every scheme at every temperature.

    Args:
        net: Network that carries a scheme. Presets given by name use its lower bound on σ.
        schemes_like: Surrogates, presets or schemes, one or several, as objects or by name, or a mapping from labels. A
            bare surrogate is used on all four paths.
        temperatures: One temperature or several; None means the last temperature of each scheme's schedule.

    Raises:
        ValueError: If an argument is invalid, or if the network carries no scheme.
    """
    bound = scale_bound_of(net)
    settings = []
    named = labeled_schemes(schemes_like, lambda surrogate: on_all_paths(surrogate, bound), scale_lower_bound=bound)
    for label, scheme in named.items():
        values = [scheme.temperature.end] if temperatures is None else as_temperatures(temperatures)
        if not any(getattr(scheme, path).annealed for path in schemes.PATHS):
            values = [math.nan]
        settings += [Setting(label, temperature, scheme) for temperature in values]
    return settings


def on_all_paths(surrogate: str | Surrogate, scale_lower_bound: float) -> QuantizationScheme:
    """Return the scheme that uses one surrogate on all four paths.

    Args:
        surrogate: Surrogate or its name.
        scale_lower_bound: Lower bound on σ.
    """
    surrogate = surrogates.get(surrogate) if isinstance(surrogate, str) else surrogate
    paths: dict[str, Any] = dict.fromkeys(schemes.PATHS, surrogate)
    return QuantizationScheme(**paths, scale_lower_bound=scale_lower_bound)


def scale_bound_of(net: nn.Module) -> float:
    """Return the lower bound on σ in the scheme of a network.

    Raises:
        ValueError: If the network carries no scheme.
    """
    carriers = entropy.carriers(net)
    if not carriers:
        raise ValueError(
            f"net must carry a scheme, got {type(net).__name__}: use one of labkit's networks or call `labkit.adopt`"
        )
    return carriers[0].scheme.scale_lower_bound

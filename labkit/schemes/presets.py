"""Named schemes from the literature, and the method that the course teaches."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable
from typing import Any

from labkit import surrogates
from labkit.checks import check_name
from labkit.schedules import Schedule
from labkit.schemes.scheme import QuantizationScheme, Scheme, TwoStages
from labkit.surrogates import Surrogate


def _preset(rate: str | Surrogate, distortion: str | Surrogate, hyper: tuple[str, str] | None = None, /, **fields: Any):
    hyper_rate, hyper_distortion = hyper or (rate, distortion)
    paths = {"rate": rate, "distortion": distortion, "hyper_rate": hyper_rate, "hyper_distortion": hyper_distortion}
    return QuantizationScheme(**{**paths, **fields})  # type: ignore[arg-type]  # names become surrogates there


def noise(**fields: Any) -> QuantizationScheme:
    """Additive uniform noise on both paths, one draw for both (Ballé et al. 2017): CompressAI's own training law.

    With one exception: its autoregressive models draw a second time for y's rate. Each latent's law is the same.
    """
    return _preset("aun", "aun", **fields)


def straight_through(**fields: Any) -> QuantizationScheme:
    """Straight-through rounding on both paths (Theis et al. 2017)."""
    return _preset("ste", "ste", **fields)


def mixed(**fields: Any) -> QuantizationScheme:
    """Noise for the rate, straight-through rounding for the reconstruction (Minnen & Singh 2020)."""
    return _preset("aun", "ste", **fields)


def soft_rounding(temperature: float | Schedule = 0.2, **fields: Any) -> QuantizationScheme:
    """Soft rounding with noise between, r(s(y) + u), on both paths (Agustsson & Theis 2020)."""
    soft = surrogates.get("soft", noise=True)
    return _preset(soft, soft, temperature=temperature, **fields)


def gumbel(temperature: float | Schedule = 0.5, **fields: Any) -> QuantizationScheme:
    """Stochastic Gumbel annealing on both paths (Yang, Bamler & Mandt 2020)."""
    return _preset("sga", "sga", temperature=temperature, **fields)


def universal_ds(temperature: float | Schedule = 0.2, **fields: Any) -> QuantizationScheme:
    """Universal quantization for the rate, derivative substitution for the reconstruction (Tsubota & Aizawa 2023)."""
    return _preset("uq", "ds", temperature=temperature, **fields)


def soft_then_hard(share: float = 0.8, **fields: Any) -> TwoStages:
    """Noise, then rounding with the analysis side frozen (Guo et al. 2021)."""
    return TwoStages(noise(**fields), straight_through(**fields), share)


def annealed(
    temperature: float | Schedule = 0.5,
    gradient: str = "identity",
    relaxed: bool = False,
    stop_gradient: bool = True,
    **fields: Any,
) -> QuantizationScheme:
    """The course's method, after Zhang, Li & Liu 2023: noise for the rate, stochastic uniform annealing for the
    reconstruction, zero-center with partial stop-gradient, and a chosen scale lower bound.

    temperature: from 1, stochastic rounding, toward 0, rounding; a number, or a schedule such as
    `schedules.exponential(0.5, 0.05)`. gradient: slope of the rounding, "identity" or "expected"; relaxed: a ramp with
    its exact slope instead (both in `surrogates.StochasticUniformAnnealing`). stop_gradient: μ is a constant on the
    path to the reconstruction. fields: others of `QuantizationScheme`, above all scale_lower_bound.
    """
    sua = surrogates.get("sua", gradient=gradient, relaxed=relaxed)
    return _preset("aun", sua, ("aun", "ste"), temperature=temperature, stop_gradient=stop_gradient, **fields)


_PRESETS: dict[str, Callable[..., Scheme]] = {
    preset.__name__: preset
    for preset in (
        noise,
        straight_through,
        mixed,
        universal_ds,
        soft_rounding,
        gumbel,
        soft_then_hard,
        annealed,
    )
}


def names() -> tuple[str, ...]:
    """The presets' names."""
    return tuple(_PRESETS)


def get(name: str, **fields: Any) -> Scheme:
    """A preset by name, with fields changed; one of two stages gives them to both.

    Every preset takes a temperature, whether or not its surrogates have one. Raises ValueError for an unknown name
    (with the near matches) or field.
    """
    check_name("scheme", name, _PRESETS)
    known = {f.name for f in dataclasses.fields(QuantizationScheme)} | set(inspect.signature(_PRESETS[name]).parameters)
    if unknown := sorted(set(fields) - known):
        raise ValueError(
            f"{unknown[0]}: no field of scheme {name!r} (there are {', '.join(sorted(known - {'fields'}))})"
        )
    return _PRESETS[name](**fields)

"""Named schemes from the literature, and the scheme that the course teaches."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable
from typing import Any

from labkit import surrogates
from labkit.checks import check_name
from labkit.schedules import Schedule, exponential
from labkit.schemes.scheme import QuantizationScheme, Scheme, TwoStages
from labkit.surrogates import Surrogate


def _preset(
    rate: str | Surrogate, distortion: str | Surrogate, hyper: tuple[str, str] | None = None, /, **fields: Any
) -> QuantizationScheme:
    hyper_rate, hyper_distortion = hyper or (rate, distortion)
    paths = {"rate": rate, "distortion": distortion, "hyper_rate": hyper_rate, "hyper_distortion": hyper_distortion}
    return QuantizationScheme(**{**paths, **fields})  # which turns names into surrogates


def noise(**fields: Any) -> QuantizationScheme:
    """Additive uniform noise (AUN) on both paths (Ballé et al., 2017, https://arxiv.org/abs/1611.01704).

    CompressAI trains with this noise, except that its autoregressive models draw the noise for the rate a second time.
    The distribution of each latent is the same.

    Args:
        **fields: Other fields of `QuantizationScheme`.
    """
    return _preset("aun", "aun", **fields)


def straight_through(**fields: Any) -> QuantizationScheme:
    """Rounding with the straight-through estimator (STE) on both paths.

    Source: Theis et al., 2017, https://arxiv.org/abs/1703.00395.

    Args:
        **fields: Other fields of `QuantizationScheme`.
    """
    return _preset("ste", "ste", **fields)


def mixed(**fields: Any) -> QuantizationScheme:
    """Additive uniform noise for the rate and straight-through rounding for the reconstruction.

    Source: Minnen & Singh, 2020, https://arxiv.org/abs/2007.08739.

    Args:
        **fields: Other fields of `QuantizationScheme`.
    """
    return _preset("aun", "ste", **fields)


def soft_rounding(temperature: float | Schedule = 0.2, **fields: Any) -> QuantizationScheme:
    """Soft rounding before and after additive noise, r(s(y) + u), on both paths.

    The entropy model scores the density of s(y) + u, as `labkit.surrogates.SoftRounding` explains.
    Source: Agustsson & Theis, 2020, https://arxiv.org/abs/2006.09952.

    Args:
        temperature: Temperature τ = 1/α. Large values give the identity, small values give rounding.
        **fields: Other fields of `QuantizationScheme`.
    """
    soft = surrogates.get("soft", noise=True)
    return _preset(soft, soft, temperature=temperature, **fields)


def gumbel(temperature: float | Schedule = 0.5, **fields: Any) -> QuantizationScheme:
    """Stochastic Gumbel annealing on both paths (Yang, Bamler & Mandt, 2020, https://arxiv.org/abs/2006.04240).

    Args:
        temperature: Temperature τ of the Gumbel-softmax.
        **fields: Other fields of `QuantizationScheme`.
    """
    return _preset("sga", "sga", temperature=temperature, **fields)


def universal_ds(temperature: float | Schedule = 0.2, **fields: Any) -> QuantizationScheme:
    """Universal quantization for the rate and derivative substitution for the reconstruction.

    Source: Tsubota & Aizawa, 2023, https://arxiv.org/abs/2303.00587.

    Args:
        temperature: Temperature τ of the soft rounding that supplies the derivative.
        **fields: Other fields of `QuantizationScheme`.
    """
    return _preset("uq", "ds", temperature=temperature, **fields)


def soft_then_hard(share: float = 0.8, **fields: Any) -> TwoStages:
    """Additive uniform noise first, then rounding with the analysis transforms frozen.

    Source: Guo et al., 2021, https://arxiv.org/abs/2104.05168.

    Args:
        share: Fraction of the training steps that belong to the first stage.
        **fields: Other fields of `QuantizationScheme`, for both stages.
    """
    return TwoStages(noise(**fields), straight_through(**fields), share)


def stochastic_rounding(temperature: float | Schedule = 1.0, **fields: Any) -> QuantizationScheme:
    """Additive uniform noise for the rate, and rounding of y + τu with derivative 1 for the reconstruction.

    It is stochastic rounding at τ = 1 and `mixed` at τ = 0. It equals `annealed` with derivative 1, where the
    stop-gradient removes nothing.

    Args:
        temperature: Temperature τ, above 0 and at most 1.
        **fields: Other fields of `QuantizationScheme`.
    """
    return annealed(temperature, relaxed=False, **fields)


def annealed(
    temperature: float | Schedule | None = None,
    gradient: str = "identity",
    relaxed: bool | None = None,
    stop_gradient: bool = True,
    **fields: Any,
) -> QuantizationScheme:
    """The method that the course teaches, after Zhang, Li & Liu, 2023, https://arxiv.org/abs/2309.17051.

    It uses additive uniform noise for the rate and stochastic uniform annealing for the reconstruction. The latent is
    quantized around its mean with a partial stop-gradient, and the scale lower bound is a free choice.

    The defaults are the form with the lowest loss in data/results/form.parquet. There, `patch_hyperprior` was trained
    from scratch with eleven forms and baselines, at two λ, with one seed. On 50 training images of another set, the
    loss of the chosen form is 0.7% lower than that of `mixed`, and 3.3% lower than that of `noise`. Without the
    stop-gradient, its loss is 0.5% higher at the lower λ and the same at the higher one. The form with derivative 1 is
    `stochastic_rounding`; with a temperature from 0.5 to 0.05, it is as good as `mixed`.

    Args:
        temperature: Temperature τ as a number or a schedule: 1 gives stochastic rounding, values near 0 give rounding.
            The default is `schedules.exponential(0.5, 0.1)`.
        gradient: Derivative of the rounding, "identity" or "expected". It has no effect if `relaxed` is True.
        relaxed: Use a ramp with its exact derivative instead of rounding. The default is True unless another gradient
            is chosen.
        stop_gradient: Treat μ as a constant on the path to the reconstruction.
        **fields: Other fields of `QuantizationScheme`, in particular `scale_lower_bound`.
    """
    temperature = exponential(0.5, 0.1) if temperature is None else temperature
    relaxed = gradient == "identity" if relaxed is None else relaxed
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
        stochastic_rounding,
        annealed,
    )
}


def names() -> tuple[str, ...]:
    """Return the names of the presets."""
    return tuple(_PRESETS)


def get(name: str, **fields: Any) -> Scheme:
    """Make a preset by name.

    Args:
        name: One of `names()`.
        **fields: Arguments of the preset and fields of `QuantizationScheme`. A scheme of two stages applies them to
            both stages. Every preset accepts a temperature, even if its surrogates do not use it.

    Raises:
        ValueError: If the name or a field is unknown. The message suggests similar names.

    Example:
        >>> import labkit as lk
        >>> lk.schemes.get("mixed", scale_lower_bound=0.2)
        QuantizationScheme(distortion=ste, hyper_distortion=ste, scale_lower_bound=0.2)
    """
    check_name("scheme", name, _PRESETS)
    known = {f.name for f in dataclasses.fields(QuantizationScheme)} | set(inspect.signature(_PRESETS[name]).parameters)
    for field in fields:
        check_name("field", field, sorted(known - {"fields"}), where=f"scheme {name}")
    return _PRESETS[name](**fields)

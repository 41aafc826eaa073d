"""Train–test mismatch, gradient risk and pointwise risk of surrogates and schemes, for a code of one latent.

There are two methods. "quadrature" supports surrogates that draw one uniform number per latent, and is exact to about
eight digits. An exception is the variance of soft rounding with noise at τ = 0.1, which has three digits, because the
slope has a very narrow peak. "monte_carlo" supports every surrogate and returns standard errors.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from labkit.analysis.code import ScalarCode, check_parameter, exact_gradient
from labkit.analysis.quadrature import distance_to_ends, draw_nodes
from labkit.analysis.scheme_arguments import SchemesLike, Temperatures, as_temperatures, scalar_schemes
from labkit.checks import check_at_least
from labkit.schemes import PATHS, Noise, QuantizationScheme
from labkit.statistics import Array

if TYPE_CHECKING:
    from pandas import DataFrame

METHODS = ("quadrature", "monte_carlo")
_SLICE = 2000  # number of latents per pass, which limits the memory

Row = dict[str, float]


def mismatch(
    code: ScalarCode,
    schemes: SchemesLike,
    temperatures: Temperatures = 1.0,
    *,
    method: str = "quadrature",
    samples: int = 1_000_000,
    seed: int = 0,
) -> DataFrame:
    """Return the train–test mismatch E[E_u ℓ(ỹ, x) − ℓ(ŷ, x)], including its sign, as a table.

    Args:
        code: Code of one latent.
        schemes: Surrogates, presets or schemes, one or several, as objects or by name, or a mapping from labels. A bare
            surrogate is used on both paths, with one draw for both, and is centered like the code.
        temperatures: One temperature or several.
        method: "quadrature" or "monte_carlo".
        samples: Number of samples for Monte Carlo.
        seed: Seed for Monte Carlo.

    Returns:
        A table with one row per scheme and temperature. The columns are label, temperature, rate (bits), distortion,
        and total (rate + λ · distortion); Monte Carlo adds the standard errors rate_se, distortion_se and total_se.

    Raises:
        ValueError: If a name, the method or a temperature is invalid, or if a surrogate draws several numbers per
            latent and the method is quadrature.

    Example:
        >>> import labkit as lk
        >>> code = lk.analysis.ScalarCode(lk.analysis.sources.gaussian(), gain=0.5)
        >>> print(lk.analysis.mismatch(code, ["aun", "ste"]).round(3).to_string(index=False))
        label  temperature  rate  distortion  total
          aun          1.0 0.013       0.003  0.031
          ste          1.0 0.000       0.000  0.000
    """
    return _table(_mismatch_row, code, schemes, temperatures, method, samples, seed)


def gradient_risk(
    code: ScalarCode,
    schemes: SchemesLike,
    parameter: str = "gain",
    temperatures: Temperatures = 1.0,
    batch_sizes: int | Iterable[int] = (1, 64),
    *,
    method: str = "quadrature",
    samples: int = 1_000_000,
    seed: int = 0,
) -> DataFrame:
    """Return the gradient estimation risk, bias² + variance/n for batches of n samples, as a table.

    The estimate is the gradient ∂ℓ/∂parameter from back-propagation. Its bias is measured against the gradient of the
    test loss (`exact_gradient`). The slopes of sga and ssl grow like 1/r toward the integers, down to a distance of
    r = 10⁻⁵. Few samples are that close, so Monte Carlo misses much of the variance of these surrogates.

    Args:
        code: Code of one latent.
        schemes: Surrogates, presets or schemes, as in `mismatch`.
        parameter: "gain", "mean", "scale" or "step".
        temperatures: One temperature or several.
        batch_sizes: One batch size n or several.
        method: "quadrature" or "monte_carlo".
        samples: Number of samples for Monte Carlo.
        seed: Seed for Monte Carlo.

    Returns:
        A table with one row per scheme, temperature and batch size. The columns are label, temperature, mismatch (of
        the loss), batch_size, exact, mean, bias, std (of the gradient of one sample), and risk; Monte Carlo adds the
        standard errors mismatch_se, bias_se and std_se.

    Raises:
        ValueError: If an argument is invalid, as in `mismatch`.
    """
    sizes = [batch_sizes] if isinstance(batch_sizes, int) else list(batch_sizes)
    if not all(isinstance(n, int) and n > 0 for n in sizes) or not sizes:
        raise ValueError(f"batch_sizes must be integers ≥ 1, at least one, got {batch_sizes!r}")
    check_parameter(parameter)
    exact = exact_gradient(code, parameter)

    def rows(moments: _Moments) -> Iterator[Row]:
        bias, variance = moments.gradient - exact, moments.gradient_variance
        for n in sizes:
            row = {"mismatch": moments.total, "batch_size": n, "exact": exact, "mean": moments.gradient}
            row |= {"bias": bias, "std": variance**0.5, "risk": bias**2 + variance / n}
            if moments.errors is not None:
                columns = {"mismatch_se": "total", "bias_se": "gradient", "std_se": "std"}
                row |= {column: moments.errors[name] for column, name in columns.items()}
            yield row

    return _table(rows, code, schemes, temperatures, method, samples, seed, parameter)


def pointwise_risk(code: ScalarCode, schemes: SchemesLike, temperatures: Temperatures = 1.0) -> DataFrame:
    """Return the risk of ∂ℓ/∂y against the surrogate's own expected loss, E[B²] + E[V], by quadrature.

    With the expected loss J(y) = E_u ℓ(ỹ) and the returned gradient G, the bias is B(y) = E_u[G] − J′(y) and the
    variance is V(y) = Var_u[G]. The data x stay fixed in J′. This risk says nothing about the test loss: a surrogate
    that is far from rounding can have a risk of 0. J must be continuous, so hard rounding is not accepted. For sra at
    τ ≥ 1, E[B²] is infinite, because J′ grows like r^(1/(2τ) − 1) near an integer. The returned number then depends on
    the quadrature nodes.

    Args:
        code: Code of one latent.
        schemes: Surrogates, presets or schemes, as in `mismatch`.
        temperatures: One temperature or several.

    Returns:
        A table with one row per scheme and temperature. The columns are label, temperature, bias_squared, variance,
        and risk.

    Raises:
        ValueError: If an argument is invalid, or if hard rounding is used on a path.
    """
    return _rows(code, schemes, temperatures, lambda scheme, temperature: [_pointwise(code, scheme, temperature)])


def gradient_given(
    code: ScalarCode, scheme: QuantizationScheme, x: Array, parameter: str = "gain", temperature: float = 1.0
) -> tuple[Array, Array]:
    """Return the mean and variance, over the draw, of the returned gradient at given samples, by quadrature.

    `gradient_risk` weights these with the density of the source at the nodes of `ScalarCode.nodes`. Use this function
    to compute the risk in parts.

    Args:
        code: Code of one latent.
        scheme: Scheme of the training.
        x: (n,) samples of the source.
        parameter: "gain", "mean", "scale" or "step".
        temperature: Temperature τ of the surrogates.

    Returns:
        Mean and variance of ∂ℓ/∂parameter given x, each of shape (n,).
    """
    _, _, mean, variance = _given(code, scheme, x, temperature, check_parameter(parameter))
    return mean, variance


@dataclass(frozen=True)
class _Moments:
    """Mean mismatches, and mean and variance of the gradient of one sample; Monte Carlo adds standard errors."""

    rate: float
    distortion: float
    total: float
    gradient: float
    gradient_variance: float
    errors: dict[str, float] | None = None


def _mismatch_row(moments: _Moments) -> Iterator[Row]:
    row = {name: getattr(moments, name) for name in ("rate", "distortion", "total")}
    if moments.errors is not None:
        row |= {f"{name}_se": moments.errors[name] for name in ("rate", "distortion", "total")}
    yield row


def _table(
    rows: Callable[[_Moments], Iterator[Row]],
    code: ScalarCode,
    schemes: SchemesLike,
    temperatures: Temperatures,
    method: str,
    samples: int,
    seed: int,
    parameter: str | None = None,
) -> DataFrame:
    if method not in METHODS:
        raise ValueError(f"method must be {' or '.join(METHODS)}, got {method!r}")
    check_at_least(2, samples=samples)

    def measure(scheme: QuantizationScheme, temperature: float) -> Iterator[Row]:
        if method == "quadrature":
            return rows(_by_quadrature(code, scheme, temperature, parameter))
        return rows(_by_monte_carlo(code, scheme, temperature, parameter, samples, seed))

    return _rows(code, schemes, temperatures, measure)


def _rows(
    code: ScalarCode,
    schemes: SchemesLike,
    temperatures: Temperatures,
    measure: Callable[[QuantizationScheme, float], Iterable[Row]],
) -> DataFrame:
    import pandas as pd

    table = []
    for label, scheme in scalar_schemes(schemes, code.zero_center).items():
        for temperature in as_temperatures(temperatures):
            table += [{"label": label, "temperature": temperature, **row} for row in measure(scheme, temperature)]
    return pd.DataFrame(table)


def _by_monte_carlo(
    code: ScalarCode, scheme: QuantizationScheme, temperature: float, parameter: str | None, samples: int, seed: int
) -> _Moments:
    x = np.asarray(code.source.rvs(size=samples, random_state=np.random.default_rng(seed)))
    generator = torch.Generator().manual_seed(seed)
    noise = scheme.draw(torch.as_tensor(x), generator)
    rate, distortion, gradient = code.training_losses(scheme, x, noise, temperature, parameter)
    test_rate, test_distortion, _ = code.test_losses(x)
    gaps = {"rate": rate - test_rate, "distortion": distortion - test_distortion}
    gaps["total"] = gaps["rate"] + code.lmbda * gaps["distortion"]
    variance = gradient.var(ddof=1)
    errors = {name: gap.std(ddof=1) / samples**0.5 for name, gap in gaps.items()}
    errors["gradient"] = (variance / samples) ** 0.5
    # by the delta method, Var(s²) ≈ (m₄ − s⁴)/n with s = √s²
    fourth = np.mean((gradient - gradient.mean()) ** 4)
    errors["std"] = (max(fourth - variance**2, 0) / samples) ** 0.5 / max(2 * variance**0.5, 1e-300)
    means = {name: float(gap.mean()) for name, gap in gaps.items()}
    return _Moments(**means, gradient=float(gradient.mean()), gradient_variance=float(variance), errors=errors)


def _by_quadrature(code: ScalarCode, scheme: QuantizationScheme, temperature: float, parameter: str | None) -> _Moments:
    """The variance is the variance of the mean given x plus the mean of the variance given x."""
    x, weight = code.nodes(temperature, _centers(code, scheme))
    test_rate, test_distortion, _ = code.test_losses(x)
    rate, distortion, given_x, noise_variance = _given(code, scheme, x, temperature, parameter)
    rate_gap, distortion_gap = float(weight @ (rate - test_rate)), float(weight @ (distortion - test_distortion))
    gradient = float(weight @ given_x)
    variance = float(weight @ (noise_variance + (given_x - gradient) ** 2))
    return _Moments(rate_gap, distortion_gap, rate_gap + code.lmbda * distortion_gap, gradient, variance)


Given = tuple[Array, Array, Array, Array]  # mean rate, distortion and gradient, and the variance of the gradient


def _given(code: ScalarCode, scheme: QuantizationScheme, x: Array, temperature: float, parameter: str | None) -> Given:
    """Sum `_given_on` over the draws of the paths, which are independent of each other."""
    parts = [_given_on(paths, code, scheme, x, temperature, parameter) for paths in _draws(scheme)]
    rate, distortion, gradient, variance = (np.sum(part, axis=0) for part in zip(*parts, strict=True))
    return rate, distortion, gradient, variance


def _given_on(
    paths: tuple[str, ...],
    code: ScalarCode,
    scheme: QuantizationScheme,
    x: Array,
    temperature: float,
    parameter: str | None,
    shift: float | Array = 0.0,
) -> Given:
    """Return the mean rate, distortion and gradient of ℓ on these paths given x, and the gradient's variance, (n,)."""
    parts = []
    shift = np.broadcast_to(shift, x.shape)
    for start in range(0, len(x), _SLICE):
        part, off = x[start : start + _SLICE], shift[start : start + _SLICE]
        index, noise, weight = _noise_nodes(code, scheme, code.gain * part + off, temperature, paths)
        losses = code.training_losses(scheme, part[index], noise, temperature, parameter, paths, off[index])

        rate, distortion, gradient = (np.bincount(index, weight * values, len(part)) for values in losses)
        variance = np.bincount(index, weight * (losses[2] - gradient[index]) ** 2, len(part))
        parts.append((rate, distortion, gradient, variance))
    rate, distortion, gradient, variance = (np.concatenate(part) for part in zip(*parts, strict=True))
    return rate, distortion, gradient, variance


def _noise_nodes(
    code: ScalarCode, scheme: QuantizationScheme, latents: Array, temperature: float, paths: tuple[str, ...]
) -> tuple[Array, Noise, Array]:
    """Return quadrature nodes over the draw of these paths for each latent: index, noise for the scheme, weights."""
    if not any(getattr(scheme, path).random for path in paths):
        return np.arange(len(latents)), (None, None), np.ones(len(latents))
    mean = torch.tensor(code.mean, dtype=torch.float64)
    distinct = paths[:1] if scheme.rate == scheme.distortion else paths

    def law(index: Array, v: Array) -> Array:
        """Return ỹ and its slope, compressed into (−1, 1), for every path with its own surrogate."""
        y = torch.as_tensor(latents[index]).requires_grad_()
        noise = (torch.as_tensor(v),) * 2
        features: list[Tensor] = []
        for path in distinct:
            quantize = scheme.quantize_rate if path == "rate" else scheme.quantize_distortion
            value = quantize(y, mean, temperature, noise)
            (slope,) = torch.autograd.grad(value.sum(), y)
            features += [value.detach(), slope / (1 + slope.abs())]
        return torch.stack(features, 1).numpy()

    index, v, weight = draw_nodes(law, len(latents), temperature)
    return index, (torch.as_tensor(v),) * 2, weight


def _draws(scheme: QuantizationScheme) -> list[tuple[str, ...]]:
    """Group the paths by the draw that they use."""
    latents = torch.zeros(2, dtype=torch.float64)
    for path in PATHS[:2]:
        surrogate = getattr(scheme, path)
        if surrogate.random and surrogate.noise_shape(latents) != (2,):
            raise ValueError(f"{path}: {surrogate!r} draws several numbers per latent; use method='monte_carlo'")
    rate, distortion = scheme.draw(latents)
    return [PATHS[:2]] if rate is distortion else [("rate",), ("distortion",)]


def _centers(code: ScalarCode, scheme: QuantizationScheme) -> tuple[float, ...]:
    return tuple({code.center, code.mean if scheme.zero_center else 0.0})


def _pointwise(code: ScalarCode, scheme: QuantizationScheme, temperature: float) -> Row:
    for path in PATHS[:2]:
        surrogate = getattr(scheme, path)
        if surrogate.integer and not surrogate.random:
            raise ValueError(
                f"{path}: pointwise risk does not accept hard rounding ({surrogate.name}). Its expected loss is "
                "piecewise constant, so J′ = 0 almost everywhere and a gradient of 0 would have no risk."
            )
    x, weight = code.nodes(temperature, _centers(code, scheme))
    bias = variance = np.zeros_like(x)
    for paths in _draws(scheme):
        gradient, spread = _given_on(paths, code, scheme, x, temperature, "shift")[2:]
        variance = variance + spread
        if not all(getattr(scheme, path).unbiased for path in paths):  # otherwise J′ is the mean gradient
            bias = bias + gradient - _slope_of_mean(code, scheme, x, temperature, paths)
    squared, mean_variance = float(weight @ bias**2), float(weight @ variance)
    return {"bias_squared": squared, "variance": mean_variance, "risk": squared + mean_variance}


def _slope_of_mean(
    code: ScalarCode, scheme: QuantizationScheme, x: Array, temperature: float, paths: tuple[str, ...]
) -> Array:
    """Return J′ by a fourth-order difference that stays within the quadrature pieces, where J is smooth."""
    h = np.minimum(1e-3, code.gain * distance_to_ends(x) / 3)

    def loss(steps: int) -> Array:
        rate, distortion, *_ = _given_on(paths, code, scheme, x, temperature, None, steps * h)
        losses: Array = rate + code.lmbda * distortion
        return losses

    slope: Array = (8 * (loss(1) - loss(-1)) - (loss(2) - loss(-2))) / (12 * h)
    return slope

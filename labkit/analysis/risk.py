"""Train–test mismatch, gradient risk and pointwise risk of surrogates and schemes, for a code of one latent.

Two methods. "quadrature" takes surrogates that draw one uniform number a latent, and is exact to about eight digits;
to three for the variance of soft rounding with noise at τ = 0.1, whose slope is a needle. "monte_carlo" takes
everything, and gives standard errors.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from labkit.analysis.code import ScalarCode, check_parameter, exact_gradient
from labkit.analysis.inputs import Temperatures, What, labeled, temperatures_of
from labkit.analysis.quadrature import draw_nodes, room
from labkit.checks import check_at_least
from labkit.schemes import PATHS, QuantizationScheme

if TYPE_CHECKING:
    from pandas import DataFrame

METHODS = ("quadrature", "monte_carlo")
_SLICE = 2000  # latents at a time, to bound memory


def mismatch(
    code: ScalarCode,
    what: What,
    temperatures: Temperatures = 1.0,
    *,
    method: str = "quadrature",
    samples: int = 1_000_000,
    seed: int = 0,
) -> DataFrame:
    """Train–test mismatch E[E_u ℓ(ỹ, x) − ℓ(ŷ, x)], signed: of rate (bits), distortion, and rate + λ distortion.

    what: a surrogate, its name, a scheme, a preset's name, several of these, or a mapping from labels to them. A lone
    surrogate stands on both paths, with one draw for both, centered as the code is.
    Returns a table with one row for each of `what` and each temperature: label, temperature, rate, distortion, total,
    and with Monte Carlo the standard errors rate_se, distortion_se, total_se.
    Raises ValueError for an unknown name, method or temperature, and where quadrature cannot follow the surrogate.
    """
    return _table(_mismatch_row, code, what, temperatures, method, samples, seed)


def gradient_risk(
    code: ScalarCode,
    what: What,
    parameter: str = "gain",
    temperatures: Temperatures = 1.0,
    batch_sizes: int | Iterable[int] = (1, 64),
    *,
    method: str = "quadrature",
    samples: int = 1_000_000,
    seed: int = 0,
) -> DataFrame:
    """Gradient estimation risk: (mean of the returned gradient − exact gradient)² + variance/n for batches of n.

    The gradient is what back-propagation returns for ∂ℓ/∂parameter; the exact one is `exact_gradient`'s, of the test
    loss. what: as in `mismatch`. parameter: gain, mean, scale or step. The slopes of sga and ssl grow like 1/r toward
    integers, down to a distance of 10⁻⁵, and few samples land there: Monte Carlo misses much of their variance.
    Returns a table with one row for each of `what`, each temperature and each batch size: label, temperature,
    mismatch (of the loss), batch_size, exact, mean, bias, std (of one sample's gradient), risk, and with Monte Carlo
    mismatch_se, bias_se and std_se.
    """
    sizes = [batch_sizes] if isinstance(batch_sizes, int) else list(batch_sizes)
    if not all(isinstance(n, int) and n > 0 for n in sizes) or not sizes:
        raise ValueError(f"batch_sizes: takes positive whole numbers, got {batch_sizes!r}")
    check_parameter(parameter)
    exact = exact_gradient(code, parameter)

    def rows(moments: _Moments) -> Iterator[dict[str, float]]:
        bias, variance = moments.gradient - exact, moments.gradient_variance
        for n in sizes:
            row = {"mismatch": moments.total, "batch_size": n, "exact": exact, "mean": moments.gradient}
            row |= {"bias": bias, "std": variance**0.5, "risk": bias**2 + variance / n}
            if moments.errors is not None:
                named = {"mismatch_se": "total", "bias_se": "gradient", "std_se": "std"}
                row |= {column: moments.errors[name] for column, name in named.items()}
            yield row

    return _table(rows, code, what, temperatures, method, samples, seed, parameter)


def pointwise_risk(code: ScalarCode, what: What, temperatures: Temperatures = 1.0) -> DataFrame:
    """Risk of ∂ℓ/∂y against the surrogate's own expected loss J(y) = E_u ℓ(ỹ), by quadrature: E[B²], E[V], their sum.

    B(y) = E_u[G] − J′(y) and V(y) = Var_u[G], with G the returned gradient; the data x are held fixed under J′. It says
    nothing of the test loss: a surrogate far from rounding can have none. J must be continuous, which hard rounding's
    is not. Returns one row for each of `what` and each temperature: label, temperature, bias_squared, variance, risk.
    For sra from τ = 1 on E[B²] is infinite, since J′ grows like r^(1/(2τ) − 1) next to an integer; the number returned
    there only says where the nodes end. Raises ValueError for hard rounding on either path.
    """
    return _rows(code, what, temperatures, lambda scheme, temperature: [_pointwise(code, scheme, temperature)])


def gradient_given(
    code: ScalarCode, scheme: QuantizationScheme, x: np.ndarray, parameter: str = "gain", temperature: float = 1.0
) -> tuple[np.ndarray, np.ndarray]:
    """Mean and variance over the draw of the returned ∂ℓ/∂parameter at samples x, each (n,), by quadrature.

    What `gradient_risk` weights with the source's density at `ScalarCode.nodes`, for whoever does that bit by bit.
    """
    _, _, mean, variance = _given(code, scheme, x, temperature, check_parameter(parameter))
    return mean, variance


@dataclass(frozen=True)
class _Moments:
    """Training's mean losses less the test's, and mean and variance of one sample's gradient."""

    rate: float
    distortion: float
    total: float
    gradient: float
    gradient_variance: float
    errors: dict[str, float] | None = None  # standard errors, of Monte Carlo


def _mismatch_row(moments: _Moments) -> Iterator[dict[str, float]]:
    row = {name: getattr(moments, name) for name in ("rate", "distortion", "total")}
    if moments.errors is not None:
        row |= {f"{name}_se": moments.errors[name] for name in ("rate", "distortion", "total")}
    yield row


def _table(rows, code, what, temperatures, method, samples, seed, parameter=None) -> DataFrame:
    if method not in METHODS:
        raise ValueError(f"method: takes {' or '.join(METHODS)}, got {method!r}")
    check_at_least(2, samples=samples)

    def of(scheme: QuantizationScheme, temperature: float) -> Iterator[dict[str, float]]:
        if method == "quadrature":
            return rows(_by_quadrature(code, scheme, temperature, parameter))
        return rows(_by_monte_carlo(code, scheme, temperature, parameter, samples, seed))

    return _rows(code, what, temperatures, of)


def _rows(code: ScalarCode, what: What, temperatures: Temperatures, rows) -> DataFrame:
    import pandas as pd

    table = []
    for label, scheme in schemes_of(what, code.zero_center).items():
        for temperature in temperatures_of(temperatures):
            table += [{"label": label, "temperature": temperature, **row} for row in rows(scheme, temperature)]
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
    # the delta method: Var(s²) ≈ (m₄ − s⁴)/n and s = √s²
    fourth = np.mean((gradient - gradient.mean()) ** 4)
    errors["std"] = (max(fourth - variance**2, 0) / samples) ** 0.5 / max(2 * variance**0.5, 1e-300)
    means = {name: float(gap.mean()) for name, gap in gaps.items()}
    return _Moments(**means, gradient=float(gradient.mean()), gradient_variance=float(variance), errors=errors)


def _by_quadrature(code: ScalarCode, scheme: QuantizationScheme, temperature: float, parameter: str | None) -> _Moments:
    """Means add over the paths' draws; the variance is that of the mean given x, plus the mean of that given x."""
    x, weight = code.nodes(temperature, _centers(code, scheme))
    test_rate, test_distortion, _ = code.test_losses(x)
    rate, distortion, given_x, noise_variance = _given(code, scheme, x, temperature, parameter)
    rate_gap, distortion_gap = float(weight @ (rate - test_rate)), float(weight @ (distortion - test_distortion))
    gradient = float(weight @ given_x)
    variance = float(weight @ (noise_variance + (given_x - gradient) ** 2))
    return _Moments(rate_gap, distortion_gap, rate_gap + code.lmbda * distortion_gap, gradient, variance)


def _given(code, scheme, x, temperature, parameter) -> tuple[np.ndarray, ...]:
    """What `_conditional` gives, summed over the paths' draws, which are independent."""
    parts = [_conditional(code, scheme, x, temperature, paths, parameter) for paths in _draws(scheme)]
    return tuple(np.sum(part, axis=0) for part in zip(*parts, strict=True))


def _conditional(code, scheme, x, temperature, paths, parameter, shift=0.0) -> tuple[np.ndarray, ...]:
    """Given x: mean rate, distortion and gradient of ℓ on these paths, and the gradient's variance, each (n,)."""
    parts = []
    shift = np.broadcast_to(shift, x.shape)
    for start in range(0, len(x), _SLICE):
        part, off = x[start : start + _SLICE], shift[start : start + _SLICE]
        index, noise, weight = _noise_nodes(code, scheme, code.gain * part + off, temperature, paths)
        found = code.training_losses(scheme, part[index], noise, temperature, parameter, paths, off[index])

        rate, distortion, gradient = (np.bincount(index, weight * values, len(part)) for values in found)
        variance = np.bincount(index, weight * (found[2] - gradient[index]) ** 2, len(part))
        parts.append((rate, distortion, gradient, variance))
    return tuple(np.concatenate(part) for part in zip(*parts, strict=True))


def _noise_nodes(code, scheme, latents, temperature, paths):
    """Quadrature nodes over the draw that these paths read, for each latent: index, noise for the scheme, weights."""
    if not any(getattr(scheme, path).random for path in paths):
        return np.arange(len(latents)), (None, None), np.ones(len(latents))
    mean = torch.tensor(code.mean, dtype=torch.float64)
    distinct = paths[:1] if scheme.rate == scheme.distortion else paths

    def law(index: np.ndarray, v: np.ndarray) -> np.ndarray:
        """ỹ and its slope, squeezed into [0, 1), on every path with a surrogate of its own."""
        y = torch.as_tensor(latents[index]).requires_grad_()
        noise = (torch.as_tensor(v),) * 2
        features = []
        for path in distinct:
            quantize = scheme.quantize_rate if path == "rate" else scheme.quantize_distortion
            value = quantize(y, mean, temperature, noise)
            (slope,) = torch.autograd.grad(value.sum(), y)
            features += [value.detach(), slope / (1 + slope.abs())]
        return torch.stack(features, 1).numpy()

    index, v, weight = draw_nodes(law, len(latents), temperature)
    return index, (torch.as_tensor(v),) * 2, weight


def _draws(scheme: QuantizationScheme) -> list[tuple[str, ...]]:
    """The paths, grouped by the draw that they read. Raises ValueError where a draw is more than a number a latent."""
    latents = torch.zeros(2, dtype=torch.float64)
    for path in PATHS[:2]:
        surrogate = getattr(scheme, path)
        if surrogate.random and surrogate.noise_shape(latents) != (2,):
            raise ValueError(f"{path}: {surrogate!r} draws several numbers a latent; use method='monte_carlo'")
    rate, distortion = scheme.draw(latents)
    return [PATHS[:2]] if rate is distortion else [("rate",), ("distortion",)]


def _centers(code: ScalarCode, scheme: QuantizationScheme) -> tuple[float, ...]:
    return tuple({code.center, code.mean if scheme.zero_center else 0.0})


def _pointwise(code: ScalarCode, scheme: QuantizationScheme, temperature: float) -> dict[str, float]:
    for path in PATHS[:2]:
        surrogate = getattr(scheme, path)
        if surrogate.integer and not surrogate.random:
            raise ValueError(
                f"{path}: pointwise risk takes no hard rounding ({surrogate.name}), whose expected loss is piecewise "
                "constant: J′ = 0 almost everywhere, and no gradient at all would win"
            )
    x, weight = code.nodes(temperature, _centers(code, scheme))
    bias = variance = np.zeros_like(x)
    for paths in _draws(scheme):
        gradient, spread = _conditional(code, scheme, x, temperature, paths, "shift")[2:]
        variance = variance + spread
        if not all(getattr(scheme, path).unbiased for path in paths):  # else J′ is the mean gradient, by definition
            bias = bias + gradient - _slope_of_mean(code, scheme, x, temperature, paths)
    squared, mean_variance = float(weight @ bias**2), float(weight @ variance)
    return {"bias_squared": squared, "variance": mean_variance, "risk": squared + mean_variance}


def _slope_of_mean(code, scheme, x, temperature, paths) -> np.ndarray:
    """J′ by a difference of fourth order that stays within the nodes' pieces, where J is smooth."""
    h = np.minimum(1e-3, code.gain * room(x) / 3)

    def loss(steps: int) -> np.ndarray:
        rate, distortion, *_ = _conditional(code, scheme, x, temperature, paths, None, steps * h)
        return rate + code.lmbda * distortion

    return (8 * (loss(1) - loss(-1)) - (loss(2) - loss(-2))) / (12 * h)


def schemes_of(what: What, zero_center: bool) -> dict[str, QuantizationScheme]:
    """Schemes by their labels; a lone surrogate stands on both paths, centered or not."""
    return labeled(what, lambda one: QuantizationScheme(rate=one, distortion=one, zero_center=zero_center))

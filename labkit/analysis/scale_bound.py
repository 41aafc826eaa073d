"""The scale-lower-bound laboratory: the effect of a lower bound on σ on the rate, in training and at test.

The entropy model scores one latent with the scale max(σ, bound). The latent's true scale is s, and σ is predicted by
the entropy parameters. The bound is CompressAI's `LowerBound`: below it, a latent's gradient with respect to σ passes
only if it would raise σ. CompressAI's floor of 10⁻⁹ under likelihoods is a `LowerBound`, too. It limits a latent to
29.9 bits, and every gradient that would raise a likelihood passes.

All results follow from the law of ỹ − μ, which does not depend on σ; see `labkit.analysis.latent_laws`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from scipy import optimize

from labkit.analysis.latent_laws import LIKELIHOOD_BOUND, Law, positive_list, test_law, training_law
from labkit.analysis.scheme_arguments import (
    SchemeLike,
    SchemesLike,
    Temperatures,
    as_temperatures,
    scalar_schemes,
)
from labkit.analysis.sources import Source
from labkit.schemes import QuantizationScheme
from labkit.statistics import Array

if TYPE_CHECKING:
    from pandas import DataFrame

OBJECTIVES = ("rms_mismatch", "rms_slope", "test_rate")
_LEARNED = np.geomspace(1e-3, 1e2, 101)  # search grid for the scale that training learns
_FLAT = 1e-9  # in bits: training cannot distinguish rates that differ by less
_GROUPS = 32  # number of groups into which a population of scales is divided
_STEP = 0.02  # step of ln s for finite differences


def rate_table(
    schemes: SchemesLike,
    scales: float | Iterable[float] = (),
    bounds: float | Iterable[float] = (0.11,),
    *,
    source_scale: float | None = None,
    source: Source | None = None,
    temperatures: Temperatures = 1.0,
    zero_center: bool = True,
    test_zero_center: bool = True,
    likelihood_bound: float = LIKELIHOOD_BOUND,
) -> DataFrame:
    """Return the rates in training and at test and their gradients with respect to σ, over grids of σ and the bound.

    `LowerBound` tests each latent's own gradient. Below the bound, the mean gradient is therefore E[min(gradient, 0)],
    which is never positive: σ drifts up to the bound even if a lower σ would be better on average.

    Args:
        schemes: Surrogates, presets or schemes, one or several, as objects or by name, or a mapping from labels. Only
            the rate path and `zero_center` of a scheme are used.
        scales: Predicted scales σ.
        bounds: Lower bounds on σ.
        source_scale: True scale s; equal to σ by default.
        source: Shape of y − μ, scaled to mean 0 and standard deviation s; Gaussian by default.
        temperatures: One temperature or several.
        zero_center: Whether a bare surrogate quantizes y − μ (True) or y itself (False) in training.
        test_zero_center: Whether the test rounds y − μ (True) or y itself (False), which no coder does.
        likelihood_bound: Lower bound on likelihoods; 0 for none.

    Returns:
        A table with one row per scheme, temperature, bound and σ. The columns are label, temperature, bound, scale,
        source_scale, train_rate, test_rate and mismatch in bits, and train_gradient and test_gradient in bits per
        unit of σ, as `LowerBound` passes them.

    Raises:
        ValueError: If an argument is invalid.
    """
    import pandas as pd

    grid, limits = positive_list("scales", scales), positive_list("bounds", bounds)
    tables = []
    for label, scheme in scalar_schemes(schemes, zero_center).items():
        for temperature in as_temperatures(temperatures):
            for s, sigma in [(s, [s]) for s in grid] if source_scale is None else [(source_scale, grid)]:
                laws = {
                    "train": training_law(s, scheme.rate, temperature, source=source, zero_center=scheme.zero_center),
                    "test": test_law(s, source=source, zero_center=test_zero_center),
                }
                for bound in limits:
                    table = pd.DataFrame({"label": label, "temperature": temperature, "bound": bound, "scale": sigma})
                    table["source_scale"] = s
                    for name, law in laws.items():
                        scale = torch.tensor(sigma, dtype=torch.float64, requires_grad=True)
                        rate = law.rate(scale, likelihood_bound, bound)
                        table[f"{name}_rate"] = rate.detach().numpy()
                        table[f"{name}_gradient"] = torch.autograd.grad(rate.sum(), scale)[0].numpy()
                    tables.append(table.assign(mismatch=table["train_rate"] - table["test_rate"]))
    return pd.concat(tables, ignore_index=True)


def learned_scale(law: Law) -> float:
    """Return the scale σ that minimizes the rate of a law, which training reaches without a bound.

    If the rate is flat, this is the largest such scale. With a bound b, training reaches max(b, this scale), because
    below b a latent's gradient passes only if it raises σ.

    Args:
        law: Law of ỹ − μ in training.
    """
    rates = law.rate(torch.as_tensor(_LEARNED)).numpy()
    at = int(np.flatnonzero(rates <= rates.min() + _FLAT)[-1])
    low, high = np.log(_LEARNED[[max(at - 1, 0), min(at + 1, len(_LEARNED) - 1)]])

    def rate(log_scale: float) -> float:
        return float(law.rate(torch.tensor([math.exp(log_scale)], dtype=torch.float64)))

    return math.exp(optimize.minimize_scalar(rate, bounds=(low, high), method="bounded", options={"xatol": 1e-6}).x)


def bound_table(
    schemes: SchemesLike,
    population: float | Iterable[float],
    bounds: float | Iterable[float],
    *,
    weights: Iterable[float] | None = None,
    source: Source | None = None,
    temperatures: Temperatures = 1.0,
) -> DataFrame:
    """Return the effect of a bound on a population of latents whose scales were learned in training with the bound.

    A latent has the scale σ*(b) = max(b, scale of the lowest training rate) in the entropy model; see `learned_scale`.

    Args:
        schemes: Surrogates, presets or schemes, as in `rate_table`.
        population: True scales s, one or many, such as the σ of a codec's latents. They are divided into 32 groups.
        bounds: Lower bounds b on σ.
        weights: Weight of each scale; equal by default.
        source: Shape of y − μ, scaled to mean 0 and standard deviation s; Gaussian by default.
        temperatures: One temperature or several.

    Returns:
        A table with one row per scheme, temperature and bound, with means over the population in bits per latent. The
        columns are label, temperature, bound, train_rate, test_rate, mismatch (their difference), rms_mismatch (root
        mean square over latents), rms_slope, and cost (test rate minus the test rate without a bound). rms_slope is the
        root mean square of ∂(train − test)/∂ ln s at fixed σ*: the error in the encoder's gradient with respect to the
        spread of a latent.

    Raises:
        ValueError: If an argument is invalid.
    """
    import pandas as pd

    limits = positive_list("bounds", bounds)
    scales, shares = _gather(population, weights)
    tables = []
    for label, scheme in scalar_schemes(schemes, zero_center=True).items():
        for temperature in as_temperatures(temperatures):
            learned = _Population(scales, shares, scheme, temperature, source)
            head = {"label": label, "temperature": temperature, "bound": limits}
            tables.append(pd.DataFrame({**head, **learned.means(np.array(limits))}))
    return pd.concat(tables, ignore_index=True)


@dataclass(frozen=True)
class BestBound:
    """Result of `best_bound`.

    Attributes:
        bound: The best bound on σ.
        where: "inside" the interval, at its "lower end" or "upper end", or at the "cost limit".
        objective: Name of the objective.
        value: Value of the objective.
        test_rate: Mean test rate, in bits per latent.
        cost: Test rate minus the test rate without a bound, in bits per latent.
        mismatch: Training rate minus test rate, in bits per latent.
    """

    bound: float
    where: str
    objective: str
    value: float
    test_rate: float
    cost: float
    mismatch: float


def best_bound(
    scheme: SchemeLike,
    population: float | Iterable[float],
    objective: str = "rms_mismatch",
    *,
    interval: tuple[float, float] = (0.02, 1.0),
    max_cost: float = math.inf,
    temperature: float = 1.0,
    weights: Iterable[float] | None = None,
    source: Source | None = None,
) -> BestBound:
    """Return the bound in an interval that minimizes an objective and costs at most `max_cost` bits per latent.

    The mismatch alone has no best bound: as the bound grows, the mismatch tends to 0 and the wasted rate grows. The
    search therefore needs an interval and a limit on the cost, and the result states where the minimum is. A minimum at
    an end of the interval is a property of the interval, not of the source. The sum of test rate and mismatch is the
    training rate, which every bound raises, so this sum would favor having no bound. Among bounds whose objectives are
    equal to within 10⁻⁹, the lowest is returned.

    Args:
        scheme: Surrogate, preset or scheme, as an object or by name.
        population: True scales s, as in `bound_table`.
        objective: Column of `bound_table` to minimize, one of `OBJECTIVES`.
        interval: Lowest and highest bound.
        max_cost: Highest cost in test rate, in bits per latent.
        temperature: Temperature τ of the surrogate.
        weights: Weight of each scale; equal by default.
        source: Shape of y − μ, scaled to mean 0 and standard deviation s; Gaussian by default.

    Raises:
        ValueError: If the objective is unknown, if the interval is invalid, or if every bound in it costs more than
            `max_cost`.
    """
    if objective not in OBJECTIVES:
        raise ValueError(f"objective must be one of {', '.join(OBJECTIVES)}, got {objective!r}")
    low, high = positive_list("interval", interval)
    if not low < high:
        raise ValueError(f"interval must be two rising numbers, got {interval!r}")
    ((_, single),) = scalar_schemes(scheme, zero_center=True).items()
    (tau,) = as_temperatures(temperature)
    scales, shares = _gather(population, weights)
    learned = _Population(scales, shares, single, tau, source)

    def best(bounds: Array) -> tuple[int, bool, dict[str, Array]]:
        means = learned.means(bounds)
        allowed = means["cost"] <= max_cost
        if not allowed.any():
            raise ValueError(
                f"max_cost must be higher: every bound in the interval costs more than {max_cost!r} bits per latent"
            )
        values = np.where(allowed, means[objective], np.inf)
        at = int(np.flatnonzero(values <= values.min() + _FLAT)[0])
        limited = any(0 <= i < len(bounds) and not allowed[i] for i in (at - 1, at + 1))
        return at, limited, means

    bounds = np.geomspace(low, high, 49)
    for _ in range(2):  # the second search is between the neighbors of the first result
        at, limited, means = best(bounds)
        bound = bounds[at]
        bounds = np.geomspace(bounds[max(at - 1, 0)], bounds[min(at + 1, len(bounds) - 1)], 49)
    ends = {low: "lower end", high: "upper end"}
    where = (
        "cost limit" if limited else next((name for end, name in ends.items() if math.isclose(bound, end)), "inside")
    )
    numbers = {name: float(means[name][at]) for name in ("test_rate", "cost", "mismatch")}
    return BestBound(float(bound), where, objective, float(means[objective][at]), **numbers)


class _Population:
    """Laws and learned scales of a population of latents."""

    def __init__(
        self, scales: Array, shares: Array, scheme: QuantizationScheme, temperature: float, source: Source | None
    ) -> None:
        self.shares = shares
        self.laws = [
            [
                (
                    training_law(s * k, scheme.rate, temperature, source=source, zero_center=scheme.zero_center),
                    test_law(s * k, source=source),
                )
                for k in (1, math.exp(_STEP), math.exp(-_STEP))
            ]
            for s in scales
        ]
        self.learned = [learned_scale(laws[0][0]) for laws in self.laws]

    def means(self, bounds: Array) -> dict[str, Array]:
        """Return the columns of `bound_table`, each with one mean per bound."""
        rates = np.array(
            [self._rates(*latent, np.append(0, bounds)) for latent in zip(self.laws, self.learned, strict=True)]
        )
        train, test = (self.shares @ rates[:, i] for i in range(2))
        gap = rates[:, 0] - rates[:, 1]
        columns = {
            "train_rate": train,
            "test_rate": test,
            "mismatch": train - test,
            "rms_mismatch": np.sqrt(self.shares @ gap**2),
            "rms_slope": np.sqrt(self.shares @ rates[:, 2] ** 2),
            "cost": test - test[0],
        }
        return {name: values[1:] for name, values in columns.items()}

    def _rates(self, laws: list[tuple[Law, Law]], learned: float, bounds: Array) -> Array:
        """Return the training rate, test rate, and ∂(train − test)/∂ ln s at fixed scale, of shape (3, bounds)."""
        scale, where = np.unique(np.maximum(bounds, learned), return_inverse=True)
        (train, test), *beside = [
            tuple(law.rate(torch.as_tensor(scale)).numpy()[where] for law in pair) for pair in laws
        ]
        above, below = (pair[0] - pair[1] for pair in beside)
        return np.stack([train, test, (above - below) / (2 * _STEP)])


def _gather(population: float | Iterable[float], weights: Iterable[float] | None) -> tuple[Array, Array]:
    """Group scales into at most 32 equal steps of ln s; return the groups' geometric means and shares."""
    scales = np.atleast_1d(np.asarray(population, dtype=np.float64)).ravel()
    shares = np.ones_like(scales) if weights is None else np.asarray(weights, dtype=np.float64).ravel()
    if not (scales.size and (scales > 0).all() and np.isfinite(scales).all()):
        raise ValueError(f"population must be positive scales, at least one, got {scales.size} values")
    if shares.shape != scales.shape or not (shares >= 0).all() or not 0 < shares.sum() < math.inf:
        raise ValueError(f"weights must be one number ≥ 0 for each of the {scales.size} scales, not all of them 0")
    logs = np.log(scales)
    if np.unique(scales).size > _GROUPS:
        edges = np.linspace(logs.min(), logs.max(), _GROUPS + 1)[1:-1]
        _, where = np.unique(np.searchsorted(edges, logs), return_inverse=True)
        total = np.bincount(where, shares)
        logs = np.bincount(where, shares * logs)[total > 0] / total[total > 0]
        shares = total[total > 0]
    return np.exp(logs), shares / shares.sum()

"""The scale-lower-bound laboratory: what a lower bound on σ does to the rate, in training and at test.

One latent with y − μ = s · z, z a source of mean 0 and standard deviation 1, scored by the entropy model at the scale
max(σ, bound). s is the latent's true scale, σ what the entropy parameters predict. The bound is CompressAI's
`LowerBound`: below it a latent's gradient with respect to σ passes only where it would raise σ. So is the floor of
10⁻⁹ under likelihoods, which caps a latent's bits at 29.9 and lets every gradient pass that would raise a likelihood.

Everything follows from the law of ỹ − μ, which does not depend on σ: it is computed once, as points and weights.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from compressai.ops import LowerBound
from scipy import optimize
from torch import Tensor

from labkit import surrogates
from labkit.analysis import quadrature
from labkit.analysis.code import gaussian_bits
from labkit.analysis.inputs import Temperatures, What, temperatures_of
from labkit.analysis.risk import schemes_of
from labkit.analysis.sources import Source, gaussian
from labkit.schemes import QuantizationScheme
from labkit.surrogates import Surrogate

if TYPE_CHECKING:
    from pandas import DataFrame

LIKELIHOOD_BOUND = 1e-9  # CompressAI's
OBJECTIVES = ("rms_mismatch", "rms_slope", "test_rate")
_LEARNED = np.geomspace(1e-3, 1e2, 101)  # where the scale that training learns is looked for
_FLAT = 1e-9  # bits: rates that differ by less give training nothing to go by
_GROUPS = 32  # a population of scales is gathered into this many
_STEP = 0.02  # of ln s, for differences
_CELLS = 256  # a latent's law is condensed to this many cells in a bin


@dataclass(frozen=True)
class Law:
    """Law of ỹ − μ: E f(ỹ − μ) = Σ weights · f(values)."""

    values: np.ndarray
    weights: np.ndarray

    def rate(self, scale: Tensor, likelihood_bound: float = LIKELIHOOD_BOUND, scale_bound: float = 0.0) -> Tensor:
        """Mean bits at each model scale, shape (S,) as `scale`, differentiable by the bounds' own rule."""
        values, weights = torch.as_tensor(self.values), torch.as_tensor(self.weights)
        rates = []
        for part in scale.split(max(1, 4_000_000 // len(values))):
            # one scale a latent, as in a codec: the bound lets each latent's own gradient pass, or not, before the mean
            latents = part[:, None].expand(-1, len(values))
            if scale_bound:
                latents = LowerBound(scale_bound).double()(latents)
            bits = gaussian_bits(values, torch.zeros((), dtype=values.dtype), latents)
            if likelihood_bound:
                bits = -torch.log2(LowerBound(likelihood_bound).double()(torch.exp2(-bits)))
            rates.append(bits @ weights)
        return torch.cat(rates)


def training_law(
    scale: float,
    surrogate: str | Surrogate = "aun",
    temperature: float = 1.0,
    *,
    source: Source | None = None,
    zero_center: bool = True,
) -> Law:
    """Law of what training scores, ỹ − μ, for a latent of true scale s.

    source: shape of y − μ, brought to mean 0 and to standard deviation s; Gaussian if not given.
    zero_center: the surrogate sees y − μ; else y itself, with μ anywhere: the mean over μ mod 1, uniform. There
    ỹ − μ = (y − μ) + e, and the surrogate's error e depends only on y mod 1, which is uniform whatever y − μ is.
    Raises ValueError for a scale that is not positive, and for a surrogate that draws several numbers a latent.
    """
    (scale,) = _positive_list("scale", scale)
    one = surrogates.get(surrogate) if isinstance(surrogate, str) else surrogate
    if one.random and one.noise_shape(torch.zeros(2)) != (2,):
        raise ValueError(f"surrogate: {one!r} draws several numbers a latent, which quadrature does not take")
    cuts = np.append(quadrature.bin_cuts(temperature), 1.0)
    if not zero_center:
        phase, share = quadrature.gauss_legendre(cuts)
        index, values, inner = _outputs(one, phase, temperature)
        return _add(_condense(values - phase[index], share[index] * inner, scale), source, scale)
    # the surrogate's law repeats from bin to bin: find it in one, and weigh it by the source in all
    source, mean, unit = _standard(source)
    low, high = (scale * (end - mean) / unit for end in quadrature.support(source))
    if not high - low < quadrature.MAX_BINS:
        raise ValueError(f"scale: {scale!r} spans more than the {quadrature.MAX_BINS} bins that quadrature takes")
    own = np.mod(scale * (quadrature.marks(source) - mean) / unit, 1)
    phase, share = quadrature.gauss_legendre(np.unique(np.concatenate([cuts, own])))
    k = np.arange(math.floor(low), math.ceil(high))
    weight = source.pdf(mean + unit / scale * (k[:, None] + phase)) * share * unit / scale
    index, values, inner = _outputs(one, phase, temperature)
    return _condense(values, inner, scale, index, k, weight / weight.sum())


def test_law(scale: float, *, source: Source | None = None, zero_center: bool = True) -> Law:
    """Law of ŷ − μ at true scale s, with ŷ = ⌊y − μ⌉ + μ as coding does; not centered with ŷ = ⌊y⌉, an estimate."""
    if not zero_center:
        return _add(Law(*quadrature.gauss_legendre(np.linspace(-0.5, 0.5, 33))), source, scale)
    source, mean, unit = _standard(source)
    low, high = (scale * (end - mean) / unit for end in quadrature.support(source))
    k = np.arange(math.floor(low), math.ceil(high) + 1.0)
    edges = source.cdf(mean + unit / scale * np.append(k - 0.5, k[-1] + 0.5))
    return Law(k, np.diff(edges))


def rate_table(
    what: What,
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
    """Rate in training and at test, and their gradients with respect to σ, over grids of σ and of the bound.

    what: surrogates or their names, one or several, or a mapping from labels; of a scheme, its rate path and center.
    scales: σ; source_scale: s, the same as σ if not given. zero_center: of training; test_zero_center: of the test,
    where false is an estimate that no coder makes.
    Returns one row for each of `what`, temperature, bound and σ: label, temperature, bound, scale, source_scale,
    train_rate, test_rate, mismatch (bits), and train_gradient, test_gradient: bits per unit of σ, as LowerBound lets
    them pass. It judges each latent's own gradient, so that below the bound their mean is E[min(gradient, 0)]: never
    positive, and σ drifts up to the bound even where a lower one would suit the mean.
    """
    import pandas as pd

    grid, limits = _positive_list("scales", scales), _positive_list("bounds", bounds)
    tables = []
    for label, scheme in schemes_of(what, zero_center).items():
        for temperature in temperatures_of(temperatures):
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


def learned_scale(law: Law, likelihood_bound: float = LIKELIHOOD_BOUND) -> float:
    """The scale that minimizes a law's rate, what training settles on without a bound; the largest where it is flat.

    With a bound b training settles on max(b, that): below b no latent's gradient passes but to raise σ.
    """
    rates = law.rate(torch.as_tensor(_LEARNED), likelihood_bound).numpy()
    at = int(np.flatnonzero(rates <= rates.min() + _FLAT)[-1])
    low, high = np.log(_LEARNED[[max(at - 1, 0), min(at + 1, len(_LEARNED) - 1)]])

    def rate(log_scale: float) -> float:
        return float(law.rate(torch.tensor([math.exp(log_scale)], dtype=torch.float64), likelihood_bound))

    return math.exp(optimize.minimize_scalar(rate, bounds=(low, high), method="bounded", options={"xatol": 1e-6}).x)


def bound_table(
    what: What,
    population: float | Iterable[float],
    bounds: float | Iterable[float],
    *,
    weights: Iterable[float] | None = None,
    source: Source | None = None,
    temperatures: Temperatures = 1.0,
    zero_center: bool = True,
    test_zero_center: bool = True,
    likelihood_bound: float = LIKELIHOOD_BOUND,
) -> DataFrame:
    """What a bound does to a population of latents once training has learned the scales under it.

    population: true scales s, one or many (a codec's own σ, say), gathered into 32 groups; weights: of each, equal if
    not given. A latent's model scale is σ*(b) = max(b, argmin of its training rate), see `learned_scale`.
    Returns one row for each of `what`, temperature and bound b, means over the population in bits a latent:
    train_rate, test_rate, mismatch (their difference), rms_mismatch (root mean square over latents), rms_slope (that
    of ∂(train − test)/∂ ln s at fixed σ*, what an encoder is told wrongly about the worth of a latent's spread), and
    cost, the test rate less that without a bound.
    """
    import pandas as pd

    limits = _positive_list("bounds", bounds)
    scales, shares = _gather(population, weights)
    tables = []
    for label, scheme in schemes_of(what, zero_center).items():
        for temperature in temperatures_of(temperatures):
            learned = _Population(scales, shares, scheme, temperature, source, test_zero_center, likelihood_bound)
            head = {"label": label, "temperature": temperature, "bound": limits}
            tables.append(pd.DataFrame({**head, **learned(np.array(limits))}))
    return pd.concat(tables, ignore_index=True)


@dataclass(frozen=True)
class BestBound:
    """Answer of `best_bound`. where: "inside" the interval, at its "lower end" or "upper end", or at the "cost limit".

    value: of the objective; test_rate, cost (test rate less that without a bound) and mismatch in bits a latent.
    """

    bound: float
    where: str
    objective: str
    value: float
    test_rate: float
    cost: float
    mismatch: float


def best_bound(
    surrogate: str | Surrogate | QuantizationScheme,
    population: float | Iterable[float],
    objective: str = "rms_mismatch",
    *,
    interval: tuple[float, float] = (0.02, 1.0),
    max_cost: float = math.inf,
    temperature: float = 1.0,
    weights: Iterable[float] | None = None,
    source: Source | None = None,
    zero_center: bool = True,
    test_zero_center: bool = True,
    likelihood_bound: float = LIKELIHOOD_BOUND,
) -> BestBound:
    """The bound in an interval that minimizes an objective, among those that cost at most `max_cost` bits a latent.

    objective: a column of `bound_table`: rms_mismatch, rms_slope or test_rate. Mismatch alone is no question with an
    answer: a bound that goes to infinity drives it to zero, and wastes the rate. Hence the interval, the cost, and a
    word on where the minimum lies; at an end of the interval it is the interval's answer, not the source's. Test rate
    plus mismatch is the training rate, which every bound raises, so it asks for no bound at all.
    Of bounds that are equally good to 10⁻⁹ the lowest is taken.
    Raises ValueError for an unknown objective, an interval that is none, or a cost that no bound in it meets.
    """
    if objective not in OBJECTIVES:
        raise ValueError(f"objective: takes one of {', '.join(OBJECTIVES)}, got {objective!r}")
    low, high = _positive_list("interval", interval)
    if not low < high:
        raise ValueError(f"interval: takes two rising numbers, got {interval!r}")
    ((_, scheme),) = schemes_of(surrogate, zero_center).items()
    (tau,) = temperatures_of(temperature)
    scales, shares = _gather(population, weights)
    learned = _Population(scales, shares, scheme, tau, source, test_zero_center, likelihood_bound)

    def best(bounds: np.ndarray) -> tuple[int, bool, dict[str, np.ndarray]]:
        found = learned(bounds)
        allowed = found["cost"] <= max_cost
        if not allowed.any():
            raise ValueError(f"max_cost: every bound in the interval costs more than {max_cost!r} bits a latent")
        values = np.where(allowed, found[objective], np.inf)
        at = int(np.flatnonzero(values <= values.min() + _FLAT)[0])
        limited = any(0 <= i < len(bounds) and not allowed[i] for i in (at - 1, at + 1))
        return at, limited, found

    bounds = np.geomspace(low, high, 49)
    for _ in range(2):  # the second time between the neighbors of the first answer
        at, limited, found = best(bounds)
        bound = bounds[at]
        bounds = np.geomspace(bounds[max(at - 1, 0)], bounds[min(at + 1, len(bounds) - 1)], 49)
    ends = {low: "lower end", high: "upper end"}
    where = "cost limit" if limited else next((w for e, w in ends.items() if math.isclose(bound, e)), "inside")
    numbers = {name: float(found[name][at]) for name in ("test_rate", "cost", "mismatch")}
    return BestBound(float(bound), where, objective, float(found[objective][at]), **numbers)


class _Population:
    """Laws and learned scales of a population; called with bounds, the means that `bound_table` lists."""

    def __init__(self, scales, shares, scheme, temperature, source, test_zero_center, likelihood_bound):
        self.shares, self.likelihood_bound = shares, likelihood_bound
        self.laws = [
            [
                (
                    training_law(s * k, scheme.rate, temperature, source=source, zero_center=scheme.zero_center),
                    test_law(s * k, source=source, zero_center=test_zero_center),
                )
                for k in (1, math.exp(_STEP), math.exp(-_STEP))
            ]
            for s in scales
        ]
        self.learned = [learned_scale(laws[0][0], likelihood_bound) for laws in self.laws]

    def __call__(self, bounds: np.ndarray) -> dict[str, np.ndarray]:
        rates = np.array([self._rates(*one, np.append(0, bounds)) for one in zip(self.laws, self.learned, strict=True)])
        train, test = (self.shares @ rates[:, i] for i in range(2))
        gap = rates[:, 0] - rates[:, 1]
        found = {
            "train_rate": train,
            "test_rate": test,
            "mismatch": train - test,
            "rms_mismatch": np.sqrt(self.shares @ gap**2),
            "rms_slope": np.sqrt(self.shares @ rates[:, 2] ** 2),
            "cost": test - test[0],
        }
        return {name: values[1:] for name, values in found.items()}

    def _rates(self, laws: list[tuple[Law, Law]], learned: float, bounds: np.ndarray) -> np.ndarray:
        """Training rate, test rate, and ∂(train − test)/∂ ln s at fixed scale, for each bound: (3, bounds)."""
        scale, where = np.unique(np.maximum(bounds, learned), return_inverse=True)
        (train, test), *beside = [
            tuple(law.rate(torch.as_tensor(scale), self.likelihood_bound).numpy()[where] for law in pair)
            for pair in laws
        ]
        above, below = (pair[0] - pair[1] for pair in beside)
        return np.stack([train, test, (above - below) / (2 * _STEP)])


def _gather(population: float | Iterable[float], weights: Iterable[float] | None) -> tuple[np.ndarray, np.ndarray]:
    """At most 32 scales, geometric means of as many equal steps of ln s, and their shares."""
    scales = np.atleast_1d(np.asarray(population, dtype=np.float64)).ravel()
    shares = np.ones_like(scales) if weights is None else np.asarray(weights, dtype=np.float64).ravel()
    if not (scales.size and (scales > 0).all() and np.isfinite(scales).all()):
        raise ValueError(f"population: takes positive scales, at least one, got {scales.size} values")
    if shares.shape != scales.shape or not (shares >= 0).all() or not 0 < shares.sum() < math.inf:
        raise ValueError(f"weights: takes one number from 0 on for each of the {scales.size} scales, not all 0")
    logs = np.log(scales)
    if np.unique(scales).size > _GROUPS:
        edges = np.linspace(logs.min(), logs.max(), _GROUPS + 1)[1:-1]
        _, where = np.unique(np.searchsorted(edges, logs), return_inverse=True)
        total = np.bincount(where, shares)
        logs = np.bincount(where, shares * logs)[total > 0] / total[total > 0]
        shares = total[total > 0]
    return np.exp(logs), shares / shares.sum()


def _standard(source: Source | None) -> tuple[Source, float, float]:
    """The source, its mean, and its standard deviation."""
    source = gaussian() if source is None else source
    x, weight = quadrature.source_nodes(source)
    mean = float(weight @ x)
    return source, mean, math.sqrt(weight @ (x - mean) ** 2)


def _outputs(surrogate: Surrogate, y: np.ndarray, temperature: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The surrogate's outputs for latents y: index into y, ỹ, weight of the draw."""

    def outputs(index: np.ndarray, v: np.ndarray | None) -> np.ndarray:
        noise = None if v is None else torch.as_tensor(v)
        return surrogate(torch.as_tensor(y[index]), temperature, noise=noise).numpy()

    index = np.arange(len(y))
    if not surrogate.random:
        return index, outputs(index, None), np.ones(len(y))
    index, v, weight = quadrature.draw_nodes(lambda i, v: outputs(i, v)[:, None], len(y), temperature)
    return index, outputs(index, v), weight


def _condense(
    values: np.ndarray,
    weights: np.ndarray,
    scale: float,
    index: np.ndarray | int = 0,
    bins: np.ndarray | None = None,
    outer: np.ndarray | None = None,
) -> Law:
    """The same law with two points in each of 256 cells a bin (fewer for wide laws), of the cell's mean and variance.

    With bins and outer, of shape (bins, phases): the law of bins[b] + values[i], of weight
    outer[b, index[i]] · weights[i].
    """
    bins, outer = (np.zeros(1), np.ones((1, 1))) if bins is None or outer is None else (bins, outer)
    width = min(max(scale, 1), 8) / _CELLS
    cells, where = np.unique(np.round(values / width), return_inverse=True)
    offset = values - width * cells[where]  # small numbers, whose squares keep their digits
    shape = (outer.shape[1], len(cells))
    flat = index * shape[1] + where
    weight, first, second = (
        outer @ np.bincount(flat, weights * offset**power, shape[0] * shape[1]).reshape(shape) for power in range(3)
    )
    kept = weight > 0
    mean = first[kept] / weight[kept]
    reach = np.sqrt(np.maximum(second[kept] / weight[kept] - mean**2, 0))
    center, weight = (bins[:, None] + width * cells)[kept] + mean, weight[kept]
    wide = reach > 1e-9
    points = np.concatenate([center[~wide], (center - reach)[wide], (center + reach)[wide]])
    return Law(points, np.concatenate([weight[~wide], weight[wide] / 2, weight[wide] / 2]))


def _add(error: Law, source: Source | None, scale: float) -> Law:
    """Law of y − μ plus an independent error."""
    source, mean, unit = _standard(source)
    x, weight = quadrature.source_nodes(source)
    y = scale * (x - mean) / unit
    return _condense((error.values[:, None] + y).ravel(), (error.weights[:, None] * weight).ravel(), scale)


def _positive_list(name: str, values: float | Iterable[float]) -> list[float]:
    found = [float(v) for v in (values if isinstance(values, Iterable) else [values])]
    if not found or not all(v > 0 and math.isfinite(v) for v in found):
        raise ValueError(f"{name}: takes positive numbers, at least one, got {values!r}")
    return found

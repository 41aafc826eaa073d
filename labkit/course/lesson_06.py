"""Exercises of lesson 06: what a zero costs at the bound, the bound for a budget, what a bound costs a codec."""

from __future__ import annotations

import math
from statistics import NormalDist

import numpy as np
import torch

from labkit.course.exercises import Exercise

# 06.1: the price of a zero


def price_of_zero(bound):
    """−log₂ of the mass of (−½, ½) under a Gaussian of scale `bound`: Φ(a) − Φ(−a) = erf(a/√2)."""
    return -math.log2(math.erf(0.5 / (bound * math.sqrt(2))))


def _bound(seed: int) -> tuple[float]:
    return (float(np.random.default_rng(seed).uniform(0.3, 0.9)),)


def _price_by_integration(bound: float) -> float:
    """The density over the zero bin, by the midpoint rule."""
    y = (np.arange(20_000) + 0.5) / 20_000 - 0.5
    density = np.exp(-0.5 * (y / bound) ** 2) / (bound * math.sqrt(2 * math.pi))
    return float(-np.log2(density.mean()))


def _price_in_nats(bound):
    return -math.log(math.erf(0.5 / (bound * math.sqrt(2))))


def _one_tail(bound):
    return -math.log2(0.5 + 0.5 * math.erf(0.5 / (bound * math.sqrt(2))))


def _half_of_the_bin(bound):
    return 1 + price_of_zero(bound)


def _density(bound):
    return math.log2(bound * math.sqrt(2 * math.pi))


def _two_bins(bound):
    return -math.log2(math.erf(1 / (bound * math.sqrt(2))))


def _variance_for_scale(bound):
    return -math.log2(math.erf(0.5 / math.sqrt(2 * bound)))


def _root_two_forgotten(bound):
    return -math.log2(math.erf(0.5 / bound))


# 06.2: the bound for a budget


def bound_for(bits):
    """The scale whose zero bin has the mass 2^(−bits): half a bin is √2 erf⁻¹(mass) scales wide."""
    mass = torch.tensor(2.0**-bits, dtype=torch.float64)
    return 0.5 / (math.sqrt(2) * torch.erfinv(mass).item())


def _budget(seed: int) -> tuple[float]:
    return (float(np.random.default_rng(seed).uniform(0.02, 0.6)),)


def _bound_by_bisection(bits: float) -> float:
    """Widen the Gaussian until a zero costs too much."""
    low, high = 0.05, 5.0
    for _ in range(60):
        middle = (low + high) / 2
        normal = NormalDist(0, middle)
        low, high = (middle, high) if normal.cdf(0.5) - normal.cdf(-0.5) > 2**-bits else (low, middle)
    return low


def _quantile_of_the_mass(bits):
    return 0.5 / NormalDist().inv_cdf(2.0**-bits)


def _whole_bin(bits):
    return 1 / (math.sqrt(2) * torch.erfinv(torch.tensor(2.0**-bits, dtype=torch.float64)).item())


def _budget_in_nats(bits):
    return 0.5 / (math.sqrt(2) * torch.erfinv(torch.tensor(math.exp(-bits), dtype=torch.float64)).item())


def _without_root_two(bits):
    return 0.5 / torch.erfinv(torch.tensor(2.0**-bits, dtype=torch.float64)).item()


def _inverse(bits):
    return 1 / bound_for(bits)


# 06.3: what a bound costs a codec


def cost_of_bound(scales, bound):
    """The share of scales below the bound, and the mean over all of what their zeros cost more than before."""

    def price(scale):
        return -torch.log2(torch.erf(0.5 / (scale * math.sqrt(2))))

    bounded = scales.clamp(min=bound)
    return (scales < bound).double().mean(), (price(bounded) - price(scales)).mean()


def _scales(seed: int) -> tuple[torch.Tensor, float]:
    rng = np.random.default_rng(seed)
    return torch.from_numpy(rng.lognormal(-1.2, 0.7, 400)), float(rng.uniform(0.35, 0.6))


def _cost_one_by_one(scales: torch.Tensor, bound: float) -> np.ndarray:
    """A sum over latents, in Python's own floats."""

    def bits(scale: float) -> float:
        return -math.log2(1 - 2 * NormalDist(0, scale).cdf(-0.5))

    below = [scale for scale in scales.tolist() if scale < bound]
    return np.array([len(below), sum(bits(bound) - bits(scale) for scale in below)]) / len(scales)


def _prices(scales: torch.Tensor) -> torch.Tensor:
    return -torch.log2(torch.erf(0.5 / (scales * math.sqrt(2))))


def _over_those_below(scales, bound):
    below = scales < bound
    return below.double().mean(), (_prices(torch.tensor(bound)) - _prices(scales[below])).mean()


def _forgets_what_was_paid(scales, bound):
    share = (scales < bound).double().mean()
    return share, share * _prices(torch.tensor(bound, dtype=torch.float64))


def _counts_those_above(scales, bound):
    return (scales < bound).double().mean(), (_prices(torch.tensor(bound)) - _prices(scales)).mean()


def _share_above(scales, bound):
    return (scales >= bound).double().mean(), cost_of_bound(scales, bound)[1]


def _total(scales, bound):
    share, cost = cost_of_bound(scales, bound)
    return share, cost * len(scales)


EXERCISES = (
    Exercise(
        key="06.1",
        title="The price of a zero",
        difficulty=1,
        importance=3,
        minutes=6,
        clue="The mass between −½ and ½ is Φ(½/b) − Φ(−½/b). With Φ(a) − Φ(−a) = erf(a/√2), math.erf gives it at once.",
        answer=price_of_zero,
        cases=_bound,
        oracle=_price_by_integration,
        misconceptions={
            _price_in_nats: "Your price is in nats: bits need the logarithm to base 2.",
            _one_tail: "This counts everything below ½, the left tail included. A bin ends on both sides, at −½ and ½.",
            _half_of_the_bin: "This is the mass from 0 to ½, half of the bin: exactly one bit too many.",
            _density: "This is the density at zero. A symbol's probability is the mass of its bin, which is below 1.",
            _two_bins: "This is the mass from −1 to 1. A bin is one wide: half of it lies on either side of zero.",
            _root_two_forgotten: "A factor √2 is missing: with a = ½/b the mass is erf(a/√2).",
            _variance_for_scale: "You took the bound for a variance. It bounds σ, by which ½ is divided.",
        },
    ),
    Exercise(
        key="06.2",
        title="The bound for a budget",
        difficulty=2,
        importance=2,
        minutes=10,
        clue="The zero bin's mass should be 2^(−bits). Invert erf(½/(b √2)) with torch.erfinv of a float64 tensor.",
        answer=bound_for,
        cases=_budget,
        oracle=_bound_by_bisection,
        misconceptions={
            _quantile_of_the_mass: "This is the quantile of the mass. The rest is in two tails: Φ(½/b) = ½ + mass/2.",
            _whole_bin: "A factor 2 is off: from zero to the bin's edge it is ½, not 1.",
            _budget_in_nats: "e^(−bits) is the mass for a budget in nats. In bits it is 2^(−bits).",
            _without_root_two: "A factor √2 is missing: Φ(a) − Φ(−a) = erf(a/√2).",
            _inverse: "This is 1/b. A larger budget should allow a larger bound.",
        },
    ),
    Exercise(
        key="06.3",
        title="What a bound costs a codec",
        difficulty=2,
        importance=3,
        minutes=10,
        clue="A latent below the bound pays the bound's price instead of its own. All others pay as before.",
        answer=cost_of_bound,
        cases=_scales,
        oracle=_cost_one_by_one,
        misconceptions={
            _over_those_below: "Your mean is over the latents below the bound. Spread their cost over all latents.",
            _forgets_what_was_paid: "You charge the whole price of a zero. Extra is what exceeds their price before.",
            _counts_those_above: "You bring latents above the bound down to it. A lower bound leaves them as they are.",
            _share_above: "Your share is of the latents above the bound; asked for are those below.",
            _total: "Your cost is the sum over all latents. Divide by their number.",
        },
    ),
)

"""Exercises of the lesson on the scale bound: the price of a zero, the bound for a budget, and the cost in a codec."""

from __future__ import annotations

import math
from statistics import NormalDist

import numpy as np
import torch
from torch import Tensor

from labkit.course.exercises.base import Exercise
from labkit.statistics import Array

# bound.zero: the price of a zero


def price_of_zero(bound: float) -> float:
    """Return −log₂ of the mass of (−½, ½) under a Gaussian with scale `bound`, from Φ(a) − Φ(−a) = erf(a/√2)."""
    return -math.log2(math.erf(0.5 / (bound * math.sqrt(2))))


def _bound(seed: int) -> tuple[float]:
    return (float(np.random.default_rng(seed).uniform(0.3, 0.9)),)


def _price_by_integration(bound: float) -> float:
    """Integrate the density over the zero bin by the midpoint rule."""
    y = (np.arange(20_000) + 0.5) / 20_000 - 0.5
    density = np.exp(-0.5 * (y / bound) ** 2) / (bound * math.sqrt(2 * math.pi))
    return float(-np.log2(density.mean()))


def _price_in_nats(bound: float) -> float:
    return -math.log(math.erf(0.5 / (bound * math.sqrt(2))))


def _one_tail(bound: float) -> float:
    return -math.log2(0.5 + 0.5 * math.erf(0.5 / (bound * math.sqrt(2))))


def _half_of_the_bin(bound: float) -> float:
    return 1 + price_of_zero(bound)


def _density(bound: float) -> float:
    return math.log2(bound * math.sqrt(2 * math.pi))


def _two_bins(bound: float) -> float:
    return -math.log2(math.erf(1 / (bound * math.sqrt(2))))


def _variance_for_scale(bound: float) -> float:
    return -math.log2(math.erf(0.5 / math.sqrt(2 * bound)))


def _root_two_forgotten(bound: float) -> float:
    return -math.log2(math.erf(0.5 / bound))


# bound.budget: the bound for a budget


def bound_for(bits: float) -> float:
    """Return the scale whose zero bin has the mass 2^(−bits): half of the bin is √2 erf⁻¹(mass) scales wide."""
    mass = torch.tensor(2.0**-bits, dtype=torch.float64)
    return 0.5 / (math.sqrt(2) * torch.erfinv(mass).item())


def _budget(seed: int) -> tuple[float]:
    return (float(np.random.default_rng(seed).uniform(0.02, 0.6)),)


def _bound_by_bisection(bits: float) -> float:
    """Find by bisection the widest Gaussian under which a zero stays within the budget."""
    low, high = 0.05, 5.0
    for _ in range(60):
        middle = (low + high) / 2
        normal = NormalDist(0, middle)
        low, high = (middle, high) if normal.cdf(0.5) - normal.cdf(-0.5) > 2**-bits else (low, middle)
    return low


def _quantile_of_the_mass(bits: float) -> float:
    return 0.5 / NormalDist().inv_cdf(2.0**-bits)


def _whole_bin(bits: float) -> float:
    return 1 / (math.sqrt(2) * torch.erfinv(torch.tensor(2.0**-bits, dtype=torch.float64)).item())


def _budget_in_nats(bits: float) -> float:
    return 0.5 / (math.sqrt(2) * torch.erfinv(torch.tensor(math.exp(-bits), dtype=torch.float64)).item())


def _without_root_two(bits: float) -> float:
    return 0.5 / torch.erfinv(torch.tensor(2.0**-bits, dtype=torch.float64)).item()


def _inverse(bits: float) -> float:
    return 1 / bound_for(bits)


# bound.cost: the cost of a bound in a codec


def cost_of_bound(scales: Tensor, bound: float) -> tuple[Tensor, Tensor]:
    """Return the share of scales below the bound, and the extra bits of their zeros as a mean over all latents."""

    def price(scale: torch.Tensor) -> torch.Tensor:
        return -torch.log2(torch.erf(0.5 / (scale * math.sqrt(2))))

    bounded = scales.clamp(min=bound)
    return (scales < bound).double().mean(), (price(bounded) - price(scales)).mean()


def _scales(seed: int) -> tuple[Tensor, float]:
    rng = np.random.default_rng(seed)
    return torch.from_numpy(rng.lognormal(-1.2, 0.7, 400)), float(rng.uniform(0.35, 0.6))


def _cost_one_by_one(scales: Tensor, bound: float) -> Array:
    """Sum over latents in plain Python."""

    def bits(scale: float) -> float:
        return -math.log2(1 - 2 * NormalDist(0, scale).cdf(-0.5))

    below = [scale for scale in scales.tolist() if scale < bound]
    return np.array([len(below), sum(bits(bound) - bits(scale) for scale in below)]) / len(scales)


def _prices(scales: Tensor) -> Tensor:
    return -torch.log2(torch.erf(0.5 / (scales * math.sqrt(2))))


def _over_those_below(scales: Tensor, bound: float) -> tuple[Tensor, Tensor]:
    below = scales < bound
    return below.double().mean(), (_prices(torch.tensor(bound)) - _prices(scales[below])).mean()


def _forgets_what_was_paid(scales: Tensor, bound: float) -> tuple[Tensor, Tensor]:
    share = (scales < bound).double().mean()
    return share, share * _prices(torch.tensor(bound, dtype=torch.float64))


def _counts_those_above(scales: Tensor, bound: float) -> tuple[Tensor, Tensor]:
    return (scales < bound).double().mean(), (_prices(torch.tensor(bound)) - _prices(scales)).mean()


def _share_above(scales: Tensor, bound: float) -> tuple[Tensor, Tensor]:
    return (scales >= bound).double().mean(), cost_of_bound(scales, bound)[1]


def _total(scales: Tensor, bound: float) -> tuple[Tensor, Tensor]:
    share, cost = cost_of_bound(scales, bound)
    return share, cost * len(scales)


EXERCISES = (
    Exercise(
        key="bound.zero",
        title="The price of a zero",
        difficulty=1,
        importance=3,
        minutes=6,
        clue="The mass between −½ and ½ is Φ(½/b) − Φ(−½/b). Compute it with math.erf: Φ(a) − Φ(−a) = erf(a/√2).",
        answer=price_of_zero,
        cases=_bound,
        oracle=_price_by_integration,
        misconceptions={
            _price_in_nats: "Your price is in nats. Bits need the logarithm to base 2.",
            _one_tail: "This includes the left tail: it is all mass below ½. The bin has two edges, −½ and ½.",
            _half_of_the_bin: "This is the mass from 0 to ½. It is half of the bin, so the price is exactly one bit "
            "too high.",
            _density: "This is the density at zero. The probability of a symbol is the mass of its bin, which is below "
            "1.",
            _two_bins: "This is the mass from −1 to 1. The bin has the width 1 and reaches from −½ to ½.",
            _root_two_forgotten: "A factor √2 is missing: with a = ½/b the mass is erf(a/√2).",
            _variance_for_scale: "You used the bound as a variance. It bounds σ, so divide ½ by it.",
        },
    ),
    Exercise(
        key="bound.budget",
        title="The bound for a budget",
        difficulty=2,
        importance=2,
        minutes=10,
        clue="The zero bin must have the mass 2^(−bits). Invert erf(½/(b √2)) with torch.erfinv of a float64 tensor.",
        answer=bound_for,
        cases=_budget,
        oracle=_bound_by_bisection,
        misconceptions={
            _quantile_of_the_mass: "This is the quantile of the mass. The remaining mass is in two tails, so Φ(½/b) = "
            "½ + mass/2.",
            _whole_bin: "This is too large by a factor 2: the distance from zero to the edge of the bin is ½, not 1.",
            _budget_in_nats: "e^(−bits) is the mass for a budget in nats. For a budget in bits, the mass is 2^(−bits).",
            _without_root_two: "A factor √2 is missing: Φ(a) − Φ(−a) = erf(a/√2).",
            _inverse: "This is 1/b. A larger budget must allow a larger bound.",
        },
    ),
    Exercise(
        key="bound.cost",
        title="The cost of a bound in a codec",
        difficulty=2,
        importance=3,
        minutes=10,
        clue="A zero with a scale below the bound costs the price at the bound. All others cost the same as before.",
        answer=cost_of_bound,
        cases=_scales,
        oracle=_cost_one_by_one,
        misconceptions={
            _over_those_below: "Your mean is over the latents below the bound. Divide their cost by the number of all "
            "latents.",
            _forgets_what_was_paid: "You count the whole price of a zero. Subtract the price that it had without the "
            "bound.",
            _counts_those_above: "You lowered scales above the bound to the bound. A lower bound does not change them.",
            _share_above: "Your share counts the latents above the bound. Count the latents below it.",
            _total: "Your cost is the sum over all latents. Divide it by their number.",
        },
    ),
)

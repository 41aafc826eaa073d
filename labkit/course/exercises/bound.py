"""Exercises of the lesson on the scale bound: mismatch, latents at the bound, a bound for a budget, and its cost."""

from __future__ import annotations

import math
from statistics import NormalDist

import numpy as np
import torch
from scipy import integrate, special
from torch import Tensor

from labkit.course.exercises.base import Exercise
from labkit.statistics import Array

# bound.helps: the lowest bound of the panel that lowers the mismatch of a narrow latent


def lowest_bound() -> float:
    """Compare the mismatch at σ = 0.02 under each bound above 0.11 with the mismatch under the bound 0.11."""
    from labkit.analysis import scale_bound

    gap = scale_bound.rate_table("aun", 0.02, (0.11, 0.15, 0.2, 0.3, 0.5, 0.7, 1.0)).set_index("bound")["mismatch"]
    return float(min(bound for bound in gap.index if gap[bound] < gap[0.11]))


def _lowest_by_summation() -> float:
    """Sum the bits of y + u and of a zero over a fine grid; for σ = 0.02, rounding always gives zero."""
    t = (np.arange(40_000) + 0.5) / 40_000 * 1.4 - 0.7
    density = special.ndtr((t + 0.5) / 0.02) - special.ndtr((t - 0.5) / 0.02)

    def gap(bound: float) -> float:
        cost = -np.log2(special.ndtr((t + 0.5) / bound) - special.ndtr((t - 0.5) / bound) + 1e-30)
        zero = -np.log2(special.ndtr(0.5 / bound) - special.ndtr(-0.5 / bound))
        return float(np.average(cost, weights=density) - zero)

    return min(bound for bound in (0.15, 0.2, 0.3, 0.5, 0.7, 1.0) if gap(bound) < gap(0.11))


def _next_bound() -> float:
    return 0.15


def _largest_mismatch() -> float:
    return 0.3


def _falls_already() -> float:
    return 0.5


def _largest_bound() -> float:
    return 1.0


# bound.latents: the number of latents at the bound, from two rates


def latents_at_bound(reported: float, written: float, bound: float) -> Tensor:
    """Divide the difference by the extra bits that training charges, compared with the file, for a zero latent."""
    u = (torch.arange(20_000, dtype=torch.float64) + 0.5) / 20_000 - 0.5

    def price(t: torch.Tensor) -> torch.Tensor:
        return -torch.log2(torch.special.ndtr((t + 0.5) / bound) - torch.special.ndtr((t - 0.5) / bound))

    return (reported - written) / (price(u).mean() - price(torch.zeros(1, dtype=torch.float64)).sum())


def _two_rates(seed: int) -> tuple[float, float, float]:
    rng = np.random.default_rng(seed)
    return float(rng.uniform(0.4, 0.8)), float(rng.uniform(0.02, 0.3)), float(rng.uniform(0.45, 0.9))


def _bits(t: float, bound: float) -> float:
    normal = NormalDist(0, bound)
    return -math.log2(normal.cdf(t + 0.5) - normal.cdf(t - 0.5))


def _charge(bound: float) -> float:
    """Integrate the bits of u over the bin by adaptive quadrature."""
    return float(integrate.quad(_bits, -0.5, 0.5, args=(bound,))[0])


def _by_quadrature(reported: float, written: float, bound: float) -> float:
    return (reported - written) / (_charge(bound) - _bits(0, bound))


def _file_pays_nothing(reported: float, written: float, bound: float) -> float:
    return (reported - written) / _charge(bound)


def _approximate(reported: float, written: float, bound: float) -> float:
    return (reported - written) / (1.38 * bound)


def _approximate_difference(reported: float, written: float, bound: float) -> float:
    return (reported - written) / (1.38 * bound - _bits(0, bound))


def _without_the_file(reported: float, written: float, bound: float) -> float:
    return reported / (_charge(bound) - _bits(0, bound))


def _multiplied(reported: float, written: float, bound: float) -> float:
    return (reported - written) * (_charge(bound) - _bits(0, bound))


def _at_the_edge(reported: float, written: float, bound: float) -> float:
    return (reported - written) / (_bits(0.5, bound) - _bits(0, bound))


# bound.budget: the bound for a budget


def bound_for(bits: float) -> float:
    """Return the scale whose zero bin has probability 2^(−bits): half the bin is √2 erf⁻¹(probability) scales wide."""
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
    """Return the fraction of scales below the bound, and the extra bits of their zeros, averaged over all latents."""

    def price(scale: torch.Tensor) -> torch.Tensor:
        return -torch.log2(torch.erf(0.5 / (scale * math.sqrt(2))))

    bounded = scales.clamp(min=bound)
    return (scales < bound).double().mean(), (price(bounded) - price(scales)).mean()


def _scales(seed: int) -> tuple[Tensor, float]:
    rng = np.random.default_rng(seed)
    return torch.from_numpy(rng.lognormal(-1.2, 0.7, 400)), float(rng.uniform(0.35, 0.6))


def _cost_one_by_one(scales: Tensor, bound: float) -> Array:
    """Sum over the latents in plain Python."""

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
        key="bound.helps",
        title="The bound that helps",
        difficulty=1,
        importance=2,
        minutes=6,
        hints=(
            "Set the surrogate to aun. The mismatch is the distance between the curves at the left end of the plot.",
            "Note this distance for the bound 0.11. Then move the bound upwards, one step at a time, and compare.",
            "The distance first grows, up to a bound of about 0.3, and then shrinks. It passes its first value late.",
        ),
        answer=lowest_bound,
        oracle=_lowest_by_summation,
        misconceptions={
            _next_bound: "Just above 0.11 the mismatch grows: the training rate rises faster than the test rate.",
            _largest_mismatch: "At 0.3 the mismatch of this latent is near its largest value. Move the bound further.",
            _falls_already: "At 0.5 the mismatch is already falling, but it is still larger than at 0.11.",
            _largest_bound: "At 1.0 the mismatch is smaller than at 0.11, but a lower bound of the slider does this, "
            "too.",
        },
    ),
    Exercise(
        key="bound.latents",
        title="Latents at the bound",
        difficulty=2,
        importance=3,
        minutes=12,
        hints=(
            "What does training charge one such latent, on average over u, and what does the file pay for it?",
            "Training charges the mean of the bits of u over (−½, ½), with σ = b. The file pays the bits of 0.",
            "Divide reported − written by the difference of the two. For the mean, take 20,000 midpoints of u.",
        ),
        answer=latents_at_bound,
        cases=_two_rates,
        oracle=_by_quadrature,
        misconceptions={
            _file_pays_nothing: "You left out what the file pays for a zero. At these bounds it is not free: subtract "
            "the bits of 0.",
            _approximate: "You used 1.38 b, which is accurate for small bounds only. You also left out what a zero "
            "costs in the file.",
            _approximate_difference: "You used 1.38 b. At this bound the two edges of the bin overlap: average over u.",
            _without_the_file: "You divided the whole reported rate. Part of it is in the file as well.",
            _multiplied: "You multiplied by the difference per latent. Divide by it to get a number of latents.",
            _at_the_edge: "You took the bits at the edge, u = ½. Noise is uniform, so average over the whole bin.",
        },
    ),
    Exercise(
        key="bound.budget",
        title="The bound for a budget",
        difficulty=2,
        importance=2,
        minutes=10,
        hints=(
            "The price −log₂ P(0) must equal the budget. Which mass does the zero bin then have?",
            "The mass is 2^(−bits), and it also is erf(½/(b √2)). Solve the equation for b.",
            "Apply torch.erfinv to a float64 tensor with the mass. The result is ½/(b √2).",
        ),
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
        hints=(
            "Only the latents below the bound change their price. For these, write the price before and after.",
            "Before, a zero costs −log₂ erf(½/(σ √2)). Afterwards, the bound takes the place of σ.",
            "scales.clamp(min=bound) gives the scales under the bound. Average the difference over all latents.",
        ),
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

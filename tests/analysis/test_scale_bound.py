"""The scale-lower-bound laboratory against integrals in NumPy and SciPy, and against finite differences."""

import itertools
import math

import numpy as np
import pytest
import torch
from compressai.entropy_models import GaussianConditional
from scipy import integrate, special, stats

from labkit import surrogates
from labkit.analysis import plots, scale_bound, sources

FLOOR = 1e-9  # CompressAI's, under likelihoods


def bits(distance, sigma):
    a, b = (np.abs(distance) - 0.5) / sigma, (np.abs(distance) + 0.5) / sigma
    return -np.log2(np.maximum(special.ndtr(-a) - special.ndtr(-b), FLOOR))


def noisy_rate(s, sigma, cdf=special.ndtr):
    """Rate of additive noise: the density of y − μ + u is the source's over a bin, F((t + ½)/s) − F((t − ½)/s)."""
    end = 0.5 + 12 * s
    cuts = sorted({-end, -0.5 - 2 * s, -0.5, -0.5 + 2 * s, 0, 0.5 - 2 * s, 0.5, 0.5 + 2 * s, end})

    def density(t):
        return cdf((t + 0.5) / s) - cdf((t - 0.5) / s)

    pieces = itertools.pairwise(cuts)
    return sum(integrate.quad(lambda t: density(t) * bits(t, sigma), a, b, limit=200)[0] for a, b in pieces)


def rounded_rate(s, sigma, cdf=special.ndtr):
    k = np.arange(-60, 61)
    return float((cdf((k + 0.5) / s) - cdf((k - 0.5) / s)) @ bits(k, sigma))


def laplace_cdf(x):
    return stats.laplace(scale=1 / math.sqrt(2)).cdf(x)


SHAPES = {"gaussian": (None, special.ndtr), "laplace": (sources.laplace(), laplace_cdf)}


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(("s", "sigma"), [(0.02, 0.02), (0.2, 0.2), (1.0, 1.0), (0.2, 0.3), (1.5, 1.0)])
def test_rates_of_additive_noise_and_of_rounding_are_the_integrals(shape, s, sigma):
    source, cdf = SHAPES[shape]
    row = scale_bound.rate_table("aun", sigma, 1e-3, source_scale=s, source=source).iloc[0]
    assert row["train_rate"] == pytest.approx(noisy_rate(s, sigma, cdf), abs=2e-5)
    assert row["test_rate"] == pytest.approx(rounded_rate(s, sigma, cdf), abs=1e-8)
    assert row["mismatch"] == row["train_rate"] - row["test_rate"]


def test_additive_noise_overstates_the_rate_most_near_a_fifth_of_a_bin():
    table = scale_bound.rate_table("aun", np.geomspace(0.02, 1, 41), 1e-3).set_index("scale")["mismatch"]
    assert (table > 0).all()
    assert table.iloc[0] == pytest.approx(0.052, abs=5e-4)
    assert table.max() == pytest.approx(0.416, abs=1e-3) and 0.17 < table.idxmax() < 0.2
    assert scale_bound.rate_table("aun", 0.5).mismatch[0] == pytest.approx(0.0132, abs=5e-5)


@pytest.mark.parametrize("tau", [1.0, 0.4])
def test_rates_of_rounding_with_noise_sum_over_integers(tau):
    s, sigma = 0.3, 0.4

    def share(k):
        """P(⌊y + τu⌉ = k): a trapezium over y around k."""
        f = lambda y: np.clip((0.5 + tau / 2 - abs(y - k)) / tau, 0, 1) * stats.norm(0, s).pdf(y)  # noqa: E731
        cuts = k + np.array([-0.5 - tau / 2, -0.5 + tau / 2, 0, 0.5 - tau / 2, 0.5 + tau / 2])
        return sum(integrate.quad(f, a, b)[0] for a, b in itertools.pairwise(cuts))

    k = np.arange(-4, 5)
    oracle = np.array([share(i) for i in k]) @ bits(k, sigma)
    train = scale_bound.rate_table("sua", sigma, 1e-3, source_scale=s, temperatures=tau)["train_rate"][0]
    assert train == pytest.approx(oracle, abs=1e-8)


def test_not_centered_rounding_has_the_rate_of_additive_noise():
    """With μ mod 1 uniform, ⌊y⌉ − y is uniform whatever y − μ is: a dither, and no mismatch for additive noise."""
    off = {"zero_center": False, "test_zero_center": False, "source_scale": 0.2}
    for name in ("aun", "uq", "ste", "dither"):
        row = scale_bound.rate_table(name, 0.25, 0.1, temperatures=0.5, **off).iloc[0]
        assert row["test_rate"] == pytest.approx(noisy_rate(0.2, 0.25), abs=2e-5)
        assert row["train_rate"] == pytest.approx(row["test_rate"], abs=2e-5)


def test_not_centered_training_averages_over_the_offset():
    s, sigma, tau, n = 0.2, 0.3, 0.6, 400_000
    rng = np.random.default_rng(0)
    mean, x, u = rng.random(n), rng.normal(0, s, n), rng.random(n) - 0.5
    sampled = bits(np.round(mean + x + tau * u) - mean, sigma)
    row = scale_bound.rate_table("sua", sigma, source_scale=s, temperatures=tau, zero_center=False).iloc[0]
    assert abs(row["train_rate"] - sampled.mean()) < 5 * sampled.std() / n**0.5
    assert row["test_rate"] == pytest.approx(rounded_rate(s, sigma), abs=1e-8)  # the test is centered, as coding is


@pytest.mark.parametrize("name", ["aun", "sua", "sga", "ste", "soft"])
def test_gradients_are_the_finite_differences_above_the_bound(name):
    sigma, h = np.array([0.15, 0.3, 0.8]), 1e-4
    how = {"source_scale": 0.25, "temperatures": 0.5, "likelihood_bound": 0}  # the floor's rule is no derivative
    row, up, down = (scale_bound.rate_table(name, sigma + e, 0.11, **how) for e in (0, h, -h))
    for part in ("train", "test"):
        difference = (up[f"{part}_rate"] - down[f"{part}_rate"]) / (2 * h)
        np.testing.assert_allclose(row[f"{part}_gradient"], difference, rtol=1e-4, atol=1e-5)


def test_below_the_bound_each_latents_gradient_passes_only_where_it_raises_the_scale():
    """E[min(∂ bits/∂σ, 0)] at the bound, over the density of y + u; a step against a negative gradient raises σ."""
    h, bound = 1e-5, 0.2
    for s in (0.05, 0.3):

        def passed(t, s=s):
            slope = (bits(t, bound + h) - bits(t, bound - h)) / (2 * h)
            return (special.ndtr((t + 0.5) / s) - special.ndtr((t - 0.5) / s)) * min(slope, 0)

        cuts = np.concatenate([np.linspace(0, 1.5, 31), [1.5 + 3 * s]])  # the floor of 10⁻⁹ lies beyond 1.6
        oracle = 2 * sum(integrate.quad(passed, a, b, limit=200)[0] for a, b in itertools.pairwise(cuts))
        row = scale_bound.rate_table("aun", [0.1], bound, source_scale=s).iloc[0]
        assert row["train_gradient"] == pytest.approx(oracle, rel=2e-3) and oracle < 0
        assert row["train_rate"] == pytest.approx(noisy_rate(s, bound), abs=2e-5)


@pytest.mark.parametrize("bound", [0.11, 0.3])
def test_rates_and_gradients_of_integers_are_compressais_own(bound):
    """GaussianConditional in float64, with its bounds on the scale and on the likelihood, over the law's integers."""
    module = GaussianConditional(None, scale_bound=bound).double()
    for bounded in (module.lower_bound_scale, module.likelihood_lower_bound):
        bounded.bound = torch.tensor([bound if bounded is module.lower_bound_scale else FLOOR], dtype=torch.float64)
    law = scale_bound.training_law(0.8, "sr")
    values, weights = torch.as_tensor(law.values).view(1, -1), torch.as_tensor(law.weights)
    for sigma in (0.05, 0.2, 0.9):
        scale = torch.tensor(sigma, dtype=torch.float64, requires_grad=True)
        _, likelihood = module(values, scale.expand_as(values), training=False)
        rate = -(weights * torch.log2(likelihood)).sum()
        row = scale_bound.rate_table("sr", sigma, bound, source_scale=0.8).iloc[0]
        assert row["train_rate"] == pytest.approx(rate.item(), rel=1e-6)
        assert row["train_gradient"] == pytest.approx(torch.autograd.grad(rate, scale)[0].item(), rel=1e-5)


def test_the_likelihoods_floor_caps_the_bits():
    row = scale_bound.rate_table("ste", 0.02, 1e-3, source_scale=100.0).iloc[0]
    assert 29 < row["train_rate"] < -math.log2(FLOOR)
    free = scale_bound.rate_table("ste", 0.02, 1e-3, source_scale=100.0, likelihood_bound=0).iloc[0]
    assert free["train_rate"] > 1e4


def test_a_law_has_the_moments_of_its_definition():
    for name, tau, excess in (("aun", 1, 1 / 12), ("sr", 1, 1 / 6), ("sua", 0.5, 1.25 / 12)):
        law = scale_bound.training_law(2.0, name, tau)  # at s = 2 the phase of y within a bin is uniform
        assert law.weights.sum() == pytest.approx(1, abs=1e-12)
        assert law.weights @ law.values == pytest.approx(0, abs=1e-9)
        assert law.weights @ law.values**2 == pytest.approx(4 + excess, abs=1e-7)


@pytest.mark.parametrize("s", [0.1, 0.5, 2.0])
def test_training_learns_the_true_scale_of_a_gaussian_under_additive_noise_and_under_rounding(s):
    """The model's density is the truth's at σ = s, and cross-entropy is smallest at the truth."""
    assert scale_bound.learned_scale(scale_bound.training_law(s, "aun")) == pytest.approx(s, rel=1e-3)
    assert scale_bound.learned_scale(scale_bound.test_law(s)) == pytest.approx(s, rel=1e-3)


def test_noise_before_rounding_makes_training_learn_a_larger_scale():
    assert scale_bound.learned_scale(scale_bound.training_law(0.1, "sr")) > 0.25


def test_a_bound_table_holds_the_learned_scales_rates():
    """aun and Gaussian: σ* = max(b, s), so every column follows from the two integrals."""
    s, shares, bound, e = np.array([0.05, 0.3]), np.array([0.75, 0.25]), 0.15, 1e-3
    row = scale_bound.bound_table("aun", s, bound, weights=[3, 1]).iloc[0]
    sigma = np.maximum(s, bound)
    train = np.array([noisy_rate(*pair) for pair in zip(s, sigma, strict=True)])
    test = np.array([rounded_rate(*pair) for pair in zip(s, sigma, strict=True)])
    free = np.array([rounded_rate(one, one) for one in s])

    def gap(one, sigma, step):
        return noisy_rate(one * math.exp(step), sigma) - rounded_rate(one * math.exp(step), sigma)

    slope = np.array([(gap(a, b, e) - gap(a, b, -e)) / (2 * e) for a, b in zip(s, sigma, strict=True)])
    assert row["train_rate"] == pytest.approx(shares @ train, abs=2e-5)
    assert row["mismatch"] == pytest.approx(shares @ (train - test), abs=2e-5)
    assert row["rms_mismatch"] == pytest.approx(math.sqrt(shares @ (train - test) ** 2), abs=2e-5)
    assert row["cost"] == pytest.approx(shares @ (test - free), abs=2e-5)
    assert row["rms_slope"] == pytest.approx(math.sqrt(shares @ slope**2), rel=2e-3)


def test_no_bound_lowers_the_test_rate_of_gaussians_and_mismatch_alone_runs_to_the_end():
    s = np.array([0.03, 0.1, 0.3, 1.0])
    rate = scale_bound.best_bound("aun", s, "test_rate", interval=(0.02, 1))
    assert (rate.where, rate.bound) == ("lower end", 0.02) and rate.cost == pytest.approx(0, abs=1e-8)
    gap = scale_bound.best_bound("aun", s, "rms_mismatch", interval=(0.02, 1))
    assert gap.where == "upper end" and gap.bound == pytest.approx(1) and gap.cost > 0.5
    # for a narrow latent the mismatch first rises with the bound
    table = scale_bound.bound_table("aun", 0.02, [0.02, 0.25, 5.0])["mismatch"]
    assert table[1] > 4 * table[0] and table[2] < table[0]


def test_a_bound_inside_the_interval_is_the_brute_force_minimum():
    """Laplacian latents are coded best at a scale above the one that additive noise teaches."""
    s = np.array([0.05, 0.1, 0.2])
    best = scale_bound.best_bound("aun", s, "test_rate", source=sources.laplace())
    assert best.where == "inside" and best.cost < 0
    grid = np.geomspace(0.06, 0.5, 150)
    learned = [scale_bound.learned_scale(scale_bound.training_law(one, "aun", source=sources.laplace())) for one in s]
    rates = [np.mean([rounded_rate(a, max(b, c), laplace_cdf) for a, c in zip(s, learned, strict=True)]) for b in grid]
    assert min(rates) - 1e-5 < best.test_rate < min(rates) + 1e-7
    assert best.bound == pytest.approx(grid[np.argmin(rates)], rel=0.03)


def test_the_cost_limit_holds_and_is_named():
    s = np.array([0.02, 0.05])
    best = scale_bound.best_bound("aun", s, "rms_slope", max_cost=1e-3)
    assert best.where == "cost limit" and best.cost <= 1e-3
    assert scale_bound.bound_table("aun", s, best.bound * 1.02)["cost"][0] > 1e-3


def test_a_large_population_is_gathered_without_losing_its_means():
    s = np.exp(np.random.default_rng(0).normal(-1.5, 0.7, 3000))
    gathered, shares = scale_bound._gather(s, None)
    assert len(gathered) <= 32 and shares.sum() == pytest.approx(1)
    assert shares @ np.log(gathered) == pytest.approx(np.log(s).mean())
    each = np.mean([rounded_rate(one, max(one, 0.2)) for one in s])
    assert scale_bound.bound_table("ste", s, 0.2)["test_rate"][0] == pytest.approx(each, rel=0.01)


def test_figures_show_the_tables_values():
    table = scale_bound.rate_table("aun", [0.05, 0.2, 0.6], [0.11, 0.3])
    figure = plots.rates_over_scale(table, bound=0.3)
    np.testing.assert_array_equal(figure.data[1].y, table.loc[table["bound"] == 0.3, "test_rate"])
    assert figure.data[0].line.dash != figure.data[1].line.dash
    with pytest.raises(ValueError, match="bound: the table has"):
        plots.rates_over_scale(table, bound=0.2)
    costs = scale_bound.bound_table("ste", 0.1, [0.1, 0.2])
    np.testing.assert_array_equal(plots.bound_tradeoff(costs).data[0].x, costs["cost"])


@pytest.mark.parametrize(
    ("call", "line"),
    [
        (lambda: scale_bound.rate_table("aun"), "scales: takes positive numbers, at least one"),
        (lambda: scale_bound.rate_table("aun", -1), "scales: takes positive numbers, at least one, got -1"),
        (lambda: scale_bound.rate_table("aun", 1, 0), "bounds: takes positive numbers, at least one, got 0"),
        (lambda: scale_bound.training_law(0.0), "scale: takes positive numbers"),
        (lambda: scale_bound.training_law(1e4), "scale: .* spans more than the 4096 bins"),
        (
            lambda: scale_bound.training_law(1, surrogates.get("ssl", classes=3)),
            "surrogate: .* several numbers a latent",
        ),
        (
            lambda: scale_bound.best_bound("aun", 0.1, "loss"),
            "objective: takes one of rms_mismatch, rms_slope, test_rate",
        ),
        (lambda: scale_bound.best_bound("aun", 0.1, interval=(1, 0.1)), "interval: takes two rising numbers"),
        (
            lambda: scale_bound.best_bound("aun", 0.1, interval=(0.5, 1), max_cost=0),
            "max_cost: every bound in the interval",
        ),
        (lambda: scale_bound.bound_table("aun", [], 0.1), "population: takes positive scales, at least one"),
        (lambda: scale_bound.bound_table("aun", [0.1, 0.2], 0.1, weights=[1]), "weights: takes one number .* 2 scales"),
    ],
)
def test_bad_input_gets_one_clear_line(call, line):
    with pytest.raises(ValueError, match=line) as error:
        call()
    assert "\n" not in str(error.value)


def test_a_scale_table_is_differentiable():
    law = scale_bound.training_law(0.2, "sua", 0.5)
    scale = torch.tensor([0.2, 0.4], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(law.rate, (scale,))

"""Tables about the lower bound on the scale agree with integrals in NumPy and SciPy and with finite differences."""

import itertools
import math

import numpy as np
import pytest
from scipy import integrate, special, stats

from labkit.analysis import plots, scale_bound, sources
from labkit.analysis.latent_laws import test_law as rounded_law  # pytest would collect the name test_law
from labkit.analysis.latent_laws import training_law
from tests.analysis.oracles import bounded_bits, noisy_rate, rounded_rate


def laplace_cdf(x):
    return stats.laplace(scale=1 / math.sqrt(2)).cdf(x)


SHAPES = {"gaussian": (None, special.ndtr), "laplace": (sources.laplace(), laplace_cdf)}


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(("s", "sigma"), [(0.02, 0.02), (0.2, 0.2), (1.0, 1.0), (0.2, 0.3), (1.5, 1.0)])
def test_the_rates_of_additive_noise_and_of_rounding_agree_with_integrals(shape, s, sigma):
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
def test_the_rate_of_rounding_with_noise_is_a_sum_over_integers(tau):
    s, sigma = 0.3, 0.4

    def share(k):
        """Return P(⌊y + τu⌉ = k); given y, this probability is a trapezoid around k."""
        f = lambda y: np.clip((0.5 + tau / 2 - abs(y - k)) / tau, 0, 1) * stats.norm(0, s).pdf(y)  # noqa: E731
        cuts = k + np.array([-0.5 - tau / 2, -0.5 + tau / 2, 0, 0.5 - tau / 2, 0.5 + tau / 2])
        return sum(integrate.quad(f, a, b)[0] for a, b in itertools.pairwise(cuts))

    k = np.arange(-4, 5)
    oracle = np.array([share(i) for i in k]) @ bounded_bits(k, sigma)
    train = scale_bound.rate_table("sua", sigma, 1e-3, source_scale=s, temperatures=tau)["train_rate"][0]
    assert train == pytest.approx(oracle, abs=1e-8)


def test_rounding_without_zero_center_has_the_rate_of_additive_noise():
    """If μ mod 1 is uniform, ⌊y⌉ − y is uniform for every y − μ, like dither, so additive noise has no mismatch."""
    uncentered = {"zero_center": False, "test_zero_center": False, "source_scale": 0.2}
    for name in ("aun", "uq", "ste", "dither"):
        row = scale_bound.rate_table(name, 0.25, 0.1, temperatures=0.5, **uncentered).iloc[0]
        assert row["test_rate"] == pytest.approx(noisy_rate(0.2, 0.25), abs=2e-5)
        assert row["train_rate"] == pytest.approx(row["test_rate"], abs=2e-5)


def test_training_without_zero_center_averages_over_the_offset():
    s, sigma, tau, n = 0.2, 0.3, 0.6, 400_000
    rng = np.random.default_rng(0)
    mean, x, u = rng.random(n), rng.normal(0, s, n), rng.random(n) - 0.5
    sampled = bounded_bits(np.round(mean + x + tau * u) - mean, sigma)
    row = scale_bound.rate_table("sua", sigma, source_scale=s, temperatures=tau, zero_center=False).iloc[0]
    assert abs(row["train_rate"] - sampled.mean()) < 5 * sampled.std() / n**0.5
    assert row["test_rate"] == pytest.approx(rounded_rate(s, sigma), abs=1e-8)  # the test rate is zero-centered


@pytest.mark.parametrize("name", ["aun", "sua", "sga", "ste", "soft"])
def test_gradients_above_the_bound_agree_with_finite_differences(name):
    sigma, h = np.array([0.15, 0.3, 0.8]), 1e-4
    # without the bound on likelihoods, because the gradient below it is not a derivative
    options = {"source_scale": 0.25, "temperatures": 0.5, "likelihood_bound": 0}
    row, up, down = (scale_bound.rate_table(name, sigma + e, 0.11, **options) for e in (0, h, -h))
    for part in ("train", "test"):
        difference = (up[f"{part}_rate"] - down[f"{part}_rate"]) / (2 * h)
        np.testing.assert_allclose(row[f"{part}_gradient"], difference, rtol=1e-4, atol=1e-5)


def test_a_gradient_below_the_bound_passes_only_if_it_raises_the_scale():
    """The reference is E[min(∂ bits/∂σ, 0)] at the bound for y + u. A step against a negative gradient raises σ."""
    h, bound = 1e-5, 0.2
    for s in (0.05, 0.3):

        def passing_gradient(t, s=s):
            slope = (bounded_bits(t, bound + h) - bounded_bits(t, bound - h)) / (2 * h)
            return (special.ndtr((t + 0.5) / s) - special.ndtr((t - 0.5) / s)) * min(slope, 0)

        cuts = np.concatenate([np.linspace(0, 1.5, 31), [1.5 + 3 * s]])  # the bound on likelihoods matters beyond 1.6
        oracle = 2 * sum(integrate.quad(passing_gradient, a, b, limit=200)[0] for a, b in itertools.pairwise(cuts))
        row = scale_bound.rate_table("aun", [0.1], bound, source_scale=s).iloc[0]
        assert row["train_gradient"] == pytest.approx(oracle, rel=2e-3) and oracle < 0
        assert row["train_rate"] == pytest.approx(noisy_rate(s, bound), abs=2e-5)


@pytest.mark.parametrize("s", [0.1, 0.5, 2.0])
def test_training_learns_the_true_scale_of_a_gaussian_under_additive_noise_and_under_rounding(s):
    """At σ = s, the model has the true density, which minimizes the cross-entropy."""
    assert scale_bound.learned_scale(training_law(s, "aun")) == pytest.approx(s, rel=1e-3)
    assert scale_bound.learned_scale(rounded_law(s)) == pytest.approx(s, rel=1e-3)


def test_training_with_stochastic_rounding_learns_a_larger_scale():
    assert scale_bound.learned_scale(training_law(0.1, "sr")) > 0.25


def test_a_bound_table_has_the_rates_at_the_learned_scales():
    """For aun and a Gaussian latent, the learned scale is max(b, s), so every column follows from the two integrals."""
    s, shares, bound, e = np.array([0.05, 0.3]), np.array([0.75, 0.25]), 0.15, 1e-3
    row = scale_bound.bound_table("aun", s, bound, weights=[3, 1]).iloc[0]
    sigma = np.maximum(s, bound)
    train = np.array([noisy_rate(*pair) for pair in zip(s, sigma, strict=True)])
    test = np.array([rounded_rate(*pair) for pair in zip(s, sigma, strict=True)])
    free = np.array([rounded_rate(scale, scale) for scale in s])

    def gap(scale, sigma, step):
        return noisy_rate(scale * math.exp(step), sigma) - rounded_rate(scale * math.exp(step), sigma)

    slope = np.array([(gap(a, b, e) - gap(a, b, -e)) / (2 * e) for a, b in zip(s, sigma, strict=True)])
    assert row["train_rate"] == pytest.approx(shares @ train, abs=2e-5)
    assert row["mismatch"] == pytest.approx(shares @ (train - test), abs=2e-5)
    assert row["rms_mismatch"] == pytest.approx(math.sqrt(shares @ (train - test) ** 2), abs=2e-5)
    assert row["cost"] == pytest.approx(shares @ (test - free), abs=2e-5)
    assert row["rms_slope"] == pytest.approx(math.sqrt(shares @ slope**2), rel=2e-3)


def test_no_bound_lowers_the_test_rate_of_gaussians_and_the_largest_bound_minimizes_the_mismatch():
    s = np.array([0.03, 0.1, 0.3, 1.0])
    rate = scale_bound.best_bound("aun", s, "test_rate", interval=(0.02, 1))
    assert (rate.where, rate.bound) == ("lower end", 0.02) and rate.cost == pytest.approx(0, abs=1e-8)
    gap = scale_bound.best_bound("aun", s, "rms_mismatch", interval=(0.02, 1))
    assert gap.where == "upper end" and gap.bound == pytest.approx(1) and gap.cost > 0.5
    # for a narrow latent, the mismatch first rises with the bound
    table = scale_bound.bound_table("aun", 0.02, [0.02, 0.25, 5.0])["mismatch"]
    assert table[1] > 4 * table[0] and table[2] < table[0]


def test_the_best_bound_inside_the_interval_agrees_with_a_brute_force_search():
    """The best scale for coding Laplacian latents is larger than the scale that training with additive noise learns."""
    s = np.array([0.05, 0.1, 0.2])
    best = scale_bound.best_bound("aun", s, "test_rate", source=sources.laplace())
    assert best.where == "inside" and best.cost < 0
    grid = np.geomspace(0.06, 0.5, 150)
    learned = [scale_bound.learned_scale(training_law(scale, "aun", source=sources.laplace())) for scale in s]
    rates = [np.mean([rounded_rate(a, max(b, c), laplace_cdf) for a, c in zip(s, learned, strict=True)]) for b in grid]
    assert min(rates) - 1e-5 < best.test_rate < min(rates) + 1e-7
    assert best.bound == pytest.approx(grid[np.argmin(rates)], rel=0.03)


def test_the_best_bound_respects_and_reports_the_cost_limit():
    s = np.array([0.02, 0.05])
    best = scale_bound.best_bound("aun", s, "rms_slope", max_cost=1e-3)
    assert best.where == "cost limit" and best.cost <= 1e-3
    assert scale_bound.bound_table("aun", s, best.bound * 1.02)["cost"][0] > 1e-3


def test_gathering_a_large_population_preserves_its_means():
    s = np.exp(np.random.default_rng(0).normal(-1.5, 0.7, 3000))
    gathered, shares = scale_bound._gather(s, None)
    assert len(gathered) <= 32 and shares.sum() == pytest.approx(1)
    assert shares @ np.log(gathered) == pytest.approx(np.log(s).mean())
    mean = np.mean([rounded_rate(scale, max(scale, 0.2)) for scale in s])
    assert scale_bound.bound_table("ste", s, 0.2)["test_rate"][0] == pytest.approx(mean, rel=0.01)


def test_the_figure_shows_the_values_of_the_table_on_any_page():
    costs = scale_bound.bound_table("ste", 0.1, [0.1, 0.2])
    figure = plots.bound_tradeoff(costs)
    np.testing.assert_array_equal(figure.data[0].x, costs["cost"])
    template = figure.layout.template.layout
    assert template.paper_bgcolor == template.plot_bgcolor == "rgba(0,0,0,0)"


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: scale_bound.rate_table("aun"), "scales must be positive numbers, at least one"),
        (lambda: scale_bound.rate_table("aun", -1), "scales must be positive numbers, at least one, got -1"),
        (lambda: scale_bound.rate_table("aun", 1, 0), "bounds must be positive numbers, at least one, got 0"),
        (
            lambda: scale_bound.best_bound("aun", 0.1, "loss"),
            "objective must be one of rms_mismatch, rms_slope, test_rate",
        ),
        (lambda: scale_bound.best_bound("aun", 0.1, interval=(1, 0.1)), "interval must be two rising numbers"),
        (
            lambda: scale_bound.best_bound("aun", 0.1, interval=(0.5, 1), max_cost=0),
            "max_cost must be higher: every bound in the interval",
        ),
        (lambda: scale_bound.bound_table("aun", [], 0.1), "population must be positive scales, at least one"),
        (
            lambda: scale_bound.bound_table("aun", [0.1, 0.2], 0.1, weights=[1]),
            "weights must be one number .* 2 scales",
        ),
    ],
)
def test_an_invalid_argument_raises_an_error_of_one_line(call, message):
    with pytest.raises(ValueError, match=message) as error:
        call()
    assert "\n" not in str(error.value)

"""The analysis of a code with one latent agrees with integrals that NumPy and SciPy compute from the definitions."""

import dataclasses
import itertools
import math

import numpy as np
import pytest
import torch
from scipy import integrate, special, stats

from labkit import schemes, surrogates
from labkit.analysis import (
    ScalarCode,
    exact_gradient,
    gaussian_bits,
    gradient_risk,
    mismatch,
    pointwise_risk,
    sources,
)
from labkit.analysis import test_loss as rounded_loss  # pytest would collect the name test_loss
from tests.analysis.oracles import bits

SAMPLES = 200_000
SIGMAS = 5  # standard errors; each of about 150 comparisons fails by chance with a probability of 6e-7


def loss_numpy(y, x, code):
    """Return the loss ℓ of a code for a latent y and data x."""
    return bits(y - code.mean, code.scale) + code.lmbda * (code.step * y - x) ** 2


def expectation(code, f, jumps=(0.5,)):
    """Return E[f(x)] by adaptive quadrature; f may jump if gain · x − mean is an integer plus an element of `jumps`."""
    low, high = code.source.ppf(1e-12), code.source.ppf(1 - 1e-12)
    k = np.arange(math.floor(code.gain * low) - 2, math.ceil(code.gain * high) + 3)
    cuts = np.unique(((k[:, None] + np.array(jumps)).ravel() + code.mean) / code.gain)
    edges = [low, *cuts[(cuts > low) & (cuts < high)], high]
    pieces = itertools.pairwise(edges)
    return sum(integrate.quad(lambda x: f(x) * code.source.pdf(x), a, b, epsabs=1e-12)[0] for a, b in pieces)


GAUSSIAN = ScalarCode(sources.gaussian(), gain=0.5)
OFFSET = ScalarCode(sources.gaussian(0.3, 1.2), gain=0.4, lmbda=3.0, mean=0.37, scale=0.55, step=2.3)


# sources


@pytest.mark.parametrize(
    "source",
    [
        sources.gaussian(0.4, 2.5),
        sources.laplace(0.4, 2.5),
        sources.generalized_gaussian(0.7, 0.4, 2.5),
        sources.uniform(0.4, 2.5),
    ],
)
def test_sources_have_the_given_mean_and_standard_deviation(source):
    assert source.mean() == pytest.approx(0.4, abs=1e-12)
    assert source.std() == pytest.approx(2.5, rel=1e-12)


def test_the_generalized_gaussian_is_gaussian_at_shape_2_and_laplacian_at_shape_1():
    x = np.linspace(-4, 4, 41)
    np.testing.assert_allclose(
        sources.generalized_gaussian(2, 0.1, 1.3).pdf(x), stats.norm(0.1, 1.3).pdf(x), rtol=1e-12
    )
    np.testing.assert_allclose(sources.generalized_gaussian(1, 0.1, 1.3).pdf(x), sources.laplace(0.1, 1.3).pdf(x))


def test_an_empirical_source_is_the_histogram_of_its_samples():
    samples = torch.randn(20_000, generator=torch.Generator().manual_seed(0)).view(2, -1) * 1.5 + 0.2
    source = sources.empirical(samples, bins=40)
    counts, edges = np.histogram(samples.numpy(), bins=40)
    np.testing.assert_allclose(np.diff(source.cdf(edges)), counts / 20_000, atol=1e-12)
    assert source.std() == pytest.approx(float(samples.std()), rel=0.01)


# rate and test loss


def test_bits_follow_the_formula_and_stay_finite_far_from_the_mean():
    y = np.linspace(-6, 6, 49)
    ours = gaussian_bits(torch.tensor(y), *torch.tensor([0.3, 0.9], dtype=torch.float64)).numpy()
    np.testing.assert_allclose(ours, bits(y - 0.3, 0.9), rtol=1e-9)
    far = torch.tensor([0.0, 5.0, 1e3, -1e3], dtype=torch.float64, requires_grad=True)
    far_bits = gaussian_bits(far, *torch.tensor([0.0, 0.02], dtype=torch.float64))
    (slope,) = torch.autograd.grad(far_bits.sum(), far)
    assert torch.isfinite(far_bits).all() and torch.isfinite(slope).all()
    # far from the mean, only the nearer edge of the bin matters: with t = (|y| − ½)/σ, −ln p is t²/2 + ln(t √(2π))
    t = (5 - 0.5) / 0.02
    assert far_bits[1].item() == pytest.approx(
        (t**2 / 2 + math.log(t * math.sqrt(2 * math.pi))) / math.log(2), rel=1e-8
    )


@pytest.mark.parametrize("code", [GAUSSIAN, OFFSET, ScalarCode(sources.laplace(), gain=2.0)])
def test_the_test_loss_is_the_mean_loss_of_rounded_latents(code):
    def rounded(x):
        return loss_numpy(np.round(code.gain * x - code.mean) + code.mean, x, code)

    loss = rounded_loss(code)
    assert loss.total == pytest.approx(expectation(code, rounded), rel=1e-9)
    assert loss.total == pytest.approx(loss.rate + code.lmbda * loss.distortion, rel=1e-12)


def test_the_test_loss_without_zero_center_rounds_the_latent_itself():
    uncentered = dataclasses.replace(OFFSET, zero_center=False)
    x = uncentered.source.rvs(size=SAMPLES, random_state=1)
    losses = loss_numpy(np.round(uncentered.gain * x), x, uncentered)
    assert abs(rounded_loss(uncentered).total - losses.mean()) < SIGMAS * losses.std() / SAMPLES**0.5
    assert abs(rounded_loss(uncentered).total - rounded_loss(OFFSET).total) > 0.001


def test_a_code_accepts_custom_rates_and_distortions():
    code = ScalarCode(
        sources.gaussian(),
        gain=0.9,
        lmbda=2.0,
        rate=lambda y, mean, scale: (y - mean) ** 2 / scale,
        distortion=lambda x_hat, x: (x_hat - x) ** 4,
    )

    def rounded(x):
        y = np.round(0.9 * x)
        return y**2 / 0.9 + 2 * (y / 0.9 - x) ** 4

    assert rounded_loss(code).total == pytest.approx(expectation(code, rounded), rel=1e-9)


# the exact gradient

SOURCES = {
    "gaussian": sources.gaussian(0.2, 1.1),
    "laplace": sources.laplace(-0.3, 0.9),
    "generalized": sources.generalized_gaussian(0.8, 0.1),
    "uniform": sources.uniform(0.15, 1.0),
    "empirical": sources.empirical(stats.norm(0.1, 1).rvs(size=5000, random_state=0), bins=23),
}


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("parameter", ["gain", "mean", "scale", "step"])
@pytest.mark.parametrize("zero_center", [True, False])
def test_the_exact_gradient_agrees_with_finite_differences_of_the_test_loss(source, parameter, zero_center):
    code = ScalarCode(SOURCES[source], 0.83, mean=0.23, scale=0.9, step=1.1, zero_center=zero_center)
    value, h = getattr(code, parameter), 1e-4

    def loss(steps):
        return rounded_loss(dataclasses.replace(code, **{parameter: value + steps * h})).total

    difference = (8 * (loss(1) - loss(-1)) - (loss(2) - loss(-2))) / (12 * h)
    assert exact_gradient(code, parameter) == pytest.approx(difference, rel=1e-5, abs=1e-5)


# mismatch


def test_the_mismatch_of_additive_noise_agrees_with_a_double_integral():
    def gap(x):
        y = GAUSSIAN.gain * x
        noisy, _ = integrate.quad(lambda u: loss_numpy(y + u, x, GAUSSIAN), -0.5, 0.5, epsabs=1e-11)
        return noisy - loss_numpy(np.round(y), x, GAUSSIAN)

    assert mismatch(GAUSSIAN, "aun").total[0] == pytest.approx(expectation(GAUSSIAN, gap), abs=1e-8)


@pytest.mark.parametrize("tau", [1.0, 0.4])
def test_the_mismatch_of_rounding_with_noise_is_a_sum_over_two_integers(tau):
    """With r = y − ⌊y⌋, sua rounds up with probability clip((r − ½)/τ + ½, 0, 1). At τ = 1, it equals sr."""

    def gap(x):
        y = OFFSET.gain * x - OFFSET.mean
        low, r = np.floor(y), y - np.floor(y)
        up = np.clip((r - 0.5) / tau + 0.5, 0, 1)
        down_loss, up_loss, test = (loss_numpy(k + OFFSET.mean, x, OFFSET) for k in (low, low + 1, np.round(y)))
        return (1 - up) * down_loss + up * up_loss - test

    oracle = expectation(OFFSET, gap, jumps=(0, 0.5, 0.5 - tau / 2, 0.5 + tau / 2))
    assert mismatch(OFFSET, "sua", tau).total[0] == pytest.approx(oracle, abs=1e-9)
    if tau == 1:
        assert mismatch(OFFSET, "sr").total[0] == pytest.approx(oracle, abs=1e-9)


@pytest.mark.parametrize(
    ("name", "tau", "excess"),
    [("sr", 1, 1 / 12), ("sua", 0.5, 0.25 / 12), ("aun", 1, 0), ("dither", 0.5, 0), ("uq", 1, 0)],
)
def test_the_distortion_mismatch_at_high_rate_has_a_closed_form(name, tau, excess):
    """In units of the squared step, it is E(ỹ − y)² − 1/12, because y mod 1 is uniform to within 10⁻⁷⁰ at σ = 3."""
    code = ScalarCode(sources.gaussian(), gain=3.0)
    assert mismatch(code, name, tau).distortion[0] * 9 == pytest.approx(excess, abs=1e-9)


def test_hard_rounding_has_no_mismatch():
    table = mismatch(OFFSET, ["round", "ste", "ds"], [1.0, 0.2])
    assert (table[["rate", "distortion", "total"]] == 0).all(axis=None)


# quadrature and Monte Carlo, for every surrogate and several schemes

ALL_SCHEMES = [surrogates.get(name) for name in surrogates.names()] + [
    surrogates.get("uq", shared=True),
    surrogates.get("soft", noise=True),
    surrogates.get("sua", gradient="expected"),
    surrogates.get("sua", relaxed=True),
    schemes.mixed(),
    schemes.annealed(),
    schemes.annealed(gradient="expected"),
    schemes.QuantizationScheme(rate="aun", distortion="aun", shared_noise=False),
    schemes.QuantizationScheme(rate="sga", distortion="soft", zero_center=False),
    schemes.QuantizationScheme(rate="uq", distortion="sua", shared_noise=False, zero_center=False),
]


@pytest.mark.parametrize("scheme", ALL_SCHEMES, ids=[str(i) for i in range(len(ALL_SCHEMES))])
def test_quadrature_agrees_with_monte_carlo(scheme):
    options = {"method": "monte_carlo", "samples": SAMPLES, "seed": 3}
    exact, sampled = mismatch(OFFSET, scheme, 0.6).iloc[0], mismatch(OFFSET, scheme, 0.6, **options).iloc[0]
    for name in ("rate", "distortion", "total"):
        assert abs(exact[name] - sampled[name]) <= SIGMAS * sampled[f"{name}_se"] + 1e-9
    for parameter in ("gain", "mean"):
        exact = gradient_risk(OFFSET, scheme, parameter, 0.6, 1).iloc[0]
        sampled = gradient_risk(OFFSET, scheme, parameter, 0.6, 1, **options).iloc[0]
        assert abs(exact["bias"] - sampled["bias"]) <= SIGMAS * sampled["bias_se"] + 1e-9
        # the tails of these surrogates are too heavy to estimate a variance from samples
        if not any(tail in repr(scheme) for tail in ("Gumbel", "Sigmoid")):
            assert abs(exact["std"] - sampled["std"]) <= SIGMAS * sampled["std_se"] + 1e-9


def test_quadrature_includes_the_heavy_tail_of_gumbel_annealing_down_to_the_clip():
    """SciPy integrates the second moment of the slope of sga over r, which is uniform, and over the logistic noise.

    The slope is w(1 − w) score′(r)/τ², and w has the distribution of σ((score/τ + noise)/τ).
    """
    tau = 0.5

    def second_moment(r):
        score = (np.arctanh(r) - np.arctanh(1 - r)) / tau
        steep = 1 / (1 - r**2) + 1 / (1 - (1 - r) ** 2)

        def inner(noise):
            w = special.expit((score + noise) / tau)
            return (w * (1 - w) * steep / tau**2) ** 2 * special.expit(noise) * special.expit(-noise)

        return integrate.quad(inner, -60, 60, points=[-score], limit=400)[0]

    decades = np.concatenate([10.0 ** np.arange(-5, 0), [0.5]])  # symmetric about ½, not clipped above 10⁻⁵
    oracle = 2 * sum(integrate.quad(second_moment, a, b)[0] for a, b in itertools.pairwise(decades))
    code = ScalarCode(stats.uniform(0, 1), gain=1.0, lmbda=0.0, rate=lambda y, mean, scale: y, scale=1.0, step=1.0)
    row = pointwise_risk(code, "sga", tau).iloc[0]

    def first_moment(r):
        score = (np.arctanh(r) - np.arctanh(1 - r)) / tau

        def inner(noise):
            return special.expit((score + noise) / tau) * special.expit(noise) * special.expit(-noise)

        return integrate.quad(inner, -60, 60, points=[-score, 0], limit=400)[0]

    # the variance is E[G²|r] − (d E[ỹ|r]/dr)², whose derivative is a finite difference
    r, weight = np.polynomial.legendre.leggauss(40)
    squares = 0.0
    for a, b in itertools.pairwise(decades):
        nodes = a + (b - a) * (r + 1) / 2
        slopes = np.array([(first_moment(n + n * 1e-3) - first_moment(n - n * 1e-3)) / (2e-3 * n) for n in nodes])
        squares += (b - a) / 2 * (weight @ slopes**2)
    assert row["variance"] == pytest.approx(oracle - 2 * squares, rel=2e-3)


def test_a_surrogate_with_three_classes_needs_monte_carlo():
    three = surrogates.get("ssl", classes=3)
    with pytest.raises(ValueError, match=r"rate: .*method='monte_carlo'"):
        mismatch(GAUSSIAN, three)
    row = mismatch(GAUSSIAN, three, 0.5, method="monte_carlo", samples=10_000).iloc[0]
    assert math.isfinite(row["total"]) and row["total_se"] > 0


def test_monte_carlo_with_the_same_seed_gives_the_same_result():
    first, again, other = (
        mismatch(GAUSSIAN, "sua", method="monte_carlo", samples=1000, seed=s).total[0] for s in (4, 4, 5)
    )
    assert first == again != other


# gradient risk


def test_the_risk_is_the_squared_bias_plus_the_variance_over_the_batch_size():
    table = gradient_risk(GAUSSIAN, "aun", batch_sizes=[1, 16, 256])
    np.testing.assert_allclose(table["risk"], table["bias"] ** 2 + table["std"] ** 2 / table["batch_size"])
    np.testing.assert_allclose(table["mean"], table["exact"] + table["bias"])


def test_the_gain_gradient_of_additive_noise_agrees_with_a_double_integral():
    g, h = GAUSSIAN.gain, 1e-5

    def slope(x, u):
        return (loss_numpy(g * x + u + h, x, GAUSSIAN) - loss_numpy(g * x + u - h, x, GAUSSIAN)) / (2 * h) * x

    mean, square = (
        expectation(GAUSSIAN, lambda x, p=p: integrate.quad(lambda u: slope(x, u) ** p, -0.5, 0.5)[0], jumps=(0,))
        for p in (1, 2)
    )
    row = gradient_risk(GAUSSIAN, "aun", batch_sizes=1).iloc[0]
    assert row["mean"] == pytest.approx(mean, abs=1e-6)
    assert row["std"] == pytest.approx(math.sqrt(square - mean**2), rel=1e-6)


def test_stop_gradient_removes_the_distortion_from_the_gradient_of_the_mean():
    """If the slope is not 1, ỹ depends on μ through the distortion path. The stop does not change the rate's part."""
    for stop in (True, False):
        scheme = schemes.soft_rounding(0.2, stop_gradient=stop)
        rate_only = dataclasses.replace(OFFSET, lmbda=0.0)
        both, rate = (gradient_risk(c, scheme, "mean", 0.2, 1)["mean"][0] for c in (OFFSET, rate_only))
        # ∂ỹ/∂μ is 1 − slope without the stop and 0 with it, so both gradients are equal only with the stop
        assert (abs(both - rate) < 1e-9) == stop


# pointwise risk


def test_the_pointwise_risk_of_unbiased_surrogates_is_their_variance():
    table = pointwise_risk(GAUSSIAN, ["aun", "uq"])
    g, h = GAUSSIAN.gain, 1e-5

    def variance(x):
        def slope(u):
            return (loss_numpy(g * x + u + h, x, GAUSSIAN) - loss_numpy(g * x + u - h, x, GAUSSIAN)) / (2 * h)

        first, second = (integrate.quad(lambda u, p=p: slope(u) ** p, -0.5, 0.5)[0] for p in (1, 2))
        return second - first**2

    assert (table["bias_squared"] == 0).all()
    np.testing.assert_allclose(table["variance"], expectation(GAUSSIAN, variance), rtol=1e-6)


@pytest.mark.parametrize("options", [{"gradient": "identity"}, {"gradient": "expected"}])
def test_the_pointwise_risk_of_annealed_rounding_has_a_closed_form(options):
    """Derive bias and variance from the two neighbors k and k + 1 of y, where p is the probability of rounding up.

    The mean loss is J = (1 − p) ℓ(k) + p ℓ(k + 1), so J′ = p′ (ℓ(k + 1) − ℓ(k)). The mean gradient E[G] is the slope
    times the mean of ℓ′ at the neighbors.
    """
    tau, h = 0.6, 1e-6

    def parts(x):
        y = GAUSSIAN.gain * x
        k, r = np.floor(y), y - np.floor(y)
        p, rise = np.clip((r - 0.5) / tau + 0.5, 0, 1), (abs(r - 0.5) < tau / 2) / tau
        slope = rise if options["gradient"] == "expected" else 1.0
        ends = [loss_numpy(n, x, GAUSSIAN) for n in (k, k + 1)]
        slopes = [(loss_numpy(n + h, x, GAUSSIAN) - loss_numpy(n - h, x, GAUSSIAN)) / (2 * h) for n in (k, k + 1)]
        mean = slope * ((1 - p) * slopes[0] + p * slopes[1])
        variance = slope**2 * p * (1 - p) * (slopes[1] - slopes[0]) ** 2
        return mean - rise * (ends[1] - ends[0]), variance

    jumps = (0, 0.5 - tau / 2, 0.5 + tau / 2)
    row = pointwise_risk(GAUSSIAN, surrogates.get("sua", **options), tau).iloc[0]
    assert row["bias_squared"] == pytest.approx(expectation(GAUSSIAN, lambda x: parts(x)[0] ** 2, jumps), rel=1e-5)
    assert row["variance"] == pytest.approx(expectation(GAUSSIAN, lambda x: parts(x)[1], jumps), rel=1e-5)
    assert row["risk"] == row["bias_squared"] + row["variance"]


@pytest.mark.parametrize("scheme", ["round", "ste", "ds", schemes.mixed()])
def test_pointwise_risk_rejects_hard_rounding_and_explains_why(scheme):
    with pytest.raises(ValueError, match=r"does not accept hard rounding .* piecewise constant") as error:
        pointwise_risk(GAUSSIAN, scheme)
    assert "\n" not in str(error.value)


# tables, figures and error messages


def test_labels_show_options_or_come_from_the_keys_of_a_mapping():
    table = mismatch(
        GAUSSIAN, [surrogates.get("sua"), surrogates.get("sua", relaxed=True), "mixed", schemes.mixed()], 0.5
    )
    assert table["label"].tolist() == ["sua", "sua(relaxed=True)", "mixed", "aun | ste"]
    assert mismatch(GAUSSIAN, {"my label": "aun"})["label"].tolist() == ["my label"]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: sources.gaussian(std=0), "std must be a positive finite number, got 0"),
        (lambda: sources.generalized_gaussian(-1), "shape must be a positive finite number"),
        (lambda: sources.empirical([1.0, math.nan]), "samples must be finite numbers"),
        (lambda: ScalarCode(3.0), "source must be a frozen continuous distribution, got 3.0"),
        (lambda: ScalarCode(sources.gaussian(), gain=-1), "gain must be a positive number, got -1"),
        (lambda: ScalarCode(sources.gaussian(), scale=0), "scale must be a positive number, got 0"),
        (lambda: ScalarCode(sources.gaussian(), mean=math.inf), "mean must be a finite number, got inf"),
        (lambda: exact_gradient(GAUSSIAN, "lmbda"), "parameter must be one of gain, mean, scale, step, got 'lmbda'"),
        (lambda: gradient_risk(GAUSSIAN, "aun", "sigma"), "parameter must be one of"),
        (lambda: mismatch(GAUSSIAN, "auns"), "unknown surrogate or preset 'auns'; did you mean aun"),
        (lambda: mismatch(GAUSSIAN, 3), "schemes must be a surrogate, a preset, a scheme, or several of them, got 3"),
        (lambda: mismatch(GAUSSIAN, ["aun", surrogates.get("aun")]), "schemes has two entries with the label 'aun'"),
        (lambda: mismatch(GAUSSIAN, "soft_then_hard"), "schemes must have one stage, got one with two"),
        (lambda: mismatch(GAUSSIAN, "aun", 0.0), "temperature must be a positive finite number or a schedule, got 0.0"),
        (lambda: mismatch(GAUSSIAN, "aun", method="exact"), "method must be quadrature or monte_carlo, got 'exact'"),
        (lambda: mismatch(GAUSSIAN, "aun", method="monte_carlo", samples=1), "samples must be an integer ≥ 2"),
        (
            lambda: gradient_risk(GAUSSIAN, "aun", batch_sizes=0),
            "batch_sizes must be integers ≥ 1, at least one, got 0",
        ),
        (
            lambda: rounded_loss(ScalarCode(stats.cauchy(), scale=1.0)),
            "source spans .* bins and quadrature takes at most 4096",
        ),
    ],
)
def test_an_invalid_argument_raises_an_error_of_one_line(call, message):
    with pytest.raises(ValueError, match=message) as error:
        call()
    assert "\n" not in str(error.value)

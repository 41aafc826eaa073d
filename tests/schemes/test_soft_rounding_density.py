"""The preset `soft_rounding` scores the density of z = s(y) + u, by an oracle that inverts s in NumPy."""

import numpy as np
import pytest
import torch
from scipy.special import expit
from scipy.stats import chi2, norm

from labkit import entropy, schemes
from tests.surrogates.oracles import soft, soft_inverse

MEAN, SCALE = 0.3, 1.1
TEMPERATURES = [2.0, 0.5, 0.2, 0.1]


def density(z, tau, center=0.0):
    """Return the density of center + s(y − center) + u for y ~ N(MEAN, SCALE²)."""
    low, high = (soft_inverse(z - center + half, tau) + center for half in (-0.5, 0.5))
    return norm.cdf(high, MEAN, SCALE) - norm.cdf(low, MEAN, SCALE)


def scored(scheme, y, v):
    """Return the likelihood that labkit's Gaussian model gives to latents y with the noise v."""
    module = entropy.GaussianConditional(scheme=scheme).train()
    y, v = torch.as_tensor(y), torch.as_tensor(v)
    mean, scale = torch.full_like(y, MEAN), torch.full_like(y, SCALE)
    return module(y, scale, means=mean, noise=(v, v))[1].numpy()


@pytest.mark.parametrize("tau", TEMPERATURES)
@pytest.mark.parametrize("zero_center", [True, False])
def test_the_likelihood_is_the_density_of_its_own_law(tau, zero_center):
    rng = np.random.default_rng(0)
    y, v = rng.normal(MEAN, SCALE, 4000), rng.uniform(size=4000)
    center = MEAN if zero_center else 0.0
    z = soft(y - center, tau) + v - 0.5 + center
    scheme = schemes.soft_rounding(tau, zero_center=zero_center)
    np.testing.assert_allclose(scored(scheme, y, v), density(z, tau, center), rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("tau", TEMPERATURES)
def test_the_density_integrates_to_one_and_agrees_with_a_histogram(tau):
    """The chi-square test fails by chance once in 1,000 seeds for each temperature."""
    edges = np.linspace(-5, 5.5, 64)
    nodes, weights = np.polynomial.legendre.leggauss(60)
    middle, half = (edges[1:] + edges[:-1]) / 2, (edges[1:] - edges[:-1]) / 2
    masses = (density(middle[:, None] + half[:, None] * nodes, tau) * weights).sum(1) * half
    assert masses.sum() == pytest.approx(1, abs=1e-4)
    rng = np.random.default_rng(1)
    samples = 100_000
    z = soft(rng.normal(MEAN, SCALE, samples), tau) + rng.uniform(-0.5, 0.5, samples)
    counts, _ = np.histogram(z, edges)
    expected = masses * samples
    kept = expected > 10
    statistic = ((counts - expected)[kept] ** 2 / expected[kept]).sum()
    assert statistic < chi2.ppf(0.999, kept.sum() - 1)


@pytest.mark.parametrize("tau", TEMPERATURES)
def test_the_factorized_likelihood_is_the_density_of_its_own_law(tau):
    torch.manual_seed(0)
    module = entropy.EntropyBottleneck(1, scheme=schemes.soft_rounding(tau), main=True, init_scale=4).train()
    module.generator = torch.Generator().manual_seed(5)
    y = torch.randn(1, 1, 2000) * 2
    v = torch.rand(y.shape, generator=torch.Generator().manual_seed(5))
    z = soft(y.double().numpy(), tau) + v.double().numpy() - 0.5
    edges = torch.from_numpy(np.stack([soft_inverse(z + half, tau)[0, 0] for half in (-0.5, 0.5)])[:, None])
    likelihood = module(y)[1].detach().numpy()[0, 0]
    module.double()
    low, high = (expit(module._logits_cumulative(each[None], True).detach().numpy())[0, 0] for each in edges)
    np.testing.assert_allclose(likelihood, high - low, rtol=1e-4, atol=1e-6)


def test_the_likelihood_is_that_of_noise_if_hot_and_of_the_bin_if_cold():
    rng = np.random.default_rng(2)
    y, v = rng.normal(MEAN, SCALE, 500), rng.uniform(0.01, 0.99, 500)
    hot = scored(schemes.soft_rounding(1e5), y, v)
    np.testing.assert_allclose(hot, scored(schemes.noise(), y, v), rtol=1e-6)
    cold = scored(schemes.soft_rounding(1e-4), y, v)
    z = soft(y - MEAN, 1e-4) + v - 0.5
    k = np.round(z)
    mass = norm.cdf((k + 0.5) / SCALE) - norm.cdf((k - 0.5) / SCALE)
    inside = np.abs(z - k) < 0.49
    np.testing.assert_allclose(cold[inside], mass[inside], rtol=2e-3)

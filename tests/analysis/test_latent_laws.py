"""The laws of one latent agree with integrals, moments and samples."""

import math

import numpy as np
import pytest
import torch
from compressai.entropy_models import GaussianConditional

from labkit import surrogates
from labkit.analysis import ScalarCode, latent_laws, mismatch, sources
from labkit.analysis.latent_laws import BinLaw, training_law
from tests.analysis.oracles import LIKELIHOOD_BOUND, bits, noisy_rate, rounded_rate

TRAINING = [name for name in surrogates.names() if name != "round"]


@pytest.mark.parametrize(("name", "tau", "excess"), [("aun", 1, 1 / 12), ("sr", 1, 1 / 6), ("sua", 0.5, 1.25 / 12)])
def test_a_law_has_the_moments_of_its_definition(name, tau, excess):
    law = training_law(2.0, name, tau)  # at s = 2, the position of y within its bin is uniform
    assert law.weights.sum() == pytest.approx(1, abs=1e-12)
    assert law.weights @ law.values == pytest.approx(0, abs=1e-9)
    assert law.weights @ law.values**2 == pytest.approx(4 + excess, abs=1e-7)


@pytest.mark.parametrize("scale", [0.2, 3.0])
def test_both_rates_agree_with_integrals(scale):
    sigma = torch.tensor([scale], dtype=torch.float64)
    assert float(training_law(scale).rate(sigma)) == pytest.approx(noisy_rate(scale, scale), abs=2e-5)
    assert float(latent_laws.test_law(scale).rate(sigma)) == pytest.approx(rounded_rate(scale, scale), abs=1e-8)


@pytest.mark.parametrize("bound", [0.11, 0.3])
def test_rates_and_gradients_of_integers_equal_those_of_compressai(bound):
    """The reference is GaussianConditional in float64 on the law's integers, with bounds on scale and likelihood."""
    module = GaussianConditional(None, scale_bound=bound).double()
    for lower_bound, value in ((module.lower_bound_scale, bound), (module.likelihood_lower_bound, LIKELIHOOD_BOUND)):
        lower_bound.bound = torch.tensor([value], dtype=torch.float64)
    law = training_law(0.8, "sr")
    values, weights = torch.as_tensor(law.values).view(1, -1), torch.as_tensor(law.weights)
    for sigma in (0.05, 0.2, 0.9):
        scale, scales = (torch.tensor(sigma, dtype=torch.float64, requires_grad=True) for _ in range(2))
        _, likelihood = module(values, scale.expand_as(values), training=False)
        expected = -(weights * torch.log2(likelihood)).sum()
        rate = law.rate(scales.view(1), scale_bound=bound)
        assert rate.item() == pytest.approx(expected.item(), rel=1e-6)
        gradients = torch.autograd.grad(rate.sum(), scales)[0], torch.autograd.grad(expected, scale)[0]
        assert gradients[0].item() == pytest.approx(gradients[1].item(), rel=1e-5)


def test_the_lower_bound_on_likelihoods_limits_the_bits():
    law, sigma = training_law(100.0, "ste"), torch.tensor([0.02], dtype=torch.float64)
    assert 29 < float(law.rate(sigma)) < -math.log2(LIKELIHOOD_BOUND)
    assert float(law.rate(sigma, likelihood_bound=0)) > 1e4


def test_a_rate_is_differentiable():
    law = training_law(0.2, "sua", 0.5)
    scale = torch.tensor([0.2, 0.4], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(law.rate, (scale,))


@pytest.mark.parametrize("name", TRAINING)
def test_losses_on_the_lattice_agree_with_samples(name):
    losses = BinLaw.on_lattice(name, 0.35).losses(0.3)
    n, generator = 400_000, torch.Generator().manual_seed(1)
    y = 0.3 * torch.special.ndtri((torch.arange(n, dtype=torch.float64) + 0.5) / n)  # quantiles, not random draws
    y_tilde, y_hat = surrogates.get(name)(y, 0.35, generator), torch.floor(y + 0.5)
    assert losses.rate_training == pytest.approx(bits(y_tilde.numpy(), 0.3).mean(), abs=0.01)
    assert losses.rate_test == pytest.approx(bits(y_hat.numpy(), 0.3).mean(), abs=1e-3)
    assert losses.distortion_training == pytest.approx((y_tilde - y).square().mean().item(), abs=6e-4)
    assert losses.distortion_test == pytest.approx((y - y_hat).square().mean().item(), abs=1e-5)


@pytest.mark.parametrize(
    ("name", "scale", "temperature"),
    [
        ("aun", 0.05, 1.0),
        ("aun", 1.0, 1.0),
        ("sr", 0.07, 1.0),
        ("sua", 0.2, 0.1),
        ("sua", 2.6, 0.5),
        ("soft", 0.4, 0.2),
        ("sra", 0.2, 0.5),
    ],
)
def test_losses_on_the_lattice_agree_with_quadrature(name, scale, temperature):
    losses = BinLaw.on_lattice(name, temperature).losses(scale)
    exact = mismatch(ScalarCode(sources.gaussian(std=scale)), name, temperature).iloc[0]
    assert losses.rate_training - losses.rate_test == pytest.approx(exact.rate, rel=3e-3, abs=1e-4)
    assert losses.distortion_training - losses.distortion_test == pytest.approx(exact.distortion, rel=3e-3, abs=1e-5)


@pytest.mark.parametrize("name", ["aun", "sua", "soft", "sga"])
@pytest.mark.parametrize("source", [None, sources.laplace()], ids=["gaussian", "laplace"])
def test_the_lattice_and_quadrature_give_the_same_law(name, source):
    sigma = torch.tensor([0.3, 1.0], dtype=torch.float64)
    lattice, exact = (
        bin_law.law(0.4, source) for bin_law in (BinLaw.on_lattice(name, 0.5), BinLaw.by_quadrature(name, 0.5))
    )
    np.testing.assert_allclose(lattice.rate(sigma), exact.rate(sigma), rtol=3e-3)
    assert lattice.weights @ lattice.values**2 == pytest.approx(exact.weights @ exact.values**2, rel=3e-3)


def test_a_law_prints_one_line():
    assert repr(latent_laws.test_law(0.2)) == "Law(5 points from -2 to 2)"
    assert repr(BinLaw.on_lattice("ste")) == "BinLaw(1024 phases, 1024 outputs)"


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: training_law(0.0), "scale must be positive numbers"),
        (lambda: training_law(1e4), "scale must span at most the 4096 bins"),
        (lambda: training_law(1, surrogates.get("ssl", classes=3)), "surrogate must draw one number per latent"),
        (lambda: BinLaw.on_lattice(surrogates.get("ssl", classes=3)), "surrogate must draw one number per latent"),
    ],
)
def test_an_invalid_argument_raises_an_error_of_one_line(call, message):
    with pytest.raises(ValueError, match=message) as error:
        call()
    assert "\n" not in str(error.value)

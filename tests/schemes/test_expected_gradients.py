"""Additive noise with expected gradients: the rate's derivative with respect to the latent is its mean over the noise.

The oracle integrates the sampled derivative over the noise, or computes the masses of bins with many digits.
"""

import mpmath
import numpy as np
import pytest
import torch
from compressai.models import FactorizedPrior, MeanScaleHyperprior
from scipy.special import expit, roots_legendre
from scipy.stats import norm

import labkit as lk
from labkit import entropy, networks, schemes, surrogates

EXPECTED = surrogates.get("aun", gradient="expected")
FAR = [9.0, 40.0, 1e3, 2.0**20]


def gaussian_gradients(scheme, y, mean=0.3, scale=0.8, seed=0, dtype=torch.float64):
    """Return the rate in nats and its gradients with respect to y, μ and σ, for one latent per entry of y."""
    module = entropy.GaussianConditional(scheme=scheme).train()
    module.generator = torch.Generator().manual_seed(seed)
    y = torch.as_tensor(y, dtype=dtype).clone().requires_grad_()
    mean, scale = (torch.full_like(y, value).requires_grad_() for value in (mean, scale))
    rate = -module(y, scale, means=mean)[1].log()
    return rate.detach().numpy(), *(each.numpy() for each in torch.autograd.grad(rate.sum(), (y, mean, scale)))


def bottleneck(scheme, channels=2):
    """Return a factorized entropy model with random parameters, in training mode."""
    torch.manual_seed(3)
    module = entropy.EntropyBottleneck(channels, scheme=scheme, main=True, init_scale=4).train()
    for parameter in (*module.matrices, *module.factors):
        parameter.data.add_(0.3 * torch.randn_like(parameter))
    return module


def bottleneck_gradients(module, y, seed=0):
    """Return the rate in nats, its gradient with respect to y and those with respect to the model's parameters."""
    module.generator = torch.Generator().manual_seed(seed)
    y = y.clone().requires_grad_()
    rate = -module(y)[1].log()
    of_y, *rest = torch.autograd.grad(rate.sum(), (y, *module.matrices, *module.biases, *module.factors))
    return rate.detach(), of_y, rest


def mean_of_sampled(y, derivative):
    """Integrate a sampled derivative over the noise by Gauss–Legendre quadrature."""
    u, weight = roots_legendre(80)
    return sum(w / 2 * derivative(y + x / 2) for x, w in zip(u, weight, strict=True))


def exact_slope(distance, scale):
    """Return log p(x − ½) − log p(x + ½) for a Gaussian in the upper tail, from 60 digits."""
    with mpmath.workdps(60):

        def log_mass(low):
            root = mpmath.sqrt(2) * scale
            return mpmath.log(mpmath.erfc(mpmath.mpf(low) / root) - mpmath.erfc(mpmath.mpf(low + 1) / root))

        return float(log_mass(distance - 1) - log_mass(distance))


@pytest.mark.parametrize("scale", [0.11, 0.8, 5.0])
@pytest.mark.parametrize("zero_center", [True, False])
def test_the_gaussian_gradient_is_the_mean_of_the_sampled_one(scale, zero_center):
    y = np.linspace(-2.5, 2.5, 101) * max(scale, 0.5) + 0.3

    def sampled(latent):
        edges = (latent - 0.3 + 0.5) / scale, (latent - 0.3 - 0.5) / scale
        near, far = np.where(latent > 0.3, -edges[1], edges[0]), np.where(latent > 0.3, -edges[0], edges[1])
        return -(norm.pdf(edges[0]) - norm.pdf(edges[1])) / scale / (norm.cdf(near) - norm.cdf(far))

    scheme = schemes.noise(rate=EXPECTED, zero_center=zero_center)
    _, of_y, of_mean, _ = gaussian_gradients(scheme, y, scale=scale)
    np.testing.assert_allclose(of_y, mean_of_sampled(y, sampled), rtol=1e-6, atol=1e-9)
    np.testing.assert_array_equal(of_mean, -of_y)


def test_the_factorized_gradient_is_the_mean_of_the_sampled_one():
    module = bottleneck(schemes.noise(rate=EXPECTED))
    y = torch.linspace(-9, 9, 182).view(1, 2, 91)

    def cumulative(latent):
        values = torch.from_numpy(latent).transpose(0, 1).reshape(2, 1, -1)
        logits = module.double()._logits_cumulative(values, stop_gradient=True)
        return expit(logits.view(2, 1, 91).transpose(0, 1).numpy())

    def derivative(latent, h=1e-5):
        def nats(latent):
            return -np.log(cumulative(latent + 0.5) - cumulative(latent - 0.5))

        return (nats(latent + h) - nats(latent - h)) / (2 * h)

    _, of_y, _ = bottleneck_gradients(module, y)
    expected = mean_of_sampled(y.double().numpy(), derivative)
    np.testing.assert_allclose(of_y.numpy(), expected, rtol=2e-4, atol=2e-4)  # float32 against float64


def test_the_gradient_agrees_with_monte_carlo_and_does_not_depend_on_the_noise():
    """With 100 latents and a threshold of 4.5 standard errors, the test fails by chance once in 1,500 seeds."""
    y = np.linspace(-3, 3, 100)
    draws = [gaussian_gradients(schemes.noise(), y, seed=seed)[1] for seed in range(400)]
    expected = [gaussian_gradients(schemes.noise(rate=EXPECTED), y, seed=seed)[1] for seed in range(2)]
    error = np.std(draws, axis=0, ddof=1) / 20
    assert np.abs((np.mean(draws, axis=0) - expected[0]) / error).max() < 4.5
    np.testing.assert_allclose(expected[0], expected[1], rtol=1e-12, atol=1e-15)

    module, latents = bottleneck(schemes.noise(rate=EXPECTED)), torch.linspace(-4, 4, 40).view(1, 2, 20)
    first, second = (bottleneck_gradients(module, latents, seed)[1] for seed in range(2))
    torch.testing.assert_close(first, second, rtol=1e-6, atol=1e-7)


def test_the_rate_and_all_other_gradients_are_the_sampled_ones():
    y = np.linspace(-3, 3, 50)
    plain, expected = (gaussian_gradients(schemes.noise(rate=rate), y) for rate in ("aun", EXPECTED))
    for i in (0, 3):  # the rate, and the gradient with respect to σ
        np.testing.assert_array_equal(plain[i], expected[i])
    assert np.abs(plain[1] - expected[1]).min() > 0

    latents = torch.linspace(-4, 4, 40).view(1, 2, 20)
    plain, expected = (
        bottleneck_gradients(bottleneck(schemes.noise(rate=rate)), latents) for rate in ("aun", EXPECTED)
    )
    assert torch.equal(plain[0], expected[0])
    assert all(torch.equal(a, b) for a, b in zip(plain[2], expected[2], strict=True))


@pytest.mark.parametrize("distance", FAR)
@pytest.mark.parametrize("scale", [0.11, 3.0])
def test_the_gradient_in_a_far_tail_is_exact(distance, scale):
    scheme = schemes.noise(rate=EXPECTED)
    signed = np.array([distance, -distance])
    gradient = gaussian_gradients(scheme, signed, mean=0.0, scale=scale, dtype=torch.float32)[1]
    slope = exact_slope(distance, float(np.float32(scale)))
    np.testing.assert_allclose(gradient, [slope, -slope], rtol=0.05 if distance > 1e5 else 1e-3)


def test_the_factorized_gradient_in_both_tails_is_finite_and_points_outward():
    module = bottleneck(schemes.noise(rate=EXPECTED))
    y = torch.tensor([*FAR, *(-far for far in FAR)]).expand(1, 2, 8)
    _, of_y, _ = bottleneck_gradients(module, y)
    assert of_y.isfinite().all() and (of_y * y.sign() > 0).all()
    plain = bottleneck_gradients(bottleneck(schemes.noise()), y)[1]
    assert (plain[..., 2:4] == 0).all()  # the sampled gradient vanishes in the upper tail


@pytest.mark.parametrize("make", [FactorizedPrior, MeanScaleHyperprior, *networks.names()])
def test_every_network_trains_with_expected_gradients(make):
    x = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    outputs, gradients = [], []
    for rate in (surrogates.get("aun"), EXPECTED):
        scheme = schemes.mixed(rate=rate, hyper_rate=rate)
        torch.manual_seed(0)
        net = networks.get(make, "tiny", scheme=scheme) if isinstance(make, str) else lk.adopt(make(8, 12), scheme)
        torch.manual_seed(1)
        output = net.train()(x)
        lk.training.rate_distortion(output, x, 0.01).rate.backward()
        outputs.append([output["x_hat"], *output["likelihoods"].values()])
        gradients.append(torch.cat([p.grad.flatten() for p in net.g_a.parameters()]))
    assert all(torch.equal(a, b) for a, b in zip(*outputs, strict=True))
    assert gradients[1].isfinite().all() and not torch.allclose(*gradients, rtol=1e-3)


def test_a_scheme_keeps_the_option_and_old_names_of_runs():
    scheme = schemes.mixed(rate={"name": "aun", "gradient": "expected"})
    assert scheme.rate == EXPECTED and str(scheme.rate) == "aun(gradient='expected')"
    assert scheme.to_dict()["rate"] == {"name": "aun", "gradient": "expected"}
    assert schemes.from_dict(scheme.to_dict()) == scheme
    assert schemes.mixed().to_dict()["rate"] == {"name": "aun"}  # as in the digests of the first edition
    with pytest.raises(ValueError, match="rate must be a surrogate or the name of one"):
        schemes.mixed(rate={})
    with pytest.raises(ValueError, match="unknown gradient 'mean'"):
        surrogates.get("aun", gradient="mean")
    described = str(scheme)
    assert "of the rate: R(y + ½) − R(y − ½)" in described


def test_a_scalar_code_has_the_same_mean_gradient_and_less_variance():
    code = lk.analysis.ScalarCode(lk.analysis.sources.gaussian(), gain=0.5, mean=0.2, lmbda=0.0)
    both = {name: schemes.mixed(rate=rate) for name, rate in (("sampled", "aun"), ("expected", EXPECTED))}
    for parameter in ("gain", "mean", "scale"):
        table = lk.analysis.gradient_risk(code, both, parameter, batch_sizes=1).set_index("label")
        assert table.loc["expected", "mean"] == pytest.approx(table.loc["sampled", "mean"], abs=1e-7)
        ratio = table.loc["expected", "std"] / table.loc["sampled", "std"]
        assert ratio == pytest.approx(1) if parameter == "scale" else ratio < 0.97

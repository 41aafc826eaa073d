"""Sizes and seeds of networks, drawings of a toy, and scaled latents."""

import numpy as np
import pytest
import torch
from compressai.entropy_models.entropy_models import EntropyModel

from labkit import datasets, entropy, networks, schemes, training


def test_paper_size_has_the_published_channels():
    net = networks.mean_scale_hyperprior("paper")
    assert (net.N, net.M) == (192, 320)


def test_unknown_names_and_sizes_suggest_valid_ones():
    with pytest.raises(ValueError, match="did you mean mean_scale_hyperprior"):
        networks.get("mean_scale_hyperprio")
    with pytest.raises(ValueError, match="size must be one of tiny, small, paper, got 'huge'"):
        networks.factorized_prior("huge")


def test_the_seed_determines_the_weights_and_the_global_random_state_is_unchanged():
    torch.manual_seed(5)
    before = torch.get_rng_state()
    first, second = (networks.factorized_prior("tiny", seed=1).state_dict() for _ in range(2))
    assert torch.equal(before, torch.get_rng_state())
    assert all(torch.equal(first[k], second[k]) for k in first)


def test_banana_has_the_moments_of_its_formula():
    """Compare with the closed-form mean and covariance, within five standard errors."""
    n = 200_000
    x = datasets.banana(n, torch.Generator().manual_seed(0)).double().numpy()
    c, s = np.cos(np.radians(240)), np.sin(np.radians(240))
    rotation = np.array([[c, s], [-s, c]])
    mean = rotation @ [0, -0.1 * 9] - 1
    covariance = rotation @ np.diag([9, 0.25 + 0.01 * 2 * 81]) @ rotation.T  # Var(a²) = 2σ⁴ for a Gaussian
    np.testing.assert_allclose(x.mean(0), mean, atol=5 * np.sqrt(covariance.max() / n))
    np.testing.assert_allclose(np.cov(x.T), covariance, atol=0.15)


def test_a_toy_learns_and_can_be_drawn():
    """Training lowers the rounded test loss, and cells, codewords and symbols agree."""
    net = networks.toy_2d(schemes.annealed(), seed=0)
    x = datasets.banana(4000, torch.Generator().manual_seed(9))

    def rounded():
        with torch.no_grad():
            return training.rate_distortion(net.eval()(x), x, 1.0).total.item()

    before = rounded()
    steps = list(training.stream(net, datasets.Banana(), lmbda=1.0, steps=150, batch_size=512, lr=3e-3))
    assert [s.step for s in steps] == list(range(1, 151))
    assert rounded() < 0.6 * before
    points, shares = net.codewords(x)
    assert shares.sum() == pytest.approx(1) and 4 < len(points) < 400
    symbols = net.symbols(x)
    assert len(points) == len(torch.unique(symbols, dim=0))
    with torch.no_grad():
        x_hat = net(x)["x_hat"].numpy()  # every rounded reconstruction is one of the codewords
    assert np.abs(x_hat[:, None] - points[None]).sum(-1).min(1).max() < 1e-4
    labels = net.cells((-6, 6, -6, 6), 64)
    grid = torch.linspace(-6, 6, 64)
    assert labels.shape == (64, 64) and labels.dtype == np.int32
    same = net.symbols(torch.stack([grid[[3, 40]], grid[[10, 20]]], 1))  # (x, y) at columns 3, 40 and rows 10, 20
    assert (labels[10, 3] == labels[20, 40]) == bool((same[0] == same[1]).all())


FACTORIZED = ("factorized_prior", "patch_linear", "patch_mlp")
SCALABLE = (*FACTORIZED, "joint_autoregressive", "mean_scale_hyperprior", "scale_hyperprior", "patch_hyperprior")
SCALABLE_IN_GROUPS = ("patch_context",)


@pytest.mark.parametrize("kind", SCALABLE)
@pytest.mark.parametrize("gain", [0.4, 1.7])
def test_scaled_latents_give_the_same_images_from_the_same_densities(kind, gain, monkeypatch):
    """Without rounding, the reconstruction stays the same, and all inputs of the entropy model of y scale."""
    monkeypatch.setattr(EntropyModel, "quantize", lambda self, inputs, mode, means=None: inputs)
    net, scaled = (networks.get(kind, "tiny", seed=6).double().eval() for _ in range(2))
    for module in (net, scaled):  # a bound on σ does not scale
        entropy.set_scheme(module, schemes.noise(scale_lower_bound=1e-6))
    scaled.scale_latents(gain)
    x = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    with torch.no_grad():
        (x_hat, inputs), (x_hat_scaled, inputs_scaled) = (_forward_with_inputs(module, x) for module in (net, scaled))
    torch.testing.assert_close(x_hat_scaled, x_hat, rtol=1e-9, atol=1e-9)
    assert len(inputs) == len(inputs_scaled) == (1 if kind in FACTORIZED else 3 - (kind == "scale_hyperprior"))
    for before, after in zip(inputs, inputs_scaled, strict=True):
        torch.testing.assert_close(after, gain * before, rtol=1e-9, atol=1e-9)


def _forward_with_inputs(net, x):
    """Return the reconstruction and the inputs of the entropy model of y: y, then σ and μ if the model takes them."""
    inputs = []

    def keep(_module, args, named):
        inputs.extend(value for value in (*args, *named.values()) if isinstance(value, torch.Tensor))

    main = getattr(net, "gaussian_conditional", None) or net.entropy_bottleneck
    with main.register_forward_pre_hook(keep, with_kwargs=True):
        return net(x)["x_hat"], inputs


@pytest.mark.parametrize("gain", [0.02, 1.7, 40.0])
def test_a_scaled_factorized_density_is_the_same_over_scaled_latents(gain):
    """The cumulative function at gain · y equals the old one at y, so a bin covers 1/gain of its old width."""
    net = networks.factorized_prior("tiny", seed=6).double()
    bottleneck = net.entropy_bottleneck
    y = torch.linspace(-30, 30, 301, dtype=torch.float64).expand(net.M, 1, -1)
    with torch.no_grad():
        bottleneck.quantiles.copy_(torch.tensor([-8.0, 0.7, 9.0]))
        before = bottleneck._logits_cumulative(y, stop_gradient=True)
        net.update()
        net.scale_latents(gain)
        after = bottleneck._logits_cumulative(gain * y, stop_gradient=True)
    torch.testing.assert_close(after, before, rtol=1e-9, atol=1e-9)
    assert bottleneck.quantiles[0, 0].tolist() == pytest.approx([-8 * gain, 0.7 * gain, 9 * gain])
    assert not bottleneck._offset.numel()  # the tables of the old bins are dropped


def test_scalable_tells_whether_latents_can_be_scaled():
    for kind in networks.names():
        net = networks.get(kind, "tiny")
        assert net.scalable == (kind in SCALABLE + SCALABLE_IN_GROUPS)
        if not net.scalable:
            with pytest.raises(
                ValueError, match=f"scale_latents: {kind} has layers around y that cannot absorb a gain"
            ):
                net.scale_latents(2.0)
    with pytest.raises(ValueError, match="gain must be a positive finite number, got 0"):
        networks.factorized_prior("tiny").scale_latents(0)


def test_scaling_the_latents_changes_only_the_quantization_step():
    """Without rounding, the reconstruction and z do not change; the gain multiplies y, its mean and its scale."""
    net, scaled = (networks.mean_scale_hyperprior("tiny", seed=6).eval() for _ in range(2))
    scaled.scale_latents(1.7)
    x = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        y, y_scaled = net.g_a(x), scaled.g_a(x)
        torch.testing.assert_close(y_scaled, 1.7 * y, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(scaled.g_s(y_scaled), net.g_s(y), rtol=1e-4, atol=1e-5)
        z = net.h_a(y)
        torch.testing.assert_close(scaled.h_a(y_scaled), z, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(scaled.h_s(z), 1.7 * net.h_s(z), rtol=1e-4, atol=1e-5)

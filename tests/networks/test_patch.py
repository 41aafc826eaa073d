"""Patch codecs start as a DCT with the step that λ asks for, with entropy models that fit a first batch."""

import copy
import math
import pickle

import numpy as np
import pytest
import scipy.fft
import torch
from torch.nn import functional

import labkit as lk
from labkit import datasets, entropy, evaluation, networks, schemes, training
from labkit.networks.patch import FromPatches, PatchCodec, Pointwise
from labkit.networks.patch_start import FIT_STEPS, dct_basis, fit_bottleneck, gain_for

NAMES = [name for name in networks.names() if name.startswith("patch")]
FACTORIZED = ("patch_linear", "patch_mlp")
every_codec = pytest.mark.parametrize("name", NAMES)


@pytest.fixture(scope="module")
def crops():
    return datasets.photos("train").crops(8, 128, torch.Generator().manual_seed(0))


def small(name):
    """Return a codec with a quarter of the channels."""
    return networks.build(name, 48, 48, scheme=schemes.noise()).eval()


@pytest.fixture(scope="module")
def started(crops):
    """Return a function that gives a copy of a network that has started at λ."""
    made = {}

    def start(name, lmbda):
        if (name, lmbda) not in made:
            made[name, lmbda] = small(name)
            made[name, lmbda].start(lmbda, crops)
        return copy.deepcopy(made[name, lmbda])

    return start


# The transforms -------------------------------------------------------------------------------------------------------


def test_the_basis_is_orthonormal_and_that_of_scipy():
    """Every vector is one coefficient of SciPy's three-dimensional orthonormal DCT, and M = 768 has each of them."""
    basis = dct_basis(768).double()
    torch.testing.assert_close(basis.flatten(1) @ basis.flatten(1).T, torch.eye(768).double(), rtol=0, atol=1e-6)
    coefficients = scipy.fft.dctn(basis.numpy(), axes=(1, 2, 3), norm="ortho").reshape(768, -1)
    assert np.allclose(np.sort(np.abs(coefficients), 1)[:, -2:], [0, 1], atol=1e-6)
    assert len(set(np.abs(coefficients).argmax(1))) == 768


def test_a_basis_of_192_vectors_is_mostly_luma_and_begins_with_the_mean():
    basis = dct_basis(192)
    luma = (basis.std(1).amax((1, 2)) < 1e-6).float()  # equal in all color channels
    assert 0.84 < luma.mean() < 0.86
    torch.testing.assert_close(basis[0], torch.full((3, 16, 16), 768**-0.5))
    assert torch.equal(dct_basis(96), basis[:96])


def test_a_context_model_needs_a_channel_for_each_group():
    with pytest.raises(ValueError, match="M must be an integer ≥ 16 to make four groups, got 15"):
        networks.build("patch_context", 16, 15)


@pytest.mark.parametrize("M", [0, 769])
def test_a_basis_of_another_size_is_refused(M):
    with pytest.raises(ValueError, match=f"M must be 1 to 768, the dimension of a patch, got {M}"):
        dct_basis(M)


def test_fast_layers_equal_torch_convolutions():
    """Outputs and gradients of the matrix products are those of PyTorch's convolutions, in both memory layouts."""
    for fast, x, slow in (
        (Pointwise(5, 7), torch.randn(2, 5, 4, 6), functional.conv2d),
        (FromPatches(5), torch.randn(2, 5, 4, 6), lambda *args: functional.conv_transpose2d(*args, stride=16)),
    ):
        for layout in (torch.contiguous_format, torch.channels_last):
            fast, x = fast.to(memory_format=layout), x.contiguous(memory_format=layout).requires_grad_()
            outputs = fast(x), slow(x, fast.weight, fast.bias)
            torch.testing.assert_close(*outputs, rtol=1e-5, atol=1e-5)
            ours, theirs = (torch.autograd.grad(y.square().sum(), [x, *fast.parameters()]) for y in outputs)
            torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


@every_codec
@torch.no_grad()
def test_an_untrained_codec_at_a_fine_step_is_the_projection_onto_its_basis(name, crops):
    """The oracle keeps the chosen coefficients of SciPy's DCT of each patch."""
    net = networks.get(name).eval()
    net.scale_latents(100.0)
    patches = functional.unfold(crops[:1], 16, stride=16)[0].T.reshape(-1, 3, 16, 16).numpy() - 0.5
    chosen = np.abs(scipy.fft.dctn(dct_basis(net.M).numpy(), axes=(1, 2, 3), norm="ortho")).max(0) > 0.5
    kept = scipy.fft.dctn(patches, axes=(1, 2, 3), norm="ortho") * chosen
    expected = torch.from_numpy(scipy.fft.idctn(kept, axes=(1, 2, 3), norm="ortho") + 0.5).reshape(len(patches), -1)
    expected = functional.fold(expected.T[None], crops.shape[2:], 16, stride=16)
    torch.testing.assert_close(net(crops[:1])["x_hat"], expected, rtol=0, atol=2e-3)


# The start ------------------------------------------------------------------------------------------------------------


@torch.no_grad()
def test_at_high_rate_the_mean_squared_error_is_that_for_which_the_gain_was_chosen():
    """Rounding noise of the patches in the span of the basis has 5/3 of the optimal error, within 2%."""
    lmbda, M = 50.0, 48
    net = networks.build("patch_linear", M, M).eval()
    net.scale_latents(gain_for(lmbda) / gain_for(0.01))
    y = 100 * torch.randn(4, M, 16, 16, generator=torch.Generator().manual_seed(0))
    error = net.g_s(y.round()) - net.g_s(y)
    expected = 5 / (2 * math.log(2) * lmbda) * M / 768  # the mean is over all 768 dimensions of a patch
    assert 255**2 * error.square().mean().item() == pytest.approx(expected, rel=0.02)


@torch.no_grad()
def _ideal_bits(values):
    """Bits per latent of the empirical distribution of each channel's integers, (C, n)."""
    total = 0.0
    for channel in values.round().numpy():
        _, counts = np.unique(channel, return_counts=True)
        share = counts / counts.sum()
        total += -(share * np.log2(share)).sum()
    return total / len(values)


def test_a_fitted_bottleneck_codes_laplacian_latents_near_their_entropy():
    """Fit to 512 samples of each of 12 channels, and code 20,000 others: at most 4% above their entropy."""
    generator = torch.Generator().manual_seed(0)
    scales, means = torch.logspace(-0.5, 1.5, 12)[:, None], torch.linspace(-20, 20, 12)[:, None]
    uniform = torch.rand(12, 20_512, generator=generator) - 0.5
    values = means + scales * -uniform.sign() * torch.log1p(-2 * uniform.abs())
    bottleneck = entropy.EntropyBottleneck(12, main=True)
    assert len(list(fit_bottleneck(bottleneck, values[None, :, :512]))) == FIT_STEPS
    with torch.no_grad():
        medians = bottleneck._get_medians()[:, 0]
        assert (medians - means).abs().max() < 0.2 * scales.max()
        symbols = (values[:, 512:] - medians).round()
        likelihood, _, _ = bottleneck._likelihood((symbols + medians)[:, None])
        bits = -likelihood.log2().mean().item()
    assert _ideal_bits(symbols) < bits < 1.04 * _ideal_bits(symbols)


@pytest.mark.parametrize("name", FACTORIZED)
@pytest.mark.parametrize("lmbda", [0.0018, 0.03])
@torch.no_grad()
def test_a_started_factorized_codec_costs_little_more_than_its_ideal_entropies(name, lmbda, crops, started):
    """The histogram of 512 samples per channel underestimates the entropy, so the estimate lies up to 7% above it."""
    net = started(name, lmbda)
    loss = training.rate_distortion(net(crops), crops, lmbda)
    ideal = net.M / 256 * _ideal_bits(net.g_a(crops).transpose(0, 1).flatten(1))
    assert ideal < loss.rate.item() < 1.07 * ideal


@torch.no_grad()
def test_a_started_hyperprior_predicts_the_deviation_and_the_mean_of_each_channel(crops, started):
    net = started("patch_hyperprior", 0.0067)
    y = net.g_a(crops)
    sigma, mu = net.h_s(net.h_a(y)).chunk(2, 1)
    deviation, mean = y.std((0, 2, 3)).clamp_min(0.1), y.mean((0, 2, 3))
    assert ((sigma.mean((0, 2, 3)) - deviation).abs() < 0.1 * deviation).all()
    assert ((mu.mean((0, 2, 3)) - mean).abs() < 0.1 * deviation).all()


def test_context_models_start_with_the_deviation_and_the_mean_of_each_channel(crops, started):
    """Nearly: at the start, what the context adds is a tenth of a standard deviation."""
    net = started("patch_context", 0.0067)
    seen = []
    for k in range(4):
        inner = net.latent_codec["y"].latent_codec[f"y{k}"].latent_codec["y"].gaussian_conditional
        inner.register_forward_pre_hook(lambda _, args, named: seen.append((*args, *named.values())), with_kwargs=True)
    with torch.no_grad():
        net(crops)
    assert [y.size(1) for y, _, _ in seen] == [3, 6, 12, 27]
    y, sigma, mu = (torch.cat(parts, 1) for parts in zip(*seen, strict=True))
    deviation, mean = y.std((0, 2, 3)).clamp_min(0.1), y.mean((0, 2, 3))
    assert ((sigma.mean((0, 2, 3)) - deviation).abs() < 0.15 * deviation).all()
    assert ((mu.mean((0, 2, 3)) - mean).abs() < 0.15 * deviation).all()


@torch.no_grad()
def test_each_pass_of_the_context_model_reads_only_what_is_decoded(started):
    """A change of one group at non-anchor positions changes no parameters of earlier passes."""
    net, seen = started("patch_context", 0.0067), []
    codec = net.latent_codec["y"]
    for k in range(4):
        inner = codec.latent_codec[f"y{k}"].latent_codec["y"].gaussian_conditional
        inner.register_forward_pre_hook(lambda _, args, named: seen.append((args[1], named["means"])), with_kwargs=True)
    generator = torch.Generator().manual_seed(0)
    y, params = 3 * torch.randn(1, 48, 4, 4, generator=generator), torch.randn(1, 48, 4, 4, generator=generator)
    white = (torch.arange(4)[:, None] + torch.arange(4)) % 2 == 1  # the anchors have even sums
    changed = y.clone()
    changed[:, 3:9, white] += 5  # the second group, in its second pass
    codec(y, params)
    codec(changed, params)
    for k, (before, after) in enumerate(zip(seen[:4], seen[4:], strict=True)):
        same = all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
        assert same == (k <= 1)


@every_codec
def test_a_start_is_deterministic_and_happens_once(name, crops, started):
    net, same = started(name, 0.0067), small(name)
    random = torch.get_rng_state()
    same.start(0.0067, crops)
    assert torch.equal(random, torch.get_rng_state())
    assert training.weights_hash(same) == training.weights_hash(net)
    same.start(0.05, crops[:, :, :64])
    assert training.weights_hash(same) == training.weights_hash(net)
    fresh = small(name)
    fresh.load_state_dict(net.state_dict())
    assert fresh.started and not small(name).started


@every_codec
def test_training_starts_untrained_networks_only(name, train_photos):
    """A second run goes on from the weights of the first; both losses are those of the network's own latents."""
    settings = {"lmbda": 0.01, "batch_size": 2, "crop": 64, "seed": 1, "precision": "float32"}
    net = small(name)
    (first,) = training.stream(net, train_photos[:2], steps=1, **settings)
    assert net.started and first.loss < 4
    before = [p.detach().clone() for p in net.parameters()]
    (second,) = training.stream(net, train_photos[:2], steps=1, lr=1e-9, **settings)
    trained = [p for name, p in net.named_parameters() if not name.endswith("quantiles")]
    kept = [p for (name, _), p in zip(net.named_parameters(), before, strict=True) if not name.endswith("quantiles")]
    assert all(torch.allclose(p, q, atol=1e-6) for p, q in zip(trained, kept, strict=True))
    assert second.loss < first.loss * 1.5


def test_each_parameter_learns_at_the_rate_of_its_module(train_photos):
    """Adam's first step moves every weight by its learning rate."""
    net = small("patch_hyperprior")
    net.lr_factors = {"h_s": 10.0, "g_a.0.bias": 2.0, "": 1.0}
    x = train_photos.crops(2, 64, torch.Generator().manual_seed(0))
    net.start(0.01, x)
    before = {name: p.detach().clone() for name, p in net.named_parameters()}
    (step,) = training.stream(net, train_photos[:2], lmbda=0.01, steps=1, batch_size=2, crop=64, lr=1e-3)
    moved = {name: (p - before[name]).abs().max().item() for name, p in net.named_parameters()}
    assert moved["h_s.2.bias"] == pytest.approx(10 * step.lr, rel=0.01)
    assert moved["g_a.0.bias"] == pytest.approx(2 * step.lr, rel=0.01)
    assert moved["g_a.0.weight"] == pytest.approx(step.lr, rel=0.01)


@every_codec
def test_the_convolutions_from_and_to_pixels_learn_more_slowly_than_all_other_parts(name):
    """Each parameter's factor, by the kind of its module."""
    net = small(name)
    for path, module in net.named_modules():
        for parameter, _ in module.named_parameters(path, recurse=path.endswith("entropy_bottleneck")):
            if path == "g_a.0":
                expected = 1.0
            elif isinstance(module, FromPatches):
                expected = 0.5
            else:
                expected = 5.0 if "entropy_bottleneck" in path else 2.5
            assert training.trainer.lr_factor(net, parameter) == expected, parameter


def test_a_start_can_stop_between_two_steps_of_the_fit(crops):
    """A network whose start is interrupted says so."""
    net = small("patch_linear")
    parts = net.starting(0.0067, crops)
    next(parts)
    parts.close()
    assert not net.started and torch.is_grad_enabled()
    assert len(list(small("patch_linear").starting(0.0067, crops))) == FIT_STEPS


@pytest.mark.slow
@every_codec
def test_a_hundred_steps_lower_the_rounded_loss(name, train_photos):
    """On crops of photographs that were not trained on."""
    net, x = networks.get(name), datasets.photos("test").crops(16, 128, torch.Generator().manual_seed(0))

    def loss():
        with torch.no_grad():
            return training.rate_distortion(net.eval()(x), x, 0.0067).total.item()

    net.start(0.0067, train_photos.crops(4, 128, torch.Generator().manual_seed(0)))
    before = loss()
    training.train(net, datasets.photos("train"), lmbda=0.0067, steps=100, batch_size=4, crop=128, threads=1)
    assert loss() < 0.97 * before


# Everywhere else ------------------------------------------------------------------------------------------------------


@every_codec
@torch.no_grad()
def test_real_bits_agree_with_the_estimate(name, started, test_photos):
    """For a photograph that the entropy model was not fitted to, without the bits that end each string.

    An untrained hyperprior has symbols far out in the tails, for which the coder charges less than the estimate.
    """
    report = evaluation.evaluate(started(name, 0.0067), test_photos[:1], progress=False)
    (row,) = report.rows
    ratio = (row["bpp"] - row["flush_bpp"]) / row["estimated_bpp"]
    assert (0.97 if name in FACTORIZED else 0.85) < ratio < 1.03


@every_codec
@torch.no_grad()
def test_portable_strings_decode_to_the_forward_reconstruction(name, started, test_photos):
    net = started(name, 0.05)
    net.update()
    x = test_photos[0][None, :, :128, :192]
    reconstruction = net(x)["x_hat"].clamp(0, 1)
    lk.portable(net)
    decoded = net.decompress(**net.compress(x))["x_hat"]
    assert (decoded - reconstruction).square().mean() < 1e-5  # a few symbols round to the other side


@every_codec
def test_pickles_and_checkpoints_keep_the_network(name, started, tmp_path):
    net = started(name, 0.0067)
    net.update()
    training.save_checkpoint(net, tmp_path / "net.safetensors", lmbda=0.0067)
    loaded, _ = training.load_checkpoint(tmp_path / "net.safetensors", network=name)
    for again in (loaded, pickle.loads(pickle.dumps(net)), type(net).from_state_dict(net.state_dict())):
        assert isinstance(again, PatchCodec) and (again.N, again.M) == (net.N, net.M) and again.started
        assert training.weights_hash(again) == training.weights_hash(net)

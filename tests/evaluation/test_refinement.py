"""Refinement has exact gradients, writes ordinary streams, never raises the loss, and restores the network."""

import copy
import math

import compressai.models as models
import numpy as np
import pytest
import torch
from torch import nn

import labkit as lk
from labkit import entropy, evaluation, networks, schedules, schemes
from labkit.evaluation import refinement
from labkit.evaluation.evaluator import pad
from labkit.evaluation.latents import replaced_latents
from labkit.evaluation.refinement import refine
from labkit.fixed_point import PortableCoding
from labkit.state_guard import seed_noise

LMBDAS = (0.0035, 0.025)


def photo(height=64, width=64, seed=0):
    """Return a smooth image, so that the latents of an untrained network are not only noise."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(1, 3, 8, 8, generator=generator)
    return nn.functional.interpolate(coarse, (height, width), mode="bicubic").clamp(0, 1)[0]


@pytest.fixture(scope="module", params=LMBDAS)
def pretrained(request):
    return networks.pretrained("mean_scale_hyperprior", lmbda=request.param)


@pytest.fixture(scope="module")
def trained():
    return networks.pretrained("mean_scale_hyperprior", lmbda=0.025)


@pytest.fixture(scope="module")
def crop(test_photos):
    """Return a crop of a test photograph, which training has not seen."""
    return test_photos[0][:, :128, :128]


def with_spread_latents(net):
    """Scale an untrained network so that its latents cover a few integers, and create its tables."""
    for name, part in net.named_modules():
        if name.rpartition(".")[2] in ("g_a", "h_a"):
            last = [layer for layer in part if isinstance(layer, nn.Conv2d)][-1]
            seen = []
            handle = last.register_forward_hook(lambda _module, _inputs, output, seen=seen: seen.append(output))
            with torch.no_grad():
                net.eval()(photo()[None])
                for parameter in last.parameters():
                    parameter.mul_(2 / seen[-1].std())
            handle.remove()
    net.update()
    return net


class WithDropout(models.MeanScaleHyperprior):
    """A user's network whose synthesis transform contains dropout and batch normalization."""

    def __init__(self):
        super().__init__(8, 12)
        self.g_s = nn.Sequential(nn.Dropout(0.5), *self.g_s[:1], nn.BatchNorm2d(8), *self.g_s[1:])


def adopted(make):
    torch.manual_seed(0)
    return lk.adopt(make(), schemes.noise())


MAKERS = {
    "factorized_prior": lambda: networks.factorized_prior(),
    "scale_hyperprior": lambda: networks.scale_hyperprior(),
    "mean_scale_hyperprior": lambda: networks.mean_scale_hyperprior(),
    "joint_autoregressive": lambda: networks.joint_autoregressive(),
    "elic": lambda: networks.build("elic", 8, 20),
    "adopted checkerboard": lambda: adopted(lambda: models.Cheng2020AnchorCheckerboard(8)),
    "adopted with dropout": lambda: adopted(WithDropout),
}
WITHOUT_CONTEXT = ["factorized_prior", "scale_hyperprior", "mean_scale_hyperprior", "elic", "adopted with dropout"]


def complete_state(net):
    """Return a copy of the complete state of a network."""
    net_state = {key: value.clone() for key, value in net.state_dict().items()}
    carried = [(c.scheme, c.generator, float(c.temperature)) for c in entropy.carriers(net)]
    flags = [module.training for module in net.modules()]
    attributes = [(sorted(vars(module)), len(module._forward_hooks)) for module in net.modules()]
    weights = [(p.requires_grad, p.grad is None) for p in net.parameters()]
    return net_state, carried, flags, attributes, weights


def assert_same(before, after):
    assert list(before[0]) == list(after[0])
    assert all(torch.equal(value, after[0][key]) for key, value in before[0].items())
    assert before[1:] == after[1:]


# Replaced latents -----------------------------------------------------------------------------------------------------


@torch.no_grad()
def test_forward_and_coder_use_replaced_latents():
    """Compare with CompressAI's modules, called one by one on latents that no image has."""
    net = lk.portable(with_spread_latents(networks.mean_scale_hyperprior(seed=1)), False)
    x, generator = photo()[None], torch.Generator().manual_seed(5)
    y, z = 3 * torch.randn(1, 36, 4, 4, generator=generator), 2 * torch.randn(1, 24, 1, 1, generator=generator)
    calls = []
    handle = net.g_a[0].register_forward_hook(lambda *_: calls.append(1))
    with replaced_latents(net, y, z):
        output, coded = net(x), net.compress(x)
    assert not calls
    net(x)
    assert calls and "forward" not in vars(net.g_a) and "forward" not in vars(net.h_a)
    handle.remove()

    z_hat, z_likelihood = net.entropy_bottleneck(z, training=False)
    scales, means = net.h_s(z_hat).chunk(2, 1)
    y_hat, y_likelihood = net.gaussian_conditional(y, scales, means, training=False)
    assert torch.equal(output["x_hat"], net.g_s(y_hat))
    assert torch.equal(output["likelihoods"]["y"], y_likelihood)
    assert torch.equal(output["likelihoods"]["z"], z_likelihood)
    assert coded["strings"][1] == net.entropy_bottleneck.compress(z)
    indexes = net.gaussian_conditional.build_indexes(scales)
    assert coded["strings"][0] == net.gaussian_conditional.compress(y, indexes, means=means)
    with replaced_latents(net, y):  # h_a computes z from y
        assert net.compress(x)["strings"][1] == net.entropy_bottleneck.compress(net.h_a(y))


def test_latents_are_replaced_until_the_block_ends_even_if_it_is_nested_or_fails():
    net = networks.elic()
    h_a = net.latent_codec["hyper"].h_a
    first, second = torch.zeros(1), torch.ones(1)
    with pytest.raises(RuntimeError, match="inside"), replaced_latents(net, first, first):
        with replaced_latents(net, second, second):
            assert net.g_a(None) is second and h_a(None) is second
        assert net.g_a(None) is first and h_a(None) is first
        raise RuntimeError("inside")
    assert "forward" not in vars(net.g_a) and "forward" not in vars(h_a)


# Gradients and losses -------------------------------------------------------------------------------------------------


def make_problem(net, image, surrogate, temperature=0.4, lmbda=0.01):
    problem = refinement._Problem(net, image, lmbda)
    start = problem.start()
    refinement._put_everywhere(net, lk.surrogates.get(surrogate))
    entropy.set_temperature(net, temperature)
    return problem, start


@pytest.mark.parametrize("surrogate", ["aun", "sga", "ssl", "soft"])
@pytest.mark.parametrize("name", ["factorized_prior", "scale_hyperprior", "mean_scale_hyperprior"])
def test_gradients_agree_with_finite_differences(name, surrogate):
    """Compare along random directions of y and z in float64, with one draw of noise.

    σ stays above its bound, because below it CompressAI's gradient deliberately differs from the derivative. The
    gradient of z mostly comes from the rate of y through μ and σ.
    """
    net = with_spread_latents(MAKERS[name]()).double()
    if name != "factorized_prior":
        last = [layer for layer in net.h_s if isinstance(layer, nn.Conv2d)][-1]
        last.bias.data[: net.M] += 2
    problem, start = make_problem(net, photo(50, 60).double(), surrogate)

    def loss(latents):
        seed_noise(net, 3)
        return problem.surrogate_loss(latents)

    generator = torch.Generator().manual_seed(1)
    present = [i for i in (0, 1) if start[i] is not None]
    assert present == ([0] if name == "factorized_prior" else [0, 1])
    for i in present:
        leaf = start[i].clone().requires_grad_()
        (gradient,) = torch.autograd.grad(loss((leaf, start[1]) if i == 0 else (start[0], leaf)), leaf)
        for _ in range(3):
            direction = torch.randn(leaf.shape, generator=generator, dtype=torch.float64)
            losses = []
            for sign in (1, -1):
                moved = list(start)
                moved[i] = start[i] + sign * 1e-6 * direction
                losses.append(loss(tuple(moved)).item())
            slope = (losses[0] - losses[1]) / 2e-6
            assert (gradient * direction).sum().item() == pytest.approx(slope, rel=1e-4, abs=1e-7)
            assert slope != 0


@pytest.mark.parametrize("name", WITHOUT_CONTEXT)
@torch.no_grad()
def test_both_losses_are_equal_if_the_surrogate_is_rounding(name):
    """Like the coder, the surrogate rounds relative to μ and the medians. All other layers are in evaluation mode."""
    net = with_spread_latents(MAKERS[name]())
    for module in net.modules():
        if isinstance(module, entropy.EntropyBottleneck):
            module.quantiles[:, :, 1] += 0.3
    problem, start = make_problem(net, photo(70, 40), "round")
    rounded = problem.rounded_loss(start)
    assert problem.surrogate_loss(start).item() == pytest.approx(rounded, rel=1e-5)
    problem, start = make_problem(net, photo(70, 40), "aun")
    assert problem.surrogate_loss(start).item() != pytest.approx(rounded, rel=1e-5)


def test_the_rounded_loss_counts_original_pixels_and_all_bits(trained, test_photos):
    """Compare step 0 of the history with the rounded losses that the evaluator computes separately."""
    image = test_photos[0][:, :70, :100]
    photos = lk.datasets.PhotoSet([(image * 255).round().to(torch.uint8)], ["one"])
    ((rate, distortion),) = evaluation.rounded_losses(trained, photos)
    history = refine(trained, image, lmbda=0.01, steps=0).history
    assert len(history) == 1 and history["rounded_loss"][0] == pytest.approx(rate + 0.01 * distortion, rel=1e-5)


# Results --------------------------------------------------------------------------------------------------------------


def check_coding(net, image, coding, lmbda):
    """Decode with the unchanged network; compute rate, loss and PSNR with NumPy."""
    with torch.no_grad():
        net.eval().update()
        _, unpadding = pad(image[None], getattr(net, "downsampling_factor", 64))
        decoded = nn.functional.pad(net.decompress(**coding.coded)["x_hat"], unpadding)[0]
    decoded_image = np.round(decoded.numpy() * 255).astype(np.uint8)
    assert np.array_equal(coding.image.numpy(), decoded_image) and coding.image.shape == image.shape
    error = np.mean((decoded_image.astype(np.float64) - 255 * image.double().numpy()) ** 2)
    size = sum(len(string) for group in coding.strings for string in group)
    assert coding.bytes == size and coding.bpp == pytest.approx(8 * size / (image.shape[1] * image.shape[2]))
    assert coding.loss == pytest.approx(coding.bpp + lmbda * error, rel=1e-9)
    assert coding.psnr == pytest.approx(10 * np.log10(255**2 / error), rel=1e-9)


@pytest.mark.parametrize("name", MAKERS)
def test_every_architecture_can_be_refined_and_the_unchanged_network_decodes(name):
    net = with_spread_latents(MAKERS[name]())
    image = photo()
    refined = refine(net, image, lmbda=0.05, steps=3, lr=0.05)
    assert refined.steps == 3 and refined.stopped == "steps" and len(refined.history) == 4
    assert refined.after.loss <= refined.before.loss
    for coding in (refined.before, refined.after):
        check_coding(net, image, coding, 0.05)
    with torch.no_grad():
        assert net.compress(image[None])["strings"] == refined.before.strings
        with replaced_latents(net, refined.y, refined.z):
            assert net.compress(image[None])["strings"] == refined.after.strings
    assert (refined.z is None) == (name == "factorized_prior") and not refined.y.requires_grad
    portable = {"arithmetic"} if isinstance(net, PortableCoding) else set()
    assert set(refined.coded) == {"strings", "shape"} | portable


@pytest.mark.parametrize("surrogate", ["sga", "ssl", "sua"])
def test_refinement_lowers_the_loss_in_real_bytes_of_pretrained_networks(pretrained, surrogate, crop):
    """60 steps save at least 3.5%. Two seeds saved 4.8% to 6.4% when this test was written."""
    refined = refine(pretrained, crop, surrogate=surrogate, steps=60)
    assert refined.improved and refined.lmbda == pretrained.info["lmbda"]
    assert refined.after.loss < 0.965 * refined.before.loss
    check_coding(pretrained, crop, refined.after, refined.lmbda)


@pytest.mark.parametrize("height, width", [(1, 1), (63, 65), (100, 37)])
def test_images_of_any_size_can_be_refined(trained, height, width, crop):
    image = crop[:, :height, :width]
    refined = refine(trained, image, steps=10)
    for coding in (refined.before, refined.after):
        check_coding(trained, image, coding, 0.025)
    assert refined.after.loss <= refined.before.loss


def test_zero_steps_give_the_stream_of_compress(trained, crop):
    refined = refine(trained, crop, steps=0)
    with torch.no_grad():
        coded = trained.compress(crop[None])
    assert refined.coded == coded
    assert not refined.improved and refined.steps == 0


def test_the_best_latents_of_the_search_are_coded(trained, crop):
    """The temperature rises halfway, so the loss first falls, then rises. The returned latents have the lowest loss."""
    heated = schedules.piecewise((0, 0.05), (0.5, 0.05), (0.5, 4.0), (1, 4.0))
    refined = refine(trained, crop[:, :64, :64], surrogate="sua", lr=0.1, steps=60, temperature=heated)
    problem = refinement._Problem(trained, crop[:, :64, :64], 0.025)
    measured = refined.history["rounded_loss"].dropna()
    assert list(measured.index) == [0, 10, 20, 30, 40, 50, 60] and measured.iloc[-1] > measured.min()
    assert problem.rounded_loss((refined.y, refined.z)) == pytest.approx(measured.min(), rel=1e-6)
    assert refined.improved


def test_latents_whose_real_loss_is_not_lower_are_not_used(trained, crop, monkeypatch):
    """Real bytes decide, because the estimate can be wrong, for example for autoregressive models."""
    losses = iter(range(10, 0, -1))
    monkeypatch.setattr(refinement._Problem, "rounded_loss", lambda self, latents: float(next(losses)))
    refined = refine(trained, crop[:, :64, :64], lr=5.0, steps=10)
    assert not refined.improved and refined.after is refined.before
    assert "not better in real bytes" in str(refined)
    with torch.no_grad():
        assert trained.compress(crop[None, :, :64, :64])["strings"] == refined.after.strings
        assert torch.equal(refined.y, trained.g_a(crop[None, :, :64, :64]))


# End of the search and state afterwards -------------------------------------------------------------------------------


def test_the_search_stops_when_patience_is_exhausted(trained, crop):
    """Rounding has derivative zero, so the latents never change."""
    refined = refine(trained, crop[:, :64, :64], surrogate="round", steps=100, patience=2)
    assert (refined.stopped, refined.steps, refined.improved) == ("patience", 20, False)
    assert refined.history["rounded_loss"].dropna().nunique() == 1


def test_an_improvement_restarts_the_count_of_measurements(trained, crop, monkeypatch):
    losses = iter([9, 9, 8, 8, 8, 7, 7, 7, 7, 6])
    monkeypatch.setattr(refinement._Problem, "rounded_loss", lambda self, latents: float(next(losses)))
    refined = refine(trained, crop[:, :64, :64], steps=200, patience=3)
    assert (refined.stopped, refined.steps) == ("patience", 80)


def test_an_interrupted_search_keeps_its_best_latents(trained, crop, monkeypatch):
    original, calls = refinement._Problem.surrogate_loss, []

    def interrupted(self, latents):
        calls.append(1)
        if len(calls) == 26:
            raise KeyboardInterrupt
        return original(self, latents)

    image = crop[:, :64, :64]
    monkeypatch.setattr(refinement._Problem, "surrogate_loss", interrupted)
    refined = refine(trained, image, steps=30)
    assert (refined.stopped, refined.steps, refined.improved) == ("interrupted", 25, True)
    monkeypatch.undo()
    uninterrupted = refine(trained, image, steps=30)
    assert uninterrupted.history[:26].equals(refined.history)
    rounded = refinement._Problem(trained, image, 0.025).rounded_loss((refined.y, refined.z))
    assert rounded == pytest.approx(refined.history["rounded_loss"].min(), rel=1e-6)
    check_coding(trained, image, refined.after, 0.025)


def test_the_seed_determines_the_search(trained, crop):
    image = crop[:, :64, :64]
    first, again, other = (refine(trained, image, steps=10, seed=seed) for seed in (1, 1, 2))
    assert first.coded == again.coded and first.history.equals(again.history)
    assert not first.history["surrogate_loss"].equals(other.history["surrogate_loss"])


@pytest.mark.parametrize(
    "name", ["mean_scale_hyperprior", "joint_autoregressive", "adopted checkerboard", "adopted with dropout"]
)
def test_refinement_restores_the_network(name):
    net = MAKERS[name]().train()  # without coder tables
    next(net.parameters()).requires_grad_(False)
    lk.adopt(net, schemes.annealed(scale_lower_bound=0.2))
    entropy.set_generator(net, torch.Generator())
    image, before, state = photo(), complete_state(net), torch.get_rng_state()
    with torch.no_grad():  # the surrounding gradient mode has no effect
        refine(net, image, lmbda=0.05, steps=3)
    assert_same(before, complete_state(net))
    assert torch.equal(torch.get_rng_state(), state)

    calls = []

    def fail(*_):
        calls.append(1)
        if len(calls) == 5:
            raise RuntimeError("in the middle of a step")

    handle = net.g_s.register_forward_pre_hook(fail)
    with pytest.raises(RuntimeError, match="in the middle"):
        refine(net, image, lmbda=0.05, steps=3)
    handle.remove()
    assert_same(before, complete_state(net))


def test_the_history_records_losses_and_temperatures(trained, crop):
    refined = refine(trained, crop[:, :64, :64], steps=25)
    history = refined.history
    assert list(history["step"]) == list(range(26))
    assert list(history["step"][history["rounded_loss"].notna()]) == [0, 10, 20, 25]
    assert history[["temperature", "surrogate_loss"]].isna().any(axis=1).sum() == 1  # step 0 has none
    schedule = refinement.TEMPERATURE
    assert list(history["temperature"][1:]) == [schedule(step, 25) for step in range(25)]
    assert f"{refined.after.loss / refined.before.loss - 1:+.2%}" in str(refined) and str(refined).count("\n") == 2
    for shown in (repr(refined), repr(refined.before), str(refined.after)):
        assert len(shown) < 100 and "\n" not in shown


def test_noise_and_flat_images_can_be_refined(trained):
    for image in (torch.zeros(3, 64, 64), torch.rand(3, 64, 64, generator=torch.Generator().manual_seed(0))):
        refined = refine(trained, image, steps=10)
        assert refined.after.loss <= refined.before.loss < math.inf


# Errors ---------------------------------------------------------------------------------------------------------------

IMAGE = torch.zeros(3, 64, 64)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"image": np.zeros((3, 8, 8))}, "image must be a floating-point tensor .*, got ndarray"),
        ({"image": IMAGE.to(torch.uint8)}, r"image must be a floating-point tensor .*, got torch\.uint8"),
        ({"image": IMAGE[None]}, r"image must have the shape \(3, H, W\), got \(1, 3, 64, 64\)"),
        ({"image": IMAGE[:, :0]}, r"image must have the shape \(3, H, W\), got \(3, 0, 64\)"),
        ({"image": IMAGE + 2}, r"image must have values in \[0, 1\], got values in \[2, 2\]"),
        ({"image": IMAGE / 0}, r"image must have values in \[0, 1\], got values in \[nan, nan\]"),
        ({"lmbda": 0}, "lmbda must be a positive finite number, got 0"),
        ({"lmbda": math.inf}, "lmbda must be a positive finite number, got inf"),
        ({"lr": "fast"}, "lr must be a positive finite number, got 'fast'"),
        ({"steps": -1}, "steps must be an integer ≥ 0, got -1"),
        ({"steps": 1.5}, r"steps must be an integer ≥ 0, got 1\.5"),
        ({"patience": 0}, "patience must be an integer ≥ 1, got 0"),
        ({"seed": -3}, "seed must be an integer ≥ 0, got -3"),
        ({"surrogate": "sgaa"}, "surrogate: unknown surrogate 'sgaa'; did you mean sga"),
        ({"surrogate": 3}, "surrogate must be a surrogate or its name, got 3"),
        ({"temperature": 0}, "temperature must be a positive finite number or a schedule, got 0"),
        ({"net": models.FactorizedPrior(4, 4)}, "net: FactorizedPrior carries no scheme; .*adopt"),
        ({"net": networks.toy_2d()}, "net must be an image codec, but ToyTransformCode has no method compress"),
        ({"net": nn.Conv2d(3, 3, 1)}, "net: Conv2d carries no scheme"),
        ({"net": networks.factorized_prior(), "lmbda": None}, "lmbda is required"),
    ],
)
def test_invalid_arguments_cause_errors_of_one_line(changes, message):
    arguments = {"net": networks.factorized_prior(), "image": IMAGE, "lmbda": 0.01, "steps": 1, **changes}
    net, image = arguments.pop("net"), arguments.pop("image")
    with pytest.raises(ValueError, match=message) as error:
        refine(net, image, **arguments)
    assert "\n" not in str(error.value)


def test_replacing_latents_requires_one_g_a_and_one_h_a():
    net = networks.factorized_prior()
    with pytest.raises(ValueError, match="z: FactorizedPrior has no"), replaced_latents(net, IMAGE, IMAGE):
        pass
    with (
        pytest.raises(ValueError, match="net must have one module named g_a, but ModuleList has 2"),
        replaced_latents(nn.ModuleList([net, copy.deepcopy(net)]), IMAGE),
    ):
        pass

"""Adopted models of CompressAI train with a scheme, and otherwise behave as before."""

import copy
import io
import itertools
import math
import pickle
import warnings

import compressai.models as models
import numpy as np
import pytest
import torch
from compressai import latent_codecs
from compressai.entropy_models import (
    EntropyBottleneck,
    GaussianConditional,
)
from compressai.models.base import CompressionModel, SimpleVAECompressionModel
from scipy.special import erfc
from torch import nn

import labkit as lk
from labkit import adoption, entropy, schemes

GROUPS = [4, 4, 4, 4, 8]


class RasterScanModel(SimpleVAECompressionModel):
    """A model as a user would write it, with the only codec of CompressAI that none of CompressAI's models uses."""

    def __init__(self, N=8, quantizer="noise"):
        super().__init__()
        reference = models.JointAutoregressiveHierarchicalPriors(N, N)
        self.g_a, self.g_s = reference.g_a, reference.g_s
        self.latent_codec = latent_codecs.HyperpriorLatentCodec(
            {
                "y": latent_codecs.RasterScanLatentCodec(
                    GaussianConditional(None), reference.entropy_parameters, reference.context_prediction
                ),
                "hyper": latent_codecs.HyperLatentCodec(EntropyBottleneck(N), reference.h_a, reference.h_s, quantizer),
            }
        )


MODELS = {
    "FactorizedPrior": lambda: models.FactorizedPrior(8, 12),
    "FactorizedPriorReLU": lambda: models.FactorizedPriorReLU(8, 12),
    "ScaleHyperprior": lambda: models.ScaleHyperprior(8, 12),
    "MeanScaleHyperprior": lambda: models.MeanScaleHyperprior(8, 12),
    "JointAutoregressiveHierarchicalPriors": lambda: models.JointAutoregressiveHierarchicalPriors(8, 12),
    "Cheng2020Anchor": lambda: models.Cheng2020Anchor(8),
    "Cheng2020Attention": lambda: models.Cheng2020Attention(8),
    "Cheng2020AnchorCheckerboard": lambda: models.Cheng2020AnchorCheckerboard(8),
    "Elic2022Official": lambda: models.Elic2022Official(16, 24, GROUPS),
    "Elic2022Chandelier": lambda: models.Elic2022Chandelier(16, 24, GROUPS),
    "RasterScanModel": RasterScanModel,
}
FACTORIZED = ("FactorizedPrior", "FactorizedPriorReLU")
SEQUENTIAL = (
    "JointAutoregressiveHierarchicalPriors",
    "Cheng2020Anchor",
    "Cheng2020Attention",
    "RasterScanModel",
)
CHECKERBOARD = ("Cheng2020AnchorCheckerboard", "Elic2022Official", "Elic2022Chandelier")
WITH_MEANS = ("MeanScaleHyperprior", *SEQUENTIAL, *CHECKERBOARD)
every_model = pytest.mark.parametrize("name", MODELS)


def image(batch=1):
    return torch.rand(batch, 3, 64, 64, generator=torch.Generator().manual_seed(1))


def build(name):
    """Return a small model with latents that cover several integers, nonzero medians, and varied means and scales."""
    torch.manual_seed(0)
    model = MODELS[name]().eval()
    networks = ["g_a", "h_a", "entropy_parameters"] if name not in ("ScaleHyperprior", "MeanScaleHyperprior") else []
    for path, part in model.named_modules():
        if isinstance(part, nn.Sequential) and path.split(".")[-1] in (networks or ["g_a", "h_a", "h_s"]):
            last = [layer for layer in part if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d)][-1]
            values = []
            handle = last.register_forward_hook(lambda _module, _inputs, output, values=values: values.append(output))
            with torch.no_grad():
                model(image())
                for parameter in last.parameters():
                    parameter.mul_(2 / values[-1].std())
            handle.remove()
    for module in model.modules():
        if isinstance(module, EntropyBottleneck):
            module.quantiles.data[:, :, 1].uniform_(-0.4, 0.4)
    model.update()
    return model


_built = {}


@pytest.fixture
def model(name):
    """Return a copy of the model, which is built only once."""
    if name not in _built:
        _built[name] = build(name)
    return copy.deepcopy(_built[name])


def train_forward(model, x, seed=0):
    torch.manual_seed(seed)
    return model.train()(x)


def flat(output):
    return {"x_hat": output["x_hat"], **output["likelihoods"]}


def assert_equal(a, b):
    for key, value in flat(b).items():
        assert torch.equal(flat(a)[key], value), key


def assert_close(a, b, tolerance=1e-5):
    for key, value in flat(b).items():
        torch.testing.assert_close(
            flat(a)[key], value, rtol=tolerance, atol=tolerance, msg=lambda m, k=key: f"{k}: {m}"
        )


def bits(output):
    return sum(-likelihood.log2().sum() for likelihood in output["likelihoods"].values())


def gaussians(model):
    return [module for module in model.modules() if isinstance(module, GaussianConditional)]


# Evaluation and coding are CompressAI's -------------------------------------------------------------------------------


@every_model
@torch.no_grad()
def test_adoption_and_release_change_no_bit_of_evaluation_and_coding(name, model):
    """Outputs, strings, images and keys are the same after adoption, with updated tables and after release."""
    x = image()  # CompressAI's raster-scan codec decodes only batches of one
    keys, classes = list(model.state_dict()), [type(module) for module in model.modules()]
    names = [set(vars(module)) | set(module._buffers) for module in model.modules()]
    output, coded = model(x), model.compress(x)
    decoded = model.decompress(coded["strings"], coded["shape"])["x_hat"]
    assert sum(map(len, coded["strings"][0])) > 20  # something was coded

    def check():
        assert_equal(model(x), output)
        again = model.compress(x)
        assert again["strings"] == coded["strings"] and again["shape"] == coded["shape"]
        assert torch.equal(model.decompress(again["strings"], again["shape"])["x_hat"], decoded)
        assert list(model.state_dict()) == keys

    check()
    assert lk.adopt(model, schemes.noise()) is model
    assert all(isinstance(module, before) for module, before in zip(model.modules(), classes, strict=True))
    check()
    model.update(force=True)
    check()
    assert lk.release(model) is model
    check()
    assert [type(module) for module in model.modules()] == classes
    assert [set(vars(module)) | set(module._buffers) for module in model.modules()] == names
    assert not any(module._non_persistent_buffers_set for module in model.modules())


@pytest.mark.parametrize("name", [name for name in MODELS if name not in SEQUENTIAL])
@torch.no_grad()
def test_the_decoded_image_is_the_reconstruction_of_the_evaluation_forward(name, model):
    lk.adopt(model, schemes.mixed(scale_lower_bound=0.2)).update()
    x = image()
    coded = model.compress(x)
    decoded = model.decompress(coded["strings"], coded["shape"])["x_hat"]
    torch.testing.assert_close(decoded, model(x)["x_hat"].clamp(0, 1), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", SEQUENTIAL)
@torch.no_grad()
def test_the_decoded_image_is_the_sequential_reconstruction(name, model):
    """The oracle reconstructs the latent pixel by pixel: it rounds y − μ, with μ predicted from the previous pixels."""
    lk.adopt(model, schemes.mixed(scale_lower_bound=0.2)).update()
    x = image()
    coded = model.compress(x)
    decoded = model.decompress(coded["strings"], coded["shape"])["x_hat"]
    networks = SideNetworks(model)
    y = model.g_a(x)
    z = networks.h_a(y)
    medians = networks.eb.quantiles[:, 0, 1][:, None, None]
    side = networks.h_s(torch.round(z - medians) + medians)
    y_hat = torch.zeros_like(y)
    for i, j in itertools.product(*map(range, y.shape[2:])):
        _, mean = networks.ep(torch.cat((side, networks.cp(y_hat)), 1)).chunk(2, 1)
        y_hat[..., i, j] = (torch.round(y - mean) + mean)[..., i, j]
    torch.testing.assert_close(decoded, model.g_s(y_hat).clamp(0, 1), rtol=1e-4, atol=1e-4)


# Training follows the scheme ------------------------------------------------------------------------------------------


class SideNetworks:
    """The side networks of a model under their usual short names."""

    def __init__(self, model):
        hyper = model.latent_codec["hyper"] if hasattr(model, "latent_codec") else model
        context = model.latent_codec["y"] if hasattr(model, "latent_codec") else model
        self.eb, self.h_a, self.h_s = hyper.entropy_bottleneck, hyper.h_a, hyper.h_s
        self.ep, self.cp = getattr(context, "entropy_parameters", None), getattr(context, "context_prediction", None)
        self.context = context


def gaussian_likelihood(y, scale, mean, bound):
    """Return the mass of a Gaussian over a unit bin around y, computed in NumPy float64."""
    y, scale, mean = (t.detach().double().numpy() for t in (y, scale, mean))
    scale, v = np.maximum(scale, np.float32(bound)), np.abs(y - mean)
    mass = (erfc(-(0.5 - v) / scale / np.sqrt(2)) - erfc((0.5 + v) / scale / np.sqrt(2))) / 2
    return torch.from_numpy(np.maximum(mass, 1e-9)).float()


def bottleneck_likelihood(eb, z):
    likelihood, _, _ = eb._likelihood(z.transpose(0, 1).reshape(z.size(1), 1, -1))
    return likelihood.clamp(min=1e-9).reshape(z.transpose(0, 1).shape).transpose(0, 1)


def forward_by_hand(model, x, tau, zero_center, shared, bound):
    """Return the outputs of the training forward of `annealed`, written by hand.

    The rate path is y + u and the distortion path ⌊y − μ + τu⌉ + μ. Those of z are z + u and ⌊z − m⌉ + m. The function
    uses the transforms and networks of the plain model, but no forward of its entropy models and codecs.
    """
    name = type(model).__name__
    y = model.g_a(x)

    def draw(context):
        """Return u of the rate and u of the distortion; with a context model, the second is drawn first."""
        u = torch.rand(y_part.shape) - 0.5
        if shared:
            return u, u
        other = torch.rand(y_part.shape) - 0.5
        return (other, u) if context else (u, other)

    def distort(y, mean, u):
        mean = mean if zero_center else torch.zeros_like(y)
        return torch.round(y - mean + tau * u) + mean

    y_part = y
    if name in FACTORIZED:
        u_rate, u = draw(context=False)
        medians = model.entropy_bottleneck.quantiles[:, 0, 1][:, None, None]
        likelihood = bottleneck_likelihood(model.entropy_bottleneck, y + u_rate)
        return {"x_hat": model.g_s(distort(y, medians, u)), "likelihoods": {"y": likelihood}}

    networks = SideNetworks(model)
    z = networks.h_a(y.abs() if name == "ScaleHyperprior" else y)
    z_likelihood = bottleneck_likelihood(networks.eb, z + torch.rand(z.shape) - 0.5)
    medians = networks.eb.quantiles[:, 0, 1][:, None, None]
    side = networks.h_s(torch.round(z - medians) + medians if zero_center else torch.round(z))

    def code(y_part, side, codec):
        """Return ŷ and the likelihoods of one group of channels."""
        if name in ("ScaleHyperprior", "MeanScaleHyperprior"):
            u_rate, u = draw(context=False)
            scale, mean = side.chunk(2, 1) if name[0] == "M" else (side, torch.zeros_like(y))
        else:
            u_rate, u = draw(context=True)

            def predict(context):
                order = (context, side) if name in CHECKERBOARD else (side, context)
                first_half, second_half = codec.entropy_parameters(torch.cat(order, 1)).chunk(2, 1)
                return (second_half, first_half) if name == "Elic2022Chandelier" else (first_half, second_half)

            uncentered = torch.round(y_part + tau * u)
            if name in SEQUENTIAL:
                scale, mean = predict(codec.context_prediction(uncentered))
            else:
                rows, columns = torch.meshgrid(*map(torch.arange, y_part.shape[2:]), indexing="ij")
                anchor = (rows + columns) % 2 == 0
                first = predict(torch.zeros_like(codec.context_prediction(y_part)))
                quantized = uncentered if codec.forward_method == "onepass" else distort(y_part, first[1], u)
                second = predict(codec.context_prediction(torch.where(anchor, quantized, 0.0)))
                scale, mean = (torch.where(anchor, a, b) for a, b in zip(first, second, strict=True))
        return distort(y_part, mean, u), gaussian_likelihood(y_part + u_rate, scale, mean, bound)

    if name.startswith("Elic"):
        groups, likelihoods = [], []
        for k, y_part in enumerate(y.split(GROUPS, 1)):
            params = side
            if k:
                support = groups if name == "Elic2022Official" or k == 1 else [groups[0], groups[-1]]
                params = torch.cat((networks.context.channel_context[f"y{k}"](torch.cat(support, 1)), side), 1)
            y_hat, likelihood = code(y_part, params, networks.context[f"y{k}"])
            groups.append(y_hat)
            likelihoods.append(likelihood)
        y_hat, y_likelihood = torch.cat(groups, 1), torch.cat(likelihoods, 1)
    else:
        y_hat, y_likelihood = code(y, side, networks.context)
    return {"x_hat": model.g_s(y_hat), "likelihoods": {"y": y_likelihood, "z": z_likelihood}}


@every_model
@pytest.mark.parametrize("zero_center, shared", [(True, True), (True, False), (False, True)])
def test_the_training_forward_equals_the_one_written_by_hand(name, model, zero_center, shared):
    x, plain = image(2), copy.deepcopy(model)
    scheme = schemes.annealed(
        temperature=0.6,
        relaxed=False,
        zero_center=zero_center,
        stop_gradient=zero_center,
        shared_noise=shared,
        scale_lower_bound=0.25,
    )
    output = train_forward(lk.adopt(model, scheme), x)
    torch.manual_seed(0)
    with torch.no_grad():
        by_hand = forward_by_hand(plain, x, 0.6, zero_center, shared, 0.25)
    assert_close(output, by_hand, 2e-4)


@pytest.mark.parametrize("method", ["onepass", "twopass_faster"])
@pytest.mark.parametrize("name", ["Cheng2020AnchorCheckerboard"])
def test_other_checkerboard_methods_equal_the_forward_written_by_hand(name, model, method):
    model.latent_codec["y"].forward_method = method
    plain = copy.deepcopy(model)
    output = train_forward(lk.adopt(model, schemes.annealed(temperature=0.6, relaxed=False)), image(2))
    torch.manual_seed(0)
    with torch.no_grad():
        assert_close(output, forward_by_hand(plain, image(2), 0.6, True, True, 0.11), 2e-4)
        model.eval(), plain.eval()
        assert_equal(model(image()), plain(image()))


@every_model
def test_straight_through_training_is_deterministic_and_training_with_noise_is_not(name, model):
    lk.adopt(model, schemes.straight_through())
    assert_equal(train_forward(model, image(), seed=0), train_forward(model, image(), seed=1))
    lk.adopt(model, schemes.noise())
    first, second = (train_forward(model, image(), seed) for seed in (0, 1))
    assert all(not torch.equal(flat(first)[key], flat(second)[key]) for key in flat(first))


@pytest.mark.parametrize("name", [name for name in WITH_MEANS if name not in SEQUENTIAL] + list(FACTORIZED))
def test_the_straight_through_training_forward_equals_the_evaluation_forward(name, model):
    """If evaluation also rounds y − μ, centered straight-through training reconstructs the image as the codec will."""
    with torch.no_grad():
        evaluated = model.eval()(image())
        assert_close(train_forward(lk.adopt(model, schemes.straight_through()), image()), evaluated, 1e-4)


@every_model
def test_a_few_steps_lower_the_loss(name, model):
    x = image()
    lk.adopt(model, schemes.straight_through(temperature=1.0)).train()
    optimizer = torch.optim.Adam([p for n, p in model.named_parameters() if not n.endswith("quantiles")], lr=1e-3)
    losses = []
    for _ in range(10):
        loss = lk.training.rate_distortion(model(x), x, 0.01).total
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.95 * losses[0]
    assert model.aux_loss().item() > 0


# CompressAI's training law --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [*FACTORIZED, "ScaleHyperprior", "MeanScaleHyperprior", *SEQUENTIAL])
def test_noise_trains_as_compressai_does_with_the_same_seed(name, model):
    """CompressAI's `uniform_` and labkit's `rand` draw the same numbers in the same order.

    With a context model, CompressAI draws once for the context and the decoder, and again for the rate.
    """
    theirs = train_forward(copy.deepcopy(model), image())
    lk.adopt(model, schemes.noise())
    if name in SEQUENTIAL:
        gaussians(model)[0].scheme = schemes.noise(shared_noise=False)
    assert_close(train_forward(model, image()), theirs)


@pytest.mark.parametrize("name", CHECKERBOARD)
def test_mixed_trains_as_compressais_latent_codecs_do_with_the_same_seed(name, model):
    """Rates use noise, and both reconstructions use straight-through rounding. Outputs and gradients agree."""
    plain = copy.deepcopy(model)
    lk.adopt(model, schemes.mixed())
    outputs = [train_forward(net, image()) for net in (model, plain)]
    assert_close(*outputs)
    for output in outputs:
        lk.training.rate_distortion(output, image(), 0.01).total.backward()
    for (key, ours), theirs in zip(model.named_parameters(), plain.parameters(), strict=True):
        if not key.endswith("quantiles"):
            scale = theirs.grad.abs().max().item()
            torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-3, atol=1e-4 * scale + 1e-7, msg=key)


@pytest.mark.parametrize("name", SEQUENTIAL[:2])
@torch.no_grad()
def test_one_shared_draw_has_the_same_means_as_compressais_two_draws(name, model):
    """A shared draw keeps the marginal law of each latent. Rate and distortion agree within five standard errors."""
    n, x = 150, image()
    results = {}
    adopted = lk.adopt(copy.deepcopy(model), schemes.noise())
    for seed, (key, net) in enumerate({"theirs": model, "ours": adopted}.items()):
        torch.manual_seed(seed)
        outputs = [net.train()(x) for _ in range(n)]
        results[key] = np.array([[bits(o).item(), (o["x_hat"] - x).square().mean().item()] for o in outputs])
    difference = results["ours"].mean(0) - results["theirs"].mean(0)
    error = np.sqrt((results["ours"].var(0) + results["theirs"].var(0)) / n)
    assert (error < 0.02 * results["theirs"].mean(0)).all()  # small enough to detect a difference
    assert (np.abs(difference) < 5 * error).all(), difference / error


@pytest.mark.parametrize("name", ["MeanScaleHyperprior", *SEQUENTIAL, *CHECKERBOARD])
def test_quantization_and_likelihoods_stay_in_float32_under_autocast(name, model):
    """bfloat16 would round noise to 2⁻⁸ of the latent. The rates of both precisions agree within bfloat16's error."""
    lk.adopt(model, schemes.noise())
    exact = train_forward(model, image())
    with torch.autocast("cpu", torch.bfloat16):
        output = train_forward(model, image())
    assert all(likelihood.dtype == torch.float32 for likelihood in output["likelihoods"].values())
    assert bits(output).item() == pytest.approx(bits(exact).item(), rel=0.05)


def inputs_of_context_and_decoder(model, precision):
    """Return the inputs of the context model and of the synthesis transform in a training forward."""
    seen_inputs = {}
    context_prediction = SideNetworks(model).cp
    context_prediction.register_forward_pre_hook(lambda _module, inputs: seen_inputs.update(context=inputs[0]))
    model.g_s.register_forward_pre_hook(lambda _module, inputs: seen_inputs.update(decoder=inputs[0]))
    with torch.autocast("cpu", torch.bfloat16, enabled=precision == torch.bfloat16):
        train_forward(model, image(2))
    assert seen_inputs["decoder"].dtype == torch.float32
    return seen_inputs["context"], seen_inputs["decoder"]


both_precisions = pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])


@both_precisions
@pytest.mark.parametrize("name", ["Cheng2020AnchorCheckerboard"])
def test_the_context_model_and_the_decoder_read_the_same_anchors(name, model, precision):
    lk.adopt(model, schemes.annealed(temperature=0.6))
    context, decoder = inputs_of_context_and_decoder(model, precision)
    assert torch.equal(context, model.latent_codec["y"]._keep_only(decoder, "anchor"))
    assert context.count_nonzero() == context.numel() / 2


@both_precisions
@pytest.mark.parametrize("name", SEQUENTIAL)
def test_the_context_model_and_the_decoder_read_the_same_latent_without_zero_center(name, model, precision):
    context, decoder = inputs_of_context_and_decoder(lk.adopt(model, schemes.noise(zero_center=False)), precision)
    assert torch.equal(context, decoder)


# Gradients ------------------------------------------------------------------------------------------------------------


def side_gradient(model, loss):
    """Return the largest gradient of the parameters outside g_a and g_s, which predict μ and σ."""
    named = [(n, p) for n, p in model.named_parameters() if not n.startswith(("g_a", "g_s"))]
    gradients = torch.autograd.grad(loss, [p for _, p in named], allow_unused=True, retain_graph=True)
    return max((g.abs().max().item() for g in gradients if g is not None), default=0.0)


@pytest.mark.parametrize("name", WITH_MEANS)
def test_stop_gradient_keeps_the_reconstruction_error_from_the_networks_that_predict_means(name, model):
    """Hyper transforms, context model and entropy parameters, all outside g_a and g_s, only affect μ and σ."""
    for stop in (True, False):
        lk.adopt(model, schemes.noise(temperature=0.2, stop_gradient=stop).replace(distortion="soft"))
        output = train_forward(model, image())
        error = side_gradient(model, (output["x_hat"] - image()).square().sum())
        assert error == 0 if stop else error > 1e-3
        assert side_gradient(model, bits(output)) > 1e-3


@pytest.mark.parametrize("name", ["ScaleHyperprior"])
def test_the_reconstruction_error_does_not_reach_the_side_networks_without_means(name, model):
    output = train_forward(lk.adopt(model, schemes.noise().replace(distortion="soft")), image())
    assert side_gradient(model, output["x_hat"].square().sum()) == 0


# State dicts, bounds, tables ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("order", list(itertools.permutations(("save", "load", "adopt", "release"))))
def test_a_model_can_be_saved_loaded_adopted_and_released_in_any_order(order):
    """Keys never change. The scheme's bound applies while the model is adopted; after release, loading replaces it."""
    torch.manual_seed(0)
    model = models.MeanScaleHyperprior(8, 12)
    model.update()
    other = copy.deepcopy(model).state_dict()
    keys, bound, adopted, saved = list(other), 0.11, False, None
    for action in order:
        if action == "save":
            saved = copy.deepcopy(model.state_dict()), bound
        elif action == "load":
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                model.load_state_dict(other)
            messages = [str(w.message) for w in caught if "scale bound" in str(w.message)]
            expected = "the scheme's scale bound 0.3 replaces the bound 0.11 of the state dict"
            assert messages == ([expected] if adopted else [])
            bound = bound if adopted else 0.11
        elif action == "adopt":
            lk.adopt(model, schemes.noise(scale_lower_bound=0.3))
            bound, adopted = 0.3, True
        else:
            lk.release(model)
            adopted = False
        state, (gaussian,) = model.state_dict(), gaussians(model)
        assert list(state) == keys
        assert gaussian.scale_bound.item() == gaussian.lower_bound_scale.bound.item() == np.float32(bound)
        assert gaussian.scale_table.numel() == 0 or gaussian.scale_table[0].item() == np.float32(bound)
        assert bool(gaussian._forward_hooks or gaussian._load_state_dict_post_hooks) is False
    state, bound = saved
    assert state["gaussian_conditional.lower_bound_scale.bound"].item() == np.float32(bound)


@pytest.mark.parametrize("bound", [0.11, 0.3, 1.7])
def test_the_scale_table_starts_exactly_at_the_bound(bound):
    table = entropy.scale_table(bound)
    assert table.shape == (64,) and table.dtype == torch.float32
    assert table[0].item() == np.float32(bound)
    geometric = bound * (256 / bound) ** (np.arange(64) / 63)
    np.testing.assert_allclose(table.numpy(), geometric, rtol=1e-5)


def test_a_scale_table_without_a_range_is_refused():
    with pytest.raises(ValueError, match="bound must be between 0 and 256, got 300"):
        entropy.scale_table(300)


@pytest.mark.parametrize("name", ["MeanScaleHyperprior", "Elic2022Official"])
@torch.no_grad()
def test_another_bound_reaches_the_coder_and_stays_after_release(name, model):
    """New tables for 0.5 replace those for 0.11. Release changes no byte, but CompressAI's default table would."""
    x = image(2)
    lk.adopt(model, schemes.noise(scale_lower_bound=0.5))
    assert all(gaussian._offset.numel() == 0 for gaussian in gaussians(model))
    model.update()
    outputs, coded = model(x), model.compress(x)
    lk.release(model)
    assert_equal(model(x), outputs)
    assert model.compress(x)["strings"] == coded["strings"]
    model.update(force=True, scale_table=entropy.scale_table(0.5))
    assert model.compress(x)["strings"] == coded["strings"]
    model.update(force=True)
    assert model.compress(x)["strings"] != coded["strings"]


def test_adoption_with_the_same_bound_keeps_the_table():
    model = models.MeanScaleHyperprior(8, 12)
    model.update()
    table = model.gaussian_conditional._quantized_cdf
    lk.adopt(model, schemes.mixed())
    assert model.gaussian_conditional._quantized_cdf is table


# Adopting twice, stages, temperatures, copies -------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["Cheng2020Anchor", "Elic2022Chandelier"])
def test_a_second_adoption_changes_the_scheme_and_one_release_undoes_both(name, model):
    classes = [type(module) for module in model.modules()]
    lk.adopt(model, schemes.noise())
    adopted_classes = [type(module) for module in model.modules()]
    scheme = schemes.annealed(temperature=0.3, scale_lower_bound=0.2)
    lk.adopt(model, scheme)
    assert [type(module) for module in model.modules()] == adopted_classes
    assert model.scheme is scheme
    for carrier in entropy.carriers(model):
        assert carrier.scheme is scheme and carrier.temperature.item() == pytest.approx(0.3)
    lk.release(model)
    assert [type(module) for module in model.modules()] == classes
    assert not hasattr(model, "scheme") and not entropy.carriers(model)
    lk.release(model)  # a second release has no effect


def test_two_stages_start_with_the_scheme_of_the_first():
    model, scheme = models.MeanScaleHyperprior(8, 12), schemes.soft_then_hard(scale_lower_bound=0.2)
    assert lk.adopt(model, scheme).scheme is scheme
    assert all(carrier.scheme is scheme.first for carrier in entropy.carriers(model))


def test_the_temperature_reaches_every_carrier_even_through_a_wrapper():
    model = lk.adopt(models.Elic2022Official(16, 24, GROUPS), schemes.annealed())
    lk.set_temperature(nn.DataParallel(model), 0.125)
    assert [c.temperature.item() for c in entropy.carriers(model)] == [0.125] * 6
    lk.set_temperature(model, lk.schedules.exponential(0.5, 0.05))
    assert {c.temperature.item() for c in entropy.carriers(model)} == {0.5}
    for invalid in (0, -1.0, math.nan, math.inf, "cold", None):
        with pytest.raises(ValueError, match="temperature"):
            lk.set_temperature(model, invalid)
    with pytest.raises(ValueError, match=r"^torch.nn.modules.linear.Linear carries no scheme; call labkit.adopt"):
        lk.set_temperature(nn.Linear(1, 1), 0.5)
    assert {c.temperature.item() for c in entropy.carriers(model)} == {0.5}


def test_a_wrapped_model_can_be_adopted_and_released():
    model = models.Cheng2020Anchor(8)
    wrapped = nn.Sequential(model)
    lk.adopt(wrapped, schemes.straight_through())
    assert_equal(train_forward(wrapped, image(), 0), train_forward(wrapped, image(), 1))
    lk.release(wrapped)
    assert type(model) is models.Cheng2020Anchor and not hasattr(wrapped, "scheme")


def test_the_temperature_is_on_the_device_of_the_model():
    with pytest.warns(UserWarning, match="cannot be run"):  # a model on this device has no values
        model = lk.adopt(models.FactorizedPrior(8, 12).to("meta"), schemes.noise())
    assert model.entropy_bottleneck.temperature.device.type == "meta"


@every_model
def test_an_adopted_model_can_be_copied_and_pickled(name, model):
    """Each copy trains with the scheme, is independent of the original, and regains the user's classes on release."""
    try:
        pickle.dumps(model)
        can_pickle = True
    except (AttributeError, pickle.PicklingError):  # CompressAI's AttentionBlock contains a local class
        can_pickle = False
    assert can_pickle or name in ("Cheng2020Attention", "Elic2022Official", "Elic2022Chandelier")
    classes = [type(module) for module in model.modules()]
    lk.adopt(model, schemes.annealed(temperature=0.4))
    output = train_forward(model, image())
    copies = [copy.deepcopy(model)]
    if can_pickle:
        copies += [pickle.loads(pickle.dumps(model, protocol)) for protocol in (2, pickle.HIGHEST_PROTOCOL)]
        file = io.BytesIO()
        torch.save(model, file)
        file.seek(0)
        copies.append(torch.load(file, weights_only=False))
    for other in copies:
        assert type(other) is type(model) and other.scheme == model.scheme
        assert_equal(train_forward(other, image()), output)
        lk.set_temperature(other, 0.9)
        assert_equal(train_forward(model, image()), output)
        lk.release(other)
        assert [type(module) for module in other.modules()] == classes


def test_the_summary_names_every_changed_module():
    model = models.Cheng2020AnchorCheckerboard(8)
    before = {path: type(module) for path, module in model.named_modules()}
    table = adoption.summary(lk.adopt(model, schemes.annealed(scale_lower_bound=0.2)))
    changed = [path for path, module in model.named_modules() if type(module) is not before[path]]
    assert list(table.columns) == ["module", "class", "role"] and list(table["module"]) == changed
    assert list(table["class"]) == [before[path].__name__ for path in changed]
    roles = table.set_index("module")["role"]
    assert roles["latent_codec.hyper.entropy_bottleneck"] == "scores hyper_rate, returns hyper_distortion"
    assert roles["latent_codec.y.y.gaussian_conditional"] == "scores rate, returns distortion; σ ≥ 0.2"
    whole = adoption.summary(lk.adopt(models.Cheng2020Anchor(8), schemes.noise()))
    assert whole["module"][0] == "(the model)" and whole["class"][0] == "Cheng2020Anchor"
    factorized = adoption.summary(lk.adopt(models.FactorizedPrior(8, 12), schemes.noise()))
    assert factorized["role"].tolist() == ["scores rate, returns distortion"]
    with pytest.raises(ValueError, match="carries no scheme"):
        adoption.summary(lk.release(model))


# labkit's own networks and trainer ------------------------------------------------------------------------------------


def test_labkits_own_networks_accept_a_scheme_and_cannot_be_released():
    net = lk.networks.mean_scale_hyperprior("tiny")
    scheme = schemes.mixed(scale_lower_bound=0.2)
    assert lk.adopt(net, scheme) is net and net.scheme is scheme
    assert net.gaussian_conditional.scheme is scheme and type(net) is lk.networks.MeanScaleHyperprior
    lk.adopt(nn.DataParallel(net), schemes.noise())
    assert net.scheme == schemes.noise() == net.gaussian_conditional.scheme
    lk.adopt(net, scheme)
    with pytest.raises(ValueError, match=r"^model must be an adopted model; labkit's own networks always carry"):
        lk.release(net)
    assert net.gaussian_conditional.scheme is scheme


@pytest.mark.parametrize("stages", [1, 2])
@pytest.mark.parametrize(
    "name, widths",
    [("MeanScaleHyperprior", (8, 12)), ("Cheng2020Anchor", (24,)), ("Cheng2020AnchorCheckerboard", (24,))],
)
def test_labkits_trainer_trains_an_adopted_model(name, widths, stages, train_photos):
    """The temperature follows the schedule, the same seed gives the same losses, and plain CompressAI codes the result.

    The test avoids widths 8 and 16. With these, torch's channels-last gradient of a 1×1 convolution of stride 2 writes
    out of bounds on some CPUs, and the blocks of Cheng et al. contain such convolutions.
    """
    falling = schemes.annealed(temperature=lk.schedules.exponential(0.5, 0.1))
    scheme = falling if stages == 1 else schemes.TwoStages(falling, schemes.straight_through(), 0.5)
    losses = []
    for _ in range(2):
        torch.manual_seed(0)
        model = lk.adopt(getattr(models, name)(*widths), scheme)
        settings = {"lmbda": 0.01, "steps": 4, "crop": 64, "batch_size": 2, "lr": 1e-3, "precision": "float32"}
        run = lk.train(model, train_photos[:2], **settings, progress=False)
        losses.append([step.loss for step in run.history])
    assert losses[0] == losses[1] and all(map(math.isfinite, losses[0])) and len(losses[0]) == 4
    assert run.history[1].temperature == pytest.approx(0.5 * 0.2 ** (1 / 3))
    assert run.history[-1].temperature == pytest.approx(0.1 if stages == 1 else 1.0)
    assert not model.training
    lk.release(model).update()
    with torch.no_grad():
        coded = model.compress(image())
        assert model.decompress(coded["strings"], coded["shape"])["x_hat"].shape == image().shape


# A user's own models --------------------------------------------------------------------------------------------------


class Plain(CompressionModel):
    """A hyperprior as a user would write it, which also rounds a size."""

    def __init__(self):
        super().__init__()
        self.g_a, self.g_s = nn.Conv2d(3, 4, 5, 4, 2), nn.ConvTranspose2d(4, 3, 4, 4)
        self.h_a, self.h_s = nn.Conv2d(4, 4, 2, 2), nn.ConvTranspose2d(4, 8, 2, 2)
        self.bottleneck, self.gaussian = EntropyBottleneck(4), GaussianConditional(None)

    def forward(self, x):
        height = round(x.size(-2) / 4)
        y = self.g_a(x)[..., :height, :]
        z_hat, z_likelihoods = self.bottleneck(self.h_a(y))
        scales, means = self.h_s(z_hat).chunk(2, 1)
        y_hat, y_likelihoods = self.gaussian(y, scales, means=means)
        return {"x_hat": self.g_s(y_hat), "likelihoods": {"y": y_likelihoods, "z": z_likelihoods}}


class Brighter(models.Cheng2020Anchor):
    """A subclass that extends the forward of its parent."""

    def forward(self, x):
        output = super().forward(x)
        return {**output, "x_hat": output["x_hat"] + 1}


class CustomHyper(latent_codecs.HyperLatentCodec):
    def forward(self, y):
        output = super().forward(y)
        return {**output, "params": 2 * output["params"]}


def test_a_subclass_can_extend_the_forward_of_its_parent():
    """Through `super()`, the subclass calls a forward that follows the scheme in training."""
    torch.manual_seed(0)
    model = Brighter(8)
    parent = models.Cheng2020Anchor(8)
    parent.load_state_dict(model.state_dict())
    for net in (lk.adopt(model, schemes.annealed()), lk.adopt(parent, schemes.annealed())):
        assert isinstance(net, models.Cheng2020Anchor)
    theirs = train_forward(parent, image())
    assert_equal(train_forward(model, image()), {**theirs, "x_hat": theirs["x_hat"] + 1})
    copied = pickle.loads(pickle.dumps(model))
    assert type(lk.release(copied)) is Brighter and type(lk.release(model)) is Brighter


def test_a_users_model_and_codec_follow_the_scheme():
    torch.manual_seed(0)
    model = lk.adopt(Plain(), schemes.straight_through())
    assert not model.bottleneck.main
    assert_equal(train_forward(model, image(), 0), train_forward(model, image(), 1))

    scan = RasterScanModel()
    plain = copy.deepcopy(scan)
    scan.latent_codec.hyper.__class__ = CustomHyper
    outputs = [net.latent_codec.train()(4 * net.g_a(image())) for net in (scan, lk.adopt(plain, schemes.noise()))]
    assert outputs[0]["likelihoods"]["y"].shape == outputs[1]["likelihoods"]["y"].shape
    y = scan.g_a(image())
    lk.adopt(scan, schemes.straight_through()), lk.adopt(plain, schemes.straight_through())
    ours, theirs = (net.latent_codec.hyper.train()(y)["params"] for net in (scan, plain))
    assert torch.equal(ours, 2 * theirs)
    assert type(lk.release(scan).latent_codec.hyper) is CustomHyper


def test_arguments_of_a_wrong_type_raise_a_clear_error():
    with pytest.raises(ValueError, match=r"^model must be a PyTorch module with CompressAI's entropy models, got 3$"):
        lk.adopt(3, schemes.noise())
    with pytest.raises(
        ValueError, match=r"^model must have entropy models of CompressAI, and torch.nn.modules.linear.Linear"
    ):
        lk.adopt(nn.Linear(1, 1), schemes.noise())
    with pytest.raises(ValueError, match=r"^scheme must be a scheme such as labkit.schemes.mixed\(\), got 'mixed'$"):
        lk.adopt(models.FactorizedPrior(8, 12), "mixed")

"""Models that code portably: what they return, how they are switched and copied, and what they refuse."""

import copy
import io
import itertools
import math
import pickle
import time

import pytest
import torch
from compressai import models
from torch import nn

import labkit as lk
from labkit.fixed_point import NotCodable

SMALL = {
    "FactorizedPrior": (8, 12),
    "ScaleHyperprior": (8, 12),
    "MeanScaleHyperprior": (8, 12),
    "JointAutoregressiveHierarchicalPriors": (8, 12),
    "Cheng2020Anchor": (8,),
    "Cheng2020AnchorCheckerboard": (8,),
    "Elic2022Official": (8, 320),
}


def model_of(name, seed=0, gain=2.2):
    torch.manual_seed(seed)
    model = getattr(models, name)(*SMALL[name]).eval()
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            if key.startswith("g_a") and key.endswith("weight") and parameter.dim() == 4:
                parameter *= gain
    model.update()
    return model


@pytest.fixture(scope="module")
def images():
    return torch.stack([lk.datasets.photos("test")[i][:, :128, :128] for i in (0, 3)])


def bits(coded):
    return 8 * sum(len(string) for group in coded["strings"] for string in group)


@pytest.mark.parametrize("name", SMALL)
def test_every_class_codes_portably_in_as_many_bits(name, images):
    model = model_of(name)
    with torch.no_grad():
        before = model.compress(images)
    with torch.no_grad():
        forward = model(images)["x_hat"]  # masked convolutions write to their weights here
    state = copy.deepcopy(model.state_dict())
    coded = lk.portable(model).compress(images)
    assert coded["arithmetic"] == "fixed-1" and bits(coded) == pytest.approx(bits(before), rel=1e-3)
    decoded = model.decompress(**coded)["x_hat"]
    assert decoded.shape == images.shape and torch.isfinite(decoded).all()
    with torch.no_grad():
        assert torch.equal(model(images)["x_hat"], forward)  # only coding has changed
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())
    with torch.no_grad():
        assert lk.portable(model, False).compress(images)["strings"] == before["strings"]
    assert isinstance(model, getattr(models, name)) and not model.portable


def test_one_image_and_a_batch_have_the_same_strings(images):
    model = lk.portable(model_of("MeanScaleHyperprior"))
    both = model.compress(images)["strings"]
    for i in range(2):
        assert [group[0] for group in model.compress(images[i : i + 1])["strings"]] == [group[i] for group in both]


@pytest.mark.slow
@pytest.mark.parametrize("order", list(itertools.permutations(["adopt", "portable", "copy", "pickle"])))
def test_any_order_of_adopting_switching_and_copying(order, images):
    for name in ("JointAutoregressiveHierarchicalPriors", "MeanScaleHyperprior"):
        model = model_of(name)
        plain = model.compress(images)["strings"]
        for step in order:
            if step == "adopt":
                model = lk.adopt(model, lk.schemes.mixed())
                model.update()
            elif step == "portable":
                model = lk.portable(model)
            elif step == "copy":
                model = copy.deepcopy(model)
            else:
                model = pickle.loads(pickle.dumps(model))
        coded = model.compress(images)
        assert coded["arithmetic"] == "fixed-1" and model.scheme == lk.schemes.mixed()
        lk.release(model)
        assert model.compress(images) == coded and not hasattr(model, "scheme")
        lk.portable(model, False)
        assert isinstance(model, getattr(models, name)) and model.compress(images)["strings"] == plain


def test_a_portable_model_is_saved_and_loaded(images):
    model = lk.portable(model_of("MeanScaleHyperprior"))
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    assert torch.load(file, weights_only=False).compress(images) == model.compress(images)


def test_labkits_networks_code_portably(images):
    net = lk.networks.pretrained("mean_scale_hyperprior")
    coded, state = net.compress(images), copy.deepcopy(net.state_dict())
    plain = lk.portable(net, False).compress(images)
    assert type(net) is lk.networks.MeanScaleHyperprior and repr(net).startswith("MeanScaleHyperprior(")
    assert (coded["arithmetic"], plain["arithmetic"]) == ("fixed-1", "floating-point")
    assert bits(coded) == pytest.approx(bits(plain), rel=1e-3)
    for other in (copy.deepcopy(net), pickle.loads(pickle.dumps(net))):
        assert other.compress(images) == plain and lk.portable(other).compress(images) == coded
    assert all(torch.equal(value, state[key]) for key, value in lk.portable(net).state_dict().items())


def test_a_network_without_tables_neither_codes_nor_decodes(images):
    net = lk.networks.pretrained("mean_scale_hyperprior")
    coded = net.compress(images)
    lk.entropy.drop_tables(net)
    for run in (lambda: net.compress(images), lambda: net.decompress(**coded)):
        with pytest.raises(ValueError, match=r"^entropy_bottleneck has no coder tables: run update\(\) and save them"):
            run()
    assert not net.entropy_bottleneck._offset.numel()


def test_strings_of_another_arithmetic_are_refused(images):
    model = lk.portable(model_of("MeanScaleHyperprior"))
    coded = model.compress(images)
    with pytest.raises(
        ValueError, match=r"^the strings were coded in fixed-0 arithmetic and the model decodes in fixed-1: this labkit"
    ):
        model.decompress(coded["strings"], coded["shape"], arithmetic="fixed-0")
    lk.portable(model, False)
    with pytest.raises(
        ValueError, match=r"decodes in floating-point: call labkit.portable\(model, True\) before decod"
    ):
        model.decompress(**coded)
    coded = model.compress(images)
    with pytest.raises(ValueError, match=r"decodes in fixed-1: call labkit.portable\(model, False\) before decoding$"):
        lk.portable(model).decompress(**coded)


def test_a_model_without_tables_is_refused():
    with pytest.raises(ValueError, match=r"^entropy_bottleneck has no coder tables: run update\(\) and save them"):
        lk.portable(models.MeanScaleHyperprior(8, 12))
    with pytest.raises(ValueError, match=r"^model must be a CompressAI model"):
        lk.portable(nn.Linear(2, 2))


class Gelu(models.MeanScaleHyperprior):
    """A subclass whose hyper-decoder cannot be exact."""

    def __init__(self, N, M):
        super().__init__(N, M)
        self.h_s[1] = nn.GELU()


def test_a_hyper_decoder_that_cannot_be_exact_is_refused_by_the_name_of_its_operation(images):
    model = Gelu(8, 12).eval()
    model.update()
    with pytest.raises(ValueError, match=r"^gelu is a floating-point operation between the symbols"):
        lk.portable(model).compress(images)


def test_a_hyper_decoder_cannot_hide_a_part_in_floating_point_behind_a_name(images):
    """A part of h_s that is called g_s is still between the symbols and (σ, μ)."""
    model = models.MeanScaleHyperprior(8, 12).eval()
    model.h_s.add_module("g_s", nn.GELU())
    model.update()
    with pytest.raises(ValueError, match=r"^gelu is a floating-point operation between the symbols"):
        lk.portable(model).compress(images)


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_weights_that_are_not_finite_cannot_make_coding_hang(name, value, images):
    model = lk.portable(model_of(name))
    with torch.no_grad():
        next(model.g_a.parameters()).view(-1)[0] = value
    start = time.perf_counter()
    with pytest.raises(NotCodable, match=r"not finite; the first module with such an output is g_a\.0"):
        model.compress(images[:1])
    assert time.perf_counter() - start < 5


def test_a_latent_too_large_to_code_is_refused(images):
    model = lk.portable(model_of("MeanScaleHyperprior"))
    with torch.no_grad():
        model.g_a[-1].weight *= 1e9
    with pytest.raises(NotCodable, match=r"^a latent of -?\d.* steps is outside ±8192, the range of the coder$"):
        model.compress(images[:1])

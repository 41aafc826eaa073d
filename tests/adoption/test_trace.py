"""Adoption refuses models by the classes of their modules, and by the operations of one training forward."""

import copy
import warnings

import compressai.models as models
import pytest
import torch
from compressai import latent_codecs
from compressai.entropy_models import (
    EntropyBottleneck,
    EntropyBottleneckVbr,
    GaussianConditional,
    GaussianMixtureConditional,
)
from compressai.layers import MaskedConv2d
from compressai.models.base import CompressionModel
from compressai.models.video import ScaleSpaceFlow
from compressai.ops import quantize_ste
from torch import nn
from torch.nn import functional as F

import labkit as lk
from labkit import schemes


class Hyperprior(CompressionModel):
    """A hyperprior as a user would write it. `part` transforms its latent, and Python's `round` rounds a size."""

    def __init__(self, part=None, channels=3):
        super().__init__()
        self.g_a, self.g_s = nn.Conv2d(channels, 4, 5, 4, 2), nn.ConvTranspose2d(4, channels, 4, 4)
        self.h_a, self.h_s = nn.Conv2d(4, 4, 2, 2), nn.ConvTranspose2d(4, 8, 2, 2)
        self.bottleneck, self.gaussian = EntropyBottleneck(4), GaussianConditional(None)
        self.parts = nn.Sequential(part or nn.Identity())

    def forward(self, x):
        y = self.parts(self.g_a(x))[..., : round(x.size(-2) / 4), :]
        z_hat, z_likelihoods = self.bottleneck(self.h_a(y))
        scales, means = self.h_s(z_hat).chunk(2, 1)
        y_hat, y_likelihoods = self.gaussian(y, scales, means=means)
        return {"x_hat": self.g_s(y_hat), "likelihoods": {"y": y_likelihoods, "z": z_likelihoods}}


class Ste(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.round()

    @staticmethod
    def backward(ctx, gradient):
        return gradient


def noisy(x):
    return x + torch.empty_like(x).uniform_(-0.5, 0.5)


class ByName(nn.Module):
    def forward(self, x):
        return quantize_ste(x)


class ByMethod(nn.Module):
    def forward(self, x):
        return x.round()


class InPlace(nn.Module):
    def forward(self, x):
        x = x.clone()
        x[:, ::2].detach().round_()
        return x


class ByDetachedDifference(nn.Module):
    def forward(self, x):
        fixed = x.detach()
        return x + (torch.round(fixed) - fixed)


class AroundMeans(nn.Module):
    def __init__(self):
        super().__init__()
        self.means = nn.Conv2d(4, 4, 1)

    def forward(self, x):
        means = self.means(x)
        return quantize_ste(x - means) + means


class ByFloor(nn.Module):
    def forward(self, x):
        return x + (torch.floor(4 * x + 0.5) - x).detach()


class ByHelper(nn.Module):
    def _noisy(self, x):
        return noisy(x)

    def forward(self, x):
        return self._noisy(x)


class ByRandLike(nn.Module):
    def forward(self, x):
        return x + (torch.rand_like(x) - 0.5)


class ByRand(nn.Module):
    def forward(self, x):
        return x - 0.5 + torch.rand(x.shape, device=x.device)


class ByFunction(nn.Module):
    def forward(self, x):
        return Ste.apply(x)


class InLambda(nn.Module):
    def forward(self, x):
        return (lambda t: torch.round_(t.clone()))(x)


class Imported(nn.Module):
    def forward(self, x):
        from compressai.ops import quantize_ste as renamed

        return renamed(x)


class Inherited(ByMethod):
    def forward(self, x):
        return super().forward(x) + 1


class RoundingModel(models.JointAutoregressiveHierarchicalPriors):
    def forward(self, x):
        y = self.gaussian_conditional.quantize(self.g_a(x), "noise" if self.training else "dequantize")
        return {"x_hat": self.g_s(y), "likelihoods": {}}


class Coarse(EntropyBottleneck):
    pass


def odd_checkerboard():
    model = models.Cheng2020AnchorCheckerboard(8)
    codec = model.latent_codec.y
    codec.y = codec.latent_codec["y"] = latent_codecs.EntropyBottleneckLatentCodec(EntropyBottleneck(8))
    return model


THEIRS = "compressai.entropy_models.entropy_models"
REFUSED = [
    ("the model (compressai.models.vbr.ScaleHyperpriorVbr) is a variable", lambda: models.ScaleHyperpriorVbr(8, 12)),
    ("MeanScaleHyperpriorVbr) is a variable-rate model", lambda: models.MeanScaleHyperpriorVbr(8, 12)),
    ("PriorsVbr) is a variable-rate", lambda: models.JointAutoregressiveHierarchicalPriorsVbr(8, 12)),
    (f"parts.0 ({THEIRS}.GaussianMixtureConditional) is neither", lambda: Hyperprior(GaussianMixtureConditional())),
    (f"parts.0 ({THEIRS}_vbr.EntropyBottleneckVbr) belongs to", lambda: Hyperprior(EntropyBottleneckVbr(4))),
    (f"parts.0 ({__name__}.Coarse) is neither an EntropyBottleneck nor a Gaussian", lambda: Hyperprior(Coarse(4))),
    (
        "parts.0 (compressai.latent_codecs.gain.hyper.GainHyperLatentCodec) belongs to the variable-rate",
        lambda: Hyperprior(
            latent_codecs.GainHyperLatentCodec(EntropyBottleneck(4), nn.Identity(), nn.Identity()),
        ),
    ),
    ("the model (compressai.models.video.google.ScaleSpaceFlow) belongs to a video", lambda: ScaleSpaceFlow(4, 4)),
    ("PointNetReconstructionPccModel) belongs to a point-cloud", models.PointNetReconstructionPccModel),
    (
        "module latent_codec.y (compressai.latent_codecs.checkerboard.CheckerboardLatentCodec) must have a "
        'GaussianConditionalLatentCodec as its inner "y" codec, and has compressai.latent_codecs.entropy_bottleneck.',
        odd_checkerboard,
    ),
    (
        f"the model ({__name__}.RoundingModel) adds uniform noise to a latent in its forward, where no scheme can",
        lambda: RoundingModel(8, 8),
    ),
    *(
        (f"module parts.0 ({__name__}.{part.__name__}) {action} in its forward", lambda part=part: Hyperprior(part()))
        for part, action in {
            ByName: "rounds a latent with torch.round",
            ByMethod: "rounds a latent with torch.round",
            InPlace: "rounds a latent with torch.round",
            ByDetachedDifference: "rounds a latent with torch.round",
            AroundMeans: "rounds a latent with torch.round",
            ByFloor: "rounds a latent with torch.floor",
            ByFunction: "rounds a latent with torch.round",
            InLambda: "rounds a latent with torch.round",
            Imported: "rounds a latent with torch.round",
            Inherited: "rounds a latent with torch.round",
            ByHelper: "adds uniform noise to a latent",
            ByRandLike: "adds uniform noise to a latent",
            ByRand: "adds uniform noise to a latent",
        }.items()
    ),
]


def snapshot(model):
    return [(path, type(m), sorted(vars(m)), sorted(m._buffers), m.training) for path, m in model.named_modules()]


@pytest.mark.parametrize("message, make", REFUSED)
def test_a_refusal_names_the_module_and_leaves_the_model_unchanged(message, make):
    model = make()
    before, state, random_state = snapshot(model), copy.deepcopy(model.state_dict()), torch.get_rng_state()
    with pytest.raises(ValueError) as caught:
        lk.adopt(model, schemes.noise(scale_lower_bound=0.3))
    assert message in str(caught.value) and "\n" not in str(caught.value)
    assert snapshot(model) == before and torch.equal(torch.get_rng_state(), random_state)
    assert all(torch.equal(value, model.state_dict()[key]) for key, value in state.items())


class DropPath(nn.Module):
    """Stochastic depth, which rounds a random number down."""

    def forward(self, x):
        keep = (0.8 + torch.rand(x.size(0), 1, 1, 1)).floor_()
        return x + F.dropout(x, 0.3) * keep / 0.8


class Statistics(nn.Module):
    """A layer that computes statistics of rounded latents for its own use."""

    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm2d(4)
        self.register_buffer("zeros", torch.zeros(()))

    def forward(self, x):
        self.zeros = (x.round() == 0).float().mean()
        return self.norm(x)


class QuantizedWeights(nn.Module):
    """A layer whose weights have few bits."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(4, 4, 1, 1))

    def forward(self, x):
        return F.conv2d(x, self.weight + (torch.round(8 * self.weight) / 8 - self.weight).detach())


class Warp(nn.Module):
    """Bilinear interpolation at predicted positions."""

    def __init__(self):
        super().__init__()
        self.offset, self.mix = nn.Conv2d(4, 1, 1), nn.Conv2d(4, 4, 1)

    def forward(self, x):
        position = torch.arange(x.size(-1)) + self.offset(x).squeeze(1)
        left = position.floor()
        right = left + 1
        index = [side.long().clamp(0, x.size(-1) - 1)[:, None].expand_as(x) for side in (left, right)]
        weights = [(right - position)[:, None], (position - left)[:, None]]
        return self.mix(sum(weight * x.gather(-1, i) for weight, i in zip(weights, index, strict=True)))


class NoisyInput(Hyperprior):
    """A model that adds a little noise to 8-bit images."""

    def forward(self, x):
        x = torch.round(255 * x) / 255
        return super().forward(x + (torch.rand_like(x) - 0.5) / 255)


class Windows(nn.Module):
    """Padding to whole windows, with a ceiling of Python numbers, and a masked convolution."""

    def __init__(self):
        super().__init__()
        self.masked = MaskedConv2d(4, 4, 3, padding=1)

    def forward(self, x):
        padding = -x.size(-1) // 7 * -7 - x.size(-1)
        return self.masked(F.pad(x, (0, padding)))[..., : x.size(-1)]


class GumbelGate(nn.Module):
    def forward(self, x):
        return x * F.gumbel_softmax(x, tau=1.0, dim=1, hard=True)


ACCEPTED = [
    *(lambda part=part: Hyperprior(part()) for part in (DropPath, Statistics, QuantizedWeights, Warp, Windows)),
    lambda: Hyperprior(GumbelGate()),
    NoisyInput,
]


@pytest.mark.parametrize("make", ACCEPTED)
def test_a_legitimate_model_is_accepted_and_its_state_is_restored_bit_for_bit(make):
    torch.manual_seed(0)
    model = make().eval()
    model.parts.train()
    state, random_state = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    flags = [module.training for module in model.modules()]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        lk.adopt(model, schemes.noise())
    assert torch.equal(torch.get_rng_state(), random_state)
    assert [module.training for module in model.modules()] == flags
    assert list(model.state_dict()) == list(state)
    assert all(torch.equal(value, model.state_dict()[key]) for key, value in state.items())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    assert not any("forward" in vars(module) for module in model.modules())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_a_model_that_cannot_be_run_is_adopted_with_one_warning():
    with pytest.warns(UserWarning) as caught:
        model = lk.adopt(Hyperprior(ByName(), channels=1), schemes.noise())
    (warning,) = caught
    assert warning.filename == __file__
    assert f"{__name__}.Hyperprior cannot be run on an input of shape 1×3×64×64 (" in str(warning.message)
    assert "pass an input that it accepts as example=" in str(warning.message)
    assert model.scheme == schemes.noise()


def test_an_example_replaces_the_default_input():
    example = torch.rand(2, 1, 32, 32)
    with pytest.raises(ValueError, match=r"ByName\) rounds a latent"):
        lk.adopt(Hyperprior(ByName(), channels=1), schemes.noise(), example=example)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        lk.adopt(Hyperprior(channels=1), schemes.noise(), example=example)


def test_a_second_adoption_only_changes_the_scheme():
    model = lk.adopt(Hyperprior(), schemes.noise())
    model.parts[0].forward = None  # a forward pass would fail
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        lk.adopt(model, schemes.mixed())
    assert model.scheme == schemes.mixed()

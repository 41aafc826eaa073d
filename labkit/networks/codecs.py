"""The image codecs: CompressAI's architectures with labkit's entropy modules inside, under CompressAI's keys.

Each takes (batch, 3, H, W) in [0, 1], its sides multiples of `downsampling_factor`, and gives {"x_hat", "likelihoods"}.
In evaluation every one of them is CompressAI's own code, outputs and bytes alike; in training the scheme says what is
scored and what is handed on. How a context model trains is written in `labkit.adoption`.
"""

from __future__ import annotations

from typing import Any, ClassVar

import compressai.models as _compressai
import torch
from compressai.latent_codecs import (
    ChannelGroupsLatentCodec,
    GaussianConditionalLatentCodec,
    HyperLatentCodec,
    HyperpriorLatentCodec,
)
from compressai.layers import GDN
from compressai.models.utils import conv, deconv
from torch import Tensor, nn
from torch.nn import functional

from labkit import adoption, entropy, schemes
from labkit.checks import check_positive
from labkit.schemes import QuantizationScheme, Scheme, first_stage


class _Codec:
    """What labkit adds to a CompressAI model: its registry name, its size, the scheme it trains with."""

    kind: ClassVar[str]
    paper: ClassVar[str]
    year: ClassVar[int]
    # the convolutions whose outputs are y or the parameters of its Gaussian, and those that read y
    _gives_y: ClassVar[tuple[str, ...]] = ()
    _reads_y: ClassVar[tuple[str, ...]] = ()
    N: int
    M: int
    size: str
    scheme: Scheme
    info: dict[str, Any]

    def _equip(self, size: str, scheme: Scheme | None) -> QuantizationScheme:
        self.size, self.info = size, {}
        self.scheme = scheme or schemes.noise()
        return first_stage(self.scheme)

    def _equip_hyperprior(self, size: str, scheme: Scheme | None) -> None:
        """The same for a model with one entropy bottleneck over N channels, and one Gaussian model."""
        stage = self._equip(size, scheme)
        self.entropy_bottleneck = entropy.EntropyBottleneck(self.N, scheme=stage)
        self.gaussian_conditional = entropy.GaussianConditional(None, scheme=stage)

    def coded_shape(self, height: int, width: int) -> Any:
        """The `shape` that `compress` gives for an image of this padded size, and `decompress` takes."""
        return torch.Size((height // 64, width // 64))

    def set_scheme(self, scheme: Scheme) -> None:
        """Train with another scheme from now on. Coder tables that start at another scale bound are dropped."""
        assert isinstance(self, nn.Module)
        self.scheme = scheme
        entropy.set_scheme(self, first_stage(scheme))

    @property
    def scalable(self) -> bool:
        """Whether `scale_latents` works: only where y is given and read by convolutions and nothing else."""
        return bool(self._gives_y)

    @torch.no_grad()
    def scale_latents(self, gain: float) -> None:
        """Multiply the latent y by `gain`, and undo it wherever y is read: its entropy model follows, z stays.

        Only the quantization step changes, to 1/gain of what it was. At high rate the best step goes with 1/√λ, since
        step²/12 is the distortion, so √(λ/λ₀) takes a network that was trained for λ₀ most of the way to λ. Raises
        ValueError for a network that is not `scalable`, and for a gain that is not positive.
        """
        check_positive(gain=gain)
        if not self.scalable:
            raise ValueError(f"scale_latents: {self.kind} has layers around y that cannot take a gain in")
        assert isinstance(self, nn.Module)
        for name in self._gives_y:
            layer: Any = self.get_submodule(name)
            layer.weight *= gain
            layer.bias *= gain
        for name in self._reads_y:
            layer = self.get_submodule(name)
            layer.weight /= gain


class FactorizedPrior(_Codec, _compressai.FactorizedPrior):
    """Ballé et al., End-to-end Optimized Image Compression, 2017, as in CompressAI's bmshj2018-factorized.

    Takes (batch, 3, H, W) in [0, 1], H and W multiples of 16; gives {"x_hat", "likelihoods": {"y"}}.
    """

    kind = "factorized_prior"
    paper = "Ballé et al., End-to-end Optimized Image Compression"
    year = 2017
    _gives_y, _reads_y = ("g_a.6",), ("g_s.0",)

    def __init__(self, N: int, M: int, size: str = "custom", scheme: Scheme | None = None):
        super().__init__(N, M)
        self.entropy_bottleneck = entropy.EntropyBottleneck(M, scheme=self._equip(size, scheme), main=True)

    def coded_shape(self, height: int, width: int) -> Any:
        return torch.Size((height // 16, width // 16))

    @torch.no_grad()
    def scale_latents(self, gain: float) -> None:
        super().scale_latents(gain)
        bottleneck = self.entropy_bottleneck  # its cumulative function reads y through softplus(matrices[0])
        slope = functional.softplus(bottleneck.matrices[0]) / gain
        bottleneck.matrices[0].copy_(slope + torch.log(-torch.expm1(-slope)))  # the inverse of softplus
        bottleneck.quantiles *= gain
        entropy.drop_tables(self)


class ScaleHyperprior(_Codec, _compressai.ScaleHyperprior):
    """Ballé et al., Variational Image Compression with a Scale Hyperprior, 2018, as CompressAI's bmshj2018-hyperprior.

    Takes (batch, 3, H, W) in [0, 1], H and W multiples of 64; gives {"x_hat", "likelihoods": {"y", "z"}}. No mean is
    predicted for y: a scheme's `zero_center` changes nothing for it.
    """

    kind = "scale_hyperprior"
    paper = "Ballé et al., Variational Image Compression with a Scale Hyperprior"
    year = 2018
    _gives_y, _reads_y = ("g_a.6", "h_s.4"), ("g_s.0", "h_a.0")

    def __init__(self, N: int, M: int, size: str = "custom", scheme: Scheme | None = None):
        super().__init__(N, M)
        self._equip_hyperprior(size, scheme)


class MeanScaleHyperprior(_Codec, _compressai.MeanScaleHyperprior):
    """Minnen, Ballé & Toderici 2018 without the context model, as in CompressAI's mbt2018-mean.

    Takes (batch, 3, H, W) in [0, 1], H and W multiples of 64; gives {"x_hat", "likelihoods": {"y", "z"}}.
    """

    kind = "mean_scale_hyperprior"
    paper = "Minnen et al., Joint Autoregressive and Hierarchical Priors for Learned Image Compression"
    year = 2018
    _gives_y, _reads_y = ("g_a.6", "h_s.4"), ("g_s.0", "h_a.0")

    def __init__(self, N: int, M: int, size: str = "custom", scheme: Scheme | None = None):
        super().__init__(N, M)
        self._equip_hyperprior(size, scheme)


# CompressAI's class comes first where labkit's has a training forward of its own, as in every adopted class


class JointAutoregressive(adoption.AdoptedJointAutoregressive, _Codec):
    """Minnen, Ballé & Toderici 2018 with the context model, as in CompressAI's mbt2018.

    Takes (batch, 3, H, W) in [0, 1], H and W multiples of 64; gives {"x_hat", "likelihoods": {"y", "z"}}. It is coded
    one latent pixel after the other, each rounded around a mean that the ones before predict: the evaluation forward,
    which rounds y itself, gives another reconstruction than decoding does.
    """

    kind = "joint_autoregressive"
    paper = MeanScaleHyperprior.paper
    year = 2018
    _gives_y, _reads_y = ("g_a.6", "entropy_parameters.4"), ("g_s.0", "h_a.0", "context_prediction")

    def __init__(self, N: int, M: int, size: str = "custom", scheme: Scheme | None = None):
        super().__init__(N, M)
        self._equip_hyperprior(size, scheme)


class Cheng2020Anchor(_compressai.Cheng2020Anchor, adoption.AdoptedJointAutoregressive, _Codec):
    """Cheng et al. 2020 without attention and with one Gaussian, as in CompressAI's cheng2020-anchor.

    Takes and gives what `JointAutoregressive` does, and is coded as it is. M is N: the latent is as wide as the rest.
    """

    kind = "cheng2020_anchor"
    paper = (
        "Cheng et al., Learned Image Compression with Discretized Gaussian Mixture Likelihoods and Attention Modules"
    )
    year = 2020

    def __init__(self, N: int, M: int | None = None, size: str = "custom", scheme: Scheme | None = None):
        _check_one_width(N, M)
        super().__init__(N)
        self._equip_hyperprior(size, scheme)
        _subsample_first(self)


class Cheng2020Attention(_compressai.Cheng2020Attention, adoption.AdoptedJointAutoregressive, _Codec):
    """Cheng et al. 2020 with attention and with one Gaussian, as in CompressAI's cheng2020-attn.

    Takes and gives what `JointAutoregressive` does, and is coded as it is. M is N, as in `Cheng2020Anchor`.
    """

    kind = "cheng2020_attention"
    paper = Cheng2020Anchor.paper
    year = 2020

    def __init__(self, N: int, M: int | None = None, size: str = "custom", scheme: Scheme | None = None):
        _check_one_width(N, M)
        super().__init__(N)
        self._equip_hyperprior(size, scheme)
        _subsample_first(self)


def _check_one_width(N: int, M: int | None) -> None:
    if M not in (None, N):
        raise ValueError(f"M: Cheng et al.'s networks have one width, M = N = {N}; got {M}")


class _SubsampledConv2d(nn.Conv2d):
    """A strided 1×1 convolution that, in training, drops the pixels it skips before it convolves: the same sums.

    The backward of the strided one in the channels-last layout, which the trainer uses, writes past its memory on the
    CPU in torch 2.15, with 3 input channels or with 8 or 16 output channels.
    """

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return super().forward(x)
        down, across = self.stride
        return functional.conv2d(x[..., ::down, ::across], self.weight, self.bias)


def _subsample_first(net: nn.Module) -> None:
    for module in net.modules():
        if type(module) is nn.Conv2d and module.kernel_size == (1, 1) and module.stride != (1, 1):
            module.__class__ = _SubsampledConv2d


class _GroupedCodec(_Codec):
    """What labkit adds to a model of latent codecs: a hyperprior, and y in groups of channels, one after the other."""

    latent_codec: Any

    def _equip_groups(self, size: str, scheme: Scheme | None) -> None:
        adoption.adopt(self.latent_codec, self._equip(size, scheme))
        del self.latent_codec.scheme  # adoption's note: the network keeps its own, which may change

    @property
    def downsampling_factor(self) -> int:
        return 64

    def coded_shape(self, height: int, width: int) -> Any:
        groups = self.latent_codec["y"].groups
        shape = [torch.Size((channels, height // 16, width // 16)) for channels in groups]
        return {"y": shape, "hyper": super().coded_shape(height, width)}


class Elic(_GroupedCodec, _compressai.Elic2022Official):
    """He et al. 2022, ELIC: uneven channel groups, each a checkerboard in two passes; CompressAI's elic2022-official.

    Takes (batch, 3, H, W) in [0, 1], H and W multiples of 64; gives {"x_hat", "likelihoods": {"y", "z"}}. The groups
    are M/20, M/20, M/10, M/5 (rounded down) and the rest: 16, 16, 32, 64 and 192 of 320, as published. The networks
    between the groups are 224 and 128 wide in every size, as CompressAI has them. `from_state_dict` takes M = 320 only.
    """

    kind = "elic"
    paper = "He et al., ELIC: Efficient Learned Image Compression with Unevenly Grouped Space-Channel Contextual Coding"
    year = 2022

    def __init__(self, N: int, M: int = 320, size: str = "custom", scheme: Scheme | None = None):
        if M < 20:
            raise ValueError(f"M: takes 20 channels or more, which make five groups; got {M}")
        first = [M // 20, M // 20, M // 10, M // 5]
        super().__init__(N, M, [*first, M - sum(first)])
        self.N, self.M = int(N), int(M)
        self._equip_groups(size, scheme)


SLICES, SUPPORT = 10, 5  # as published: slices of y, and how many of them a later slice reads at most


class ChannelAutoregressive(_GroupedCodec, _compressai.base.SimpleVAECompressionModel):
    """Minnen & Singh 2020: channel-wise autoregressive, ten slices with latent residual prediction, in one pass each.

    Takes (batch, 3, H, W) in [0, 1], H and W multiples of 64; gives {"x_hat", "likelihoods": {"y", "z"}}. M is a
    multiple of 10. Each slice reads what the hyperprior says and at most the first five slices, decoded:

        z ─► h_s ─► means, scales ─┐
        first slices, decoded ─────┴─► entropy parameters ─► μ, σ ─► ŷ ─► + ½ tanh(residual) ─► the slice, decoded

    The layers are those of the authors' published code (ms2020.py of TensorFlow Compression), at N = 192, M = 320; the
    widths that it fixes, 256 in the hyperprior, 224 and 128 in the slices' transforms, keep their share of N and M
    elsewhere. As in CompressAI, σ itself is predicted where that code predicts an index into its table of scales.
    Nobody published a checkpoint in this layout. Trained as published, it takes `schemes.mixed()`.
    """

    kind = "channel_autoregressive"
    paper = "Minnen & Singh, Channel-wise Autoregressive Entropy Models for Learned Image Compression"
    year = 2020

    def __init__(self, N: int, M: int, size: str = "custom", scheme: Scheme | None = None):
        if M < SLICES or M % SLICES:
            raise ValueError(f"M: takes a multiple of {SLICES}, the number of slices; got {M}")
        super().__init__()
        self.N, self.M = int(N), int(M)
        depth, middle = M // SLICES, (N + M) // 2
        self.g_a = nn.Sequential(
            conv(3, N),
            GDN(N),
            conv(N, N),
            GDN(N),
            conv(N, N),
            GDN(N),
            conv(N, M),
        )
        self.g_s = nn.Sequential(
            deconv(M, N),
            GDN(N, inverse=True),
            deconv(N, N),
            GDN(N, inverse=True),
            deconv(N, N),
            GDN(N, inverse=True),
            deconv(N, 3),
        )
        h_a = nn.Sequential(
            conv(M, M, kernel_size=3, stride=1),
            nn.ReLU(inplace=True),
            conv(M, middle),
            nn.ReLU(inplace=True),
            nn.Conv2d(middle, N, 5, stride=2, padding=2, bias=False),
        )
        support = [depth * min(k, SUPPORT) for k in range(SLICES)]
        slices = ChannelGroupsLatentCodec(
            groups=[depth] * SLICES,
            channel_context={f"y{k}": _First(support[k]) for k in range(1, SLICES)},
            latent_codec={f"y{k}": SliceLatentCodec(M, support[k], depth) for k in range(SLICES)},
        )
        hyper = HyperLatentCodec(entropy.EntropyBottleneck(N), h_a, _HyperSynthesis(N, middle, M))
        self.latent_codec = HyperpriorLatentCodec({"y": slices, "hyper": hyper})
        self._equip_groups(size, scheme)

    @classmethod
    def from_state_dict(cls, state_dict: dict[str, Tensor]) -> ChannelAutoregressive:
        """A new network with these weights, its widths read from them."""
        net = cls(state_dict["g_a.0.weight"].size(0), state_dict["g_a.6.weight"].size(0))
        net.load_state_dict(state_dict)
        return net


class SliceLatentCodec(GaussianConditionalLatentCodec):
    """One slice: a Gaussian given the slices before, and a residual that its rounding error is predicted by.

    M: channels of each hyper branch; support: channels of the decoded slices that it reads; depth: its own channels.
    ctx_params, everywhere: the support, the means' branch and the scales' branch, in this order of channels.
    """

    def __init__(self, M: int, support: int, depth: int):
        super().__init__(entropy_parameters=_SliceParameters(M, support, depth))
        self.residual = _slice_transform(M, M + support + depth, depth)

    def forward(self, y: Tensor, ctx_params: Tensor) -> dict[str, Any]:
        return self._refined(super().forward(y, ctx_params), ctx_params)

    # ChannelGroupsLatentCodec reads the channels off the shape, which GaussianConditionalLatentCodec leaves out

    def compress(self, y: Tensor, ctx_params: Tensor) -> dict[str, Any]:
        coded = self._refined(super().compress(y, ctx_params), ctx_params)
        return {**coded, "shape": y.shape[1:]}

    def decompress(self, strings: list[list[bytes]], shape: Any, ctx_params: Tensor, **kwargs: Any) -> dict[str, Any]:
        return self._refined(super().decompress(strings, shape[1:], ctx_params, **kwargs), ctx_params)

    def _refined(self, output: dict[str, Any], ctx_params: Tensor) -> dict[str, Any]:
        for_means, _ = self.entropy_parameters.inputs(ctx_params)
        residual = self.residual(torch.cat((for_means, output["y_hat"]), dim=1))
        return {**output, "y_hat": output["y_hat"] + 0.5 * torch.tanh(residual)}


class _SliceParameters(nn.Module):
    """σ and μ of a slice, from its ctx_params."""

    def __init__(self, M: int, support: int, depth: int):
        super().__init__()
        self.widths = [support, M, M]
        self.means = _slice_transform(M, M + support, depth)
        self.scales = _slice_transform(M, M + support, depth)

    def inputs(self, ctx_params: Tensor) -> tuple[Tensor, Tensor]:
        """What the means are predicted from, and the scales: a hyper branch, then the support."""
        support, means, scales = ctx_params.split(self.widths, dim=1)
        return torch.cat((means, support), dim=1), torch.cat((scales, support), dim=1)

    def forward(self, ctx_params: Tensor) -> Tensor:
        for_means, for_scales = self.inputs(ctx_params)
        return torch.cat((self.scales(for_scales), self.means(for_means)), dim=1)


def _slice_transform(M: int, inputs: int, depth: int) -> nn.Sequential:
    """The three layers that predict means, scales and residuals alike: 224 and 128 wide at M = 320."""
    return nn.Sequential(
        conv(inputs, 7 * M // 10, stride=1),
        nn.ReLU(inplace=True),
        conv(7 * M // 10, 2 * M // 5, stride=1),
        nn.ReLU(inplace=True),
        conv(2 * M // 5, depth, kernel_size=3, stride=1),
    )


class _HyperSynthesis(nn.Module):
    """Two branches that end in a ReLU, since neither means nor scales are said yet: (batch, 2M, …), means first."""

    def __init__(self, N: int, middle: int, M: int):
        super().__init__()
        self.means, self.scales = (
            nn.Sequential(
                deconv(N, N),
                nn.ReLU(inplace=True),
                deconv(N, middle),
                nn.ReLU(inplace=True),
                conv(middle, M, kernel_size=3, stride=1),
                nn.ReLU(inplace=True),
            )
            for _ in range(2)
        )

    def forward(self, z_hat: Tensor) -> Tensor:
        return torch.cat((self.means(z_hat), self.scales(z_hat)), dim=1)


class _First(nn.Module):
    """The first channels of what it is given."""

    def __init__(self, channels: int):
        super().__init__()
        self.channels = channels

    def forward(self, y_hat: Tensor) -> Tensor:
        return y_hat[:, : self.channels]


Codec = (
    FactorizedPrior
    | ScaleHyperprior
    | MeanScaleHyperprior
    | JointAutoregressive
    | Cheng2020Anchor
    | Cheng2020Attention
    | Elic
    | ChannelAutoregressive
)

"""Codecs that decode y in groups of channels, one group after another."""

from __future__ import annotations

from typing import Any

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

from labkit import adoption, entropy
from labkit.networks.base import ImageCodec
from labkit.schemes import Scheme


class GroupedCodec(ImageCodec):
    """Base of codecs built from CompressAI's latent codecs: a hyperprior, and a latent y in groups of channels."""

    latent_codec: Any

    def _adopt_latent_codec(self, scheme: Scheme | None) -> None:
        adoption.attach_scheme(self.latent_codec, self._start_with(scheme))

    @property
    def downsampling_factor(self) -> int:
        """Height and width of the images must be multiples of this number."""
        return 64

    def coded_shape(self, height: int, width: int) -> Any:
        """Return the shapes of the groups and of z, which `decompress` needs, for an image of this size in pixels."""
        groups = self.latent_codec["y"].groups
        shape = [torch.Size((channels, height // 16, width // 16)) for channels in groups]
        return {"y": shape, "hyper": super().coded_shape(height, width)}


class Elic(GroupedCodec, _compressai.Elic2022Official):
    """ELIC by He et al. 2022, as in CompressAI's elic2022-official (https://arxiv.org/abs/2203.10886).

    The network takes images of shape (batch, 3, H, W) in [0, 1], where H and W are multiples of 64. It returns
    {"x_hat", "likelihoods": {"y", "z"}}.

    The latent y has five groups. The first four have M/20, M/20, M/10 and M/5 channels, rounded down, and the last has
    the rest. M = 320 gives the published groups of 16, 16, 32, 64 and 192 channels. Each group is coded as a
    checkerboard in two passes. The layers between the groups have 224 and 128 channels in every size, as in CompressAI.
    `from_state_dict` accepts only weights with M = 320.

    Args:
        N: Number of channels of the transforms.
        M: Number of channels of the latent y, at least 20.
        scheme: Quantization scheme for training; `schemes.mixed()` by default.

    Raises:
        ValueError: If M is below 20.
    """

    kind = "elic"
    paper = "He et al., ELIC: Efficient Learned Image Compression with Unevenly Grouped Space-Channel Contextual Coding"
    year = 2022

    def __init__(self, N: int, M: int = 320, scheme: Scheme | None = None):
        if M < 20:
            raise ValueError(f"M must be an integer ≥ 20 to make five groups, got {M}")
        first = [M // 20, M // 20, M // 10, M // 5]
        super().__init__(N, M, [*first, M - sum(first)])
        self.N, self.M = int(N), int(M)
        self._adopt_latent_codec(scheme)


# As published: the number of slices of y, and the largest number of earlier slices that a slice reads
SLICES, SUPPORT = 10, 5


class ChannelAutoregressive(GroupedCodec, _compressai.base.SimpleVAECompressionModel):
    """Minnen & Singh 2020, channel-wise autoregressive (https://arxiv.org/abs/2007.08739).

    The network takes images of shape (batch, 3, H, W) in [0, 1], where H and W are multiples of 64. It returns
    {"x_hat", "likelihoods": {"y", "z"}}.

    The latent has ten slices, each decoded in one pass and corrected by latent residual prediction. A slice reads the
    output of the hyperprior and at most the first five decoded slices:

        z ─► h_s ─► means, scales ─┐
        first decoded slices ──────┴─► entropy parameters ─► μ, σ ─► ŷ ─► + ½ tanh(residual) ─► decoded slice

    With N = 192 and M = 320, the layers are those of the authors' code (ms2020.py of TensorFlow Compression). That code
    uses fixed numbers of channels: 256 in the hyperprior, and 224 and 128 in the transforms of the slices. Here they
    are scaled with N and M. As in CompressAI, the network predicts σ itself, whereas the authors' code predicts an
    index into a table of scales. No published checkpoint has this layout. The authors train with `schemes.mixed()`.

    Args:
        N: Number of channels of the transforms.
        M: Number of channels of the latent y, a multiple of 10.
        scheme: Quantization scheme for training; `schemes.mixed()` by default.

    Raises:
        ValueError: If M is not a positive multiple of 10.
    """

    kind = "channel_autoregressive"
    paper = "Minnen & Singh, Channel-wise Autoregressive Entropy Models for Learned Image Compression"
    year = 2020

    def __init__(self, N: int, M: int, scheme: Scheme | None = None):
        if M < SLICES or M % SLICES:
            raise ValueError(f"M must be a multiple of {SLICES}, the number of slices, got {M}")
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
            channel_context={f"y{k}": _FirstChannels(support[k]) for k in range(1, SLICES)},
            latent_codec={f"y{k}": SliceLatentCodec(M, support[k], depth) for k in range(SLICES)},
        )
        hyper = HyperLatentCodec(entropy.EntropyBottleneck(N), h_a, _HyperSynthesis(N, middle, M))
        self.latent_codec = HyperpriorLatentCodec({"y": slices, "hyper": hyper})
        self._adopt_latent_codec(scheme)

    @classmethod
    def from_state_dict(cls, state_dict: dict[str, Tensor]) -> ChannelAutoregressive:
        """Create a network with the given weights and the channel counts that they imply."""
        net = cls(state_dict["g_a.0.weight"].size(0), state_dict["g_a.6.weight"].size(0))
        net.load_state_dict(state_dict)
        return net


class SliceLatentCodec(GaussianConditionalLatentCodec):
    """Latent codec of one slice: a Gaussian whose rounding error is partly predicted.

    All methods take `ctx_params`, whose channels are the support, the means branch and the scales branch of the
    hyperprior, in this order.

    Args:
        M: Number of channels of each branch of the hyperprior.
        support: Number of channels of the decoded slices that this slice reads.
        depth: Number of channels of this slice.
    """

    def __init__(self, M: int, support: int, depth: int):
        super().__init__(entropy_parameters=_SliceParameters(M, support, depth))
        self.residual = _slice_transform(M, M + support + depth, depth)

    def forward(self, y: Tensor, ctx_params: Tensor) -> dict[str, Any]:
        """Return the output of CompressAI's method with the refined latents."""
        return self._refined(super().forward(y, ctx_params), ctx_params)

    # ChannelGroupsLatentCodec needs the number of channels in the shape, which GaussianConditionalLatentCodec omits.

    def compress(self, y: Tensor, ctx_params: Tensor) -> dict[str, Any]:
        """Return the output of CompressAI's method with the refined latents and the number of channels."""
        coded = self._refined(super().compress(y, ctx_params), ctx_params)
        return {**coded, "shape": y.shape[1:]}

    def decompress(self, strings: list[list[bytes]], shape: Any, ctx_params: Tensor, **kwargs: Any) -> dict[str, Any]:
        """Return the output of CompressAI's method with the refined latents."""
        return self._refined(super().decompress(strings, shape[1:], ctx_params, **kwargs), ctx_params)

    def _refined(self, output: dict[str, Any], ctx_params: Tensor) -> dict[str, Any]:
        mean_inputs, _ = self.entropy_parameters.inputs(ctx_params)
        residual = self.residual(torch.cat((mean_inputs, output["y_hat"]), dim=1))
        return {**output, "y_hat": output["y_hat"] + 0.5 * torch.tanh(residual)}


class _SliceParameters(nn.Module):
    """Predicts σ and μ of a slice from its ctx_params."""

    def __init__(self, M: int, support: int, depth: int):
        super().__init__()
        self.widths = [support, M, M]
        self.means = _slice_transform(M, M + support, depth)
        self.scales = _slice_transform(M, M + support, depth)

    def inputs(self, ctx_params: Tensor) -> tuple[Tensor, Tensor]:
        """Return the inputs of the mean transform and of the scale transform: a hyperprior branch, then the support."""
        support, means, scales = ctx_params.split(self.widths, dim=1)
        return torch.cat((means, support), dim=1), torch.cat((scales, support), dim=1)

    def forward(self, ctx_params: Tensor) -> Tensor:
        mean_inputs, scale_inputs = self.inputs(ctx_params)
        return torch.cat((self.scales(scale_inputs), self.means(mean_inputs)), dim=1)


def _slice_transform(M: int, inputs: int, depth: int) -> nn.Sequential:
    """Return the three layers that predict means, scales or residuals; 224 and 128 channels at M = 320."""
    return nn.Sequential(
        conv(inputs, 7 * M // 10, stride=1),
        nn.ReLU(inplace=True),
        conv(7 * M // 10, 2 * M // 5, stride=1),
        nn.ReLU(inplace=True),
        conv(2 * M // 5, depth, kernel_size=3, stride=1),
    )


class _HyperSynthesis(nn.Module):
    """Two branches, each ending in a ReLU, from which means and scales are predicted: (batch, 2M, …), means first."""

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


class _FirstChannels(nn.Module):
    """Returns the first channels of its input."""

    def __init__(self, channels: int):
        super().__init__()
        self.channels = channels

    def forward(self, y_hat: Tensor) -> Tensor:
        return y_hat[:, : self.channels]

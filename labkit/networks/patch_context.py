"""The patch codec with a context model: a hyperprior, and checkerboards within groups of channels."""

from __future__ import annotations

from collections.abc import Iterator

from compressai.latent_codecs import (
    ChannelGroupsLatentCodec,
    CheckerboardLatentCodec,
    GaussianConditionalLatentCodec,
    HyperLatentCodec,
    HyperpriorLatentCodec,
)
from compressai.layers import CheckerboardMaskedConv2d
from compressai.models.base import SimpleVAECompressionModel
from torch import Tensor, nn

from labkit import entropy
from labkit.networks.channel_groups import GroupedCodec
from labkit.networks.patch import PatchCodec, hyper_transforms
from labkit.networks.patch_start import fit_bottleneck, fit_gaussian
from labkit.schemes import Scheme

SHARES = (1, 2, 4, 9)  # shares of the groups in the channels of y; the first group has the lowest frequencies
SMALLEST = sum(SHARES)  # the smallest number of channels that gives every group at least one


class _Grouped(GroupedCodec, SimpleVAECompressionModel):
    """Provides the initializer that `PatchCodec` calls, which takes channel counts and a scheme."""

    def __init__(self, N: int, M: int, scheme: Scheme | None = None):
        super().__init__()
        self._start_with(scheme)


class PatchContext(PatchCodec, _Grouped):
    """Nonlinear transforms of 16×16 patches, and a hyperprior with a context model.

    The network takes images of shape (batch, 3, H, W) in [0, 1], where H and W are multiples of 32. It returns
    {"x_hat", "likelihoods": {"y", "z"}}.

    The latent y has four groups with 1/16, 2/16, 4/16 and 9/16 of its channels, from low to high frequencies. Each
    group is coded as a checkerboard in two passes, so decoding takes eight passes. A pass reads the output of the
    hyperprior and all earlier groups. The second pass of a group also reads the half that the first one decoded:

        z ─► h_s ──────────────────────────┐
        earlier groups ─► channel context ─┼─► entropy parameters ─► μ, σ
        decoded half  ─► spatial context ──┘

    The context model is the one of He et al. 2022 (https://arxiv.org/abs/2203.10886) with smaller layers.

    Args:
        N: Number of hidden channels of the residual layers, the hyper transforms and the context model.
        M: Number of channels of the latent y, 16 to 768.
        scheme: Quantization scheme for training; `schemes.mixed()` by default.

    Raises:
        ValueError: If M is below 16.
    """

    kind = "patch_context"
    lr_factors = {"latent_codec.hyper.entropy_bottleneck": 5.0, **PatchCodec.lr_factors}  # noqa: RUF012  # as in PatchCodec

    def __init__(self, N: int, M: int, scheme: Scheme | None = None):
        if M < SMALLEST:
            raise ValueError(f"M must be an integer ≥ {SMALLEST} to make four groups, got {M}")
        super().__init__(N, M, scheme)
        groups = [share * M // SMALLEST for share in SHARES[:-1]]
        groups.append(M - sum(groups))
        width, z = max(1, N // 2), max(1, N // 4)
        h_a, h_s = hyper_transforms(N, M, z, N)
        y = ChannelGroupsLatentCodec(
            groups=groups,
            channel_context={
                f"y{k}": nn.Sequential(nn.Conv2d(sum(groups[:k]), width, 1), nn.LeakyReLU(inplace=True))
                for k in range(1, len(groups))
            },
            latent_codec={
                f"y{k}": CheckerboardLatentCodec(
                    latent_codec={"y": GaussianConditionalLatentCodec(quantizer="ste")},
                    context_prediction=CheckerboardMaskedConv2d(channels, width, 3, padding=1),
                    entropy_parameters=nn.Sequential(
                        nn.Conv2d(width * (1 + (k > 0)) + N, N, 1),
                        nn.LeakyReLU(inplace=True),
                        nn.Conv2d(N, 2 * channels, 1),
                    ),
                )
                for k, channels in enumerate(groups)
            },
        )
        hyper = HyperLatentCodec(entropy.EntropyBottleneck(z), h_a, h_s, quantizer="ste")
        self.latent_codec = HyperpriorLatentCodec({"y": y, "hyper": hyper})
        self._adopt_latent_codec(scheme)
        path = "latent_codec.y"
        codecs = [f"{path}.latent_codec.y{k}" for k in range(len(groups))]
        self._y_outputs = (*self._y_outputs, *(f"{codec}.entropy_parameters.2" for codec in codecs))
        self._y_inputs = (
            *self._y_inputs,
            "latent_codec.hyper.h_a.0",
            *(f"{codec}.context_prediction" for codec in codecs),
            *(f"{path}.channel_context.y{k}.0" for k in range(1, len(groups))),
        )

    @property
    def downsampling_factor(self) -> int:
        """Height and width of the images must be multiples of this number."""
        return 32

    def _fit(self, y: Tensor, deviation: Tensor) -> Iterator[None]:
        hyper, groups = self.latent_codec["hyper"], self.latent_codec["y"]
        means, first = y.mean((0, 2, 3)), 0
        for k, channels in enumerate(groups.groups):
            own, codec = slice(first, first + channels), groups.latent_codec[f"y{k}"]
            fit_gaussian(codec.entropy_parameters[2], deviation[own], means[own])
            codec.context_prediction.weight /= deviation[own, None, None]
            if k:
                groups.channel_context[f"y{k}"][0].weight /= deviation[:first, None, None]
            first += channels
        return fit_bottleneck(hyper.entropy_bottleneck, hyper.h_a(y))

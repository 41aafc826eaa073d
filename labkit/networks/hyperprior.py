"""Codecs that decode y in one pass: the factorized prior and the hyperpriors."""

from __future__ import annotations

from typing import Any

import compressai.models as _compressai
import torch
from torch import Tensor
from torch.nn import functional

from labkit import entropy
from labkit.networks.base import ImageCodec
from labkit.schemes import Scheme


class FactorizedPrior(ImageCodec, _compressai.FactorizedPrior):
    """Ballé et al. 2017, as in CompressAI's bmshj2018-factorized (https://arxiv.org/abs/1611.01704).

    The network takes images of shape (batch, 3, H, W) in [0, 1], where H and W are multiples of 16. It returns
    {"x_hat", "likelihoods": {"y"}}.

    Args:
        N: Number of channels of the transforms.
        M: Number of channels of the latent y.
        scheme: Quantization scheme for training; `schemes.mixed()` by default.
    """

    kind = "factorized_prior"
    paper = "Ballé et al., End-to-end Optimized Image Compression"
    year = 2017
    _y_outputs, _y_inputs = ("g_a.6",), ("g_s.0",)

    def __init__(self, N: int, M: int, scheme: Scheme | None = None):
        super().__init__(N, M)
        self.entropy_bottleneck = entropy.EntropyBottleneck(M, scheme=self._start_with(scheme), main=True)

    @torch.no_grad()
    def scale_latents(self, gain: float) -> None:
        """Scale the latents by a positive gain, and adapt the entropy model to them."""
        super().scale_latents(gain)
        bottleneck = self.entropy_bottleneck  # its cumulative function first multiplies y by softplus(matrices[0])
        slope = functional.softplus(bottleneck.matrices[0]) / gain
        bottleneck.matrices[0].copy_(slope + torch.log(-torch.expm1(-slope)))  # the inverse of softplus
        bottleneck.quantiles *= gain
        entropy.drop_tables(self)


class ScaleHyperprior(ImageCodec, _compressai.ScaleHyperprior):
    """Ballé et al. 2018, as in CompressAI's bmshj2018-hyperprior (https://arxiv.org/abs/1802.01436).

    The network takes images of shape (batch, 3, H, W) in [0, 1], where H and W are multiples of 64. It returns
    {"x_hat", "likelihoods": {"y", "z"}}. It predicts no mean for y, so a scheme's `zero_center` has no effect.

    Args:
        N: Number of channels of the transforms.
        M: Number of channels of the latent y.
        scheme: Quantization scheme for training; `schemes.mixed()` by default.
    """

    kind = "scale_hyperprior"
    paper = "Ballé et al., Variational Image Compression with a Scale Hyperprior"
    year = 2018
    _y_outputs, _y_inputs = ("g_a.6", "h_s.4"), ("g_s.0", "h_a.0")

    def __init__(self, N: int, M: int, scheme: Scheme | None = None):
        super().__init__(N, M)
        self._add_hyperprior(scheme)


class _Frugal(_compressai.MeanScaleHyperprior):
    """CompressAI's model, with an encoder that frees tensors early, because the coder needs much memory."""

    def compress(self, x: Tensor) -> dict[str, Any]:
        """Return the strings and the shape that CompressAI's method returns."""
        y = self.g_a(x)
        z = self.h_a(y)
        z_strings = self.entropy_bottleneck.compress(z)
        z_hat = self.entropy_bottleneck.decompress(z_strings, z.size()[-2:])
        scales, means = self.h_s(z_hat).chunk(2, 1)
        indexes = self.gaussian_conditional.build_indexes(scales)
        distances = y - means
        del y, scales, means
        y_strings = self.gaussian_conditional.compress(distances, indexes)
        return {"strings": [y_strings, z_strings], "shape": z.size()[-2:]}


class MeanScaleHyperprior(ImageCodec, _Frugal):
    """Minnen et al. 2018 without the context model, as in CompressAI's mbt2018-mean (https://arxiv.org/abs/1809.02736).

    The network takes images of shape (batch, 3, H, W) in [0, 1], where H and W are multiples of 64. It returns
    {"x_hat", "likelihoods": {"y", "z"}}.

    Args:
        N: Number of channels of the transforms.
        M: Number of channels of the latent y.
        scheme: Quantization scheme for training; `schemes.mixed()` by default.
    """

    kind = "mean_scale_hyperprior"
    paper = "Minnen et al., Joint Autoregressive and Hierarchical Priors for Learned Image Compression"
    year = 2018
    _y_outputs: tuple[str, ...] = ("g_a.6", "h_s.4")
    _y_inputs: tuple[str, ...] = ("g_s.0", "h_a.0")

    def __init__(self, N: int, M: int, scheme: Scheme | None = None):
        super().__init__(N, M)
        self._add_hyperprior(scheme)

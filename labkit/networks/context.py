"""Codecs with a context model, which decode y pixel by pixel."""

from __future__ import annotations

import compressai.models as _compressai
from torch import Tensor, nn
from torch.nn import functional

from labkit import adoption
from labkit.networks.base import ImageCodec
from labkit.networks.hyperprior import MeanScaleHyperprior
from labkit.schemes import Scheme

# CompressAI's class comes before the class with labkit's training forward pass, as in every adopted class.


class JointAutoregressive(ImageCodec, adoption.AdoptedJointAutoregressive):
    """Minnen et al. 2018 with the context model, as in CompressAI's mbt2018 (https://arxiv.org/abs/1809.02736).

    The network takes images of shape (batch, 3, H, W) in [0, 1], where H and W are multiples of 64. It returns
    {"x_hat", "likelihoods": {"y", "z"}}.

    The coder codes the pixels of the latent one after another, and rounds each around a mean that is predicted from
    earlier pixels. The forward pass in evaluation mode rounds y itself, so its reconstruction differs from the decoded
    image.

    Args:
        N: Number of channels of the transforms.
        M: Number of channels of the latent y.
        scheme: Quantization scheme for training; `schemes.mixed()` by default.
    """

    kind = "joint_autoregressive"
    paper = MeanScaleHyperprior.paper
    year = 2018
    _y_outputs, _y_inputs = ("g_a.6", "entropy_parameters.4"), ("g_s.0", "h_a.0", "context_prediction")

    def __init__(self, N: int, M: int, scheme: Scheme | None = None):
        super().__init__(N, M)
        self._add_hyperprior(scheme)


class Cheng2020Anchor(ImageCodec, _compressai.Cheng2020Anchor, adoption.AdoptedJointAutoregressive):
    """Cheng et al. 2020 with one Gaussian and without attention (https://arxiv.org/abs/2001.01568).

    The architecture is CompressAI's cheng2020-anchor. Inputs, outputs and coding are those of `JointAutoregressive`.

    Args:
        N: Number of channels of the transforms and of the latent y.
        M: Must be N or None; the latent has as many channels as the transforms.
        scheme: Quantization scheme for training; `schemes.mixed()` by default.

    Raises:
        ValueError: If M differs from N.
    """

    kind = "cheng2020_anchor"
    paper = (
        "Cheng et al., Learned Image Compression with Discretized Gaussian Mixture Likelihoods and Attention Modules"
    )
    year = 2020

    def __init__(self, N: int, M: int | None = None, scheme: Scheme | None = None):
        _check_equal(N, M)
        super().__init__(N)
        self._add_hyperprior(scheme)
        _subsample_first(self)


class Cheng2020Attention(ImageCodec, _compressai.Cheng2020Attention, adoption.AdoptedJointAutoregressive):
    """Cheng et al. 2020 with one Gaussian and with attention (https://arxiv.org/abs/2001.01568).

    The architecture is CompressAI's cheng2020-attn. Inputs, outputs and coding are those of `JointAutoregressive`.

    Args:
        N: Number of channels of the transforms and of the latent y.
        M: Must be N or None; the latent has as many channels as the transforms.
        scheme: Quantization scheme for training; `schemes.mixed()` by default.

    Raises:
        ValueError: If M differs from N.
    """

    kind = "cheng2020_attention"
    paper = Cheng2020Anchor.paper
    year = 2020

    def __init__(self, N: int, M: int | None = None, scheme: Scheme | None = None):
        _check_equal(N, M)
        super().__init__(N)
        self._add_hyperprior(scheme)
        _subsample_first(self)


def _check_equal(N: int, M: int | None) -> None:
    if M not in (None, N):
        raise ValueError(f"M must equal N = {N} in the networks of Cheng et al., got {M}")


class _SubsampledConv2d(nn.Conv2d):
    """A strided 1×1 convolution that, in training, drops the skipped pixels before it convolves.

    The result is the same. In torch 2.14.1, the backward pass of the strided convolution writes past its memory on the
    CPU, in the channels-last layout that the trainer uses, with 3 input channels or with 8 or 16 output channels.
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

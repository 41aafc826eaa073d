"""The image codecs: CompressAI's architectures with labkit's entropy modules inside, under CompressAI's keys.

Each takes (batch, 3, H, W) in [0, 1], its sides multiples of `downsampling_factor`, and gives {"x_hat", "likelihoods"}.
In evaluation every one of them is CompressAI's own code, outputs and bytes alike; in training the scheme says what is
scored and what is handed on. How a context model trains is written in `labkit.interop`.
"""

from __future__ import annotations

from typing import Any, ClassVar

import compressai.models as _compressai
import torch
from torch import Tensor, nn
from torch.nn import functional

from labkit import entropy, interop, schemes
from labkit.schemes import QuantizationScheme, Scheme, TwoStages


class _Codec:
    """What labkit adds to a CompressAI model: its registry name, its size, the scheme it trains with."""

    kind: ClassVar[str]
    paper: ClassVar[str]
    year: ClassVar[int]
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


def first_stage(scheme: Scheme) -> QuantizationScheme:
    """The scheme that training starts with."""
    return scheme.first if isinstance(scheme, TwoStages) else scheme


class FactorizedPrior(_Codec, _compressai.FactorizedPrior):
    """Ballé et al., End-to-end Optimized Image Compression, 2017, as in CompressAI's bmshj2018-factorized.

    Takes (batch, 3, H, W) in [0, 1], H and W multiples of 16; gives {"x_hat", "likelihoods": {"y"}}.
    """

    kind = "factorized_prior"
    paper = "Ballé et al., End-to-end Optimized Image Compression"
    year = 2017

    def __init__(self, N: int, M: int, size: str = "custom", scheme: Scheme | None = None):
        super().__init__(N, M)
        self.entropy_bottleneck = entropy.EntropyBottleneck(M, scheme=self._equip(size, scheme), main=True)

    def coded_shape(self, height: int, width: int) -> Any:
        return torch.Size((height // 16, width // 16))


class ScaleHyperprior(_Codec, _compressai.ScaleHyperprior):
    """Ballé et al., Variational Image Compression with a Scale Hyperprior, 2018, as CompressAI's bmshj2018-hyperprior.

    Takes (batch, 3, H, W) in [0, 1], H and W multiples of 64; gives {"x_hat", "likelihoods": {"y", "z"}}. No mean is
    predicted for y: a scheme's `zero_center` changes nothing for it.
    """

    kind = "scale_hyperprior"
    paper = "Ballé et al., Variational Image Compression with a Scale Hyperprior"
    year = 2018

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

    def __init__(self, N: int, M: int, size: str = "custom", scheme: Scheme | None = None):
        super().__init__(N, M)
        self._equip_hyperprior(size, scheme)

    @torch.no_grad()
    def scale_latents(self, gain: float) -> None:
        """Multiply the latent y by `gain`, and undo it wherever y is read: means and scales follow, z stays.

        Only the quantisation step changes, to 1/gain of what it was. At high rate the best step goes with 1/√λ, since
        step²/12 is the distortion, so √(λ/λ₀) takes a network that was trained for λ₀ most of the way to λ.
        """
        for convolution, factor in ((self.g_a[-1], gain), (self.h_s[-1], gain)):
            convolution.weight *= factor
            convolution.bias *= factor
        for convolution in (self.g_s[0], self.h_a[0]):
            convolution.weight /= gain


# CompressAI's class comes first where labkit's has a training forward of its own, as in every adopted class


class JointAutoregressive(interop.AdoptedJointAutoregressive, _Codec):
    """Minnen, Ballé & Toderici 2018 with the context model, as in CompressAI's mbt2018.

    Takes (batch, 3, H, W) in [0, 1], H and W multiples of 64; gives {"x_hat", "likelihoods": {"y", "z"}}. It is coded
    one latent pixel after the other, each rounded around a mean that the ones before predict: the evaluation forward,
    which rounds y itself, gives another reconstruction than decoding does.
    """

    kind = "joint_autoregressive"
    paper = MeanScaleHyperprior.paper
    year = 2018

    def __init__(self, N: int, M: int, size: str = "custom", scheme: Scheme | None = None):
        super().__init__(N, M)
        self._equip_hyperprior(size, scheme)


class Cheng2020Anchor(_compressai.Cheng2020Anchor, interop.AdoptedJointAutoregressive, _Codec):
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


class Cheng2020Attention(_compressai.Cheng2020Attention, interop.AdoptedJointAutoregressive, _Codec):
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


class Elic(_Codec, _compressai.Elic2022Official):
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
        interop.adopt(self.latent_codec, self._equip(size, scheme))
        del self.latent_codec.scheme  # adoption's note: the network keeps its own, which may change

    @property
    def downsampling_factor(self) -> int:
        return 64

    def coded_shape(self, height: int, width: int) -> Any:
        groups = self.latent_codec["y"].groups
        shape = [torch.Size((channels, height // 16, width // 16)) for channels in groups]
        return {"y": shape, "hyper": super().coded_shape(height, width)}


Codec = (
    FactorizedPrior
    | ScaleHyperprior
    | MeanScaleHyperprior
    | JointAutoregressive
    | Cheng2020Anchor
    | Cheng2020Attention
    | Elic
)

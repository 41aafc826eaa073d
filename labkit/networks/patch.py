"""Codecs on patches of 16×16 pixels. They start as a DCT and have few latents per pixel, so they train quickly."""

from __future__ import annotations

import math
from collections.abc import Generator, Iterator, Mapping
from typing import Any, ClassVar

import torch
from compressai.models.utils import conv, deconv
from torch import Tensor, nn
from torch.nn import functional

from labkit.networks.base import ImageCodec
from labkit.networks.hyperprior import FactorizedPrior, MeanScaleHyperprior
from labkit.networks.patch_start import PATCH, dct_basis, fit_bottleneck, fit_gaussian, gain_for
from labkit.schemes import Scheme

FIRST_LMBDA = 0.01  # λ that a new network's quantization step is right for; `start` adapts the step to another λ


class Pointwise(nn.Conv2d):
    """A 1×1 convolution computed as a matrix product, which is faster on a CPU.

    Args:
        inputs: Number of channels of the input.
        outputs: Number of channels of the output.
    """

    def __init__(self, inputs: int, outputs: int):
        super().__init__(inputs, outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Return the convolution of x, of shape (batch, inputs, height, width)."""
        return functional.linear(x.permute(0, 2, 3, 1), self.weight.flatten(1), self.bias).permute(0, 3, 1, 2)


class Residual(nn.Module):
    """x + W₂ gelu(W₁ x) with 1×1 convolutions, where W₂ starts at zero.

    Args:
        channels: Number of channels of x.
        hidden: Number of channels between the two convolutions.
    """

    def __init__(self, channels: int, hidden: int):
        super().__init__()
        self.inner, self.outer = Pointwise(channels, hidden), Pointwise(hidden, channels)
        for parameter in self.outer.parameters():
            nn.init.zeros_(parameter)

    def forward(self, x: Tensor) -> Tensor:
        """Return the sum, with the same shape as x: (batch, channels, height, width)."""
        y: Tensor = x + self.outer(functional.gelu(self.inner(x)))
        return y


class FromPatches(nn.ConvTranspose2d):
    """A transposed 16×16 convolution of stride 16 to 3 channels, as a matrix product: five times as fast on a CPU.

    Args:
        inputs: Number of channels of the input.
    """

    def __init__(self, inputs: int):
        super().__init__(inputs, 3, PATCH, PATCH)

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]  # the size of the output is known
        """Return the transposed convolution of x, of shape (batch, inputs, height, width)."""
        assert self.bias is not None
        batch, _, height, width = x.shape
        pixels = x.permute(0, 2, 3, 1) @ self.weight.flatten(1)
        pixels = pixels.view(batch, height, width, 3, PATCH, PATCH).permute(0, 3, 1, 4, 2, 5)
        return pixels.reshape(batch, 3, PATCH * height, PATCH * width) + self.bias[:, None, None]


class PatchCodec(ImageCodec):
    """Base of the patch codecs: their transforms, their initial weights, and the start of training.

    The analysis transform is a 16×16 convolution of stride 16, followed by `layers` residual layers of 1×1
    convolutions. The synthesis transform is its mirror image. Both are initialized with the lowest frequencies of an
    orthonormal DCT.

    Attributes:
        layers: Number of residual layers in each transform.
        started: Tensor that becomes 1 when `start` has fitted the network. As a tensor, it is part of the state dict.
    """

    paper = "labkit's own: transform coding of patches, initialized with the DCT"
    year = 2026
    patchwise = True
    low_precision = False  # bfloat16 would round a latent of 100 steps to a multiple of half a step
    layers: ClassVar[int] = 2
    # The convolutions from and to pixels start near their best weights and would lose them at a higher learning rate.
    # The other layers start at zero or at random. The entropy bottleneck of a factorized prior or hyperprior learns
    # fastest.
    lr_factors: ClassVar[Mapping[str, float]] = {"entropy_bottleneck": 5.0, "g_a.0": 1.0, "g_s.2": 0.5, "": 2.5}
    g_a: nn.Sequential
    g_s: nn.Sequential
    started: Tensor

    def __init__(self, N: int, M: int, scheme: Scheme | None = None):
        super().__init__(max(1, N // 4), M, scheme)  # type: ignore[call-arg]  # of the codec that this class precedes
        assert isinstance(self, nn.Module)
        self.N, self.M = int(N), int(M)
        self.register_buffer("started", torch.zeros((), dtype=torch.uint8))
        self.g_a = nn.Sequential(nn.Conv2d(3, M, PATCH, PATCH), *(Residual(M, N) for _ in range(self.layers)))
        self.g_s = nn.Sequential(*(Residual(M, N) for _ in range(self.layers)), FromPatches(M))
        first: Any = self.g_a[0]
        last: Any = self.g_s[-1]
        with torch.no_grad():
            basis, gain = dct_basis(M), gain_for(FIRST_LMBDA)
            first.weight.copy_(gain * basis)
            first.bias.copy_(-0.5 * first.weight.sum((1, 2, 3)))  # a gray image then has the latent 0
            last.weight.copy_(basis / gain)
            last.bias.fill_(0.5)
        residual = [f"g_a.{1 + i}" for i in range(self.layers)] + [f"g_s.{i}" for i in range(self.layers)]
        self._y_outputs = ("g_a.0", *(f"{each}.outer" for each in residual))
        self._y_inputs = (f"g_s.{self.layers}", *(f"{each}.inner" for each in residual))

    @property
    def downsampling_factor(self) -> int:
        """Height and width of the images must be multiples of this number."""
        return PATCH

    @classmethod
    def from_state_dict(cls, state_dict: dict[str, Tensor]) -> Any:
        """Create a network with the given weights and the channel counts that they imply."""
        M = len(state_dict["g_a.0.weight"])
        net = cls(len(state_dict["g_a.1.inner.weight"]) if cls.layers else M, M)
        assert isinstance(net, nn.Module)
        net.load_state_dict(state_dict)
        return net

    def start(self, lmbda: float, x: Tensor) -> None:
        """Fit an untrained network to λ and to a first batch. A network that was already started does not change.

        The quantization step is adapted to λ (see `gain_for`). The layers that take the latents as input divide them by
        their standard deviations, and the entropy model is fitted to the scales of the latents.

        Args:
            lmbda: Weight of the distortion, on CompressAI's scale.
            x: Images of shape (batch, 3, H, W) in [0, 1].
        """
        for _ in self.starting(lmbda, x):
            pass

    @torch.no_grad()
    def starting(self, lmbda: float, x: Tensor) -> Generator[None, None, None]:
        """Start the network in small steps. If this is interrupted, do not use the network: it is only partly fitted.

        Args:
            lmbda: See `start`.
            x: See `start`.

        Yields:
            None after each part.
        """
        if self.started:
            return
        assert isinstance(self, nn.Module)
        self.scale_latents(math.sqrt(lmbda / FIRST_LMBDA))
        y = self.g_a(x)
        deviation = y.std((0, 2, 3)).clamp_min(0.1)
        for name in self._y_inputs[1:]:
            layer: Any = self.get_submodule(name)
            if layer.in_channels == self.M:
                layer.weight /= deviation[:, None, None]
        yield from self._fit(y, deviation)
        self.started.fill_(1)

    def _fit(self, y: Tensor, deviation: Tensor) -> Iterator[None]:
        """Fit the entropy model to latents of shape (batch, M, height, width) with deviations of shape (M,)."""
        return fit_bottleneck(self.entropy_bottleneck, y)


class PatchLinear(PatchCodec, FactorizedPrior):
    """A learned JPEG: a linear transform of 16×16 patches in each direction, and a factorized entropy model.

    The network takes images of shape (batch, 3, H, W) in [0, 1], where H and W are multiples of 16. It returns
    {"x_hat", "likelihoods": {"y"}}.

    Args:
        N: Has no effect, because a linear transform has no hidden channels; equal to M by convention.
        M: Number of channels of the latent y, at most 768.
        scheme: Quantization scheme for training; `schemes.mixed()` by default.
    """

    kind = "patch_linear"
    layers = 0
    lr_factors: ClassVar[Mapping[str, float]] = {"entropy_bottleneck": 5.0, "g_a": 1.0, "g_s": 0.5}


class PatchMLP(PatchCodec, FactorizedPrior):
    """Nonlinear transforms of 16×16 patches, and a factorized entropy model.

    The network takes images of shape (batch, 3, H, W) in [0, 1], where H and W are multiples of 16. It returns
    {"x_hat", "likelihoods": {"y"}}.

    Args:
        N: Number of hidden channels of the residual layers.
        M: Number of channels of the latent y, at most 768.
        scheme: Quantization scheme for training; `schemes.mixed()` by default.
    """

    kind = "patch_mlp"


def hyper_transforms(N: int, M: int, z: int, outputs: int) -> tuple[nn.Sequential, nn.Sequential]:
    """Return h_a, from M channels to z at half the resolution, and h_s, from z to `outputs` channels."""
    h_a = nn.Sequential(Pointwise(M, N), nn.GELU(), conv(N, z))
    return h_a, nn.Sequential(deconv(z, N), nn.LeakyReLU(inplace=True), nn.Conv2d(N, outputs, 1))


class PatchHyperprior(PatchCodec, MeanScaleHyperprior):
    """Nonlinear transforms of 16×16 patches, and a mean–scale hyperprior.

    The network takes images of shape (batch, 3, H, W) in [0, 1], where H and W are multiples of 32. It returns
    {"x_hat", "likelihoods": {"y", "z"}}. The hyper-latent z has N/4 channels and covers 32×32 pixels per position.

    Args:
        N: Number of hidden channels of the residual layers and of the hyper transforms.
        M: Number of channels of the latent y, at most 768.
        scheme: Quantization scheme for training; `schemes.mixed()` by default.
    """

    kind = "patch_hyperprior"

    def __init__(self, N: int, M: int, scheme: Scheme | None = None):
        super().__init__(N, M, scheme)
        z = self.entropy_bottleneck.channels
        self.h_a, self.h_s = hyper_transforms(N, M, z, 2 * M)
        self._y_outputs, self._y_inputs = (*self._y_outputs, "h_s.2"), (*self._y_inputs, "h_a.0")

    @property
    def downsampling_factor(self) -> int:
        """Height and width of the images must be multiples of this number."""
        return 2 * PATCH

    def _fit(self, y: Tensor, deviation: Tensor) -> Iterator[None]:
        fit_gaussian(self.h_s[-1], deviation, y.mean((0, 2, 3)))
        return fit_bottleneck(self.entropy_bottleneck, self.h_a(y))

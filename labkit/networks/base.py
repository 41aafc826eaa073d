"""Base classes of all networks: a name, a scheme, portable coding, and latents that can be scaled."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import nn

from labkit import defaults, entropy, schemes
from labkit.checks import check_positive
from labkit.fixed_point import PortableCoding
from labkit.schemes import QuantizationScheme, Scheme, first_stage


class CodecBase:
    """Attributes and methods that labkit adds to CompressAI's models and to its own toy codes.

    Attributes:
        kind: Name of the architecture, as `networks.get` accepts it.
        paper: Authors and title of the paper.
        year: Year of the paper.
        N: Number of channels of the transforms.
        M: Number of channels of the latent y.
        size: Name of the size, "tiny", "small" or "paper", or "custom" for other channel counts.
        scheme: Quantization scheme used in training.
        info: Description of the weights, as `save_checkpoint` wrote it; empty for a new network.
        lr_factors: Factors for the trainer's learning rate. Each key is the beginning of parameter names, and the first
            key that matches a name applies.
        low_precision: True if the transforms train in bfloat16 on devices where that is faster.
        patchwise: True if g_a and g_s work on separate patches, so that a large image can be coded in strips.
    """

    kind: ClassVar[str]
    paper: ClassVar[str]
    year: ClassVar[int]
    # Names of the convolutions that output y or the parameters of its Gaussian, and of those that take y as input.
    _y_outputs: tuple[str, ...] = ()
    _y_inputs: tuple[str, ...] = ()
    N: int
    M: int
    size: str = "custom"
    lr_factors: ClassVar[Mapping[str, float]] = {"": 1.0}
    low_precision: ClassVar[bool] = True
    patchwise: ClassVar[bool] = False
    scheme: Scheme
    info: dict[str, Any]

    def _start_with(self, scheme: Scheme | None) -> QuantizationScheme:
        """Store the scheme, and return the stage that the entropy modules start with."""
        self.info = {}
        self.scheme = scheme or schemes.get(defaults.SCHEME)
        return first_stage(self.scheme)

    def _add_hyperprior(self, scheme: Scheme | None) -> None:
        """Add labkit's entropy modules to a model with a hyperprior of N channels and one Gaussian model."""
        stage = self._start_with(scheme)
        self.entropy_bottleneck = entropy.EntropyBottleneck(self.N, scheme=stage)
        self.gaussian_conditional = entropy.GaussianConditional(None, scheme=stage)

    def coded_shape(self, height: int, width: int) -> Any:
        """Return the `shape` that `compress` returns and `decompress` takes.

        Args:
            height: Height of the padded image in pixels.
            width: Width of the padded image in pixels.
        """
        factor: int = self.downsampling_factor  # type: ignore[attr-defined]  # a property of CompressAI's classes
        return torch.Size((height // factor, width // factor))

    def set_scheme(self, scheme: Scheme) -> None:
        """Train with another scheme from now on.

        Args:
            scheme: The new scheme. Coder tables that start at a different scale lower bound are dropped.
        """
        assert isinstance(self, nn.Module)
        self.scheme = scheme
        entropy.set_scheme(self, first_stage(scheme))

    @property
    def scalable(self) -> bool:
        """True if `scale_latents` works, that is, if only convolutions output and take y."""
        return bool(self._y_outputs)

    @torch.no_grad()
    def scale_latents(self, gain: float) -> None:
        """Multiply the latent y by a gain, and divide by the gain in all layers that take y as input.

        The entropy model is adapted, and z does not change. In effect, only the quantization step changes: it is
        divided by the gain. At high rates, the best step is proportional to 1/√λ, because the distortion is step²/12.
        Scaling a network trained for λ₀ by √(λ/λ₀) therefore brings it most of the way to λ.

        Args:
            gain: Positive factor.

        Raises:
            ValueError: If the gain is not positive, or if the network is not `scalable`.
        """
        check_positive(gain=gain)
        if not self.scalable:
            raise ValueError(f"scale_latents: {self.kind} has layers around y that cannot absorb a gain")
        assert isinstance(self, nn.Module)
        for name in self._y_outputs:
            layer: Any = self.get_submodule(name)
            layer.weight *= gain
            layer.bias *= gain
        for name in self._y_inputs:
            layer = self.get_submodule(name)
            layer.weight /= gain


class ImageCodec(PortableCoding, CodecBase):
    """Base of the image codecs, whose strings decode on every machine; listed first among a network's bases."""

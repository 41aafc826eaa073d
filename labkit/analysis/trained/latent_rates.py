"""The latents of a trained codec as its entropy model receives them, and their rate under any lower bound on σ."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from labkit import evaluation, surrogates
from labkit.analysis.code import gaussian_bits
from labkit.analysis.latent_laws import LIKELIHOOD_BOUND
from labkit.datasets import PhotoSet
from labkit.networks import Codec
from labkit.schemes import first_stage
from labkit.statistics import Array


@dataclass(frozen=True, repr=False)
class CodecLatents:
    """Latents y of a codec for several images, and the codec's rounded losses.

    Attributes:
        residuals: (n,) y − μ of every latent, float32, one image after the other.
        scales: (n,) predicted σ of every latent, before the lower bound.
        counts: Number of latents of each image.
        pixels: (images,) number of pixels of each image.
        bound: The codec's lower bound on σ.
        losses: (images, 2) bits per pixel (including z) and 255² · MSE with real rounding.
    """

    residuals: Tensor
    scales: Tensor
    counts: list[int]
    pixels: Array
    bound: float
    losses: Array

    def __repr__(self) -> str:
        return f"CodecLatents({len(self.scales):,} latents of {len(self.counts)} images, bound {self.bound:g})"

    @classmethod
    def joined(cls, parts: Sequence[CodecLatents]) -> CodecLatents:
        """Return the latents of all parts, which must come from the same codec."""
        return cls(
            residuals=torch.cat([part.residuals for part in parts]),
            scales=torch.cat([part.scales for part in parts]),
            counts=[count for part in parts for count in part.counts],
            pixels=np.concatenate([part.pixels for part in parts]),
            bound=parts[0].bound,
            losses=np.concatenate([part.losses for part in parts]),
        )

    def bpp(self, values: Tensor, bound: float) -> Array:
        """Return the bits per pixel of each image's y under another lower bound on σ.

        Args:
            values: (n,) values that replace y − μ, such as noisy or rounded residuals.
            bound: Lower bound on σ.
        """
        bits = gaussian_bits(values, torch.zeros(()), self.scales.clamp(min=bound))
        bits = bits.clamp(max=-math.log2(LIKELIHOOD_BOUND))
        return np.array([float(part.double().sum()) for part in bits.split(self.counts)]) / self.pixels

    def rates(self, surrogate: str, temperature: float, bound: float, seed: int = 0) -> tuple[float, float]:
        """Return the mean bits per pixel of y in training, with one noise draw, and at test.

        Args:
            surrogate: Name of the surrogate on the rate path.
            temperature: Temperature τ of the surrogate.
            bound: Lower bound on σ.
            seed: Seed of the noise.
        """
        generator = torch.Generator().manual_seed(seed)
        training = surrogates.get(surrogate)(self.residuals, temperature, generator=generator)
        return float(self.bpp(training, bound).mean()), float(self.bpp(self.residuals.round(), bound).mean())

    def losses_at(self, bound: float) -> Array:
        """Return the rounded losses, (images, 2), with another bound and the same weights.

        Only the rate of y depends on the bound.
        """
        rounded, losses = self.residuals.round(), self.losses.copy()
        losses[:, 0] += self.bpp(rounded, bound) - self.bpp(rounded, self.bound)
        return losses


def codec_latents(net: Codec, images: PhotoSet) -> CodecLatents:
    """Return the latents that the Gaussian entropy model of a codec receives for images.

    Args:
        net: Codec with a Gaussian entropy model that predicts means and scales.
        images: Images of any size.
    """
    received: list[tuple[Tensor, Tensor]] = []

    def store(_module: nn.Module, args: tuple[Any, ...], keywords: dict[str, Any]) -> None:
        received.append(((args[0] - keywords["means"]).flatten(), args[1].flatten()))

    hook = net.gaussian_conditional.register_forward_pre_hook(store, with_kwargs=True)
    try:
        losses = evaluation.rounded_losses(net, images)
    finally:
        hook.remove()
    return CodecLatents(
        residuals=torch.cat([residuals for residuals, _ in received]),
        scales=torch.cat([scales for _, scales in received]),
        counts=[len(scales) for _, scales in received],
        pixels=np.array([image[0].numel() for image in images]),
        bound=first_stage(net.scheme).scale_lower_bound,
        losses=np.array(losses),
    )

"""Initialization of patch codecs: the lowest frequencies of a DCT, a step that suits λ, and fitted entropy models."""

from __future__ import annotations

import math
from collections.abc import Generator
from typing import Any

import torch
from torch import Tensor

from labkit import entropy

PATCH = 16  # side of a patch in pixels
CHROMA = 12  # weight of chroma when vectors are sorted by frequency; with M = 192, 84% of the latents are luma
GROUPS = 64  # number of values per channel to which an entropy bottleneck is fitted
FIT_STEPS, FIT_RATE = 25, 0.1  # the learning rate falls linearly to 0


def dct_basis(M: int) -> Tensor:
    """Return the M vectors of lowest frequency of the orthonormal DCT-II of 3×16×16 pixels.

    Along the colors, the DCT has the vectors (1, 1, 1)/√3, (1, 0, −1)/√2 and (1, −2, 1)/√6: luma and two chroma. The
    vectors are sorted by u² + v² + 1 for luma and 12 times that for chroma, where u and v are the frequencies.

    Args:
        M: Number of vectors, 1 to 768.

    Returns:
        Tensor of shape (M, 3, 16, 16), float32.

    Raises:
        ValueError: If M is out of range.
    """
    if not 1 <= M <= 3 * PATCH**2:
        raise ValueError(f"M must be 1 to {3 * PATCH**2}, the dimension of a patch, got {M}")
    color, space = _dct(3), _dct(PATCH)
    vectors = torch.einsum("ci,uy,vx->cuviyx", color, space, space).flatten(0, 2)
    c, u, v = torch.cartesian_prod(torch.arange(3), torch.arange(PATCH), torch.arange(PATCH)).T
    order = torch.argsort((u**2 + v**2 + 1) * torch.where(c > 0, CHROMA, 1), stable=True)
    return vectors[order[:M]].float()


def _dct(n: int) -> Tensor:
    """Return the orthonormal DCT-II as a matrix with one frequency per row."""
    k = torch.arange(n, dtype=torch.float64)
    matrix = torch.cos(math.pi / n * k[:, None] * (k + 0.5)) * math.sqrt(2 / n)
    matrix[0] /= math.sqrt(2)
    return matrix


def gain_for(lmbda: float) -> float:
    """Return the number of quantization steps per unit of an orthonormal transform of an image in [0, 1].

    At high rate, the best mean squared error of each latent is D = 3/(2 ln 2 · λ) in units of 255², since the MSE
    averages three color channels. Codecs that also code many zeros need a larger step, so they start with
    D = 5/(2 ln 2 · λ). A uniform quantizer has this error if its step is √(12 D)/255.

    Args:
        lmbda: Weight of the distortion, on CompressAI's scale.
    """
    return 255 * math.sqrt(2 * math.log(2) * lmbda / (12 * 5))


def fit_gaussian(layer: Any, deviation: Tensor, mean: Tensor) -> None:
    """Initialize a layer so that it predicts nearly constant σ and μ, in units of σ.

    Args:
        layer: Convolution to change in place, with 2C outputs, σ before μ.
        deviation: Standard deviations of the channels, (C,).
        mean: Means of the channels, (C,).
    """
    layer.weight *= 0.1 * deviation.repeat(2)[:, None, None, None]
    layer.bias.copy_(torch.cat([deviation, mean]))


@torch.enable_grad()
def fit_bottleneck(bottleneck: entropy.EntropyBottleneck, latents: Tensor) -> Generator[None, None, None]:
    """Fit an entropy bottleneck to a batch: first a logistic distribution, then a few steps of maximum likelihood.

    The latents of each channel are sorted and replaced by the means of at most `GROUPS` groups. A group has one latent
    in the tails and more in the middle.

    Args:
        bottleneck: Entropy model to change in place.
        latents: Latents of shape (batch, C, …).

    Yields:
        None after each step, so that the caller can stop.
    """
    values = latents.detach().float().transpose(0, 1).flatten(1).sort(1).values
    center = values.median(1, keepdim=True).values
    scale = (values - center).abs().mean(1, keepdim=True).clamp_min(0.1)
    with torch.no_grad():
        _set_logistic(bottleneck, center[..., None], scale[..., None])
    shares = (1 - torch.linspace(0, math.pi, GROUPS + 1).cos()) / 2
    sizes = (shares * values.size(1)).round().long().unique().diff()
    values = torch.stack([group.mean(1) for group in values.split(sizes.tolist(), 1)], 1)
    weights = (sizes / sizes.sum()).to(values)
    generator = torch.Generator().manual_seed(0)
    parameters = [*bottleneck.matrices, *bottleneck.biases, *bottleneck.factors]
    optimizer = torch.optim.Adam(parameters, lr=FIT_RATE, betas=(0.8, 0.999), fused=True)
    for step in range(FIT_STEPS):
        optimizer.param_groups[0]["lr"] = FIT_RATE * (1 - step / FIT_STEPS)
        noise = torch.rand(values.shape, generator=generator).to(values) - 0.5
        edges = torch.cat([values + noise - 0.5, values + noise + 0.5], 1)[:, None]
        low, high = bottleneck._logits_cumulative(edges, stop_gradient=False).sigmoid().chunk(2, 2)
        gradients = torch.autograd.grad(-((high - low).clamp_min(1e-9).log() * weights).sum(), parameters)
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient
        optimizer.step()
        optimizer.zero_grad()
        yield
    bottleneck._update_quantiles()


def _set_logistic(bottleneck: entropy.EntropyBottleneck, center: Tensor, scale: Tensor) -> None:
    """Make the distribution nearly logistic; center and scale have the shape (C, 1, 1)."""
    for i, matrix in enumerate(bottleneck.matrices):
        slope = torch.full_like(scale, 1 / matrix.size(2)) if i else 1 / scale
        matrix.copy_(slope + torch.log(-torch.expm1(-slope)))  # the inverse of softplus
        bottleneck.biases[i].copy_(torch.linspace(-0.3, 0.3, matrix.size(1))[:, None].to(scale))  # breaks symmetry
    bottleneck.biases[0] -= center / scale
    bottleneck.biases[-1].zero_()
    for factor in bottleneck.factors:
        factor.fill_(0.3)  # the tails of latents are heavier than those of a logistic distribution

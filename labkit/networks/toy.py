"""Transform codes for toy sources, small enough to draw (Ballé et al. 2020, https://arxiv.org/abs/2007.03034)."""

from __future__ import annotations

from typing import Any

import numpy.typing as npt
import torch
from torch import Tensor, nn

from labkit import entropy
from labkit.networks.base import CodecBase
from labkit.schemes import Scheme

Array = npt.NDArray[Any]


class ToyTransformCode(CodecBase, nn.Module):
    """Transforms with two hidden layers, and a factorized entropy model over the latents.

    The network takes points of shape (batch, dimension). Like the image codecs, it returns
    {"x_hat", "likelihoods": {"y"}}.

    Args:
        hidden: Number of units in each hidden layer.
        scheme: Quantization scheme for training; `schemes.mixed()` by default.
        dimension: Dimension of the points.
        latents: Number of latents; the dimension by default.
    """

    kind = "toy"
    size = "toy"
    entropy_bottleneck: entropy.EntropyBottleneck

    def __init__(self, hidden: int = 64, scheme: Scheme | None = None, dimension: int = 2, latents: int | None = None):
        super().__init__()
        self.dimension, self.latents = dimension, latents or dimension
        self.g_a = _transform(dimension, hidden, self.latents)
        self.g_s = _transform(self.latents, hidden, dimension)
        stage = self._start_with(scheme)
        self.entropy_bottleneck = entropy.EntropyBottleneck(self.latents, scheme=stage, main=True, init_scale=10)

    def forward(self, x: Tensor) -> dict[str, Tensor | dict[str, Tensor]]:
        """Return the reconstruction and the likelihoods of the latents, for points of shape (B, d)."""
        y_hat, likelihood = self.entropy_bottleneck(self.g_a(x))
        return {"x_hat": self.g_s(y_hat), "likelihoods": {"y": likelihood}}

    @torch.no_grad()
    def symbols(self, x: Tensor) -> Tensor:
        """Return the integers that code the points: ⌊g_a(x) − median⌉.

        Args:
            x: Points of shape (n, dimension).

        Returns:
            Symbols of shape (n, latents), int64.
        """
        return torch.round(self.g_a(x) - self._medians()).long()

    @torch.no_grad()
    def cells(self, extent: tuple[float, float, float, float], resolution: int = 160) -> Array:
        """Return the quantization cell of each point of a grid.

        Args:
            extent: Limits x0, x1, y0 and y1 of the grid.
            resolution: Number of points along each axis.

        Returns:
            Labels of shape (resolution, resolution), int32, row 0 at y0. Points with equal labels share a codeword.

        Raises:
            ValueError: If the dimension is not 2.
        """
        if self.dimension != 2:
            raise ValueError(f"cells needs a code of dimension 2, this one has dimension {self.dimension}")
        x0, x1, y0, y1 = extent
        xs, ys = torch.linspace(x0, x1, resolution), torch.linspace(y0, y1, resolution)
        grid = torch.stack(torch.meshgrid(xs, ys, indexing="xy"), -1).reshape(-1, 2)
        _, label = torch.unique(self.symbols(grid), dim=0, return_inverse=True)
        labels: Array = label.reshape(resolution, resolution).to(torch.int32).numpy()
        return labels

    @torch.no_grad()
    def codewords(self, x: Tensor) -> tuple[Array, Array]:
        """Return the codewords that are used for the points.

        Args:
            x: Points of shape (n, dimension).

        Returns:
            Codewords of shape (k, dimension), and the share of the points that each one codes, of shape (k,).
        """
        symbols, counts = torch.unique(self.symbols(x), dim=0, return_counts=True)
        points = self.g_s(symbols + self._medians())
        return points.numpy(), (counts / len(x)).float().numpy()

    def _medians(self) -> Tensor:
        medians: Tensor = self.entropy_bottleneck._get_medians()[:, 0, 0].detach()
        return medians


def _transform(inputs: int, hidden: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(inputs, hidden), nn.Softplus(), nn.Linear(hidden, hidden), nn.Softplus(), nn.Linear(hidden, outputs)
    )


def _toy(scheme: Scheme | None, hidden: int, seed: int, dimension: int, latents: int) -> ToyTransformCode:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return ToyTransformCode(hidden, scheme, dimension, latents)


def toy_1d(scheme: Scheme | None = None, hidden: int = 64, seed: int = 0) -> ToyTransformCode:
    """Create an untrained scalar quantizer, for `datasets.Gaussian` and `datasets.Laplacian`.

    Args:
        scheme: Quantization scheme for training; `schemes.mixed()` by default.
        hidden: Number of units in each hidden layer.
        seed: Seed of the initial weights.
    """
    return _toy(scheme, hidden, seed, dimension=1, latents=1)


def toy_2d(scheme: Scheme | None = None, hidden: int = 64, seed: int = 0) -> ToyTransformCode:
    """Create an untrained two-dimensional transform code, for `datasets.Banana` and `datasets.Ring`.

    Args:
        scheme: Quantization scheme for training; `schemes.mixed()` by default.
        hidden: Number of units in each hidden layer.
        seed: Seed of the initial weights.
    """
    return _toy(scheme, hidden, seed, dimension=2, latents=2)


def toy_sawbridge(scheme: Scheme | None = None, hidden: int = 64, seed: int = 0, points: int = 256) -> ToyTransformCode:
    """Create an untrained code with one latent, for `datasets.Sawbridge(points)`.

    One number describes a realization completely, although the realizations span every dimension (Wagner & Ballé 2021,
    https://arxiv.org/abs/2011.05065).

    Args:
        scheme: Quantization scheme for training; `schemes.mixed()` by default.
        hidden: Number of units in each hidden layer.
        seed: Seed of the initial weights.
        points: Number of samples of a realization.
    """
    return _toy(scheme, hidden, seed, dimension=points, latents=1)

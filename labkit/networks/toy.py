"""Transform codes of toy sources, small enough to draw (Ballé et al., Nonlinear Transform Coding, 2020)."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from labkit import entropy, schemes
from labkit.networks.codecs import _Codec
from labkit.schemes import Scheme


class ToyTransformCode(_Codec, nn.Module):
    """Analysis and synthesis transforms of two hidden layers, and a factorized entropy model over the latents.

    Takes (batch, dimension); gives {"x_hat", "likelihoods": {"y"}}, as the image codecs do. latents: as many as the
    dimension, unless stated.
    """

    kind = "toy"
    entropy_bottleneck: entropy.EntropyBottleneck

    def __init__(self, hidden: int = 64, scheme: Scheme | None = None, dimension: int = 2, latents: int | None = None):
        super().__init__()
        self.dimension, self.latents = dimension, latents or dimension
        self.g_a = _transform(dimension, hidden, self.latents)
        self.g_s = _transform(self.latents, hidden, dimension)
        stage = self._equip("toy", scheme)
        self.entropy_bottleneck = entropy.EntropyBottleneck(self.latents, scheme=stage, main=True, init_scale=10)

    def forward(self, x: Tensor) -> dict[str, Tensor | dict[str, Tensor]]:
        y_hat, likelihood = self.entropy_bottleneck(self.g_a(x))
        return {"x_hat": self.g_s(y_hat), "likelihoods": {"y": likelihood}}

    @torch.no_grad()
    def symbols(self, x: Tensor) -> Tensor:
        """The integers that would be coded for points x: ⌊g_a(x) − median⌉, int64 of shape (n, latents)."""
        return torch.round(self.g_a(x) - self._medians()).long()

    @torch.no_grad()
    def cells(self, extent: tuple[float, float, float, float], resolution: int = 160) -> np.ndarray:
        """Which quantization cell each point of a grid over (x0, x1, y0, y1) falls in.

        Returns int32 labels of shape (resolution, resolution), row 0 at y0; points with equal labels share a codeword.
        Raises ValueError for a code of another dimension than 2.
        """
        self._check_dimension(2, "cells")
        x0, x1, y0, y1 = extent
        xs, ys = torch.linspace(x0, x1, resolution), torch.linspace(y0, y1, resolution)
        grid = torch.stack(torch.meshgrid(xs, ys, indexing="xy"), -1).reshape(-1, 2)
        _, label = torch.unique(self.symbols(grid), dim=0, return_inverse=True)
        return label.reshape(resolution, resolution).to(torch.int32).numpy()

    @torch.no_grad()
    def intervals(self, extent: tuple[float, float], resolution: int = 4096) -> tuple[np.ndarray, np.ndarray]:
        """The decision boundaries of a 1-D code between x0 and x1, (k − 1,), and the codewords between them, (k,).

        Both float32, from left to right. Looked for between `resolution` points: a narrower interval may be missed.
        Raises ValueError for a code of another dimension than 1.
        """
        self._check_dimension(1, "intervals")
        grid = torch.linspace(*extent, resolution)[:, None]
        symbols = self.symbols(grid)
        last = (symbols[1:] != symbols[:-1]).any(1).nonzero()[:, 0]  # before each change
        left, right = grid[last], grid[last + 1]
        for _ in range(24):
            middle = (left + right) / 2
            before = (self.symbols(middle) == symbols[last]).all(1, keepdim=True)
            left, right = torch.where(before, middle, left), torch.where(before, right, middle)
        coded = torch.cat([symbols[:1], symbols[last + 1]])
        return left[:, 0].numpy(), self.g_s(coded + self._medians())[:, 0].numpy()

    @torch.no_grad()
    def codewords(self, x: Tensor) -> tuple[np.ndarray, np.ndarray]:
        """The codewords that points x are coded to, (k, dimension), and the share that each serves, (k,)."""
        symbols, counts = torch.unique(self.symbols(x), dim=0, return_counts=True)
        points = self.g_s(symbols + self._medians())
        return points.numpy(), (counts / len(x)).float().numpy()

    def _check_dimension(self, dimension: int, method: str) -> None:
        if self.dimension != dimension:
            raise ValueError(f"{method}: takes a code of dimension {dimension}, this one has {self.dimension}")

    def _medians(self) -> Tensor:
        return self.entropy_bottleneck._get_medians()[:, 0, 0].detach()


def _transform(inputs: int, hidden: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(inputs, hidden), nn.Softplus(), nn.Linear(hidden, hidden), nn.Softplus(), nn.Linear(hidden, outputs)
    )


def _toy(scheme: Scheme | None, hidden: int, seed: int, dimension: int, latents: int) -> ToyTransformCode:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return ToyTransformCode(hidden, scheme or schemes.noise(), dimension, latents)


def toy_1d(scheme: Scheme | None = None, hidden: int = 64, seed: int = 0) -> ToyTransformCode:
    """An untrained scalar quantizer, for `datasets.Gaussian` and `datasets.Laplacian`; otherwise as `toy_2d`."""
    return _toy(scheme, hidden, seed, dimension=1, latents=1)


def toy_2d(scheme: Scheme | None = None, hidden: int = 64, seed: int = 0) -> ToyTransformCode:
    """An untrained 2-D transform code, the same for the same seed; scheme defaults to `schemes.noise()`.

    Its sources are `datasets.Banana` and `datasets.Ring`.
    """
    return _toy(scheme, hidden, seed, dimension=2, latents=2)


def toy_sawbridge(scheme: Scheme | None = None, hidden: int = 64, seed: int = 0, points: int = 256) -> ToyTransformCode:
    """An untrained code of one latent for `datasets.Sawbridge(points)`; otherwise as `toy_2d`.

    One number says all about a realization, though the realizations span every dimension (Wagner & Ballé 2021).
    """
    return _toy(scheme, hidden, seed, dimension=points, latents=1)

"""A transform code for points of the plane, small enough to draw (Ballé et al., Nonlinear Transform Coding, 2020)."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from labkit import entropy, schemes
from labkit.networks.codecs import _Codec
from labkit.schemes import Scheme


class ToyTransformCode(_Codec, nn.Module):
    """Analysis and synthesis transforms of two hidden layers, and a factorised entropy model over two latents.

    Takes (batch, 2); gives {"x_hat", "likelihoods": {"y"}}, as the image codecs do.
    """

    kind = "toy_2d"
    entropy_bottleneck: entropy.EntropyBottleneck

    def __init__(self, hidden: int = 64, scheme: Scheme | None = None):
        super().__init__()
        self.g_a = _transform(hidden)
        self.g_s = _transform(hidden)
        stage = self._equip("toy", scheme)
        self.entropy_bottleneck = entropy.EntropyBottleneck(2, scheme=stage, main=True, init_scale=10)

    def forward(self, x: Tensor) -> dict[str, Tensor | dict[str, Tensor]]:
        y_hat, likelihood = self.entropy_bottleneck(self.g_a(x))
        return {"x_hat": self.g_s(y_hat), "likelihoods": {"y": likelihood}}

    @torch.no_grad()
    def symbols(self, x: Tensor) -> Tensor:
        """The integers that would be coded for points x of shape (n, 2): ⌊g_a(x) − median⌉, int64."""
        return torch.round(self.g_a(x) - self._medians()).long()

    @torch.no_grad()
    def cells(self, extent: tuple[float, float, float, float], resolution: int = 160) -> np.ndarray:
        """Which quantisation cell each point of a grid over (x0, x1, y0, y1) falls in.

        Returns int32 labels of shape (resolution, resolution), row 0 at y0; points with equal labels share a codeword.
        """
        x0, x1, y0, y1 = extent
        xs, ys = torch.linspace(x0, x1, resolution), torch.linspace(y0, y1, resolution)
        grid = torch.stack(torch.meshgrid(xs, ys, indexing="xy"), -1).reshape(-1, 2)
        _, label = torch.unique(self.symbols(grid), dim=0, return_inverse=True)
        return label.reshape(resolution, resolution).to(torch.int32).numpy()

    @torch.no_grad()
    def codewords(self, x: Tensor) -> tuple[np.ndarray, np.ndarray]:
        """The codewords that points x of shape (n, 2) are coded to, (k, 2), and the share that each serves, (k,)."""
        symbols, counts = torch.unique(self.symbols(x), dim=0, return_counts=True)
        points = self.g_s(symbols + self._medians())
        return points.numpy(), (counts / len(x)).float().numpy()

    def _medians(self) -> Tensor:
        return self.entropy_bottleneck._get_medians()[:, 0, 0].detach()


def _transform(hidden: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(2, hidden), nn.Softplus(), nn.Linear(hidden, hidden), nn.Softplus(), nn.Linear(hidden, 2)
    )


def toy_2d(scheme: Scheme | None = None, hidden: int = 64, seed: int = 0) -> ToyTransformCode:
    """An untrained 2-D transform code, the same for the same seed; scheme defaults to `schemes.noise()`."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return ToyTransformCode(hidden, scheme or schemes.noise())

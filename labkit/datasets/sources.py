"""Toy sources of random points, for training transform codes."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor


class Banana:
    """The "banana" source; see `banana`."""

    def draw(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        """Draw n points, float32 of shape (n, 2)."""
        return banana(n, generator)


def banana(n: int, generator: torch.Generator | None = None) -> Tensor:
    """Draw points of the two-dimensional "banana" source (Ballé et al. 2020, https://arxiv.org/abs/2007.03034, fig. 2).

    The source is a Gaussian with standard deviations 3 and ½, bent by a parabola, rotated by 240° and shifted. The
    constants are those of the authors' code.

    Args:
        n: Number of points.
        generator: Source of randomness; PyTorch's default generator by default.

    Returns:
        float32 points of shape (n, 2).

    >>> import labkit as lk
    >>> lk.datasets.banana(5).shape
    torch.Size([5, 2])
    """
    a, b = (torch.randn(2, n, generator=generator) * torch.tensor([[3.0], [0.5]])).unbind()
    b = b - 0.1 * a * a
    angle = math.radians(240)
    x = math.cos(angle) * a + math.sin(angle) * b - 1
    y = -math.sin(angle) * a + math.cos(angle) * b - 1
    return torch.stack([x, y], dim=1)


@dataclass(frozen=True)
class Gaussian:
    """A Gaussian source with mean 0.

    Attributes:
        variance: Variance of the numbers.
    """

    variance: float = 1.0

    def draw(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        """Draw n numbers, float32 of shape (n, 1)."""
        return math.sqrt(self.variance) * torch.randn(n, 1, generator=generator)


@dataclass(frozen=True)
class Laplacian:
    """A Laplacian source with mean 0.

    Attributes:
        variance: Variance of the numbers.
    """

    variance: float = 1.0

    def draw(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        """Draw n numbers, float32 of shape (n, 1)."""
        first, second = -torch.log1p(-torch.rand(2, n, 1, generator=generator))  # exponential
        draws: Tensor = math.sqrt(self.variance / 2) * (first - second)
        return draws


@dataclass(frozen=True)
class Ring:
    """A noisy circle in the plane, with a uniform angle and a Gaussian radius.

    Two latents describe a point, as for the banana. However, no continuous transform unrolls a ring, so a code either
    cuts it somewhere or uses both latents to go around it.

    Attributes:
        radius: Mean radius.
        noise: Standard deviation of the radius.
    """

    radius: float = 3.0
    noise: float = 0.3

    def draw(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        """Draw n points, float32 of shape (n, 2)."""
        angle = 2 * math.pi * torch.rand(n, generator=generator)
        radius = self.radius + self.noise * torch.randn(n, generator=generator)
        return torch.stack([radius * torch.cos(angle), radius * torch.sin(angle)], dim=1)


@dataclass(frozen=True)
class Sawbridge:
    """The sawbridge X(t) = t − 1(t ≥ U), sampled at the times t = (k + ½)/points, where U is uniform on [0, 1].

    The squared distance of two realizations is `points` times the integral over t, which is the distortion of Wagner &
    Ballé (2021, https://arxiv.org/abs/2011.05065). Their λ corresponds to λ/points here. They prove that H bits leave
    an error of at least 2^(−H)/6. If 2^H is an integer, 2^H equal intervals of U reach this limit.

    Attributes:
        points: Number of samples per realization.
    """

    points: int = 256

    def draw(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        """Draw n realizations, float32 of shape (n, points)."""
        return self.realize(torch.rand(n, generator=generator))

    def realize(self, u: Tensor) -> Tensor:
        """Return the realizations for given values of U.

        Args:
            u: Values in [0, 1] of shape (n,).

        Returns:
            float32 realizations of shape (n, points).
        """
        t = (torch.arange(self.points) + 0.5) / self.points
        return t - (t >= u[:, None]).float()

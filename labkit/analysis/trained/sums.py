"""Sums in float64: outputs of a network, and the mean and variance of many long vectors without storing them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def in_double(output: dict[str, Any]) -> dict[str, Any]:
    """Return a network's output in float64, because sums over many latents lose small differences in float32."""
    likelihoods = {name: likelihood.double() for name, likelihood in output["likelihoods"].items()}
    return {"x_hat": output["x_hat"].double(), "likelihoods": likelihoods}


class Welford:
    """Running mean of vectors and running trace of their sample covariance, in float64 (Welford, 1962).

    Attributes:
        count: Number of vectors.
        mean: (n,) mean of the vectors.
    """

    def __init__(self) -> None:
        self.count = 0
        self.mean: Tensor = torch.zeros((), dtype=torch.float64)
        self._squares = 0.0

    def add(self, vector: Tensor) -> None:
        """Add an (n,) vector."""
        self.count += 1
        if self.count == 1:
            self.mean = vector.double().clone()
            return
        off = vector - self.mean
        self.mean += off / self.count
        self._squares += float(off @ (vector - self.mean))

    @property
    def variance(self) -> float:
        """Trace of the sample covariance."""
        return self._squares / (self.count - 1)

"""Sums in float64: outputs of a network, and the mean and variance of a stream of long vectors."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def in_double(output: dict[str, Any]) -> dict[str, Any]:
    """Return a network's output in float64, since sums over many latents lose small differences in float32."""
    likelihoods = {name: likelihood.double() for name, likelihood in output["likelihoods"].items()}
    return {"x_hat": output["x_hat"].double(), "likelihoods": likelihoods}


class Welford:
    """Mean of vectors and trace of their sample covariance, one at a time, in float64."""

    def __init__(self) -> None:
        self.count, self.squares = 0, 0.0
        self.mean: Tensor = torch.zeros((), dtype=torch.float64)

    def add(self, vector: Tensor) -> None:
        self.count += 1
        if self.count == 1:
            self.mean = vector.double().clone()
            return
        off = vector - self.mean
        self.mean += off / self.count
        self.squares += float(off @ (vector - self.mean))

    @property
    def variance(self) -> float:
        return self.squares / (self.count - 1)

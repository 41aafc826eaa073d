"""Mean and variance of many long vectors, without keeping them."""

from __future__ import annotations

import torch
from torch import Tensor


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

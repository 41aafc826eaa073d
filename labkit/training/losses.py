"""The rate–distortion loss on CompressAI's scale."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor


class Loss(NamedTuple):
    """A rate–distortion loss with its two terms, each a 0-d tensor.

    Attributes:
        total: rate + λ · distortion.
        rate: Bits per pixel for images, bits per point for points.
        distortion: 255² · MSE for images, mean squared distance for points.
    """

    total: Tensor
    rate: Tensor
    distortion: Tensor

    def __repr__(self) -> str:
        return f"Loss(total={self.total:.4g}, rate={self.rate:.4g}, distortion={self.distortion:.4g})"


def rate_distortion(output: dict[str, Any], x: Tensor, lmbda: float | Tensor) -> Loss:
    """Return the rate plus λ times the distortion of a network's output.

    In training mode, the likelihoods are those of the rate path's surrogate. In evaluation mode, they are those of the
    rounded latents.

    Args:
        output: Output of the network for `x`: a dictionary with `x_hat` and `likelihoods`, as in CompressAI.
        x: Images of shape (batch, 3, H, W) with values in [0, 1], or points of shape (batch, d).
        lmbda: Weight of the distortion.

    >>> import torch, labkit as lk
    >>> output = {"x_hat": torch.zeros(2, 2), "likelihoods": {"y": torch.full((2, 3), 0.5)}}
    >>> lk.training.rate_distortion(output, torch.ones(2, 2), lmbda=10.0)
    Loss(total=23, rate=3, distortion=2)
    """
    image = x.dim() == 4
    sources = x.numel() // x.size(1)  # pixels or points
    bits = torch.stack([torch.log(p).sum() for p in output["likelihoods"].values()]).sum() / -math.log(2)
    mean_squared_error = torch.mean((output["x_hat"].to(x.dtype) - x) ** 2)
    distortion = mean_squared_error * (255**2 if image else x.size(1))
    rate = bits / sources
    return Loss(rate + lmbda * distortion, rate, distortion)

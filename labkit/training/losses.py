"""The rate–distortion loss, in CompressAI's scale."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor


class Loss(NamedTuple):
    """total = rate + λ · distortion, each a 0-d tensor."""

    total: Tensor
    rate: Tensor
    distortion: Tensor


def rate_distortion(output: dict, x: Tensor, lmbda: float | Tensor) -> Loss:
    """Rate plus λ times distortion of a network's output for the input x.

    Images (batch, 3, H, W) in [0, 1]: bits per pixel and 255² · MSE. Points (batch, d): bits per point and the squared
    distance. The likelihoods are those of the rate path in training, and of the rounded latents in evaluation.
    """
    image = x.dim() == 4
    sources = x.numel() // x.size(1)  # pixels, or points
    bits = torch.stack([torch.log(p).sum() for p in output["likelihoods"].values()]).sum() / -math.log(2)
    mean_squared_error = torch.mean((output["x_hat"].to(x.dtype) - x) ** 2)
    distortion = mean_squared_error * (255**2 if image else x.size(1))
    rate = bits / sources
    return Loss(rate + lmbda * distortion, rate, distortion)

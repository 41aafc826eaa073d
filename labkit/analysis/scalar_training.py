"""Scalar codes of a Laplacian source that are trained at once, each as if it were alone.

The code is the smallest one with a rate–distortion loss. It has one latent and three parameters:

    x ~ Laplace(0, 1) ─► y = gain · x ─► ỹ ─┬─ bits under N(0, scale²), integrated over a bin
                                            └─ x̂ = step · ỹ ─► λ (x̂ − x)²

A row of codes has one surrogate, one temperature schedule, and several seeds. All rows and seeds are one tensor and see
the same samples and the same noise, so differences between two rows are not due to chance.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from labkit import schedules
from labkit.analysis import sources
from labkit.analysis.code import ScalarCode, exact_gradient, gaussian_bits
from labkit.analysis.reference_codes import Quantizer, scalar_quantizer
from labkit.schedules import Schedule
from labkit.schemes import QuantizationScheme
from labkit.surrogates import SoftRounding, Surrogate

BATCH_SIZE = 64
_LEARNING_RATE = schedules.cosine(2e-2, 4e-4)
_SYMBOLS = torch.arange(-40, 41, dtype=torch.float64)  # all symbols of a code whose gain is below 4
_POINTS = 1 << 15  # number of points in the lattice over source and noise
_GOLDEN = (math.sqrt(5) - 1) / 2

Row = tuple[Surrogate, Schedule]


class Codes(NamedTuple):
    """Parameters of any number of codes, as tensors of one shape.

    Attributes:
        gain: Gain of the encoder.
        step: Step of the decoder.
        scale: Scale σ of the entropy model.
    """

    gain: Tensor
    step: Tensor
    scale: Tensor


def rounded_loss(codes: Codes, lmbda: float) -> Tensor:
    """Return the exact loss E[bits + λ (x̂ − x)²] with real rounding.

    The loss is a sum over integers of the source's moments in each quantization cell.

    Args:
        codes: Parameters of the codes.
        lmbda: Weight λ of the distortion.

    Returns:
        Losses in float64, with the same shape as the parameters.
    """
    gain, step, scale = (parameter.detach().double()[..., None] for parameter in codes)
    edges = torch.cat([_SYMBOLS - 0.5, _SYMBOLS[-1:] + 0.5]) / gain
    # Laplace(0, 1) has the density exp(−|x|/b)/(2b) with b = 1/√2; E[x; x < t] = −(|t| + b) exp(−|t|/b)/2
    b = math.sqrt(0.5)
    tail = torch.exp(-edges.abs() / b) / 2
    mass = torch.where(edges < 0, tail, 1 - tail).diff(dim=-1)
    moment = (-tail * (edges.abs() + b)).diff(dim=-1)
    rate = (mass * gaussian_bits(_SYMBOLS, torch.zeros_like(scale), scale)).sum(-1)
    distortion = 1 + (mass * (step * _SYMBOLS) ** 2 - 2 * step * _SYMBOLS * moment).sum(-1)
    return rate + lmbda * distortion


def best_code(lmbda: float) -> tuple[Codes, float]:
    """Return the code with the lowest rounded loss, and this loss, by a grid search on ever finer grids.

    Args:
        lmbda: Weight λ of the distortion.
    """
    low, high = torch.full((3,), math.log(0.05)).double(), torch.log(torch.tensor([4.0, 20.0, 4.0]).double())
    for _ in range(22):
        axes = [torch.linspace(a, b, 9).double() for a, b in zip(low, high, strict=True)]
        grid = torch.meshgrid(*axes, indexing="ij")
        codes = Codes(*(torch.exp(logs.reshape(-1)) for logs in grid))
        loss = rounded_loss(codes, lmbda)
        at = int(loss.argmin())
        best = torch.stack([parameter[at].log() for parameter in codes])
        reach = (high - low) / 4
        low, high = best - reach, best + reach
    return Codes(*best.exp()), float(loss[at])


@functools.cache
def best_quantizer(lmbda: float) -> Quantizer:
    """Return the best entropy-coded scalar quantizer of the source, which no such code can surpass.

    Args:
        lmbda: Weight λ of the distortion.
    """
    return scalar_quantizer(sources.laplace(), lmbda)


def train_codes(
    rows: Sequence[Row], lmbda: float, *, steps: int, seeds: int, batch_size: int = BATCH_SIZE, seed: int = 0
) -> Iterator[Codes]:
    """Train all rows of codes at once with Adam.

    Every code starts with a gain, a step and a σ of 1. The loss is a sum over codes, and Adam treats each parameter
    separately, so each code is trained as if it were alone.

    Args:
        rows: Surrogate and temperature schedule of each row.
        lmbda: Weight λ of the distortion.
        steps: Number of optimizer steps.
        seeds: Number of codes per row, each with its own samples.
        batch_size: Number of samples per step and code.
        seed: Seed of the samples and the noise.

    Yields:
        The codes after each step, of shape (rows, seeds).
    """
    order = sorted(range(len(rows)), key=lambda i: str(rows[i][0]))  # rows with the same surrogate become neighbors
    back = torch.tensor(order).argsort()
    groups = [[i for i in order if rows[i][0] == surrogate] for surrogate in dict.fromkeys(rows[i][0] for i in order)]
    theta = torch.zeros(3, len(rows), seeds, 1, requires_grad=True)
    adam = torch.optim.Adam([theta])
    generator = torch.Generator().manual_seed(seed)
    for step in range(steps):
        adam.param_groups[0]["lr"] = _LEARNING_RATE(step, steps)
        x = _laplace(torch.rand(seeds, batch_size, generator=generator))
        v = torch.rand(seeds, batch_size, generator=generator)
        codes = Codes(*theta.exp())
        latents = (codes.gain * x).split([len(group) for group in groups])
        quantized = []
        for group, y in zip(groups, latents, strict=True):
            tau = torch.tensor([rows[i][1](step, steps) for i in group]).view(-1, 1, 1)
            quantized.append(rows[group[0]][0](y, tau, noise=v.expand_as(y)))
        y_tilde = torch.cat(quantized)
        loss = _training_bits(y_tilde, codes.scale) + lmbda * (codes.step * y_tilde - x) ** 2
        adam.zero_grad()
        loss.mean(-1).sum().backward()
        adam.step()
        yield Codes(*(parameter.detach().exp()[back, :, 0] for parameter in theta))


def mismatch_and_risk(
    surrogate: Surrogate, temperature: float, codes: Codes, lmbda: float, batch_size: int = BATCH_SIZE
) -> tuple[float, float]:
    """Return the mismatch of the loss and the gradient risk for the gain, for one code.

    Both are computed on a lattice of 32,768 points over source and noise and are accurate to a few percent. Below
    τ = 0.1, the variance of soft rounding comes from rarer samples, which training never sees; the risk is NaN there.

    Args:
        surrogate: Surrogate on both paths.
        temperature: Temperature τ of the surrogate.
        codes: Parameters of one code.
        lmbda: Weight λ of the distortion.
        batch_size: Number of samples n in bias² + variance/n.
    """
    code = ScalarCode(sources.laplace(), float(codes.gain), lmbda, scale=float(codes.scale), step=float(codes.step))
    i = torch.arange(_POINTS, dtype=torch.float64)
    x, v = _laplace((i + 0.5) / _POINTS).numpy(), i * _GOLDEN % 1
    scheme = QuantizationScheme(rate=surrogate, distortion=surrogate)
    rate, distortion, gradient = code.training_losses(scheme, x, (v, v), temperature, "gain")
    test_rate, test_distortion, _ = code.test_losses(x)
    mismatch = np.mean(rate - test_rate + lmbda * (distortion - test_distortion))
    bias = gradient.mean() - exact_gradient(code, "gain")
    resolved = not isinstance(surrogate, SoftRounding) or temperature >= 0.1
    return float(mismatch), float(bias**2 + gradient.var() / batch_size) if resolved else math.nan


def _laplace(v: Tensor) -> Tensor:
    """Map uniform samples on [0, 1) to Laplacian samples of mean 0 and standard deviation 1."""
    centered = v - 0.5
    return -centered.sign() * torch.log1p(-2 * centered.abs()) * math.sqrt(0.5)


def _training_bits(y: Tensor, scale: Tensor) -> Tensor:
    """Compute `gaussian_bits` around 0 in float32, for up to 120 bits, in a third of the time."""
    distance, unit = y.abs(), scale * math.sqrt(2)
    mass = torch.erfc((distance - 0.5) / unit) - torch.erfc((distance + 0.5) / unit)
    return 1 - torch.log2(mass.clamp_min(1e-36))

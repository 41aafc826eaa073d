"""Codes that learn their mean μ from side information, and the gradient with respect to μ in a fixed code.

The distortion path uses the surrogate under study, and the rate path uses additive noise. There are three ways to
quantize (`WAYS`): y itself, y − μ, and y − μ with the partial stop-gradient.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from compressai.ops import LowerBound
from torch import Tensor

from labkit.analysis import sources
from labkit.analysis.code import ScalarCode, exact_gradient, gaussian_bits
from labkit.schemes import Noise, QuantizationScheme
from labkit.statistics import Array
from labkit.surrogates import Surrogate

WAYS = {"y": (False, False), "y − μ": (True, False), "y − μ, stop": (True, True)}  # zero_center, stop_gradient
PATHS = ("rate", "λ · distortion", "both")
CODE = ScalarCode(sources.gaussian(), gain=0.5, mean=0.25)  # λ = 6; μ is a quarter of a bin away from the optimum

_DRAWS = 16384  # samples for the moments of the gradient
_TEST_SAMPLES, _TEST_EVERY = 1000, 10  # test latents per seed, and training steps between two tests
_BATCH_SIZE, _LEARNING_RATE = 128, 1e-2  # for training; the learning rate decays along a cosine
_QUIET_STD, _QUIET_SHARE = 0.1, 0.7  # spread of most samples around the value that c determines; the others spread by 1


def schemes_of_ways(surrogate: Surrogate) -> list[QuantizationScheme]:
    """Return one scheme for each of `WAYS`: the surrogate on the distortion path, additive noise on the rate path.

    Args:
        surrogate: Surrogate on the distortion path.
    """
    return [
        QuantizationScheme(distortion=surrogate, zero_center=zero_center, stop_gradient=stop_gradient)
        for zero_center, stop_gradient in WAYS.values()
    ]


def exact_gradients() -> Array:
    """Return the gradient of the test loss of `CODE` with respect to μ, (3,) for the paths in `PATHS`."""
    both = exact_gradient(CODE, "mean")
    rate = exact_gradient(replace(CODE, lmbda=0.0), "mean")
    return np.array([rate, both - rate, both])


def gradient_moments(schemes: Sequence[QuantizationScheme], temperature: float, seed: int = 0) -> Array:
    """Return the mean and variance of one latent's gradient with respect to μ in `CODE`, over samples and noise.

    Args:
        schemes: Training schemes; all of them see the same samples and noise.
        temperature: Temperature τ of the surrogates.
        seed: Seed of the samples and the noise.

    Returns:
        Moments in float64, of shape (schemes, 3, 2): the paths in `PATHS`, and mean and variance.
    """
    uniform = torch.rand(_DRAWS, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    x = np.asarray(CODE.source.ppf(uniform.numpy().clip(1e-12)))
    noise = schemes[0].draw(torch.as_tensor(x), torch.Generator().manual_seed(seed + 1))
    moments = np.zeros((len(schemes), len(PATHS), 2))
    for i, scheme in enumerate(schemes):
        rate, distortion = (
            CODE.training_losses(scheme, x, noise, temperature, "mean", (path,))[2] for path in ("rate", "distortion")
        )
        for j, values in enumerate((rate, distortion, rate + distortion)):
            moments[i, j] = values.mean(), values.var(ddof=1)
    return moments


@dataclass(frozen=True, repr=False)
class Curves:
    """Loss curves of codes in training.

    Attributes:
        step: Current training step, counted from 1.
        steps: (tests,) steps at which the codes were tested.
        test: (schemes, seeds, tests) test losses with real rounding.
        mismatch: (schemes, seeds, tests) λ times the difference of the distortions in training and at test.
    """

    step: int
    steps: Array
    test: Array
    mismatch: Array

    def __repr__(self) -> str:
        schemes, seeds, _ = self.test.shape
        return f"Curves({schemes} schemes × {seeds} seeds at step {self.step})"


def train_codes(
    schemes: Sequence[QuantizationScheme], temperature: float, lmbda: float, steps: int, seeds: int, seed: int = 0
) -> Iterator[Curves]:
    """Train codes whose μ and σ are the outputs of a small network, one per scheme and seed, all at once.

        x = 2 sin(1.5 c₀) + c₁ + noise of a scale given by c₂ ─► y = gain · x ─► ỹ ─► x̂ = step · ỹ
                                                 c ─► 16 tanh units ─► μ, log σ

    All schemes have the same initial weights, samples and noise.

    Args:
        schemes: Schemes of the training.
        temperature: Temperature τ of the surrogates.
        lmbda: Weight λ of the distortion.
        steps: Number of optimizer steps.
        seeds: Number of codes per scheme.
        seed: Seed of the weights, the samples and the noise.

    Yields:
        The curves after each step.
    """
    generator = torch.Generator().manual_seed(seed)
    weights = _initial_weights(len(schemes), seeds, generator)
    optimizer = torch.optim.Adam(weights.values(), lr=_LEARNING_RATE)
    bound = LowerBound(schemes[0].scale_lower_bound)
    held_out = torch.Generator().manual_seed(seed + 1_000_000)
    c_test, x_test = _samples(seeds, _TEST_SAMPLES, held_out)
    noise_test = schemes[0].draw(x_test, held_out)
    tested, test, mismatch = [], [], []
    for step in range(1, steps + 1):
        c, x = _samples(seeds, _BATCH_SIZE, generator)
        rate, distortion = _losses(weights, bound, c, x, schemes, temperature, schemes[0].draw(x, generator))
        optimizer.param_groups[0]["lr"] = 0.5 * _LEARNING_RATE * (1 + math.cos(math.pi * (step - 1) / steps))
        optimizer.zero_grad()
        (rate + lmbda * distortion).sum().backward()
        optimizer.step()
        if step % _TEST_EVERY == 0 or step in (1, steps):
            with torch.no_grad():
                test_rate, test_distortion = _losses(weights, bound, c_test, x_test)
                _, training_distortion = _losses(weights, bound, c_test, x_test, schemes, temperature, noise_test)
            tested.append(step)
            test.append((test_rate + lmbda * test_distortion).numpy())
            mismatch.append((lmbda * (training_distortion - test_distortion)).numpy())
        yield Curves(step, np.array(tested), np.stack(test, -1), np.stack(mismatch, -1))


def _initial_weights(schemes: int, seeds: int, generator: torch.Generator) -> dict[str, Tensor]:
    """Return weights of shape (scheme, seed, …), which are the same for every scheme."""

    def normal(scale: float, *shape: int) -> Tensor:
        return scale * torch.randn(1, seeds, *shape, generator=generator)

    weights = {
        "in": normal(3**-0.5, 3, 16),
        "in_bias": torch.zeros(1, seeds, 1, 16),
        "out": normal(0.1, 16, 2),
        "out_bias": torch.zeros(1, seeds, 1, 2),
        "log_gain": torch.zeros(1, seeds, 1, 1),
        "log_step": torch.zeros(1, seeds, 1, 1),
    }
    return {name: value.repeat(schemes, 1, 1, 1).requires_grad_() for name, value in weights.items()}


def _samples(seeds: int, n: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Return side information c of shape (seed, n, 3) and samples x of shape (seed, n, 1)."""
    c = torch.randn(seeds, n, 3, generator=generator)
    quiet = torch.rand(seeds, n, generator=generator) < _QUIET_SHARE
    c[..., 2] = torch.where(quiet, -1.0, 1.0)
    scale = torch.where(quiet, _QUIET_STD, 1.0)
    x = 2 * torch.sin(1.5 * c[..., 0]) + c[..., 1] + scale * torch.randn(seeds, n, generator=generator)
    return c, x[..., None]


def _losses(
    weights: dict[str, Tensor],
    bound: LowerBound,
    c: Tensor,
    x: Tensor,
    schemes: Sequence[QuantizationScheme] | None = None,
    temperature: float = 1.0,
    noise: Noise = (None, None),
) -> tuple[Tensor, Tensor]:
    """Return rate and squared error, (scheme, seed): in training with each scheme, or with real rounding if None."""
    out = torch.tanh(c @ weights["in"] + weights["in_bias"]) @ weights["out"] + weights["out_bias"]
    mean, scale = out[..., :1], bound(out[..., 1:].exp())
    y = weights["log_gain"].exp() * x
    if schemes is None:
        y_rate = y_distortion = torch.round(y - mean) + mean
    else:
        pairs = [scheme.quantize(y[i], mean[i], temperature, noise=noise) for i, scheme in enumerate(schemes)]
        y_rate, y_distortion = (torch.stack(latents) for latents in zip(*pairs, strict=True))
    rate = gaussian_bits(y_rate, mean, scale)
    return rate.mean((2, 3)), (weights["log_step"].exp() * y_distortion - x).square().mean((2, 3))

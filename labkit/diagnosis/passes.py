"""The results of a codec for one image: in training, with rounding, and in the coder."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from compressai.entropy_models import GaussianConditional
from torch import Tensor, nn

from labkit import fixed_point
from labkit.evaluation import bitstream

Bits = dict[str, Tensor]  # bits of each element, for each latent by name


@dataclass(frozen=True)
class Scales:
    """The latents that a Gaussian entropy model scores in one call.

    Attributes:
        at_bound: Which latents have a σ of at most the lower bound.
        bits: Bits of each latent.
    """

    at_bound: Tensor
    bits: Tensor


@dataclass(frozen=True)
class Forward:
    """A forward pass.

    Attributes:
        bits: Bits of each element of each latent.
        mse: Mean squared error of the reconstruction, in units of 255².
        scales: Calls of Gaussian entropy models.
    """

    bits: Bits
    mse: float
    scales: list[Scales]

    @property
    def rate(self) -> float:
        """Bits of all latents."""
        return float(sum(each.sum() for each in self.bits.values()))


@dataclass(frozen=True)
class Coding:
    """An image coded to real bytes.

    Attributes:
        coded: Result of `compress`.
        symbols: Symbols that the entropy models coded.
        mse: Mean squared error of the decoded image, in units of 255²; NaN if it cannot be decoded.
        latents: Input of the synthesis transform when the image is decoded; None if it cannot be decoded.
    """

    coded: dict[str, Any]
    symbols: list[bitstream.Symbols]
    mse: float
    latents: Tensor | None

    @property
    def bytes(self) -> int:
        """Number of bytes of all strings."""
        return sum(len(string) for group in self.coded["strings"] for string in group)

    @property
    def estimate(self) -> float:
        """Bits of the coded symbols according to the model's likelihoods."""
        return float(sum(each.bits.sum() for each in self.symbols))


@dataclass
class ImagePass:
    """The results of a codec for one image.

    Attributes:
        name: Name of the image.
        pixels: Number of pixels, or of vectors, that the codec reads.
        training: Forward passes in training mode, one for each draw of the noise.
        rounded: Forward pass in evaluation mode.
        coding: The image in real bytes, or None if the model cannot code.
    """

    name: str
    pixels: int
    rounded: Forward
    training: list[Forward] = field(default_factory=list)
    coding: Coding | None = None


@torch.no_grad()
def forward(model: nn.Module, x: Tensor) -> Forward:
    """Run a model on an image in its current mode.

    Args:
        model: A CompressAI model.
        x: Image of shape (1, C, H, W) in [0, 1], or vectors of shape (batch, d).
    """
    with _scales(model) as scales:
        output = model(x)
    bits = {name: -torch.log2(value.double()) for name, value in output["likelihoods"].items()}
    return Forward(bits, _mse(output["x_hat"], x), scales)


@torch.no_grad()
def code(model: Any, x: Tensor) -> Coding:
    """Code an image to real bytes and decode it.

    Args:
        model: A CompressAI model with coder tables.
        x: Image of shape (1, C, H, W) in [0, 1].
    """
    with bitstream.recorded(model) as recording:
        coded = fixed_point.compress(model, x)
    x_hat, latents = decode(model, coded)
    mse = float("nan") if x_hat is None else _mse(x_hat, x.clamp(0, 1))
    return Coding(coded, list(recording.calls()), mse, latents)


@torch.no_grad()
def decode(model: Any, coded: dict[str, Any]) -> tuple[Tensor | None, Tensor | None]:
    """Decode the result of `compress`.

    Args:
        model: A CompressAI model with coder tables.
        coded: Result of `compress`.

    Returns:
        The image, and the input of the synthesis transform; None and None if the strings cannot be decoded.
    """
    given: list[Tensor] = []
    synthesis = getattr(model, "g_s", None)
    hook = synthesis.register_forward_pre_hook(lambda _, x: given.append(x[0])) if synthesis is not None else None
    try:
        x_hat = fixed_point.decompress(model, coded)
    except Exception:  # strings that do not match the tables may raise anything; `not_reproducible` reports it
        return None, None
    finally:
        if hook:
            hook.remove()
    return x_hat, given[0] if given else 255 * x_hat


def _mse(x_hat: Tensor, x: Tensor) -> float:
    return float(255**2 * torch.mean((x_hat.double().clamp(0, 1) - x.double()) ** 2))


@contextmanager
def _scales(model: nn.Module) -> Iterator[list[Scales]]:
    """Collect the calls of the Gaussian entropy models inside the block."""
    calls: list[Scales] = []

    def collect(module: Any, inputs: tuple[Any, ...], options: dict[str, Any], output: Any) -> None:
        sigma = inputs[1] if len(inputs) > 1 else options["scales"]
        bits = -torch.log2(output[1].double())
        at_bound = (sigma <= module.lower_bound_scale.bound).expand_as(bits)
        calls.append(Scales(at_bound, bits))

    models = [module for module in model.modules() if isinstance(module, GaussianConditional)]
    hooks = [module.register_forward_hook(collect, with_kwargs=True) for module in models]
    try:
        yield calls
    finally:
        for hook in hooks:
            hook.remove()

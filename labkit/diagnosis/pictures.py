"""Data for a codec's pictures: learned densities next to the latents, and maps of μ, σ and bits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from compressai.entropy_models import EntropyBottleneck, GaussianConditional
from torch import Tensor, nn

from labkit.analysis.trained.images import network_input
from labkit.datasets import PhotoSet
from labkit.state_guard import device_of, preserved_state
from labkit.statistics import Array


@dataclass(frozen=True, repr=False)
class Density:
    """A channel of an entropy bottleneck: how often each rounded latent occurs, and how often the model expects it.

    Attributes:
        name: Name of the entropy bottleneck.
        channel: Index of the channel.
        values: Rounded latents, in steps from the median.
        shares: Share of the latents with each value.
        probabilities: Probability of each value according to the learned density.
    """

    name: str
    channel: int
    values: Array
    shares: Array
    probabilities: Array

    def __repr__(self) -> str:
        return f"Density({self.name}, channel {self.channel}, {len(self.values)} values)"


@dataclass(frozen=True, repr=False)
class LatentMaps:
    """Maps of one image in the Gaussian entropy model.

    Attributes:
        image: The image, of shape (C, H, W).
        channel: Index of the channel with the most bits, which `mean` and `scale` show.
        mean: Map of μ, of shape (height, width).
        scale: Map of σ, with its lower bound applied.
        bits: Map of the bits of all channels.
    """

    image: Tensor
    channel: int
    mean: Array
    scale: Array
    bits: Array

    def __repr__(self) -> str:
        return f"LatentMaps({self.bits.shape[1]}×{self.bits.shape[0]} positions, channel {self.channel})"


@torch.no_grad()
def densities(model: nn.Module, images: PhotoSet | Sequence[Tensor], channels: int = 4) -> list[Density]:
    """Compare the learned densities of a model's first entropy bottleneck with its rounded latents.

    Args:
        model: Any model with an entropy bottleneck of CompressAI.
        images: Images or vectors, as for `diagnose`.
        channels: Number of channels to return; those that need the most bits are chosen.
    """
    found = next(((n, m) for n, m in model.named_modules() if isinstance(m, EntropyBottleneck)), None)
    if found is None:
        return []
    name, bottleneck = found
    inputs: list[Tensor] = []
    _listen(model, bottleneck, images, lambda args, _: inputs.append(args[0].transpose(0, 1).flatten(1)))
    medians = bottleneck.quantiles[:, 0, 1:2].detach()
    symbols = torch.round(torch.cat(inputs, 1) - medians)
    _, likelihoods = bottleneck((symbols + medians)[None], training=False)
    ranking = (-torch.log2(likelihoods[0])).sum(1).argsort(descending=True)
    result = []
    for channel in ranking[:channels].tolist():
        low, high = (int(end) for end in symbols[channel].nan_to_num(0).clamp(-499, 499).aminmax())
        low, high = low - 1, high + 1
        values = torch.arange(low, high + 1, device=medians.device)
        grid = (values + medians).unsqueeze(0)  # values of all channels, in the shape that the model expects
        _, probabilities = bottleneck(grid, training=False)
        shares = torch.stack([(symbols[channel] == value).double().mean() for value in values])
        arrays = (each.cpu().numpy() for each in (values, shares, probabilities[0, channel]))
        result.append(Density(name, channel, *arrays))
    return result


@torch.no_grad()
def latent_maps(model: nn.Module, image: Tensor) -> LatentMaps | None:
    """Return maps of μ, σ and bits of one image; None if the model has no Gaussian entropy model.

    Args:
        model: Any image model with a Gaussian entropy model of CompressAI.
        image: Image of shape (C, H, W) in [0, 1].
    """
    gaussian = next((module for module in model.modules() if isinstance(module, GaussianConditional)), None)
    if gaussian is None or image.dim() != 3:
        return None
    calls: list[tuple[Tensor, Tensor, Tensor]] = []

    def collect(arguments: Any, output: Any) -> None:
        scales, means = arguments[1], arguments[2] if len(arguments) > 2 else None
        scales = gaussian.lower_bound_scale(scales).expand_as(output[1])
        calls.append((torch.zeros_like(scales) if means is None else means, scales, -torch.log2(output[1])))

    _listen(model, gaussian, [image], collect)
    means, scales, bits = calls[0]
    channel = int(bits.sum((0, 2, 3)).argmax())
    maps = (means[0, channel], scales[0, channel], bits[0].sum(0))
    return LatentMaps(image.cpu(), channel, *(each.cpu().numpy().astype(np.float32) for each in maps))


def _listen(model: nn.Module, module: nn.Module, images: Any, collect: Any) -> None:
    """Run a model in evaluation mode, and pass the arguments and the output of one of its modules to `collect`."""
    order = ("inputs", "scales", "means")
    hook = module.register_forward_hook(
        lambda _, args, options, output: collect([*args, *(options[k] for k in order if k in options)], output),
        with_kwargs=True,
    )
    try:
        with preserved_state(model):
            model.eval()
            for image in images:
                model(network_input(model, image).to(device_of(model)))
    finally:
        hook.remove()

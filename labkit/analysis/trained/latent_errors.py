"""Quantization errors of a network: the latents that its decoder reads minus those that its encoder produced."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from labkit import entropy
from labkit.statistics import Array
from labkit.training import rate_distortion


class LatentErrors(NamedTuple):
    """One forward pass of a network.

    Attributes:
        loss: Rate–distortion loss.
        errors: Latents that the decoder reads minus latents of the analysis transform, float32, one dimension.
        output: Reconstruction `x_hat` and likelihoods by name.
    """

    loss: float
    errors: Array
    output: dict[str, Tensor]


@torch.no_grad()
def latent_errors(model: Any, x: Tensor, *, lmbda: float, train: bool, seed: int = 0) -> LatentErrors:
    """Measure loss and quantization errors of a network with a scheme, in training or in evaluation mode.

    The network keeps its mode, its hooks and its noise generator.

    Args:
        model: Network that carries a scheme and has `g_a` and `g_s` as analysis and synthesis transforms.
        x: Images of shape (n, 3, H, W) in [0, 1].
        lmbda: Weight of the distortion, on CompressAI's scale.
        train: True uses the surrogates of the scheme, False uses rounding.
        seed: Seed for the noise of the surrogates.
    """
    mode, generator = model.training, entropy.carriers(model)[0].generator
    latents: dict[str, Tensor] = {}
    hooks = [
        model.g_a.register_forward_hook(lambda _module, _inputs, y: latents.update(y=y)),
        model.g_s.register_forward_pre_hook(lambda _module, inputs: latents.update(y_hat=inputs[0])),
    ]
    entropy.set_generator(model, torch.Generator().manual_seed(seed))
    try:
        output = model.train(train)(x)
    finally:
        entropy.set_generator(model, generator)
        model.train(mode)
        for hook in hooks:
            hook.remove()
    loss = float(rate_distortion(output, x, lmbda).total)
    errors = (latents["y_hat"] - latents["y"]).flatten().numpy()
    return LatentErrors(loss, errors, tensors_of(output))


def tensors_of(output: dict[str, Any]) -> dict[str, Tensor]:
    """Collect the reconstruction and the likelihoods of an output in one dictionary."""
    return {"x_hat": output["x_hat"], **output["likelihoods"]}

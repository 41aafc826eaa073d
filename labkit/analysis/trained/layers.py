"""The layers of a network, and the gradient of its training loss as one vector per layer."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from labkit.analysis.trained.sums import in_double
from labkit.training import rate_distortion


@dataclass
class Layer:
    """Parameters of one layer.

    Attributes:
        name: Path of the module, or the name of the top-level module.
        part: Name of the top-level module, such as "g_a".
        parameters: Parameters of the layer.
        masks: For each parameter, the mask by which a masked convolution multiplies it, or None.
    """

    name: str
    part: str
    parameters: list[nn.Parameter]
    masks: list[Tensor | None]

    @property
    def size(self) -> int:
        """Number of scalar parameters."""
        return sum(parameter.numel() for parameter in self.parameters)


def layers_of(net: nn.Module, by: str) -> list[Layer]:
    """Return the layers of a network, without quantiles and parameters that do not require a gradient.

    Args:
        net: Network.
        by: "layer" for one layer per module that owns parameters, "part" for one layer per top-level module.

    Raises:
        ValueError: If `by` is invalid, or if no parameter requires a gradient.
    """
    if by not in ("layer", "part"):
        raise ValueError(f'by must be "layer" or "part", got {by!r}')
    layers: dict[str, Layer] = {}
    seen: set[int] = set()
    for path, module in net.named_modules():
        # a list of parameters belongs to the module that contains it
        owner = path.rpartition(".")[0] if isinstance(module, nn.ParameterList | nn.ParameterDict) else path
        name = owner or type(net).__name__
        part = name.partition(".")[0]
        for key, parameter in module.named_parameters(recurse=False):
            if key == "quantiles" or not parameter.requires_grad or id(parameter) in seen:
                continue
            seen.add(id(parameter))
            key = part if by == "part" else name
            layer = layers.setdefault(key, Layer(key, part, [], []))
            layer.parameters.append(parameter)
            # masked convolutions multiply their weight outside of autograd, so masked weights receive a gradient, too
            mask = getattr(module, "mask", None)
            layer.masks.append(mask if isinstance(mask, Tensor) and mask.shape == parameter.shape else None)
    if not layers:
        raise ValueError("net must have a parameter that requires a gradient, got none")
    return list(layers.values())


def gradient_vectors(net: nn.Module, layers: list[Layer], x: Tensor, lmbda: float) -> list[Tensor]:
    """Return the gradient of the training loss as one float64 vector per layer, without changing `.grad`.

    Args:
        net: Network, which this function puts into training mode.
        layers: Layers of the network.
        x: Input batch of the network.
        lmbda: Weight λ of the distortion.
    """
    net.train()
    loss = rate_distortion(in_double(net(x)), x.double(), lmbda).total
    parameters = [parameter for layer in layers for parameter in layer.parameters]
    gradients = iter(torch.autograd.grad(loss, parameters, allow_unused=True))
    vectors = []
    for layer in layers:
        pieces = []
        for parameter, mask in zip(layer.parameters, layer.masks, strict=True):
            gradient = next(gradients)
            gradient = torch.zeros_like(parameter) if gradient is None else gradient
            pieces.append((gradient if mask is None else gradient * mask).flatten().double())
        vectors.append(torch.cat(pieces))
    return vectors

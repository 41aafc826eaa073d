"""Using a network temporarily: its state is restored afterwards, and its noise depends only on a seed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from labkit import entropy
from labkit.seeds import mix_seeds


@contextmanager
def preserved_state(net: nn.Module) -> Iterator[None]:
    """Restore the network and PyTorch's random state when the block ends, even if it raises.

    The network's state is its weights and their `requires_grad`, its buffers, its training flags and, for modules that
    carry a scheme, the scheme, the temperature and the source of noise. Even a forward pass can change it: masked
    convolutions write to their weights, and batch normalization writes to its buffers in training mode.

    Args:
        net: Network that the block uses.
    """
    modules = list(net.modules())
    flags = [module.training for module in modules]
    carriers = [(carrier, carrier.scheme, carrier.generator) for carrier in entropy.carriers(net)]
    weights = [(p, p.data, p.detach().clone(), p.requires_grad) for p in net.parameters()]
    buffers = [
        (module, dict(module._buffers), [(b, b.clone()) for b in module._buffers.values() if b is not None])
        for module in modules
    ]
    device = device_of(net)
    try:
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            yield
    finally:
        for module, flag in zip(modules, flags, strict=True):
            module.training = flag
        for carrier, scheme, generator in carriers:
            carrier.scheme, carrier.generator = scheme, generator
        with torch.no_grad():
            for parameter, data, value, trains in weights:
                parameter.data = data.copy_(value)
                parameter.requires_grad_(trains)
            for module, names, values in buffers:
                module._buffers.clear()
                module._buffers.update(names)
                for buffer, value in values:
                    buffer.copy_(value)


def device_of(net: nn.Module) -> torch.device:
    """Return the device of the network's first parameter."""
    return next(net.parameters()).device


def seed_noise(net: nn.Module, *numbers: int) -> None:
    """Seed the network's training noise and PyTorch's own generator.

    Two surrogates that draw the same number of values then see the same noise.

    Args:
        net: Network whose modules carry a scheme.
        *numbers: Non-negative integers, such as a seed, a batch and a draw. They alone determine the noise.
    """
    seed = mix_seeds(*numbers)
    device = device_of(net)
    entropy.set_generator(net, torch.Generator(device).manual_seed(seed))
    torch.default_generator.manual_seed(seed)  # an adopted model may draw from it, for example in dropout
    if device.type == "cuda":
        with torch.cuda.device(device):
            torch.cuda.manual_seed(seed)

"""A network lent out: everything of it is as before afterwards, and its noise is seeded."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import nn
from tqdm.auto import tqdm

from labkit import entropy


@contextmanager
def preserved_state(net: nn.Module) -> Iterator[None]:
    """Lend the network out: whatever happens inside, all of it is as before afterwards, torch's random state included.

    Scheme, temperature, noise source, scale bound, coder tables, training flags, weights, which of them train, buffers.
    Masked convolutions write to their weights in `forward`, and batch normalization to its buffers in training mode.
    """
    modules = list(net.modules())
    flags = [module.training for module in modules]
    carried = [(carrier, carrier.scheme, carrier.generator) for carrier in entropy.carriers(net)]
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
        for carrier, scheme, generator in carried:
            carrier.scheme, carrier.generator = scheme, generator
        with torch.no_grad():
            for parameter, data, value, trains in weights:
                parameter.data = data.copy_(value)
                parameter.requires_grad_(trains)
            for module, held, values in buffers:
                module._buffers.clear()
                module._buffers.update(held)
                for buffer, value in values:
                    buffer.copy_(value)


def device_of(net: nn.Module) -> torch.device:
    return next(net.parameters()).device


def mix_seeds(*numbers: int) -> int:
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0]) >> 1


def seed_noise(net: nn.Module, *numbers: int) -> None:
    """Noise that depends on these numbers alone: so each surrogate meets the same draw, where it takes as many."""
    seed = mix_seeds(*numbers)
    device = device_of(net)
    entropy.set_generator(net, torch.Generator(device).manual_seed(seed))
    torch.default_generator.manual_seed(seed)  # for whatever in an adopted model draws elsewhere, dropout for one
    if device.type == "cuda":
        with torch.cuda.device(device):
            torch.cuda.manual_seed(seed)


def progress_bar(total: int, unit: str, progress: bool | None) -> Any:
    return tqdm(total=total, unit=unit, disable=None if progress is None else not progress, leave=False)


def in_double(output: dict) -> dict:
    """The output in float64: sums over many latents lose the differences that are looked for in float32."""
    likelihoods = {name: likelihood.double() for name, likelihood in output["likelihoods"].items()}
    return {"x_hat": output["x_hat"].double(), "likelihoods": likelihoods}

"""The trained weights that come with labkit."""

from __future__ import annotations

import math
import re
from pathlib import Path

from labkit import paths
from labkit.networks.checkpoints import load_checkpoint
from labkit.networks.codecs import Codec


def _shipped(name: str) -> dict[float, Path]:
    found = {}
    for file in sorted((paths.data() / "weights").glob(f"{name}-tiny-*.safetensors")):
        if match := re.search(r"-tiny-([0-9.]+)\.safetensors$", file.name):
            found[float(match[1])] = file
    return found


def pretrained_lmbdas(name: str = "mean_scale_hyperprior") -> tuple[float, ...]:
    """The λ for which trained tiny weights are shipped, in order."""
    return tuple(sorted(_shipped(name)))


def pretrained(name: str = "mean_scale_hyperprior", lmbda: float = 0.0035) -> Codec:
    """The shipped tiny network whose λ is nearest on a logarithmic scale, in evaluation mode; `net.info` describes it.

    Raises ValueError where no weights of this network are shipped.
    """
    shipped = _shipped(name)
    if not shipped:
        raise ValueError(f"no trained weights of {name!r} are shipped: train some with `labkit train`")
    nearest = min(shipped, key=lambda shipped_lmbda: abs(math.log(shipped_lmbda / lmbda)))
    return load_checkpoint(shipped[nearest], network=name)[0]

"""Pretrained weights that are bundled with labkit."""

from __future__ import annotations

import math
import re
from pathlib import Path

from labkit import defaults, paths
from labkit.networks.checkpoints import load_checkpoint
from labkit.networks.zoo import Codec, canonical_name


def _bundled_files(name: str) -> dict[float, Path]:
    files = {}
    for file in sorted((paths.data() / "weights").glob(f"{name}-tiny-*.safetensors")):
        if match := re.search(r"-tiny-([0-9.]+)\.safetensors$", file.name):
            files[float(match[1])] = file
    return files


def pretrained_lmbdas(name: str = defaults.PRETRAINED) -> tuple[float, ...]:
    """Return the values of λ for which tiny pretrained weights are bundled, in ascending order.

    Args:
        name: Name of the architecture, of labkit or of CompressAI.
    """
    return tuple(sorted(_bundled_files(canonical_name(name))))


def pretrained(name: str = defaults.PRETRAINED, lmbda: float = defaults.PRETRAINED_LMBDA) -> Codec:
    """Load the tiny pretrained network trained for the λ closest to this one on a logarithmic scale.

    Args:
        name: Name of the architecture, of labkit or of CompressAI.
        lmbda: Weight of the distortion, on CompressAI's scale.

    Returns:
        The network in evaluation mode. `net.info` describes its training.

    Raises:
        ValueError: If no pretrained weights of this architecture are bundled.

    >>> import labkit as lk
    >>> lk.networks.pretrained("mean_scale_hyperprior", lmbda=0.02).info["lmbda"]
    0.025
    """
    files = _bundled_files(canonical_name(name))
    if not files:
        raise ValueError(f"no pretrained weights of {name!r} are bundled; train some with `labkit train`")
    nearest = min(files, key=lambda bundled: abs(math.log(bundled / lmbda)))
    return load_checkpoint(files[nearest], network=name)[0]

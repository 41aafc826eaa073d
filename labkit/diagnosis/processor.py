"""Decoding strings in a process that uses the instruction set of an old processor.

python -m labkit.diagnosis.processor FOLDER    # the command that `decode` runs
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from labkit import networks
from labkit.diagnosis import passes
from labkit.fixed_point import plain_class, portable

# PyTorch, oneDNN and MKL kernels that run on every 64-bit Intel or AMD processor since 2008
OLD = {"ATEN_CPU_CAPABILITY": "default", "ONEDNN_MAX_CPU_ISA": "SSE41", "MKL_CBWR": "COMPATIBLE"}

_KINDS = {
    "FactorizedPrior": "factorized_prior",
    "ScaleHyperprior": "scale_hyperprior",
    "MeanScaleHyperprior": "mean_scale_hyperprior",
    "JointAutoregressiveHierarchicalPriors": "joint_autoregressive",
    "Cheng2020Anchor": "cheng2020_anchor",
    "Cheng2020Attention": "cheng2020_attention",
    "Elic2022Official": "elic",
}


def kind_of(model: Any) -> str | None:
    """Return the name of the labkit network with the same architecture as a model, or None.

    Args:
        model: One of labkit's networks, or a model of CompressAI, adopted or not.
    """
    kind = getattr(model, "kind", None)
    if kind in networks.names():
        return str(kind)
    cls = plain_class(type(model))
    if cls.__module__.startswith("labkit.adoption"):
        cls = cls.__bases__[0]  # the class before adoption
    return _KINDS.get(cls.__name__) if cls.__module__.startswith("compressai.models") else None


def decode(model: Any, codings: list[dict[str, Any]]) -> list[Tensor | None] | None:
    """Decode strings in another process.

    Args:
        model: The model that coded the strings.
        codings: Results of `compress`, one for each image.

    Returns:
        The input of the synthesis transform for each image, or None for an image that cannot be decoded. None instead
        of the list if the model cannot be rebuilt from the name of its network and its weights.
    """
    kind = kind_of(model)
    if kind is None:
        return None
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        torch.save(model.state_dict(), folder / "weights.pth")
        task = {"kind": kind, "portable": bool(getattr(model, "portable", False)), "codings": codings}
        torch.save(task, folder / "task.pth")
        paths = os.pathsep.join(path for path in sys.path if path)
        environment = {**os.environ, **OLD, "OMP_NUM_THREADS": "1", "PYTHONPATH": paths}
        command = [sys.executable, "-W", "ignore", "-m", __name__, name]
        done = subprocess.run(command, env=environment, check=False, capture_output=True)
        return torch.load(folder / "latents.pth", weights_only=True) if done.returncode == 0 else None


def main(folder: Path) -> None:
    """Decode the strings in a folder that `decode` prepared."""
    task = torch.load(folder / "task.pth", weights_only=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # hides warnings about renamed keys
        net = networks.load_weights(task["kind"], folder / "weights.pth")
    portable(net, task["portable"])
    codings = [{**coded, "arithmetic": net.arithmetic} for coded in task["codings"]]
    torch.save([passes.decode(net, coded)[1] for coded in codings], folder / "latents.pth")


if __name__ == "__main__":
    main(Path(sys.argv[1]))

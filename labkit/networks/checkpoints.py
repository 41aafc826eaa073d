"""Networks on disk: safetensors files with a JSON description in the header."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import torch
from compressai.layers import MaskedConv2d
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from labkit import entropy, schemes
from labkit.checks import check_name
from labkit.disk import write_whole
from labkit.networks import zoo
from labkit.networks.zoo import Codec

FORMAT = "labkit-network-1"


def weights_hash(net: nn.Module) -> str:
    """Return the SHA-256 of a network's state dict, including the coder tables.

    The hash depends on every key, shape, type and value, but not on their order or on the file that holds them.
    Networks with equal hashes decode alike. Call `update` before, since the tables are missing otherwise. A masked
    convolution sets the weights under its mask to zero when it first runs, so the hash treats them as zero.

    Args:
        net: Any network.

    Returns:
        64 hexadecimal digits.
    """
    digest, state = hashlib.sha256(), net.state_dict()
    for path, module in net.named_modules():
        if isinstance(module, MaskedConv2d):
            state[f"{path}.weight"] = module.weight * module.mask
    for key, value in sorted(state.items()):
        digest.update(f"{key} {value.dtype} {tuple(value.shape)};".encode())
        copy = value.detach().cpu().clone(memory_format=torch.contiguous_format)  # NumPy pins the storage it reads
        digest.update(copy.numpy().tobytes())
    return digest.hexdigest()


def save_checkpoint(net: nn.Module, path: str | Path, **info: Any) -> None:
    """Write the weights and coder tables of a network.

    The file is written under a temporary name and then renamed, and missing folders are created.

    Args:
        net: Any model with CompressAI's keys. `load_checkpoint` rebuilds a codec of labkit; other models need
            `load_weights`.
        path: File to write.
        info: Further description, such as lmbda=0.0067. Values must be valid JSON.

    Raises:
        ValueError: If the file cannot be written.
    """
    path = Path(path)
    description = {**getattr(net, "info", {}), **info, "network": type(net).__name__}
    if isinstance(net, Codec):
        description |= {"network": net.kind, "size": net.size, "channels": [net.N, net.M]}
        description |= {"scheme": net.scheme.to_dict()}
    tensors = {key: value.detach().cpu().contiguous() for key, value in net.state_dict().items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, save(tensors, metadata={"format": FORMAT, "info": json.dumps(description)}))
    if isinstance(net, Codec):
        net.info = description


def read_info(path: str | Path) -> dict[str, Any]:
    """Return the description in a checkpoint without reading its weights.

    Raises:
        ValueError: If the file is missing, damaged or not written by labkit.
    """
    return _read(Path(path), tensors=False)[0]


def load_weights(net: nn.Module, path: str | Path) -> dict[str, Any]:
    """Load the weights and coder tables of a checkpoint into a network of the same architecture.

    Args:
        net: Network to change in place.
        path: Checkpoint written by `save_checkpoint`.

    Returns:
        The description in the checkpoint.

    Raises:
        ValueError: If the file is missing, damaged, not written by labkit, or does not fit the network.
    """
    info, tensors = _read(Path(path))
    _fill(net, tensors, path)
    return info


def load_checkpoint(path: str | Path, network: str | None = None) -> tuple[Codec, dict[str, Any]]:
    """Build the network of a checkpoint and load its weights.

    Args:
        path: Checkpoint written by `save_checkpoint`.
        network: Name of the architecture that the checkpoint must have, of labkit or of CompressAI; any by default.

    Returns:
        The network in evaluation mode, and the description in the checkpoint.

    Raises:
        ValueError: If the file is missing, damaged, not written by labkit, or holds another architecture.
    """
    info, tensors = _read(Path(path))
    kind = str(info.get("network"))
    if network is not None and kind != zoo.canonical_name(network):
        raise ValueError(f"{path} does not fit: it holds a {kind}, not a {network}")
    try:
        check_name("network", kind, zoo.names())
        scheme = schemes.from_dict(info["scheme"])
        net = zoo.build(kind, *info["channels"], size=info["size"], scheme=scheme)
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} does not fit: {_one_line(error)}") from None
    _fill(net, tensors, path)
    net.info = info
    return net.eval(), info


def _read(path: Path, tensors: bool = True) -> tuple[dict[str, Any], dict[str, Tensor]]:
    if not path.is_file():
        raise ValueError(f"{path}: there is no such checkpoint")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            state = {key: file.get_tensor(key) for key in file.keys()} if tensors else {}  # noqa: SIM118  (no mapping)
    except (SafetensorError, OSError, ValueError) as error:
        raise ValueError(f"{path} is damaged or not a safetensors file: {error}") from None
    if metadata.get("format") != FORMAT:
        raise ValueError(f"{path} is not a labkit checkpoint (format {metadata.get('format', 'not stated')!r})")
    try:
        info = json.loads(metadata["info"])
        return {**info}, state
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} does not fit: {_one_line(error)}") from None


def _fill(net: nn.Module, tensors: dict[str, Tensor], path: str | Path) -> None:
    if not all(torch.isfinite(tensor).all() for tensor in tensors.values()):
        raise ValueError(f"{path} holds values that are not finite")
    entropy.drop_tables(net)  # the tables of other weights may have another length
    try:
        net.load_state_dict(tensors)
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"{path} does not fit: {_one_line(error)}") from None


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]

"""Networks on disk: safetensors with a JSON description in the header."""

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
from labkit.networks.codecs import Codec

FORMAT = "labkit-network-1"


def weights_hash(net: nn.Module) -> str:
    """SHA-256 over a network's state dict, coder tables included, as 64 hexadecimal digits.

    Every key, shape, type and value counts, their order does not: a network that decodes as another does has its hash,
    in whatever file it lies. Call `update` first, or the tables are missing. Of a masked convolution, which zeroes the
    rest when it is first run, the weights under its mask count.
    """
    digest, state = hashlib.sha256(), net.state_dict()
    for path, module in net.named_modules():
        if isinstance(module, MaskedConv2d):
            state[f"{path}.weight"] = module.weight * module.mask
    for key, value in sorted(state.items()):
        digest.update(f"{key} {value.dtype} {tuple(value.shape)};".encode())
        own = value.detach().cpu().clone(memory_format=torch.contiguous_format)  # NumPy pins the storage that it reads
        digest.update(own.numpy().tobytes())
    return digest.hexdigest()


def save_checkpoint(net: nn.Module, path: str | Path, **info: Any) -> None:
    """Write a network, coder tables included, and what is known of it (`info`: anything that JSON holds).

    Any model with CompressAI's keys: one of labkit's is built again by `load_checkpoint`, another is for
    `load_weights`. The file appears whole or not at all, and its folder is made where it is not there. Raises
    ValueError naming the file where it cannot be written.
    """
    path = Path(path)
    about = {**getattr(net, "info", {}), **info, "network": type(net).__name__}
    if isinstance(net, Codec):
        about |= {"network": net.kind, "size": net.size, "channels": [net.N, net.M], "scheme": net.scheme.to_dict()}
    tensors = {key: value.detach().cpu().contiguous() for key, value in net.state_dict().items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, save(tensors, metadata={"format": FORMAT, "info": json.dumps(about)}))
    if isinstance(net, Codec):
        net.info = about


def read_info(path: str | Path) -> dict[str, Any]:
    """What is known of the network in a checkpoint. Raises ValueError in one line for a file that is none."""
    return _read(Path(path), tensors=False)[0]


def load_weights(net: nn.Module, path: str | Path) -> dict[str, Any]:
    """Give a network the weights and coder tables of a checkpoint of its kind, and return what is known of them.

    Raises ValueError in one line for a file that is missing, damaged, not labkit's, or does not fit.
    """
    info, tensors = _read(Path(path))
    _fill(net, tensors, path)
    return info


def load_checkpoint(path: str | Path, network: str | None = None) -> tuple[Codec, dict[str, Any]]:
    """The network of a checkpoint, in evaluation mode, and its description.

    network: raise where the checkpoint holds another kind than this.
    Raises ValueError in one line for a file that is missing, damaged, not labkit's, or of another network.
    """
    info, tensors = _read(Path(path))
    kind = str(info.get("network"))
    if network is not None and kind != network:
        raise ValueError(f"{path} does not fit: it holds a {kind}, not a {network}")
    try:
        check_name("network", kind, zoo.names())
        scheme = schemes.from_dict(info["scheme"])
        net = zoo.build(kind, *info["channels"], size=info["size"], scheme=scheme)
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} does not fit: {_short(error)}") from None
    _fill(net, tensors, path)
    net.info = info
    return net.eval(), info


def _read(path: Path, tensors: bool = True) -> tuple[dict[str, Any], dict[str, Tensor]]:
    if not path.is_file():
        raise ValueError(f"{path}: there is no such checkpoint")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            found = {key: file.get_tensor(key) for key in file.keys()} if tensors else {}  # noqa: SIM118  (no mapping)
    except (SafetensorError, OSError, ValueError) as error:
        raise ValueError(f"{path} is damaged or no safetensors file: {error}") from None
    if metadata.get("format") != FORMAT:
        raise ValueError(f"{path} is no labkit checkpoint (format {metadata.get('format', 'not stated')!r})")
    try:
        info = json.loads(metadata["info"])
        return {**info}, found
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} does not fit: {_short(error)}") from None


def _fill(net: nn.Module, tensors: dict[str, Tensor], path: str | Path) -> None:
    if not all(torch.isfinite(tensor).all() for tensor in tensors.values()):
        raise ValueError(f"{path} holds values that are not finite")
    entropy.drop_tables(net)  # those of another training may have another length
    try:
        net.load_state_dict(tensors)
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"{path} does not fit: {_short(error)}") from None


def _short(error: Exception) -> str:
    return " ".join(str(error).split())[:300]

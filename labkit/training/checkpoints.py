"""Networks on disk: safetensors with a JSON description in the header, written beside and then renamed."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from pathlib import Path
from typing import Any

import torch
from compressai.layers import MaskedConv2d
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn

from labkit import networks, schemes

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
        digest.update(value.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def save_checkpoint(net: networks.Codec, path: str | Path, **info: Any) -> None:
    """Write a network, coder tables included, and what is known of it (`info`: anything that JSON holds).

    The file appears whole or not at all: it is written under a temporary name beside `path`, then renamed.
    """
    path = Path(path)
    about = {
        **net.info,
        **info,
        "network": net.kind,
        "size": net.size,
        "channels": [net.N, net.M],
        "scheme": net.scheme.to_dict(),
    }
    tensors = {key: value.detach().cpu().contiguous() for key, value in net.state_dict().items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
    os.close(handle)
    try:
        save_file(tensors, temporary, metadata={"format": FORMAT, "info": json.dumps(about)})
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    finally:
        Path(temporary).unlink(missing_ok=True)
    net.info = about


def load_checkpoint(path: str | Path, network: str | None = None) -> tuple[networks.Codec, dict[str, Any]]:
    """The network of a checkpoint, in evaluation mode, and its description.

    network: raise where the checkpoint holds another kind than this.
    Raises ValueError in one line for a file that is missing, damaged, not labkit's, or of another network.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"{path}: there is no such checkpoint")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118  (no mapping)
    except (SafetensorError, OSError, ValueError) as error:
        raise ValueError(f"{path} is damaged or no safetensors file: {error}") from None
    if metadata.get("format") != FORMAT:
        raise ValueError(f"{path} is no labkit checkpoint (format {metadata.get('format', 'not stated')!r})")
    try:
        info = json.loads(metadata["info"])
        kind, channels, scheme = info["network"], info["channels"], schemes.from_dict(info["scheme"])
        if network is not None and kind != network:
            raise ValueError(f"it holds a {kind}, not a {network}")
        net = networks.build(kind, *channels, size=info["size"], scheme=scheme)
        net.load_state_dict(tensors)
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        message = " ".join(str(error).split())
        raise ValueError(f"{path} does not fit: {message[:300]}") from None
    if not all(torch.isfinite(tensor).all() for tensor in tensors.values()):
        raise ValueError(f"{path} holds values that are not finite")
    net.info = info
    return net.eval(), info

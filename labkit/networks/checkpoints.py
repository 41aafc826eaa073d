"""Networks on disk: safetensors files with a JSON description in the header, and files from other programs."""

from __future__ import annotations

import hashlib
import json
import warnings
from pathlib import Path
from typing import Any

import torch
from compressai.layers import MaskedConv2d
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from labkit import schemes
from labkit.checks import check_name
from labkit.disk import write_whole
from labkit.networks import state_dicts, zoo
from labkit.networks.zoo import Codec

FORMAT = "labkit-network-1"


def weights_hash(net: nn.Module) -> str:
    """Return the SHA-256 of a network's state dict, including the coder tables.

    The hash depends on every key, shape, type and value, but not on their order or on the file that holds them.
    Networks with equal hashes decode identically. Call `update` first, because the coder tables are missing otherwise.
    A masked convolution sets the weights under its mask to zero when it first runs, so the hash treats them as zero.

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
        net: Any model with CompressAI's keys. `load_checkpoint` rebuilds one of labkit's codecs from the file. For any
            other model, build the model and call `load_weights`.
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
    info, _, _ = _read(Path(path), weights=False)
    if info is None:
        raise ValueError(f"{path} is not a labkit checkpoint")
    return info


def load_weights(model: nn.Module | str, path: str | Path) -> Any:
    """Load the weights and coder tables of a checkpoint, in labkit's form or as `torch.save` wrote a state dict.

    The state dict may be the whole file or an entry of a dict, for example under "state_dict". Its keys may have names
    from earlier versions of CompressAI, or the prefixes of `DataParallel` and `torch.compile`. Weights in half
    precision are converted to float32. Code in the file is never executed.

    Args:
        model: Model to change in place: one of labkit's or CompressAI's, adopted or not. Alternatively, the name of an
            architecture of labkit or CompressAI, which creates a network with the checkpoint's channel counts.
        path: The checkpoint.

    Returns:
        The model. Its `info` is the description in the checkpoint, empty if it has none, and its `checkpoint_keys`
        lists the keys that were renamed, missing or unexpected. A new network is in evaluation mode.

    Raises:
        ValueError: If the file is missing or damaged, requires code to be unpickled, or does not fit the model.

    Warns:
        UserWarning: If keys were renamed, missing or unexpected. The message has one line.

    Example:
        >>> import labkit as lk
        >>> net = lk.load_weights("mbt2018-mean", "checkpoint.pth.tar")  # doctest: +SKIP
    """
    if isinstance(model, str):
        return load_checkpoint(path, model)[0]
    info, tensors, place = _read(Path(path))
    _load(model, tensors, Path(path), place, {} if info is None else info)
    return model


def load_checkpoint(path: str | Path, network: str | None = None) -> tuple[Codec, dict[str, Any]]:
    """Build the network of a checkpoint and load its weights.

    Args:
        path: Checkpoint of any form that `load_weights` reads.
        network: Name of the architecture, of labkit or of CompressAI. The default is the name in the checkpoint; a
            state dict from another program contains no name.

    Returns:
        The network in evaluation mode, and the description of its weights. For a state dict from another program, the
        scheme is the one that CompressAI trains with, and the lower bound on σ is taken from the state dict.

    Raises:
        ValueError: If the file is missing or damaged, holds another architecture, or names none and `network` is None.

    Warns:
        UserWarning: If keys were renamed, missing or unexpected. The message has one line.
    """
    path = Path(path)
    info, tensors, place = _read(path)
    kind = zoo.canonical_name(network) if network is not None else None
    if info is None:
        if kind is None:
            names = ", ".join(zoo.ALIASES)
            raise ValueError(f"{path} is not a labkit checkpoint, so name its network (--network): {names}")
        check_name("network", kind, zoo.names())
        matched, _ = state_dicts.match_keys(zoo.get(kind, "tiny"), tensors, path)
    elif kind not in (None, str(info.get("network"))):
        raise ValueError(f"{path} does not fit: it holds a {info.get('network')}, not a {network}")
    try:
        info = _describe(str(kind), matched) if info is None else info
        check_name("network", str(info.get("network")), zoo.names())
        scheme = schemes.from_dict(info["scheme"])
        N, M = info["channels"]
        if max(N, M) ** 2 > sum(tensor.numel() for tensor in tensors.values()):  # checked before memory is allocated
            raise ValueError(f"it has too few weights for N = {N} and M = {M}")
        net = zoo.build(info["network"], N, M, size=info["size"], scheme=scheme)
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"{path} does not fit: {_one_line(error)}") from None
    _load(net, tensors, path, place, info)
    return net.eval(), info


def _describe(kind: str, tensors: dict[str, Tensor]) -> dict[str, Any]:
    """Return the description of a network that another program trained. The tensors have the network's keys."""
    N, M = zoo.channels(kind, tensors)
    size = next((size for size, counts in zoo.SIZES[kind].items() if counts == (N, M)), "custom")
    # CompressAI's training rounds the reconstructed latents of models built from latent codecs, and adds noise in
    # others
    preset = schemes.mixed if any(key.startswith("latent_codec.") for key in tensors) else schemes.noise
    scheme = preset()
    bounds = [float(tensor) for key, tensor in tensors.items() if key.endswith(".lower_bound_scale.bound")]
    if bounds and bounds[0] != float(torch.tensor(scheme.scale_lower_bound)):
        scheme = preset(scale_lower_bound=bounds[0])
    return {"network": kind, "size": size, "channels": [N, M], "scheme": scheme.to_dict()}


def _load(net: nn.Module, tensors: dict[str, Tensor], path: Path, place: str, info: dict[str, Any]) -> None:
    matched, keys = state_dicts.match_keys(net, tensors, path, place)
    state_dicts.fill(net, matched, path)
    attributes: Any = net  # PyTorch's modules accept any attribute
    attributes.info, attributes.checkpoint_keys = info, keys
    if keys:
        warnings.warn(str(keys), stacklevel=3)


def _read(path: Path, weights: bool = True) -> tuple[dict[str, Any] | None, dict[str, Tensor], str]:
    """Return the description in a checkpoint (None if labkit did not write it), its tensors and their place in it."""
    if not path.is_file():
        raise ValueError(f"{path}: there is no such checkpoint")
    if state_dicts.is_torch_file(path):
        return None, *(state_dicts.read_torch_file(path) if weights else ({}, ""))
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            state = {key: file.get_tensor(key) for key in file.keys()} if weights else {}  # noqa: SIM118  (no mapping)
    except (SafetensorError, OSError, ValueError) as error:
        raise ValueError(f"{path} is damaged or not a safetensors file, nor one of torch.save: {error}") from None
    if metadata.get("format") != FORMAT:
        return None, state, ""
    try:
        return {**json.loads(metadata["info"])}, state, ""
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} does not fit: {_one_line(error)}") from None


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]

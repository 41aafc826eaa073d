"""State dicts from other programs: how they are read, and how their keys are matched to those of a network."""

from __future__ import annotations

import mmap
import pickle
import re
import warnings
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from compressai.entropy_models import EntropyBottleneck, EntropyModel
from compressai.layers import MaskedConv2d
from compressai.models.utils import remap_old_keys
from compressai.ops import LowerBound, NonNegativeParametrizer
from compressai.zoo.pretrained import rename_key
from torch import Tensor, nn

TABLES = ("_offset", "_quantized_cdf", "_cdf_length", "scale_table")
# Keys under which training scripts save a state dict, in order of preference. Nested dicts are searched, too.
PLACES = ("state_dict", "model_state_dict", "model", "network", "net", "ema")
_DEPTH = 3
# `DataParallel` and `torch.compile` wrap a network, and the latter also wraps parts of it.
_WRAPPERS = re.compile(r"^(?:(?:module|_orig_mod)\.)+|(?<=\.)_orig_mod\.")
# Modules whose buffers are constants or coder tables, so a file may lack them.
_CONSTANT = (EntropyModel, LowerBound, NonNegativeParametrizer, MaskedConv2d)


class _Inert:
    """Placeholder for an object that is not a weight, such as a NumPy scalar. It accepts any data and keeps none."""

    def __init__(self, *_: Any) -> None:
        pass

    def __setstate__(self, _: Any) -> None:
        pass


_INERT: list[Any] = [
    (_Inert, name)
    for name in (
        "argparse.Namespace",
        "numpy.dtype",
        "numpy.ndarray",
        *(f"numpy.{core}.multiarray.{name}" for core in ("core", "_core") for name in ("scalar", "_reconstruct")),
        *(f"pathlib.{name}" for name in ("PosixPath", "WindowsPath")),
    )
]


@dataclass(frozen=True, repr=False)
class CheckpointKeys:
    """How the keys of a checkpoint were matched. `load_weights` stores this as `checkpoint_keys` of the model.

    Attributes:
        path: The checkpoint.
        place: Key under which the file held the state dict, such as "state_dict"; empty if it was the whole file.
        renamed: The network's key for each key of the file that has a different name.
        missing: Keys of the network that the file lacks. They are coder tables and constants, never weights.
        unexpected: Keys of the file that the network lacks; they were ignored.
    """

    path: Path
    place: str
    renamed: dict[str, str]
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]

    def __bool__(self) -> bool:
        """Return True if anything was renamed, missing or unexpected."""
        return bool(self.renamed or self.missing or self.unexpected)

    def __repr__(self) -> str:
        counts = f"{len(self.renamed)} renamed, {len(self.missing)} missing, {len(self.unexpected)} unexpected"
        return f"{type(self).__name__}({counts})"

    def __str__(self) -> str:
        place = f" under {self.place!r}" if self.place else ""
        renamed = tuple(f"{old} → {new}" for old, new in self.renamed.items())
        groups = {"renamed": renamed, "missing": self.missing, "unexpected and ignored": self.unexpected}
        counts = [f"{len(keys)} {label}{examples(keys)}" for label, keys in groups.items() if keys]
        return f"{self.path}: keys of the state dict{place}: {', '.join(counts) or 'all as in the network'}"


def examples(keys: tuple[str, ...]) -> str:
    """Return the first two of some keys in parentheses, on one line and shortened."""
    shown = [key if key.isprintable() and len(key) < 120 else repr(key[:100]) for key in keys[:2]]
    return f" ({', '.join([*shown, '…'] if len(keys) > 2 else shown)})"


def is_torch_file(path: Path) -> bool:
    """Return whether a file starts like one that `torch.save` wrote: as a zip archive or as a pickle.

    A safetensors file starts with the length of its header, which may look like a pickle, followed by a brace.
    """
    with open(path, "rb") as file:
        start = file.read(9)
    return start.startswith((b"PK\x03\x04", b"\x80")) and start[8:] != b"{"


def read_torch_file(path: Path) -> tuple[dict[str, Tensor], str]:
    """Return the tensors of a state dict that `torch.save` wrote, on the CPU, and the key that held it in the file.

    Code in the file is never executed. NumPy arrays and scalars, paths and `argparse.Namespace` are read as empty
    placeholders, and optimizer states are not read at all if the file is a zip archive.

    Raises:
        ValueError: If the file is damaged, requires code to be unpickled, or contains no state dict.
    """
    contents, place = _unpickled(path), []
    for _ in range(_DEPTH):
        if isinstance(contents, dict) and (key := next((k for k in PLACES if isinstance(contents.get(k), dict)), None)):
            place.append(key)
            contents = contents[key]
    state = contents if isinstance(contents, dict) else {}
    tensors = {key: value.detach() for key, value in state.items() if isinstance(key, str) and _is_tensor(value)}
    if not tensors:
        places = ", ".join(PLACES)
        raise ValueError(f"{path} holds no state dict, neither as a whole nor under one of {places}")
    for key, tensor in tensors.items():
        _check_plain(tensor, f"{path}: the tensor{examples((key,))}")
    return tensors, ".".join(place)


def _unpickled(path: Path) -> Any:
    zipped = zipfile.is_zipfile(path)
    try:
        with warnings.catch_warnings(), torch.serialization.safe_globals(_INERT):
            warnings.simplefilter("ignore")  # about pickle protocols
            _check_memory(path, zipped)
            # Storages are parts of the mapped file, so a file cannot claim more memory than it has bytes.
            return torch.load(path, map_location="cpu", weights_only=True, mmap=zipped)
    except pickle.UnpicklingError as error:
        name = re.search(r"GLOBAL (\S+)", str(error))
        needs = f"needs code to load ({name[1]})" if name else "is damaged or needs code to load"
        advice = "save only the weights, with torch.save(model.state_dict(), FILE)"
        raise ValueError(f"{path} {needs}, which labkit never runs: {advice}") from None
    except Exception as error:  # damaged bytes lead to errors of every type
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        raise ValueError(f"{path} is damaged or not a state dict of torch.save: {reason}") from None


def _check_memory(path: Path, zipped: bool) -> None:
    """Refuse content that could take more memory than the file has bytes: compressed entries and byte arrays."""
    if zipped:
        with zipfile.ZipFile(path) as archive:
            if any(entry.compress_type != zipfile.ZIP_STORED for entry in archive.infolist()):
                raise ValueError("the archive is compressed")
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        if content.find(b"\nbytearray\n") >= 0:
            raise ValueError("it holds byte arrays")


def _is_tensor(value: Any) -> bool:
    return isinstance(value, Tensor)


def _check_plain(tensor: Tensor, name: str) -> None:
    """Check that a tensor is ordinary and no larger than its data, unlike an expanded tensor."""
    plain = tensor.layout == torch.strided and tensor.device.type == "cpu" and not tensor.is_quantized
    if not plain or tensor.is_complex() or type(tensor) is not Tensor:
        raise ValueError(f"{name} must be an ordinary dense tensor of real numbers")
    if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
        raise ValueError(f"{name} is larger than its data")


def match_keys(
    net: nn.Module, state: dict[str, Tensor], path: Path, place: str = ""
) -> tuple[dict[str, Tensor], CheckpointKeys]:
    """Rename the tensors of a checkpoint to the keys of a network, regardless of their shapes.

    Prefixes of `DataParallel` and `torch.compile` are removed, and CompressAI's own functions translate its old names.

    Args:
        net: Network whose keys are used.
        state: State dict of the checkpoint.
        path: The checkpoint, for messages.
        place: Key under which the file held the state dict.

    Returns:
        The tensors under the network's keys, and a summary of how the keys were matched.

    Raises:
        ValueError: If a weight of the network is missing.
    """
    own, modules = net.state_dict(), dict(net.named_modules())
    bottlenecks = [name for name, module in modules.items() if name and isinstance(module, EntropyBottleneck)]
    sources: dict[str, str] = {}
    for old in sorted(state, key=lambda key: key not in own):  # a key of the network needs no translation
        new = _present_key(old, own, bottlenecks)
        if new in own:
            sources.setdefault(new, old)
    missing = tuple(key for key in own if key not in sources)
    parameters = dict(net.named_parameters())
    weights = tuple(k for k in missing if k in parameters or not isinstance(modules[k.rpartition(".")[0]], _CONSTANT))
    if weights:
        label = getattr(net, "kind", type(net).__name__)
        raise ValueError(
            f"{path} does not fit a {label}: the file lacks {len(weights)} of {len(own)} keys{examples(weights)}"
        )
    used = set(sources.values())
    renamed = {old: new for new, old in sources.items() if new != old}
    unexpected = tuple(key for key in state if key not in used)
    keys = CheckpointKeys(path, place, renamed, missing, unexpected)
    return _without_rounded_constants({new: state[old] for new, old in sources.items()}), keys


def _without_rounded_constants(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Drop entropy-model constants in half precision, which rounds the likelihood's lower bound of 1e-9 to 0.

    The scale bound is kept if there are coder tables, because the first table belongs to exactly this bound.
    """
    constants = [".likelihood_lower_bound.bound", ".target"]
    if not any(key.endswith(".scale_table") and tensor.numel() for key, tensor in tensors.items()):
        constants += [".scale_bound", ".lower_bound_scale.bound"]
    return {k: t for k, t in tensors.items() if t.element_size() != 2 or not k.endswith(tuple(constants))}


def _present_key(key: str, own: dict[str, Any], bottlenecks: list[str]) -> str:
    """Return the network's key for a key of a checkpoint, or some key that the network lacks if there is no match."""
    if key not in own:
        key = _WRAPPERS.sub("", key)
    if key not in own:
        key = rename_key(key)
    for name in bottlenecks:
        if key not in own and key.startswith(f"{name}."):
            (key,) = remap_old_keys(name, {key: None})
    return key


def fill(net: nn.Module, tensors: dict[str, Tensor], path: Path) -> None:
    """Copy tensors into a network with the same keys; coder tables may have any size.

    Args:
        net: Network to change in place. Constants without a tensor keep their values; tables without one are dropped.
        tensors: Tensors by the network's keys.
        path: The checkpoint, for messages.

    Raises:
        ValueError: If a tensor's shape differs from that in the network, or if a value is not finite.
    """
    own = net.state_dict()
    for key, tensor in tensors.items():
        if key.rpartition(".")[2] not in TABLES and tensor.shape != own[key].shape:
            file, network = ("×".join(map(str, shape)) or "one number" for shape in (tensor.shape, own[key].shape))
            raise ValueError(f"{path} does not fit: {key} is {file} in the file and {network} in the network")
        if not torch.isfinite(tensor).all():
            raise ValueError(f"{path} holds values that are not finite, in {key}")
    for name, module in net.named_modules():
        if isinstance(module, EntropyModel):
            for table in TABLES:
                key = f"{name}.{table}" if name else table
                if key in own:
                    shape = tensors[key].shape if key in tensors else (0,)
                    setattr(module, table, getattr(module, table).new_empty(shape))
                    tensors.setdefault(key, getattr(module, table))
    try:
        net.load_state_dict(own | tensors)
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"{path} does not fit: {' '.join(str(error).split())[:300]}") from None

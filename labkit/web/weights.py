"""Weights and coder tables of patch codecs in a compact format that `codec.js` reads.

The format is exact: decoding and encoding use the same numbers as the checkpoint. It has these parts, little-endian:

    bytes   content
        8   "LKCNET1" and a line end
        4   length of the description
            description: JSON with network, size, lmbda, hash, N, M, and parts: [[name, type, shape], …]
            the parts, one after the other without gaps
        4   CRC-32 of everything before it

A part of type f16 or f32 is an array in C order; f16 is used if it represents every value exactly. A part of type
tables is a sequence of variable-length integers (7 bits per byte, low bits first, plus 128 if another byte follows).
Each row of coder tables has its number of frequencies, its offset (2v, or −2v − 1 if v is negative), and its
frequencies.
"""

from __future__ import annotations

import base64
import json
import math
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from labkit import networks
from labkit.disk import write_whole
from labkit.files.container import HASH_DIGITS
from labkit.networks import weights_hash

MAGIC = b"LKCNET1\n"
KINDS = ("patch_hyperprior", "patch_linear")  # networks that codec.js can run
SCRIPT = Path(__file__).with_name("codec.js")


def pack(net: Any, lmbda: float | None = None) -> bytes:
    """Return the weights and coder tables of a network as a file for `codec.js`.

    Args:
        net: A `patch_hyperprior` or `patch_linear` with coder tables.
        lmbda: λ that the network was trained for. By default, the value in its description, or None.

    Raises:
        ValueError: If the network is of another kind or has no coder tables.
    """
    if net.kind not in KINDS:
        raise ValueError(f"net must be one of {', '.join(KINDS)}, got {net.kind}")
    bottleneck = net.entropy_bottleneck
    if not bottleneck._quantized_cdf.numel():
        raise ValueError("net must have coder tables: call net.update() before its weights are packed")
    state, parts, arrays = net.state_dict(), [], []

    def add(name: str, kind: str, shape: list[int], data: bytes) -> None:
        parts.append([name, kind, shape])
        arrays.append(data)

    values = {name: state[name] for name in state if name.partition(".")[0] in ("g_a", "g_s", "h_a", "h_s")}
    values["medians"] = bottleneck._get_medians().flatten()
    coders = {"tables": bottleneck}
    if net.kind == "patch_hyperprior":
        values["scales"], coders["gaussian_tables"] = net.gaussian_conditional.scale_table, net.gaussian_conditional
    for name, value in values.items():
        kind, data = _floats(value)
        add(name, kind, list(value.shape), data)
    for name, coder in coders.items():
        data = _tables(coder)
        add(name, "tables", [len(coder._offset), len(data)], data)
    description = {"network": net.kind, "size": net.size, "lmbda": net.info.get("lmbda") if lmbda is None else lmbda}
    description |= {"hash": weights_hash(net)[:HASH_DIGITS], "N": net.N, "M": net.M, "parts": parts}
    text = json.dumps(description, separators=(",", ":")).encode()
    packed = b"".join([MAGIC, struct.pack("<I", len(text)), text, *arrays])
    return packed + struct.pack("<I", zlib.crc32(packed))


def write(folder: str | Path, network: str = KINDS[0]) -> list[Path]:
    """Write the bundled weights of a network as classic scripts, because a page from `file://` cannot fetch files.

    Each script `weights-LMBDA.js` calls `globalThis.labkitWeights("LMBDA", "…")` with the base64 text of `pack`'s file.

    Args:
        folder: Existing folder for the scripts.
        network: Name of the architecture, `patch_hyperprior` or `patch_linear`.

    Returns:
        The paths of the scripts, in ascending order of λ.

    Raises:
        ValueError: If the network is of another kind, or if a file cannot be written.
    """
    paths = []
    for lmbda in networks.pretrained_lmbdas(network):
        text = base64.b64encode(pack(networks.pretrained(network, lmbda), lmbda)).decode()
        paths.append(Path(folder) / f"weights-{lmbda:g}.js")
        write_whole(paths[-1], f'globalThis.labkitWeights("{lmbda:g}", "{text}");\n'.encode())
    return paths


def _floats(tensor: Tensor) -> tuple[str, bytes]:
    """Return the shortest exact type of a float32 tensor, and its bytes."""
    values = tensor.detach().cpu().contiguous().numpy().astype("<f4")
    with np.errstate(over="ignore"):
        half = values.astype("<f2")
    return ("f16", half.tobytes()) if np.array_equal(half.astype("<f4"), values) else ("f32", values.tobytes())


def _tables(coder: Any) -> bytes:
    """Return the coder tables of an entropy model, row by row, as variable-length integers."""
    out = bytearray()
    for cumulative, length, offset in zip(
        coder._quantized_cdf.tolist(), coder._cdf_length.tolist(), coder._offset.tolist(), strict=True
    ):
        frequencies = np.diff(cumulative[:length]).tolist()
        for value in (len(frequencies), 2 * offset if offset >= 0 else -2 * offset - 1, *frequencies):
            for _ in range(max(1, math.ceil(int(value).bit_length() / 7)) - 1):
                out.append(value & 127 | 128)
                value >>= 7
            out.append(value)
    return bytes(out)

"""Networks that every machine builds with the same weights, and processes that decode with other instruction sets.

python -m tests.fixed_point.machines decode FILE …    # print, as JSON, which networks decode the latents of a file
python -m tests.fixed_point.machines encode FILE SEED    # write a fixture

The fixtures are what `encode` writes with the environments of FIXTURES.
"""

from __future__ import annotations

import json
import math
import sys
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest import mock

import numpy as np
import torch
from compressai.entropy_models import EntropyModel, GaussianConditional
from torch import Tensor

import labkit as lk
from labkit.evaluation.latents import replaced_latents, transforms_of
from labkit.fixed_point import context
from labkit.networks.zoo import SIZES

SETTINGS = {
    "SSE4.1": {"ONEDNN_MAX_CPU_ISA": "SSE41"},
    "AVX2": {"ONEDNN_MAX_CPU_ISA": "AVX2", "ATEN_CPU_CAPABILITY": "avx2"},
    "default capability": {"ATEN_CPU_CAPABILITY": "default"},
    "MKL compatible": {"MKL_CBWR": "COMPATIBLE"},
    "two threads": {"OMP_NUM_THREADS": "2"},
}
OLDEST = SETTINGS["SSE4.1"] | SETTINGS["default capability"] | SETTINGS["MKL compatible"]

FOLDER = Path(__file__).parent / "fixtures"
FIXTURES = {"sse41.npz": (1, OLDEST), "avx2.npz": (2, SETTINGS["AVX2"])}  # seeds of the latents, and environments

# Every network in its tiny size, and one with as many bottleneck channels as in the papers
WIDE = "192 channels"
ALL = {kind: (kind, *SIZES[kind]["tiny"]) for kind in lk.networks.names()} | {WIDE: ("factorized_prior", 8, 192)}
IN_FIXTURES = [name for name in ALL if not name.startswith("patch_") and name != WIDE]  # whose files are small

BATCH, HEIGHT, WIDTH = 2, 64, 192
TABLES = ("_offset", "_quantized_cdf", "_cdf_length")
PREDICTORS = ("h_s", "context_prediction", "entropy_parameters", "channel_context", "residual")

File = dict[str, np.ndarray]  # what `encode` returns


def network(name: str) -> lk.networks.Codec:
    """Build a network without tables.

    The weights between the symbols and (σ, μ) come from NumPy, because torch.randn draws other values with another
    instruction set. They give σ and μ a deviation near 1.
    """
    net = lk.networks.build(*ALL[name]).eval()
    rng = np.random.default_rng(zlib.crc32(name.encode()))

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        return torch.from_numpy((low + (high - low) * rng.random(shape)).astype(np.float32))

    with torch.no_grad():
        for path, parameter in net.named_parameters():
            bound = math.sqrt(3 / parameter[0].numel())
            if path.endswith("quantiles"):
                parameter *= 5 if name == WIDE else 1  # the longer the tables, the more entries differ
                parameter += uniform(-0.5, 0.5, len(parameter), 1, 1)  # the medians would be 0 without it
            elif not {"g_a", "g_s", "h_a"} & set(path.split(".")):
                if parameter.dim() == 4:
                    parameter.copy_(uniform(-bound, bound, *parameter.shape))
                elif "factor" in path:
                    parameter.copy_(uniform(-1, 1, *parameter.shape))
                elif "bias" in path:
                    parameter.copy_(uniform(0, 1, *parameter.shape))
    return net


def latents(net: lk.networks.Codec, seed: int) -> tuple[Tensor, Tensor | None]:
    """Draw y and z, with a few values far outside the tables, which the coder escapes."""
    rng = np.random.default_rng(seed)

    def draw(like: Tensor) -> Tensor:
        values = rng.standard_normal(like.shape)
        values[rng.random(like.shape) < 0.005] *= 30
        return torch.from_numpy(values.astype(np.float32))

    g_a, h_a = transforms_of(net)
    with torch.no_grad():
        y = g_a(torch.zeros(BATCH, 3, HEIGHT, WIDTH))
        return draw(y), None if h_a is None else draw(h_a(y))


def encode(names: Iterable[str], seed: int = 0, floating_point: bool = False) -> File:
    """Code latents with some networks, and decode them once.

    Args:
        names: Names in `ALL`.
        seed: Seed of the latents.
        floating_point: Whether to predict (σ, μ) in floating point, which must make tests fail.

    Returns:
        Tables and strings of each network, and the checksum of the latents that they decode to.
    """
    file: File = {"floating_point": np.array(floating_point)}
    for name in names:
        net = network(name)
        net.update()
        for key, module in entropy_modules(net, name):
            for table in tables(module):
                values = getattr(module, table).numpy()
                assert np.array_equal(file.setdefault(f"{key}/{table}", values), values)
        lk.portable(net)
        with predictors_in_floating_point(floating_point):
            strings = code(net, *latents(net, seed))
            sum_of_latents = checksum(decoded_latents(net, strings))
        for k, n in np.ndindex(len(strings), BATCH):
            file[f"{name}/strings/{k}/{n}"] = np.frombuffer(strings[k][n], dtype=np.uint8)
        file[f"{name}/checksum"] = np.array(sum_of_latents, dtype=np.uint32)
    return file


def decode(file: File) -> dict[str, dict[str, bool]]:
    """Decode what `encode` coded.

    Returns:
        For each network, whether the latents decoded in a "batch" and those decoded "singly" have the recorded
        checksum; for `WIDE`, also whether the "tables" that this process builds are those of the file.
    """
    equal = {}
    for name in ALL:
        if f"{name}/checksum" in file:
            net, strings = load(file, name)
            with predictors_in_floating_point(bool(file["floating_point"])):
                images = [[[group[n]] for group in strings] for n in range(BATCH)]
                equal[name] = {
                    how: decode_to(net, parts, file[f"{name}/checksum"])
                    for how, parts in (("batch", [strings]), ("singly", images))
                }
            if name == WIDE:
                net.update(force=True)
                built = entropy_modules(net, name)[0][1]
                same = [np.array_equal(getattr(built, table).numpy(), file[f"{name}/{table}"]) for table in TABLES]
                equal[name]["tables"] = all(same)
    return equal


def decode_to(net: lk.networks.Codec, parts: list[list[list[bytes]]], expected: np.ndarray) -> bool:
    """Whether the strings of these parts of a batch decode to latents with this checksum."""
    try:
        return checksum(torch.cat([decoded_latents(net, strings) for strings in parts])) == expected.item()
    except Exception:  # garbage may raise anything
        return False


def entropy_modules(net: lk.networks.Codec, name: str) -> list[tuple[str, EntropyModel]]:
    """Return the entropy modules of a network, and the key of their tables: Gaussian tables are always the same."""
    modules = [module for module in net.modules() if isinstance(module, EntropyModel)]
    return [("gaussian" if isinstance(module, GaussianConditional) else name, module) for module in modules]


def tables(module: EntropyModel) -> tuple[str, ...]:
    return (*TABLES, "scale_table") if isinstance(module, GaussianConditional) else TABLES


def load(file: File, name: str) -> tuple[lk.networks.Codec, list[list[bytes]]]:
    """Return a network with the tables of a file, and the strings that it coded."""
    net = network(name)
    for key, module in entropy_modules(net, name):
        for table in tables(module):
            setattr(module, table, torch.from_numpy(file[f"{key}/{table}"].copy()))
    groups = sum(key.startswith(f"{name}/strings/") for key in file) // BATCH
    return lk.portable(net), [[file[f"{name}/strings/{k}/{n}"].tobytes() for n in range(BATCH)] for k in range(groups)]


def code(net: lk.networks.Codec, y: Tensor, z: Tensor | None) -> list[list[bytes]]:
    with replaced_latents(net, y, z):
        return net.compress(torch.zeros(BATCH, 3, HEIGHT, WIDTH))["strings"]


def decoded_latents(net: lk.networks.Codec, strings: list[list[bytes]]) -> Tensor:
    return net.decompress(strings, net.coded_shape(HEIGHT, WIDTH))["y_hat"]


def checksum(x: Tensor) -> int:
    return zlib.crc32(x.contiguous().numpy().tobytes())


@contextmanager
def predictors_in_floating_point(on: bool = True) -> Iterator[None]:
    """Predict (σ, μ) in floating point, while everything else stays as it is when a portable model codes."""
    with mock.patch.object(context, "FREE", (*context.FREE, *PREDICTORS) if on else context.FREE):
        yield


def read(path: Path) -> File:
    with np.load(path) as file:
        return dict(file)


def main() -> None:
    how, *arguments = sys.argv[1:]
    if how == "encode":
        np.savez_compressed(arguments[0], **encode(IN_FIXTURES, int(arguments[1])))
    else:
        print(json.dumps([decode(read(Path(path))) for path in arguments]))


if __name__ == "__main__":
    main()

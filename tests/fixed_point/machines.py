"""Decode strings in a process of its own, with the instruction set that its environment names.

python -m tests.fixed_point.machines encode FILE    # code crops of photographs with every tiny network
python -m tests.fixed_point.machines decode FILE    # print a checksum of the latents of each, one a line
python -m tests.fixed_point.machines decode FILE --floating-point
"""

from __future__ import annotations

import sys
import zlib

import torch

import labkit as lk

SETTINGS = {
    "SSE4.1": {"ONEDNN_MAX_CPU_ISA": "SSE41"},
    "AVX2": {"ONEDNN_MAX_CPU_ISA": "AVX2", "ATEN_CPU_CAPABILITY": "avx2"},
    "default capability": {"ATEN_CPU_CAPABILITY": "default"},
    "MKL compatible": {"MKL_CBWR": "COMPATIBLE"},
    "two threads": {"OMP_NUM_THREADS": "2"},
}


def networks():
    """Every network of the zoo in its tiny size, with latents so large that 5% of the symbols and more are not zero."""
    for kind in lk.networks.names():
        net = lk.networks.get(kind, "tiny", seed=0).eval()
        with torch.no_grad():
            for name, parameter in net.named_parameters():
                if name.startswith("g_a") and name.endswith("weight") and parameter.dim() == 4:
                    parameter *= 2.2
        yield kind, net


def encode(floating_point: bool = False) -> dict:
    images = torch.stack([lk.datasets.photos("test")[i][:, :128, :192] for i in (0, 3)])
    coded = {}
    for kind, net in networks():
        net.update()
        coded[kind] = {"weights": net.state_dict(), **lk.portable(net, not floating_point).compress(images)}
    return coded


def decode(coded: dict, floating_point: bool = False) -> dict[str, str]:
    """A checksum of the latents that each network decodes."""
    sums = {}
    for kind, net in networks():
        given = dict(coded[kind])
        net.load_state_dict(given.pop("weights"))
        latents = []
        net.g_s.register_forward_pre_hook(lambda _, inputs, latents=latents: latents.append(inputs[0]))
        lk.portable(net, not floating_point).decompress(**given)
        sums[kind] = f"{zlib.crc32(latents[0].contiguous().numpy().tobytes()):08x}"
    return sums


def main() -> None:
    how, path, *rest = sys.argv[1:]
    torch.set_grad_enabled(False)
    floating_point = "--floating-point" in rest
    if how == "encode":
        torch.save(encode(floating_point), path)
    else:
        torch.serialization.add_safe_globals([torch.Size])
        for kind, checksum in decode(torch.load(path, weights_only=True), floating_point).items():
            print(kind, checksum)


if __name__ == "__main__":
    main()

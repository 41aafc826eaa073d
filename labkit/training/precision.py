"""The precision in which a device trains image codecs faster."""

from __future__ import annotations

import functools
import time

import torch
from torch import Tensor, nn

from labkit.training import processes

GAIN = 1.15  # bfloat16 must be faster than float32 by this factor, because float32 is more accurate
BUDGET = 0.06  # seconds after which the timing stops
CHANNELS, SIDE = 64, 32  # the convolution that is timed: small, but not dominated by overhead


def native_precision(device: str | None = None) -> str:
    """Return the precision in which a device trains image codecs faster.

    For a GPU, this asks whether it supports bfloat16 matrix products. A CPU is timed once per process, for less than a
    tenth of a second: some processors multiply bfloat16 faster than float32, and others only emulate it.

    Args:
        device: Name of a torch device; None means `cuda` if there is a GPU, and `cpu` otherwise.

    Returns:
        "bfloat16" or "float32".

    Raises:
        ValueError: If torch does not know the device or does not find it.
    """
    kind = processes.device(device).type
    if kind == "cuda":
        return "bfloat16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float32"
    return _faster_on_cpu() if kind == "cpu" else "float32"


@functools.cache
def _faster_on_cpu() -> str:
    """Time a small convolution in both precisions alternately, and compare the shortest times."""
    if not _has_bfloat16_kernels():
        return "float32"
    convolution = nn.Conv2d(CHANNELS, CHANNELS, 5, stride=2, padding=2).to(memory_format=torch.channels_last)
    x = torch.zeros(1, CHANNELS, SIDE, SIDE).contiguous(memory_format=torch.channels_last).requires_grad_()
    shortest = dict.fromkeys(processes.PRECISIONS, float("inf"))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # several threads would also measure the load from other processes
    try:
        begun = time.perf_counter()
        while time.perf_counter() - begun < BUDGET:
            for precision in shortest:
                shortest[precision] = min(shortest[precision], _seconds(convolution, x, precision))
    finally:
        torch.set_num_threads(threads)
    return "bfloat16" if shortest["float32"] > GAIN * shortest["bfloat16"] else "float32"


def _has_bfloat16_kernels() -> bool:
    """Return False if torch would fall back to loops that are many times slower than float32."""
    try:
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    except (AttributeError, RuntimeError):  # this build of torch has no oneDNN
        return False


@torch.enable_grad()
def _seconds(convolution: nn.Module, x: Tensor, precision: str) -> float:
    """Time one forward and backward pass."""
    begun = time.perf_counter()
    with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bfloat16"):
        y = convolution(x)
    torch.autograd.grad(y, [x, *convolution.parameters()], torch.ones_like(y))
    return time.perf_counter() - begun

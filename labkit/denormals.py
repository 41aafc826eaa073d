"""Arithmetic that takes denormal numbers for zero, because a CPU computes with them much more slowly."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def denormals_are_zero() -> Iterator[None]:
    """Take numbers below 1.2e-38 for zero inside this block, in the calling thread and on a CPU.

    Trained codecs with GELU layers produce such numbers. In the bundled patch_hyperprior of the lowest rate, they make
    a training step 2.9 times as long (`python -m tests.bench.denormals`). Threads that torch starts for a single
    operation keep their own mode.
    """
    before = float(torch.tensor(1e-39) * 1) == 0  # torch does not say which mode it is in
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(before)

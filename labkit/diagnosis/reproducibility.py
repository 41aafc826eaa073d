"""Findings about decoding: with other threads, in a batch, with another library of convolutions."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor

from labkit import fixed_point
from labkit.diagnosis.findings import Finding, judged
from labkit.diagnosis.passes import ImagePass

_REMEDY = "Call labkit.portable(model) before compressing and decompressing."


@torch.no_grad()
def not_reproducible(model: Any, passes: list[ImagePass]) -> list[Finding]:
    """Find strings that decode to other latents under other circumstances, or that may do so on another machine.

    Args:
        model: The model that has coded the images.
        passes: Images.
    """
    codings = [each.coding for each in passes if each.coding]
    if not codings:
        return []
    failed = []
    for name, setting in SETTINGS.items():
        for coding in codings:
            latents = _latents(model, coding.coded)
            with setting():
                again = _latents(model, _twice(coding.coded) if name == "a batch of two images" else coding.coded)
            if latents is None or again is None or not (again[:1] - latents).abs().max() <= 0.5:  # also true of NaN
                failed.append(name)
                break
    portable = getattr(model, "portable", False)
    if failed:
        message = f"Strings decode to other latents with {', '.join(failed)} than they were coded from."
    else:
        message = (
            "The strings decode here, but σ and μ are predicted in floating point, so another processor may decode "
            "other latents."
        )
    found = judged("not_reproducible", len(failed), message, _REMEDY)
    return found if failed or not portable else []


def _latents(model: Any, coded: dict[str, Any]) -> Tensor | None:
    """Return what the synthesis transform is given when strings are decoded, or None if they cannot be decoded."""
    given: list[Tensor] = []
    synthesis = getattr(model, "g_s", None)
    hook = synthesis.register_forward_pre_hook(lambda _, x: given.append(x[0])) if synthesis is not None else None
    try:
        x_hat = fixed_point.decompress(model, coded)
    except Exception:  # garbage may raise anything
        return None
    finally:
        if hook:
            hook.remove()
    return given[0] if given else 255 * x_hat


def _twice(coded: dict[str, Any]) -> dict[str, Any]:
    return {**coded, "strings": [2 * list(group) for group in coded["strings"]]}


@contextmanager
def _other_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1 if before > 1 else 2)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def _without_onednn() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="TF32 acceleration")  # of Intel GPUs, which nobody asked for
        with torch.backends.mkldnn.flags(enabled=False):
            yield


SETTINGS: dict[str, Callable[[], Any]] = {
    "another number of threads": _other_threads,
    "a batch of two images": nullcontext,
    "oneDNN switched off": _without_onednn,
}

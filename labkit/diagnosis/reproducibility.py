"""Findings about decoding: with other thread counts, in a batch, with other convolutions, and on an old processor."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from labkit.diagnosis import processor
from labkit.diagnosis.findings import Finding, judged
from labkit.diagnosis.passes import Coding, ImagePass, decode

_REMEDY = "Call labkit.portable(model) before compressing and decompressing."
_BATCH, _OLD = "a batch of two images", "the instruction set of an old processor"
_NEAR = 1e-6  # relative distance by which two processors may round σ differently


@torch.no_grad()
def not_reproducible(model: Any, passes: list[ImagePass], old_processor: bool = False) -> list[Finding]:
    """Find strings that decode to different latents under different conditions, or may do so on another machine.

    Args:
        model: The model that coded the images.
        passes: Images.
        old_processor: Whether to also decode in a process with the instruction set of an old processor.
    """
    codings = [each.coding for each in passes if each.coding]
    if not codings:
        return []
    failed = []
    for name, setting in SETTINGS.items():
        with setting(model) as other:
            again = (decode(other, _twice(each.coded) if name == _BATCH else each.coded)[1] for each in codings)
            if any(_differ(each.latents, latents) for each, latents in zip(codings, again, strict=True)):
                failed.append(name)
    tried = processor.decode(model, [each.coded for each in codings]) if old_processor else None
    if tried and any(_differ(each.latents, latents) for each, latents in zip(codings, tried, strict=True)):
        failed.append(_OLD)
    if failed:
        message = f"Strings decode to other latents with {', '.join(failed)} than they were coded from."
    elif getattr(model, "portable", False):
        return []
    else:
        near, count = _near_boundaries(codings)
        message = (
            "The strings decode here, but σ and μ are predicted in floating point, so another processor may decode "
            f"other latents: {near:,} of {count:,} σ are within one part in a million of a boundary of the coder's "
            "tables."
        )
    return judged("not_reproducible", len(failed), message, _REMEDY)


def _differ(latents: Tensor | None, others: Tensor | None) -> bool:
    """Return whether latents differ by a quantization step from the first image of another batch of latents."""
    if latents is None or others is None:
        return True
    return not (others[:1] - latents).abs().max() <= 0.5  # NaN differs, too


def _near_boundaries(codings: list[Coding]) -> tuple[int, int]:
    """Return the number of σ so close to a table boundary that rounding may cross it, and the number of all σ."""
    near = count = 0
    for coding in codings:
        for call in coding.symbols:
            if call.scales is not None:
                table: Tensor = call.model.scale_table[:-1]
                sigma = call.scales.reshape(-1)
                low, high = ((1 + sign * _NEAR) * sigma.double() for sign in (-1, 1))
                near += int((torch.bucketize(low, table.double()) != torch.bucketize(high, table.double())).sum())
                count += sigma.numel()
    return near, count


def _twice(coded: dict[str, Any]) -> dict[str, Any]:
    return {**coded, "strings": [2 * list(group) for group in coded["strings"]]}


@contextmanager
def _as_it_is(model: Any) -> Iterator[Any]:
    yield model


@contextmanager
def _other_threads(model: Any) -> Iterator[Any]:
    before = torch.get_num_threads()
    torch.set_num_threads(1 if before > 1 else 2)
    try:
        yield model
    finally:
        torch.set_num_threads(before)


@contextmanager
def _channels_last(model: Any) -> Iterator[Any]:
    yield copy.deepcopy(model).to(memory_format=torch.channels_last)


@contextmanager
def _without_onednn(model: Any) -> Iterator[Any]:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="TF32 acceleration")  # about Intel GPUs, which are not used here
        with torch.backends.mkldnn.flags(enabled=False):
            yield model


SETTINGS: dict[str, Callable[[Any], Any]] = {
    "another number of threads": _other_threads,
    _BATCH: _as_it_is,
    "channels-last convolutions": _channels_last,
    "oneDNN switched off": _without_onednn,
}

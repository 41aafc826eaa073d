"""Where the bits of a bitstream go: the model's estimate, the coder's tables, the coder, and its flush.

An entropy coder never reaches the estimate. It codes with integer tables of 16 bits, one of 64 scales for each latent
and an escape for what lies outside (table); its arithmetic is finite (coder); and at the end of every string it writes
out its state (flush).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from compressai.entropy_models import EntropyBottleneck, EntropyModel, GaussianConditional
from torch import Tensor, nn

_STATE, _LOWEST = 64, 31  # CompressAI's rANS: bits of its state, and log₂ of the smallest value that it may have
_DIGIT = 4  # bits of a digit of an escaped value; the number of digits comes before them, as one more


class Split(NamedTuple):
    """Bits of one image: real = estimate + table + coder + flush."""

    real: int
    estimate: float
    table: float
    coder: float
    flush: float


class _Coded(NamedTuple):
    """What one call of an entropy model coded; scales and indexes of a Gaussian one."""

    symbols: Tensor
    scales: Tensor | None
    indexes: Tensor | None


class Recording:
    """What the entropy models of a network were given to code."""

    def __init__(self) -> None:
        self.coded: dict[EntropyModel, list[_Coded]] = {}

    @torch.no_grad()
    def split(self, strings: Sequence[bytes]) -> Split:
        """Where the bits of the strings went, that were coded while this was recorded, of a single image."""
        real = 8 * sum(map(len, strings))
        estimate, tables = 0.0, 0.0
        for model, parts in self.coded.items():
            for symbols, scales, indexes in parts:
                if scales is not None:
                    _, likelihood = model(symbols.to(scales.dtype), scales, training=False)
                else:
                    indexes = model._build_indexes(symbols.size()).to(symbols.device)  # one table for each channel
                    _, likelihood = model(model.dequantize(symbols, _medians(model, symbols)), training=False)
                estimate -= torch.log2(likelihood.double()).sum().item()
                assert indexes is not None
                tables += table_bits(model, symbols, indexes)
        flush = sum(map(flush_bits, strings))
        return Split(real, estimate, tables - estimate, real - tables - flush, flush)


@contextmanager
def recorded(net: nn.Module) -> Iterator[Recording]:
    """Record what a network's entropy models are given while it compresses; the network itself stays as it is."""
    recording = Recording()
    models = [module for module in net.modules() if isinstance(module, EntropyBottleneck | GaussianConditional)]
    try:
        for model in models:
            recording.coded[model] = []
            _listen(model, recording.coded[model])
        yield recording
    finally:
        for model in models:
            for name in ("quantize", "build_indexes"):
                vars(model).pop(name, None)


def _listen(model: Any, coded: list[_Coded]) -> None:
    """Every architecture asks for the tables' indexes first, then for the symbols: here both are noted in passing."""
    quantize = model.quantize
    latest: list[tuple[Tensor | None, Tensor | None]] = [(None, None)]  # scales and indexes

    def noting_symbols(inputs: Tensor, mode: str, means: Tensor | None = None) -> Tensor:
        outputs = quantize(inputs, mode, means)
        if mode == "symbols":
            coded.append(_Coded(outputs, *latest[0]))
        return outputs

    model.quantize = noting_symbols
    if isinstance(model, GaussianConditional):
        build_indexes = model.build_indexes

        def noting_scales(scales: Tensor) -> Tensor:
            indexes = build_indexes(scales)
            latest[0] = (scales, indexes)
            return indexes

        model.build_indexes = noting_scales


def table_bits(model: EntropyModel, symbols: Tensor, indexes: Tensor) -> float:
    """Bits that the symbols cost an ideal coder with the model's integer tables, escapes included."""
    symbols, indexes = symbols.reshape(-1).long(), indexes.reshape(-1).long()
    value = symbols - model._offset[indexes]
    escape = model._cdf_length[indexes].long() - 2  # the table's last entry stands for whatever lies outside it
    outside = (value < 0) | (value >= escape)
    table, place = model._quantized_cdf.reshape(-1), indexes * model._quantized_cdf.size(1)
    place += torch.where(outside, escape, value)
    count = (table[place + 1] - table[place]).double()
    bits = (model.entropy_coder_precision - torch.log2(count)).sum().item()
    escaped = torch.where(value < 0, -2 * value - 1, 2 * (value - escape))[outside]
    digits = sum(math.ceil(number.bit_length() / _DIGIT) for number in escaped.tolist())
    return bits + _DIGIT * (len(escaped) + digits)


def flush_bits(string: bytes) -> float:
    """Bits that ending a string cost: the state is written whole, whatever information it holds at the end."""
    state = int.from_bytes(string[: _STATE // 8], "little")
    return _STATE - (math.log2(state) - _LOWEST)


def _medians(model: Any, like: Tensor) -> Tensor:
    return model._extend_ndims(model._get_medians().detach(), like.dim() - 2)

"""Where the bits of a bitstream go: the model's estimate, the tables, the coder, and the coder's final state.

A real entropy coder needs more bits than the model estimates, for three reasons:

- table: The coder uses 16-bit integer tables, one of 64 scales for each latent, and an escape for latents outside the
  table.
- coder: The coder's arithmetic has finite precision.
- flush: The coder writes its whole state at the end of every string.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from compressai.entropy_models import EntropyBottleneck, EntropyModel, GaussianConditional
from compressai.models import CompressionModel
from torch import Tensor, nn

from labkit import entropy, rans

_STATE, _LOWEST = 64, 31  # CompressAI's rANS coder: bits of its state, and log₂ of the smallest state
_DIGIT = 4  # bits per digit of an escaped value; one more such number before the digits gives their count


class Split(NamedTuple):
    """Bits of one image: real = estimate + table + coder + flush.

    Attributes:
        real: Bits of all strings.
        estimate: Bits according to the model's likelihoods.
        table: Additional bits due to the integer tables.
        coder: Additional bits due to the finite precision of the coder.
        flush: Additional bits for the final states.
    """

    real: int
    estimate: float
    table: float
    coder: float
    flush: float


class _Coded(NamedTuple):
    """Symbols coded by one call of an entropy model, with the scales and table indexes of a Gaussian model."""

    symbols: Tensor
    scales: Tensor | None = None
    indexes: Tensor | None = None


class Symbols(NamedTuple):
    """Symbols coded by one call of an entropy model.

    Attributes:
        model: The entropy model.
        symbols: Integers with the same shape as the latent.
        indexes: Index of the coder's table for each symbol.
        bits: Bits of each symbol according to the model's likelihoods, float64.
        scales: Scales σ of the symbols of a Gaussian model, or None.
    """

    model: EntropyModel
    symbols: Tensor
    indexes: Tensor
    bits: Tensor
    scales: Tensor | None = None


class Recording:
    """Symbols that the entropy models of a network have coded; see `recorded`."""

    def __init__(self) -> None:
        self.coded: dict[EntropyModel, list[_Coded]] = {}

    @torch.no_grad()
    def calls(self) -> Iterator[Symbols]:
        """Yield the symbols that each call of an entropy model has coded."""
        for model, calls in self.coded.items():
            for symbols, scales, indexes in calls:
                if scales is not None:
                    _, likelihood = model(symbols.to(scales.dtype), scales, training=False)
                else:
                    indexes = model._build_indexes(symbols.size()).to(symbols.device)  # one table for each channel
                    _, likelihood = model(model.dequantize(symbols, _medians(model, symbols)), training=False)
                assert indexes is not None
                yield Symbols(model, symbols, indexes, -torch.log2(likelihood.double()), scales)

    def split(self, strings: Sequence[bytes]) -> Split:
        """Return how the bits of the strings divide up.

        Args:
            strings: All strings of a single image, coded during the recording.
        """
        real, calls = 8 * sum(map(len, strings)), list(self.calls())
        estimate = float(sum(call.bits.sum() for call in calls))
        tables = sum(table_bits(call.model, call.symbols, call.indexes) for call in calls)
        flush = sum(map(flush_bits, strings))
        return Split(real, estimate, tables - estimate, real - tables - flush, flush)


def build_missing_tables(model: nn.Module) -> None:
    """Build the coder tables that a model lacks.

    Args:
        model: Any model with CompressAI's entropy models. It may have no `update`, or one that misses some of them.

    Raises:
        ValueError: If the quantiles would make the tables too large.
    """
    models: list[Any] = [module for module in model.modules() if isinstance(module, EntropyModel)]
    missing = [module for module in models if not module._quantized_cdf.numel()]
    for module in missing:
        rans.check_quantiles(module)
    if missing and isinstance(model, CompressionModel):
        model.update()
    for module in missing:
        if isinstance(module, EntropyBottleneck):
            module.update()
        elif not module._quantized_cdf.numel():
            module.update_scale_table(entropy.scale_table(float(module.lower_bound_scale.bound)), force=True)


@contextmanager
def recorded(net: nn.Module) -> Iterator[Recording]:
    """Record the symbols that the entropy models of a network code inside the block.

    Args:
        net: Image codec, whose state is restored at the end of the block.

    Yields:
        The recording, which fills when the network compresses.
    """
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
    """Wrap two methods of a model. Every architecture calls `build_indexes` before it quantizes to symbols."""
    quantize = model.quantize
    latest: list[tuple[Tensor, ...]] = [()]  # scales and indexes
    blocks: list[Tensor] = []

    def quantize_and_record(inputs: Tensor, mode: str, means: Tensor | None = None) -> Tensor:
        outputs: Tensor = quantize(inputs, mode, means)
        if mode == "symbols":
            blocks.append(outputs)
            whole = torch.cat(blocks, 1)  # labkit's entropy models quantize a few channels at a time
            if not latest[0] or whole.numel() == latest[0][0].numel():
                coded.append(_Coded(whole, *latest[0]))
                blocks.clear()
        return outputs

    model.quantize = quantize_and_record
    if isinstance(model, GaussianConditional):
        build_indexes = model.build_indexes

        def build_and_record(scales: Tensor) -> Tensor:
            indexes: Tensor = build_indexes(scales)
            latest[0] = (scales, indexes)
            return indexes

        model.build_indexes = build_and_record


def table_bits(model: EntropyModel, symbols: Tensor, indexes: Tensor) -> float:
    """Return the bits that an ideal coder needs with the model's integer tables, including escapes.

    Args:
        model: Entropy model with tables.
        symbols: Integers to code.
        indexes: Index of the table for each symbol, of the same shape.
    """
    return float(symbol_bits(model, symbols, indexes).sum())


def symbol_bits(model: EntropyModel, symbols: Tensor, indexes: Tensor) -> Tensor:
    """Return the bits of each symbol under the model's integer tables, including escapes.

    Args:
        model: Entropy model with tables.
        symbols: Integers to code.
        indexes: Index of the table for each symbol, of the same shape.

    Returns:
        The bits, float64 with the same shape as the symbols.
    """
    shape, symbols, indexes = symbols.shape, symbols.reshape(-1).long(), indexes.reshape(-1).long()
    value = symbols - model._offset[indexes]
    escape = model._cdf_length[indexes].long() - 2  # the last entry of a table represents all values outside
    outside = outside_tables(model, symbols, indexes)
    table, position = model._quantized_cdf.reshape(-1), indexes * model._quantized_cdf.size(1)
    position += torch.where(outside, escape, value)
    bits: Tensor = model.entropy_coder_precision - torch.log2((table[position + 1] - table[position]).double())
    escaped = torch.where(value < 0, -2 * value - 1, 2 * (value - escape))[outside]
    digits = [1 + math.ceil(number.bit_length() / _DIGIT) for number in escaped.tolist()]  # 1 for the number of digits
    bits[outside] += _DIGIT * torch.tensor(digits, dtype=bits.dtype, device=bits.device)
    return bits.view(shape)


def outside_tables(model: EntropyModel, symbols: Tensor, indexes: Tensor) -> Tensor:
    """Return which symbols are outside their table, so that the coder escapes them.

    Args:
        model: Entropy model with tables.
        symbols: Integers to code.
        indexes: Index of the table for each symbol, of the same shape.
    """
    value = symbols.long() - model._offset[indexes.long()]
    outside: Tensor = (value < 0) | (value >= model._cdf_length[indexes.long()] - 2)
    return outside


def flush_bits(string: bytes) -> float:
    """Return the bits wasted at the end of a string, where the coder writes its whole state regardless of content."""
    state = int.from_bytes(string[: _STATE // 8], "little")
    return _STATE - (math.log2(state) - _LOWEST)


def _medians(model: Any, like: Tensor) -> Tensor:
    medians: Tensor = model._extend_ndims(model._get_medians().detach(), like.dim() - 2)
    return medians

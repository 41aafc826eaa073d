"""CompressAI's rANS decoder, for strings that may be damaged, truncated or forged.

A string consists of the coder's 64-bit state followed by 32-bit words. The encoder starts in the state 2³¹ and keeps
the state in [2³¹, 2⁶³). The decoder undoes each of its steps. After the last latent of a valid string, the decoder is
back in the state 2³¹ and has read exactly the whole string. `Decoder.finish` checks this. The check detects damage,
except in one of 2⁴⁸ cases and in the digits of an escaped latent, which change only this latent.

CompressAI's decoder does not know where a string ends. It reads beyond the end of a damaged one, which can crash the
interpreter. `Decoder` therefore appends as many zeros as CompressAI's decoder can read:

- A state in [2³¹, 2⁶³) stays there. The decoder reads a word when fewer than 32 bits of the state are left.
- A latent takes at most 16 bits. An escaped latent is followed by 4-bit digits: first the number of digits, coded as a
  sum that ends after the first digit other than 15, and then the digits themselves.
- Beyond the end, the state looks random, and an escaped latent takes 1.2 words on average. Three words are reserved for
  each latent. If the tables are known, half a word is reserved for each latent, and three words for twice the expected
  number of escapes.
- Each digit of 15 announces 15 digits. The state holds at most 8 such digits, because the next digit after a word of
  zeros is zero. The end of the string holds at most 31, because `check_string` refuses longer runs. An escaped latent
  therefore takes at most 81 words if it begins before the end, and 19 words after it. 2¹⁶ further words are reserved
  for such latents; 8 digits of 15 occur once in 2³² escapes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor

WORD = 4  # bytes
BLOCK = 2**18  # number of symbols passed to CompressAI's coder in one call
NEVER_CODED = b"\xff" * 4 * WORD  # an escaped latent has at most 8 digits, so a coder never writes such a run
LONGEST_TAIL = 2**13  # steps from a median to the end of its table; latents are coded up to ±2¹³
_FIRST_STATE = 2**31
_MARK = (0x6B61, 0x1C62)  # halves of a word that follows the string


class Decoder:
    """Decodes one string and never reads beyond its end.

    Args:
        string: String to decode.
        latents: Number of latents in the string.
        escape: Largest probability of an escape in the tables.

    Raises:
        ValueError: If no coder writes such a string.
    """

    def __init__(self, string: bytes, latents: int, escape: float = 1.0):
        from compressai.ans import RansDecoder

        self._decoder = RansDecoder()
        self._decoder.set_stream(padded(string, latents, escape))

    def decode(self, indexes: list[int], tables: list[list[int]], lengths: list[int], offsets: list[int]) -> list[int]:
        """Return the next symbols.

        Args:
            indexes: Index of each symbol's table.
            tables: Cumulative frequencies of consecutive values that start at an offset, and of an escape.
            lengths: Number of entries of each table.
            offsets: Smallest value of each table.
        """
        symbols: list[int] = self._decoder.decode_stream(indexes, tables, lengths, offsets)
        return symbols

    def finish(self) -> None:
        """Check that the decoder is where the encoder started: at the end of the string and in the initial state.

        Raises:
            ValueError: If the string has not been read exactly to its end, or the state is not the initial one.
        """
        # The low halves of the initial state, of the mark, and of the state that holds the mark's upper half
        tables = [[0, 1, 65536], *([0, half, half + 1, 65536] for half in _MARK)]
        if self.decode([0, 1, 2], tables, [3, 4, 4], [0, 0, 0]) != [0, 1, 1]:
            raise ValueError(
                "a string does not end with its last latent: it is damaged, or the encoder used other weights or other "
                "floating-point sums"
            )


def check_string(string: Any) -> None:
    """Check the form of a string.

    Raises:
        ValueError: If no coder writes such a string.
    """
    if not isinstance(string, bytes):
        raise ValueError(f"a string must be bytes, got {type(string).__name__}")
    if len(string) % WORD or len(string) < 2 * WORD:
        raise ValueError(f"a string must have 8, 12, 16, … bytes, got {len(string)}")
    if NEVER_CODED in string:
        raise ValueError("a string has 16 consecutive bytes of 255, which no coder writes")
    if not _FIRST_STATE <= int.from_bytes(string[: 2 * WORD], "little") < _FIRST_STATE << 32:
        raise ValueError("a string begins with a state that no coder writes")


@contextmanager
def decoding(strings: Any) -> Iterator[None]:
    """Check the form of a model's strings, and turn every error inside this context into a one-line ValueError.

    Args:
        strings: Argument of the model's `decompress`.

    Raises:
        ValueError: If they do not have the form [[string of each image] of each latent], or if decoding fails.
    """
    groups = list(strings) if isinstance(strings, list | tuple) else []
    counts = {len(group) if isinstance(group, list | tuple) else 0 for group in groups}
    if len(counts) != 1 or counts == {0}:
        raise ValueError(
            "strings must be lists that each hold one string for each image, as compress returns them, got "
            + " ".join(repr(strings)[:80].split())
        )
    for string in (string for group in groups for string in group):
        check_string(string)
    try:
        yield
    except ValueError:
        raise
    except Exception as error:  # CompressAI and torch raise many kinds for a wrong shape or number of strings
        reason = " ".join(f"{type(error).__name__} {error}".split())[:200]
        raise ValueError(f"strings and shape must be those that compress returned: {reason}") from error


def padded(string: Any, latents: int, escape: float = 1.0) -> bytes:
    """Check a string and return it with as many bytes appended as CompressAI's decoder can read.

    Args:
        string: String to check.
        latents: Number of latents that will be decoded.
        escape: Largest probability of an escape in the tables.

    Raises:
        ValueError: If no coder writes such a string.
    """
    check_string(string)
    mark = b"".join(half.to_bytes(2, "little") for half in _MARK)
    return bytes(string) + mark + bytes(WORD * (math.ceil(min(3.0, 0.5 + 6 * escape) * latents) + 2**16))


def encode(model: Any, symbols: Callable[[slice], Tensor], indexes: Tensor) -> list[bytes]:
    """Code symbols as CompressAI does, but in blocks, because its lists of Python numbers take much memory.

    Args:
        model: Entropy model of CompressAI with coder tables.
        symbols: Function that returns the symbols of some channels, integers of shape (batch, channels, …).
        indexes: Index of each symbol's table, of shape (batch, C, …).

    Returns:
        One string for each item of the batch.
    """
    from compressai.ans import BufferedRansEncoder

    tables, encoders = _tables(model), [BufferedRansEncoder() for _ in indexes]
    channels = max(1, BLOCK // max(1, indexes[:, :1].numel()))
    for first in range(0, indexes.size(1), channels):
        some = slice(first, first + channels)
        for encoder, *block in zip(encoders, symbols(some), indexes[:, some], strict=True):
            encoder.encode_with_indexes(*(tensor.reshape(-1).tolist() for tensor in block), *tables)
    return [encoder.flush() for encoder in encoders]


def decode(model: Any, strings: Any, indexes: Tensor) -> Tensor:
    """Decode strings from `encode`, in blocks.

    Args:
        model: Entropy model of CompressAI with coder tables.
        strings: One string for each item of the batch.
        indexes: Index of each symbol's table, of shape (batch, …).

    Returns:
        The symbols, int32 with the same shape as the indexes.

    Raises:
        ValueError: If a string is damaged.
    """
    tables = _tables(model)
    escape = max(table[length - 1] - table[length - 2] for table, length in zip(*tables[:2], strict=True)) / 2**16
    symbols = torch.empty(indexes.shape, dtype=torch.int32)
    for string, places, values in zip(strings, indexes, symbols, strict=True):
        decoder = Decoder(string, places.numel(), escape)
        for block, decoded in zip(places.reshape(-1).split(BLOCK), values.reshape(-1).split(BLOCK), strict=True):
            decoded.copy_(torch.from_numpy(np.array(decoder.decode(block.tolist(), *tables), dtype=np.int32)))
        decoder.finish()
    return symbols.to(indexes.device)


def _tables(model: Any) -> tuple[list[list[int]], list[int], list[int]]:
    model._check_cdf_size()
    return model._quantized_cdf.tolist(), model._cdf_length.tolist(), model._offset.tolist()


def decompress(model: Any, own: Callable[..., Any], strings: Any, *arguments: Any, **options: Any) -> Any:
    """Call an entropy model's own `decompress` with a decoder that never reads beyond a string.

    Args:
        model: Entropy model of CompressAI with coder tables.
        own: The entropy model's own `decompress`.
        strings: One string for each image.
        *arguments: Further arguments of `own`.
        **options: Further keyword arguments of `own`.

    Returns:
        The result of `own`.

    Raises:
        ValueError: If a string is damaged, or too short for its number of latents.
    """
    from compressai.entropy_models import EntropyBottleneck

    if isinstance(model, EntropyBottleneck):
        (size,) = arguments or options.values()
        check_capacity(strings, model._quantized_cdf, math.prod(size))
    coder = model.entropy_coder
    before, coder._decoder = coder._decoder, _OneCall()
    try:
        return own(strings, *arguments, **options)
    finally:
        coder._decoder = before


class _OneCall:
    """Decodes a whole string in one call, with the interface of CompressAI's RansDecoder."""

    def decode_with_indexes(self, string: bytes, indexes: list[int], *tables: Any) -> list[int]:
        decoder = Decoder(string, len(indexes))
        symbols = decoder.decode(indexes, *tables)
        decoder.finish()
        return symbols


def check_capacity(strings: Any, tables: Any, latents_per_channel: int) -> None:
    """Check that strings are long enough for their number of latents.

    A latent whose frequency is f out of 2¹⁶ multiplies the state by 2¹⁶/f, to within one part in 2¹⁵ of the logarithm.
    The most frequent latents therefore give a lower bound on the length of a valid string. The check runs before memory
    is allocated.

    Args:
        strings: Strings that each hold all channels of an image.
        tables: Tensor of cumulative frequencies, of shape (channels, entries).
        latents_per_channel: Number of latents in each channel of an image.

    Raises:
        ValueError: If a string is too short.
    """
    frequencies = tables.diff().amax(1).tolist()
    bits = 0.99 * latents_per_channel * sum(math.log2(65536 / frequency) for frequency in frequencies)
    for string in strings:
        check_string(string)
        if bits > 8 * len(string):
            raise ValueError(
                f"a string of {len(string)} bytes is too short for {latents_per_channel:,} latents in each of "
                f"{len(frequencies)} channels: no encoder needs fewer than {math.ceil(bits / 8):,} bytes"
            )


def check_quantiles(model: Any) -> None:
    """Check that the quantiles of all entropy bottlenecks give coder tables that fit into memory.

    Args:
        model: Any model of CompressAI, or an entropy bottleneck.

    Raises:
        ValueError: If a quantile is not finite or more than 2¹³ away from its median.
    """
    from compressai.entropy_models import EntropyBottleneck

    for name, module in model.named_modules():
        if isinstance(module, EntropyBottleneck):
            tail = float((module.quantiles - module.quantiles[:, :, 1:2]).detach().abs().max())
            if not tail <= LONGEST_TAIL:  # also true of NaN
                raise ValueError(
                    f"the quantiles of {name or 'the entropy bottleneck'} must be within {LONGEST_TAIL} steps of their "
                    f"medians, got {tail:g}: call model.update(force=True, update_quantiles=True)"
                )


class BottleneckCoding:
    """Mixin placed before CompressAI's EntropyBottleneck: builds the same tables and strings with less memory."""

    def update(self: Any, force: bool = False, update_quantiles: bool = False) -> bool:
        """Build the coder's tables.

        Args:
            force: Build them again if they exist already.
            update_quantiles: Compute the quantiles of the learned densities first.

        Returns:
            True if tables were built.

        Raises:
            ValueError: If the quantiles would make the tables too large.
        """
        if self._offset.numel() and not force:
            return False
        if update_quantiles:
            self._update_quantiles()
        check_quantiles(self)
        return bool(super().update(force=True))  # type: ignore[misc]  # of CompressAI's class

    def compress(self: Any, x: Tensor) -> list[bytes]:
        """Code latents of shape (batch, C, …) to CompressAI's strings, with less memory."""
        symbols = self.quantize(x, "symbols", self._medians_like(x.dim()))
        return encode(self, lambda channels: symbols[:, channels], self._build_indexes(x.size()))

    def decompress(self: Any, strings: list[bytes], size: Any) -> Tensor:
        """Decode strings from `compress`.

        Args:
            strings: One string for each item of the batch.
            size: Size of a channel of the latent, such as (height, width).

        Returns:
            The latents, of shape (batch, C, *size).

        Raises:
            ValueError: If a string is damaged. The message has one line.
        """
        check_capacity(strings, self._quantized_cdf, math.prod(size))
        indexes = self._build_indexes((len(strings), self._quantized_cdf.size(0), *size))
        medians = self._medians_like(indexes.dim())
        symbols = decode(self, strings, indexes).to(medians.device)
        decoded: Tensor = self.dequantize(symbols, medians, medians.dtype)
        return decoded

    def _medians_like(self: Any, dims: int) -> Tensor:
        medians: Tensor = self._extend_ndims(self._get_medians().detach(), dims - 2)
        return medians


class GaussianCoding:
    """Mixin placed before CompressAI's GaussianConditional: writes the same strings with less memory."""

    def build_indexes(self: Any, scales: Tensor) -> Tensor:
        """Return the index of each scale's table, as CompressAI does, but by bisection and as uint8."""
        table, parts = self.scale_table[:-1], scales.reshape(-1).split(BLOCK)  # to save memory
        indexes = [torch.bucketize(self.lower_bound_scale(part), table, out_int32=True).byte() for part in parts]
        return torch.cat(indexes).view(scales.shape)

    def compress(self: Any, inputs: Tensor, indexes: Tensor, means: Tensor | None = None) -> list[bytes]:
        """Code latents to CompressAI's strings, with less memory.

        Args:
            inputs: Latents of shape (batch, C, …).
            indexes: Index of each latent's table.
            means: Means μ, or None.
        """

        def symbols(channels: slice) -> Tensor:
            part: Tensor = self.quantize(inputs[:, channels], "symbols", None if means is None else means[:, channels])
            return part

        return encode(self, symbols, indexes)

    def decompress(
        self: Any,
        strings: list[bytes],
        indexes: Tensor,
        dtype: torch.dtype = torch.float,
        means: Tensor | None = None,
    ) -> Tensor:
        """Decode strings from `compress`.

        Args:
            strings: One string for each item of the batch.
            indexes: Index of each latent's table, of shape (batch, C, …).
            dtype: Type of the result if there are no means.
            means: Means μ, or None.

        Raises:
            ValueError: If a string is damaged. The message has one line.
        """
        decoded: Tensor = self.dequantize(decode(self, strings, indexes), means, dtype)
        return decoded

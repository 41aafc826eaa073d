"""Stage 5: frequency tables and a range coder, checked against the grader's own decoder."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from .verdicts import Array, Result, Wrong, require

TOTAL = 65536
EXAMPLE = "Compare `code` with the worked example in the text."
Tables = list[list[int]]


def reference_decode(data: bytes, indexes: list[int], tables: Tables) -> list[int]:
    """Decode a stream with exact fractions of the whole stream instead of a 32-bit window."""
    code = int.from_bytes(data, "big")  # the whole stream as one number with 8 · len(data) bits
    bits, low, size, symbols = 8 * len(data), 0, 2**32, []
    shown = 32
    for index in indexes:
        cumulative = tables[index]
        window = code >> (bits - shown) if shown <= bits else code << (shown - bits)
        symbol = next(s for s in range(len(cumulative) - 1) if low + (size * cumulative[s + 1] >> 16) > window)
        low, size = (
            low + (size * cumulative[symbol] >> 16),
            (size * cumulative[symbol + 1] >> 16) - (size * cumulative[symbol] >> 16),
        )
        while size < 2**24:
            low, size, shown = low << 8, size << 8, shown + 8
        symbols.append(symbol)
    return symbols


def fast_decode(data: bytes, indexes: list[int], tables: Tables) -> list[int]:
    """Decode long streams in the same way with NumPy's search, relative to the lower end."""
    arrays = [np.array(table, np.int64) for table in tables]
    stream, size, symbols = iter(data), 2**32, []
    code = 0
    for _ in range(4):
        code = 256 * code + next(stream, 0)
    for index in indexes:
        bounds = arrays[index]
        symbol = int(np.searchsorted(bounds, ((code + 1) * TOTAL - 1) // size, "right")) - 1
        first = size * int(bounds[symbol]) // TOTAL
        size = size * int(bounds[symbol + 1]) // TOTAL - first
        code -= first
        while size < 1 << 24:
            code, size = 256 * code + next(stream, 0), 256 * size
        symbols.append(symbol)
    return symbols


def check(codec: Any, work: Any) -> Result:
    """Check tables, streams, their lengths, and the refusal of damaged streams."""
    tables = [_check_table(codec.table, masses) for masses in _laws()]
    rng = np.random.default_rng(0)
    overhead = 0.0
    for trial in range(4):
        count = (3, 40, 700, 4000)[trial]
        indexes = rng.integers(len(tables), size=count).tolist()
        symbols = [_draw(tables[index], rng) for index in indexes]
        overhead = max(overhead, _check_stream(codec, symbols, indexes, tables))
    rare = [0, TOTAL - 2, TOTAL - 1, TOTAL]  # symbols 1 and 2 have the frequencies 2 − 1 = 1 and 1
    _check_stream(codec, [1, 0, 1, 2, 2, 1, 0, 0, 1], [0] * 9, [rare])
    _check_stream(codec, [0] * 3000, [0] * 3000, [[0, TOTAL - 1, TOTAL]])
    _check_empty(codec)
    _check_damage(codec, tables, rng)
    return Result(
        f"Streams decode in the grader's decoder; the longest overhead was {overhead:.1f} bits.", {"overhead": overhead}
    )


def _laws() -> list[Array]:
    k = np.arange(-20, 21)
    laws = [np.exp(-abs(k) / scale) for scale in (0.05, 0.5, 2.0, 8.0)]
    return [*laws, np.array([0.9, 0.0, 0.1]), np.full(300, 1.0)]


def _check_table(table: Any, masses: Array) -> list[int]:
    cumulative = table(masses / masses.sum())
    require(cumulative is not None, "table returned nothing; end it with a return statement.")
    require(
        all(type(each) is int for each in cumulative),
        f"table must return Python integers, got {type(cumulative[-1]).__name__}: NumPy's overflow in `low`. Use "
        "int(…) or tolist().",
    )
    cumulative = list(cumulative)
    n = len(masses)
    require(
        len(cumulative) == n + 1 and cumulative[0] == 0,
        f"table must return {n + 1} cumulative frequencies for {n} probabilities, from 0 on; got {len(cumulative)}, "
        f"from {cumulative[0]}.",
    )
    require(cumulative[-1] == TOTAL, f"The cumulative frequencies must end at 65,536, got {cumulative[-1]:,}.")
    frequencies = np.diff(cumulative)
    require(
        frequencies.min() >= 1,
        "A symbol has the frequency 0, so it cannot be coded. Every frequency must be at least 1, even if the "
        "probability rounds to 0.",
    )
    ideal = masses / masses.sum() * TOTAL
    require(
        (abs(frequencies - ideal) <= np.maximum(3, 0.02 * ideal)).all() or (abs(frequencies - ideal) <= n + 1).all(),
        "The frequencies are not proportional to the probabilities.",
    )
    return cumulative


def _draw(cumulative: list[int], rng: np.random.Generator) -> int:
    return int(np.searchsorted(cumulative, rng.integers(TOTAL), "right")) - 1


def _ideal(symbols: list[int], indexes: list[int], tables: Tables) -> float:
    return sum(16 - math.log2(tables[i][s + 1] - tables[i][s]) for s, i in zip(symbols, indexes, strict=True))


def _encode(codec: Any, symbols: list[int], indexes: list[int], tables: Tables) -> bytes:
    data = codec.encode(symbols, indexes, tables)
    require(isinstance(data, bytes), f"encode must return bytes, got {type(data).__name__}.")
    return bytes(data)


def _check_stream(codec: Any, symbols: list[int], indexes: list[int], tables: Tables) -> float:
    data, ideal = _encode(codec, symbols, indexes, tables), _ideal(symbols, indexes, tables)
    try:
        decoded = reference_decode(data, indexes, tables)
    except StopIteration:
        decoded = []
    if decoded != symbols:
        if _little_endian(data, indexes, tables) == symbols:
            raise Wrong(
                "The stream is in little-endian order. Its first byte holds the highest digits: to_bytes(…, 'big')."
            )
        place = next((i for i, (a, b) in enumerate(zip(decoded, symbols, strict=False)) if a != b), len(decoded))
        raise Wrong(
            f"The grader's decoder reads other symbols from symbol {place} on, of {len(symbols)}. "
            + (
                "The beginning is right, so look at the shift (while size < 2²⁴) and at the end of the stream."
                if place > 0
                else "Compare the first step with the worked example in the text."
            )
        )
    overhead = 8 * len(data) - ideal
    require(
        overhead <= 64 + 0.001 * ideal,
        f"The stream has {8 * len(data)} bits for {ideal:.0f} bits of information. At most 64 bits and 0.1% more are "
        "allowed: shift by bytes only while size < 2²⁴, and do not round size down to multiples of 65,536.",
    )
    try:
        own = codec.decode(data, indexes, tables)
    except ValueError as error:
        raise Wrong(f"encode is right, but decode refuses its stream: it reads other symbols. {EXAMPLE}") from error
    require(own is not None, "decode returned nothing; end it with a return statement.")
    require(
        [int(each) for each in own] == symbols,
        f"encode is right, but decode returns different symbols than were coded. {EXAMPLE}",
    )
    return overhead


def _little_endian(data: bytes, indexes: list[int], tables: Tables) -> list[int]:
    try:
        return reference_decode(data[::-1], indexes, tables)
    except StopIteration:
        return []


def _check_empty(codec: Any) -> None:
    data = _encode(codec, [], [], [])
    require(len(data) <= 8, f"A stream without symbols takes {len(data)} bytes; at most 8 are allowed.")
    require(list(codec.decode(data, [], [])) == [], "decode must return an empty list for a stream without symbols.")


def _check_damage(codec: Any, tables: Tables, rng: np.random.Generator) -> None:
    indexes = rng.integers(len(tables), size=400).tolist()
    symbols = [_draw(tables[index], rng) for index in indexes]
    data = _encode(codec, symbols, indexes, tables)
    for name, damaged in (("truncated by a byte", data[:-1]), ("with a byte too many", data + b"\x07"), ("empty", b"")):
        try:
            codec.decode(damaged, indexes, tables)
        except ValueError:
            continue
        except Exception as error:
            raise Wrong(
                f"decode raises {type(error).__name__} for a stream that is {name}; raise ValueError."
            ) from error
        raise Wrong(
            f"decode accepts a stream that is {name}. A stream is valid if `encode` writes it for these symbols: "
            "encode them again, and raise ValueError if the bytes differ."
        )
    for position in range(0, len(data), 7):
        flipped = bytearray(data)
        flipped[position] ^= 0x55
        try:
            other = codec.decode(bytes(flipped), indexes, tables)
        except ValueError:
            continue
        except Exception as error:
            raise Wrong(
                f"decode raises {type(error).__name__} for a damaged stream; raise ValueError or return symbols."
            ) from error
        require(
            all(0 <= s < len(tables[i]) - 1 for s, i in zip(other, indexes, strict=True)),
            "decode returns symbols outside their tables for a damaged stream.",
        )

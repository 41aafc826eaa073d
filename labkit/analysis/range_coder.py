"""A range coder in Python's integers, short enough to read. It needs as many bits as the coder of `.lkc` files.

A message is an interval of numbers between 0 and 1. The coder starts with the whole interval. Each symbol keeps a part
of it, as wide as the symbol is probable:

    E          N      O    T      E          N      O    T
    ├──────────┼──────┼────┼───┤  ├──────────┼──────┼────┼───┤   the same parts of the part that N kept
                  N ─────────────►

A binary fraction inside the last part is the code of the message. The decoder has the same model. It finds at each step
the part that contains the code.

A table is a list of cumulative frequencies, such as [0, 7, 11, 14, 16] for four symbols of 16 parts.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Sequence

MOST_TOTAL = 2**16  # of a table
_BITS, _WORD = 64, 32  # of a whole interval, and of the digits that are added when an interval is narrow
_NARROW = 2 ** (_BITS - _WORD)


class Encoder:
    """Codes symbols one by one.

    The interval is [low, low + width) in units of 2^(−places).

    Attributes:
        low: Start of the interval. It may have any number of digits, so that a carry needs no special care.
        width: Width of the interval, at least 2³².
        places: Number of binary digits behind the point.
    """

    def __init__(self) -> None:
        self.low: int = 0
        self.width: int = 2**_BITS
        self.places = _BITS

    def narrow(self, start: int, size: int, total: int) -> None:
        """Keep the part of one symbol.

        Args:
            start: Cumulative frequency of the symbols before it.
            size: Frequency of the symbol.
            total: Sum of all frequencies, at most 2¹⁶.

        Raises:
            ValueError: If the symbol has no frequency, or the total is too large.
        """
        if not (0 <= start < start + size <= total <= MOST_TOTAL):
            raise ValueError(
                f"a symbol must have a frequency ≥ 1 within a total of at most 65,536, got {size} at {start} of {total}"
            )
        unit = self.width // total
        self.low += start * unit
        self.width = size * unit
        if self.width < _NARROW:
            self.low, self.width, self.places = self.low << _WORD, self.width << _WORD, self.places + _WORD

    def digits(self) -> str:
        """Return the fewest binary digits such that every number that begins with them is in the interval.

        They are at most two more than −log₂ of the width of the interval.
        """
        count = self.places - self.width.bit_length() + 1
        while count:
            unit = 1 << (self.places - count)
            number = -(-self.low // unit)
            if (number + 1) * unit <= self.low + self.width:
                return f"{number:0{count}b}"
            count += 1
        return ""  # of the whole interval

    def finish(self) -> bytes:
        """Return the digits as bytes, filled up with zeros."""
        digits = self.digits()
        size = -(-len(digits) // 8)
        return int(digits.ljust(8 * size, "0") or "0", 2).to_bytes(size, "big")


class Decoder:
    """Decodes symbols one by one.

    Args:
        data: What `Encoder.finish` returned.

    Attributes:
        offset: Distance of the code from the start of the interval.
        width: Width of the interval, in the same units.
    """

    def __init__(self, data: bytes) -> None:
        self._data, self._next = data, 0
        self.width: int = 2**_BITS
        self.offset = self._read(_BITS // 8)

    def position(self, total: int) -> int:
        """Return which of `total` equal parts of the interval contains the code, from 0 to total − 1.

        Args:
            total: Sum of all frequencies of the next symbol.
        """
        return min(self.offset // (self.width // total), total - 1)

    def narrow(self, start: int, size: int, total: int) -> None:
        """Keep the part of one symbol, with the arguments of `Encoder.narrow`."""
        unit = self.width // total
        self.offset -= start * unit
        self.width = size * unit
        if self.width < _NARROW:
            self.width <<= _WORD
            self.offset = (self.offset << _WORD) + self._read(_WORD // 8)

    def _read(self, count: int) -> int:
        """Return the next bytes as a number. Zeros follow the last byte."""
        start, self._next = self._next, self._next + count
        return int.from_bytes(self._data[start : self._next].ljust(count, b"\0"), "big")


def encode(symbols: Iterable[int], tables: Iterable[Sequence[int]]) -> bytes:
    """Code a message.

    Args:
        symbols: Symbols from 0.
        tables: Cumulative frequencies of each symbol, from 0 to a total of at most 65,536.

    Returns:
        The code. It has at most −Σ log₂ p bits, and 64 more, where p is the share of each symbol in its table.

    Raises:
        ValueError: If a symbol has no frequency.

    >>> from labkit.analysis import range_coder
    >>> range_coder.encode([1, 2, 3, 0], [[0, 7, 11, 14, 16]] * 4).hex()
    'a680'
    >>> range_coder.decode(bytes.fromhex("a680"), [[0, 7, 11, 14, 16]] * 4)
    [1, 2, 3, 0]
    """
    encoder = Encoder()
    for symbol, table in zip(symbols, tables, strict=True):
        encoder.narrow(table[symbol], table[symbol + 1] - table[symbol], table[-1])
    return encoder.finish()


def decode(data: bytes, tables: Iterable[Sequence[int]]) -> list[int]:
    """Decode a message.

    Args:
        data: What `encode` returned.
        tables: The tables that the message was coded with, as many as it has symbols.
    """
    decoder, symbols = Decoder(data), []
    for table in tables:
        symbol = bisect_right(table, decoder.position(table[-1])) - 1
        decoder.narrow(table[symbol], table[symbol + 1] - table[symbol], table[-1])
        symbols.append(symbol)
    return symbols

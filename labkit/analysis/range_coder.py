"""A range coder in Python integers, short enough to read. It needs as many bits as the coder of `.lkc` files.

A message is an interval of numbers between 0 and 1. The coder starts with the whole interval. For each symbol, it keeps
a part of the interval whose share is the probability of the symbol:

    E          N      O    T      E          N      O    T
    ├──────────┼──────┼────┼───┤  ├──────────┼──────┼────┼───┤   the part of N is divided in the same way
                  N ─────────────►

A binary fraction inside the last part is the code of the message. The decoder has the same model. In each step, it
finds the part that contains the code.

A table is a list of cumulative frequencies, such as [0, 7, 11, 14, 16] for four symbols of 16 parts.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Sequence

MOST_TOTAL = 2**16  # largest total of a table
_BITS, _WORD = 64, 32  # bits of a whole interval, and bits that are appended when an interval becomes narrow
_NARROW = 2 ** (_BITS - _WORD)


class Encoder:
    """Codes symbols one at a time.

    The interval is [low, low + width) in units of 2^(−places).

    Attributes:
        low: Start of the interval. It may have any number of digits, so carries need no special treatment.
        width: Width of the interval, at least 2³².
        places: Number of binary digits after the point.
    """

    def __init__(self) -> None:
        self.low: int = 0
        self.width: int = 2**_BITS
        self.places = _BITS

    def narrow(self, start: int, size: int, total: int) -> None:
        """Keep the part of one symbol.

        Args:
            start: Sum of the frequencies of all earlier symbols.
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
        """Return the shortest binary digits such that every number that begins with them is in the interval.

        There are at most two digits more than −log₂ of the width of the interval.
        """
        count = self.places - self.width.bit_length() + 1
        while count:
            unit = 1 << (self.places - count)
            number = -(-self.low // unit)
            if (number + 1) * unit <= self.low + self.width:
                return f"{number:0{count}b}"
            count += 1
        return ""  # if the interval is the whole interval

    def finish(self) -> bytes:
        """Return the digits as bytes, padded with zeros."""
        digits = self.digits()
        size = -(-len(digits) // 8)
        return int(digits.ljust(8 * size, "0") or "0", 2).to_bytes(size, "big")


class Decoder:
    """Decodes symbols one at a time.

    Args:
        data: Result of `Encoder.finish`.

    Attributes:
        offset: Distance of the code from the start of the interval.
        width: Width of the interval, in the same units.
    """

    def __init__(self, data: bytes) -> None:
        self._data, self._next = data, 0
        self.width: int = 2**_BITS
        self.offset = self._read(_BITS // 8)

    def position(self, total: int) -> int:
        """Return the index of the part that contains the code if the interval is divided into `total` equal parts.

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
        """Return the next bytes as a number. Zeros follow after the last byte."""
        start, self._next = self._next, self._next + count
        return int.from_bytes(self._data[start : self._next].ljust(count, b"\0"), "big")


def encode(symbols: Iterable[int], tables: Iterable[Sequence[int]]) -> bytes:
    """Code a message.

    Args:
        symbols: Symbols, numbered from 0.
        tables: Cumulative frequencies of each symbol, from 0 to a total of at most 65,536.

    Returns:
        The code. It has at most −Σ log₂ p + 64 bits, where p is the share of each symbol in its table.

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
        data: Result of `encode`.
        tables: The tables with which the message was coded, one for each symbol.
    """
    decoder, symbols = Decoder(data), []
    for table in tables:
        symbol = bisect_right(table, decoder.position(table[-1])) - 1
        decoder.narrow(table[symbol], table[symbol + 1] - table[symbol], table[-1])
        symbols.append(symbol)
    return symbols

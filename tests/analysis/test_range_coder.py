"""The range coder decodes what it encodes, is as short as −Σ log₂ p, and agrees with exact fractions."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest

from labkit.analysis import range_coder
from labkit.analysis.range_coder import Encoder


def message(seed: int, length: int, skew: float = 1.0, zeros: bool = False):
    """Return symbols and the table of each, drawn so that probable symbols are frequent."""
    rng = np.random.default_rng(seed)
    tables, symbols = [], []
    for _ in range(length):
        total = int(rng.choice([16, 1000, 2**16]))
        shares = rng.dirichlet(np.full(rng.integers(2, 9), skew))
        frequencies = np.maximum(np.floor(shares * (total - 9)).astype(int), 0 if zeros else 1)
        frequencies[frequencies.argmax()] += total - frequencies.sum()
        tables.append([0, *map(int, np.cumsum(frequencies))])
        symbols.append(int(rng.choice(len(frequencies), p=frequencies / total)))
    return symbols, tables


def surprise(symbols, tables) -> float:
    pairs = zip(symbols, tables, strict=True)
    return sum(math.log2(table[-1] / (table[k + 1] - table[k])) for k, table in pairs)


@pytest.mark.parametrize("length", [0, 1, 2, 3, 10, 100, 3000])
@pytest.mark.parametrize("skew", [0.1, 1.0, 20.0])
def test_it_decodes_what_it_encodes_in_as_many_bits_as_the_surprise(length, skew):
    for seed in range(5 if length < 1000 else 1):
        symbols, tables = message(seed, length, skew, zeros=seed % 2 == 1)
        data = range_coder.encode(symbols, tables)
        assert range_coder.decode(data, tables) == symbols
        assert 8 * len(data) <= surprise(symbols, tables) + 64
        assert 8 * len(data) >= surprise(symbols, tables)  # the digits name a part of the interval


def test_bytes_that_follow_do_not_change_the_message():
    symbols, tables = message(3, 200)
    data = range_coder.encode(symbols, tables)
    for rest in (b"\x00", b"\xff" * 20, b"\x80\x01"):
        assert range_coder.decode(data + rest, tables) == symbols


@pytest.mark.parametrize("seed", range(20))
def test_the_interval_of_a_short_message_agrees_with_exact_fractions(seed):
    """With totals of 16, four divisions of 2⁶⁴ leave no remainder, so the interval is exact."""
    rng = np.random.default_rng(seed)
    cuts = np.sort(rng.choice(np.arange(1, 16), 3, replace=False))
    table = [0, *map(int, cuts), 16]
    low, width, encoder = Fraction(0), Fraction(1), Encoder()
    for symbol in map(int, rng.integers(0, 4, 4)):
        start, size = table[symbol], table[symbol + 1] - table[symbol]
        low, width = low + width * Fraction(start, 16), width * Fraction(size, 16)
        encoder.narrow(start, size, 16)
        assert Fraction(encoder.low, 2**encoder.places) == low
        assert Fraction(encoder.width, 2**encoder.places) == width
    digits = encoder.digits()
    number = Fraction(int(digits, 2), 2 ** len(digits))
    assert low <= number and number + Fraction(1, 2 ** len(digits)) <= low + width
    shorter = 2 ** (len(digits) - 1)  # with one digit less, the first part that starts in the interval ends outside
    assert Fraction(math.ceil(low * shorter) + 1, shorter) > low + width
    assert len(digits) <= math.ceil(-math.log2(width)) + 1


def test_a_carry_runs_through_many_digits():
    """The last part of an interval just below ½, then the first part of one just above it."""
    tables = [[0, 2**15, 2**16]] + [[0, 1, 2**16]] * 40
    for first in (0, 1):
        for later in (0, 1):
            symbols = [first] + [later] * 40
            assert range_coder.decode(range_coder.encode(symbols, tables), tables) == symbols


@pytest.mark.parametrize(("start", "size", "total"), [(3, 0, 16), (15, 2, 16), (-1, 2, 16), (0, 1, 2**16 + 1)])
def test_a_symbol_without_a_part_is_refused(start, size, total):
    with pytest.raises(ValueError, match=r"^a symbol must have a frequency ≥ 1 within a total of at most 65,536, got"):
        Encoder().narrow(start, size, total)


def test_any_bytes_decode_to_some_message():
    rng = np.random.default_rng(0)
    tables = [[0, 5, 9, 1000]] * 300
    for size in (0, 1, 7, 50):
        symbols = range_coder.decode(rng.bytes(size), tables)
        assert len(symbols) == 300 and set(symbols) <= {0, 1, 2}

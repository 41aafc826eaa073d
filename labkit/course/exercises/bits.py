"""Exercises of the lesson on bits: the word that costs most, a decoder, and the parts of a `.lkc` file."""

from __future__ import annotations

import itertools
import math
from fractions import Fraction

import numpy as np

from labkit.course.exercises.base import Exercise
from labkit.files.container import Container
from labkit.statistics import Array

# bits.word: the word that costs most, found with the panel


def most_bits() -> float:
    """Return the largest sum of surprises over the letters of a word."""
    shares = {"E": 7 / 16, "N": 4 / 16, "O": 3 / 16, "T": 2 / 16}
    words = ("NOTE", "TONE", "TEEN", "NEON", "NONE", "ONTO", "NOON", "TENT", "TOOT")
    return max(-sum(math.log2(shares[letter]) for letter in word) for word in words)


def _widths() -> list[Fraction]:
    """Return the width of every word's interval under the panel's first model, as exact fractions."""
    from labkit.live.coder import LETTERS, MODELS, WORDS  # loads Jupyter's widgets

    frequencies = dict(zip(LETTERS, next(iter(MODELS.values())), strict=True))
    return [math.prod((Fraction(frequencies[letter], 16) for letter in word), start=Fraction(1)) for word in WORDS]


def _bits_of_the_narrowest_interval() -> float:
    return math.log2(1 / min(_widths()))


def _fewest_bits() -> float:
    return math.log2(1 / max(_widths()))


def _digits() -> float:
    return math.ceil(most_bits()) + 1


def _all_alike() -> float:
    return 8.0


def _nats_of_the_word() -> float:
    return most_bits() * math.log(2)


# bits.decoder: a decoder


def decode(number: int, places: int, table: list[int], length: int) -> list[int]:
    """Find the part that contains number / 2^places, stretch it to the whole interval, and repeat."""
    symbols, whole = [], 2**places
    for _ in range(length):
        share = number * table[-1] // whole
        symbol = max(k for k in range(len(table) - 1) if table[k] <= share)
        number = number * table[-1] - table[symbol] * whole
        whole *= table[symbol + 1] - table[symbol]
        symbols.append(symbol)
    return symbols


def _code(seed: int) -> tuple[int, int, list[int], int]:
    rng = np.random.default_rng(seed)
    cuts = np.sort(rng.choice(np.arange(2, 15), 3, replace=False))
    return int(rng.integers(2**37, 2**40)), 40, [0, *map(int, cuts), 16], 5


def _decoded_by_search(number: int, places: int, table: list[int], length: int) -> list[int]:
    """Compute the interval of every word in exact fractions, and return the word whose interval contains the number."""
    target = Fraction(number, 2**places)
    for word in itertools.product(range(len(table) - 1), repeat=length):
        low, width = Fraction(0), Fraction(1)
        for k in word:
            low += width * Fraction(table[k], table[-1])
            width *= Fraction(table[k + 1] - table[k], table[-1])
        if low <= target < low + width:
            return list(word)
    raise AssertionError("every number below 1 lies in the interval of one word")


def _never_stretches(number: int, places: int, table: list[int], length: int) -> list[int]:
    return decode(number, places, table, 1) * length


def _stretches_by_the_total(number: int, places: int, table: list[int], length: int) -> list[int]:
    """Continue with the fraction of the sixteenth that contains the number."""
    symbols = []
    for _ in range(length):
        share, number = divmod(number * table[-1], 2**places)
        symbols.append(max(k for k in range(len(table) - 1) if table[k] <= share))
    return symbols


def _backwards(number: int, places: int, table: list[int], length: int) -> list[int]:
    return decode(number, places, table, length)[::-1]


def _symbol_above(number: int, places: int, table: list[int], length: int) -> list[int]:
    return [symbol + 1 for symbol in decode(number, places, table, length)]


# bits.ledger: the parts of a file


def ledger(data: bytes) -> tuple[int, int, int, int, int]:
    """Return the bytes of the header, the section headers, z, y and flush."""
    place, lengths = 42, []
    for _ in range(data[27]):
        length = int.from_bytes(data[place : place + 4], "little")
        lengths.append(length)
        place += 8 + length
    y, z = lengths
    return 42, 8 * len(lengths), z - 8, y - 8, 8 * len(lengths)


def _file(seed: int) -> tuple[bytes]:
    rng = np.random.default_rng(seed)
    sizes = (int(rng.integers(1000, 5000)), int(rng.integers(50, 300)))
    strings = tuple(rng.integers(0, 250, 4 * size, np.uint8).tobytes() for size in sizes)
    return (Container("patch_hyperprior", "tiny", 64, 96, "0123456789abcdef", 512, 384, strings).pack(),)


def _ledger_by_the_container(data: bytes) -> Array:
    y, z = map(len, Container.unpack(data).strings)
    rest = len(data) - y - z - 42
    return np.array([42, rest, z - 8, y - 8, 16])


def _swapped(data: bytes) -> tuple[int, ...]:
    header, sections, z, y, flush = ledger(data)
    return header, sections, y, z, flush


def _flush_twice(data: bytes) -> tuple[int, ...]:
    header, sections, z, y, flush = ledger(data)
    return header, sections, z + 8, y + 8, flush


def _one_flush(data: bytes) -> tuple[int, ...]:
    header, sections, z, y, _ = ledger(data)
    return header, sections, z, y, 8


def _lengths_only(data: bytes) -> tuple[int, ...]:
    header, _, z, y, flush = ledger(data)
    return header, 8, z, y, flush


def _without_checksum(data: bytes) -> tuple[int, ...]:
    return 38, *ledger(data)[1:]


EXERCISES = (
    Exercise(
        key="bits.word",
        title="The most expensive word",
        difficulty=1,
        importance=2,
        minutes=4,
        hints=(
            "Set the panel to the first model and go through the words. The line below the controls shows their bits.",
            "A letter costs −log₂ of its share. Which letters are rare under this model?",
            "The word has two T and two O. Submit the sum of its four surprises, not the number of digits.",
        ),
        answer=most_bits,
        oracle=_bits_of_the_narrowest_interval,
        tolerance=1e-3,
        misconceptions={
            _fewest_bits: "This is the word that costs the fewest bits. Rare letters cost more.",
            _digits: "This is the number of digits of the code. Submit the sum of the surprises, which need not be a "
            "whole number.",
            _all_alike: "This is what every word costs under the second model. Set the panel to the first one.",
            _nats_of_the_word: "This is in nats. Bits need the logarithm to base 2.",
        },
    ),
    Exercise(
        key="bits.decoder",
        title="A decoder",
        difficulty=3,
        importance=2,
        minutes=15,
        hints=(
            "The code is a fraction between 0 and 1. The first symbol is the one whose part contains it.",
            "After each symbol, stretch its part to the whole interval: subtract where the part starts, and divide by "
            "its width.",
            "With x = number / 2**places and T = table[-1], the symbol is the last k with table[k] <= T·x. Then "
            "x becomes (T·x − table[k]) / (table[k + 1] − table[k]).",
        ),
        answer=decode,
        cases=_code,
        oracle=_decoded_by_search,
        tolerance=1e-9,
        misconceptions={
            _never_stretches: "You find the first symbol again and again. After a symbol, its part becomes the whole "
            "interval.",
            _stretches_by_the_total: "You stretch one of the table's equal parts, as if every symbol had the frequency "
            "1. Divide by the width of the symbol's own part.",
            _backwards: "The symbols are right, but in reverse order. The code of a range coder gives the first symbol "
            "first.",
            _symbol_above: "Your symbols are too high by one. table[k] is where the part of symbol k starts.",
        },
    ),
    Exercise(
        key="bits.ledger",
        title="Account for a file",
        difficulty=2,
        importance=3,
        minutes=12,
        hints=(
            "Everything has a known place: the first section starts at byte 42, and its first four bytes say how long "
            "its string is.",
            'int.from_bytes(data[42:46], "little") is the length of y\'s string. The next section starts 8 + length '
            "bytes after byte 42.",
            "The final state takes 8 bytes of each string. Count these bytes as flush, and subtract them from y and z.",
        ),
        answer=ledger,
        cases=_file,
        oracle=_ledger_by_the_container,
        tolerance=1e-9,
        misconceptions={
            _swapped: "You swapped y and z. The string of y comes first, although a decoder needs z first.",
            _flush_twice: "Your parts add up to more than the file: the 16 bytes of flush are also in y and z. "
            "Subtract 8 from each.",
            _one_flush: "Each of the two strings has its own final state of 8 bytes.",
            _lengths_only: "A section header has 8 bytes: a length of 4 and a checksum of 4.",
            _without_checksum: "The header has 42 bytes: its own checksum, the last 4, belongs to it.",
        },
    ),
)

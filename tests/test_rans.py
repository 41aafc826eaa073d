"""The decoder of strings, compared with one in Python that knows where it reads, on valid and damaged strings."""

import random
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from compressai import ans
from compressai._CXX import pmf_to_quantized_cdf

from labkit import rans

MASSES = ([0.2, 0.5, 0.2, 0.0999, 0.0001], [1e-6, 1 - 2e-6, 1e-6], [0.3, 0.2, 0.5], [1 - 2e-5, 1e-5, 1e-5])
TABLES = [pmf_to_quantized_cdf(list(mass), 16) for mass in MASSES]  # the last value of each is the escape
LENGTHS = [len(table) for table in TABLES]
OFFSETS = [-2, -1, 0, 3]


def encode(symbols, indexes):  # at least 8: CompressAI writes before its memory for one symbol
    return ans.RansEncoder().encode_with_indexes(symbols, indexes, TABLES, LENGTHS, OFFSETS)


def decode(string, indexes):
    decoder = rans.Decoder(string, len(indexes))
    symbols = decoder.decode(indexes, TABLES, LENGTHS, OFFSETS)
    decoder.finish()
    return symbols


def trace(string, indexes):
    """Decode as the format says, with zeros after the string; returns the symbols, the state and the bytes read."""
    words = iter(np.frombuffer(string, "<u4").tolist())
    read = 0

    def word():
        nonlocal read
        read += 4
        return next(words, 0)

    state = word() | word() << 32
    symbols = []

    def refilled(state):
        return state << 32 | word() if state < 2**31 else state

    def digit():
        nonlocal state
        value, state = state & 15, refilled(state >> 4)
        return value

    for index in indexes:
        table, low = TABLES[index], state & 0xFFFF
        symbol = next(n for n, end in enumerate(table) if end > low) - 1
        state = refilled((table[symbol + 1] - table[symbol]) * (state >> 16) + low - table[symbol])
        if symbol == len(table) - 2:
            count = last = digit()
            while last == 15:
                last = digit()
                count += last
            raw = sum(digit() << 4 * n for n in range(count))
            symbol = -(raw >> 1) - 1 if raw & 1 else (raw >> 1) + symbol
        symbols.append(symbol + OFFSETS[index])
    return symbols, state, read


def valid(draw, latents):
    indexes = draw.integers(0, len(TABLES), latents).tolist()
    spread = draw.choice([1, 3, 40, 2**13])
    return np.rint(draw.laplace(0, spread, latents)).astype(int).tolist(), indexes


def test_a_valid_string_ends_in_the_first_state_and_is_read_to_its_end():
    draw = np.random.default_rng(0)
    for _ in range(200):
        symbols, indexes = valid(draw, draw.integers(8, 300))
        string = encode(symbols, indexes)
        assert trace(string, indexes) == (symbols, 2**31, len(string))
        assert decode(string, indexes) == symbols


def test_a_changed_string_is_refused_unless_only_digits_of_escapes_have_changed():
    draw, chance = np.random.default_rng(1), random.Random(1)
    outcomes = {"refused": 0, "other values": 0}
    for _ in range(400):
        symbols, indexes = valid(draw, draw.integers(20, 200))
        string = bytearray(encode(symbols, indexes))
        string[chance.randrange(len(string))] ^= 1 << chance.randrange(8)
        _, state, read = trace(bytes(string), indexes)
        if (state, read) == (2**31, len(string)):
            outcomes["other values"] += 1
            assert sum(a != b for a, b in zip(decode(bytes(string), indexes), symbols, strict=True)) == 1
        else:
            outcomes["refused"] += 1
            with pytest.raises(ValueError, match=r"^a string (does not end with its last latent|begins with a state)"):
                decode(bytes(string), indexes)
    assert min(outcomes.values()) > 10, outcomes


@pytest.mark.parametrize("change", ["cut", "word added", "zeros added", "twice", "words reversed", "fewer latents"])
def test_a_string_of_another_length_is_refused(change):
    draw = np.random.default_rng(2)
    for _ in range(50):
        symbols, indexes = valid(draw, 200)
        string = encode(symbols, indexes)
        changed = {
            "cut": string[:-4],
            "word added": string + b"1234",
            "zeros added": string + bytes(8),
            "twice": string + string,
            "words reversed": string[:8] + np.frombuffer(string, "<u4")[:1:-1].tobytes(),
        }.get(change, string)
        with pytest.raises(ValueError, match=r"^a string does not end with its last latent"):
            decode(changed, indexes[: 199 if change == "fewer latents" else 200])


def forged(draw, trial):
    string = draw.integers(0, 256, 4 * draw.choice([2, 3, 5, 20]), dtype=np.uint8)
    if trial % 3:  # long runs of ones, because a digit of ones announces 15 other digits
        string[draw.random(string.size) < 0.95] = 255
    string[3] |= 128
    string[7] &= 127  # a state that a coder may write
    return string.tobytes().replace(rans.NEVER_CODED, b"\xff" * 15 + b"\x7f")


def test_the_decoder_never_reads_beyond_the_bytes_that_are_reserved():
    """The Python decoder counts what is read; bytes after the reserved ones do not change what CompressAI's decodes."""
    draw, decoder = np.random.default_rng(0), ans.RansDecoder()
    most = 0.0
    for trial in range(1500):
        latents = int(draw.choice([1, 3, 16, 100]))
        string, indexes = forged(draw, trial), draw.integers(0, len(TABLES), latents).tolist()
        padded = rans.padded(string, latents)
        _, _, read = trace(padded[: len(string) + 4], indexes)
        most = max(most, (read - len(string)) / latents)
        assert read + 4 * 81 * 3 < len(padded)  # the check of the end decodes three symbols more
        decoded = [
            decoder.decode_with_indexes(padded + tail * 64, indexes, TABLES, LENGTHS, OFFSETS) for tail in (b"\0", b"5")
        ]
        assert decoded[0] == decoded[1]
    assert most > 12  # some read far more than the three words that are reserved for each latent


def test_escapes_beyond_the_end_take_fewer_than_three_words_on_average():
    heavy = [0, 30000, 65536]  # every second latent is escaped, as in an untrained bottleneck
    for seed in range(20):
        TABLES.append(heavy), LENGTHS.append(3), OFFSETS.append(0)
        try:
            string = forged(np.random.default_rng(seed), 0)
            _, _, read = trace(string, [4] * 5000)
        finally:
            TABLES.pop(), LENGTHS.pop(), OFFSETS.pop()
        assert 0.1 < read / 4 / 5000 < 1.2


@pytest.mark.parametrize(
    "string, message",
    [
        ("text", "a string must be bytes, got str"),
        (None, "a string must be bytes, got NoneType"),
        (b"", "a string must have 8, 12, 16, … bytes, got 0"),
        (b"1234", "a string must have 8, 12, 16, … bytes, got 4"),
        (b"123456789", "a string must have 8, 12, 16, … bytes, got 9"),
        (b"12345678" + b"\xff" * 16, "a string has 16 consecutive bytes of 255, which no coder writes"),
        (bytes(8), "a string begins with a state that no coder writes"),
        (b"\xff" * 8, "a string begins with a state that no coder writes"),
    ],
)
def test_a_string_that_no_coder_writes_is_refused(string, message):
    with pytest.raises(ValueError) as caught:
        rans.Decoder(string, 1)
    assert str(caught.value) == message


@pytest.mark.parametrize("escape", [1, 2, 100, 30_000])
def test_the_bound_on_the_length_never_refuses_a_valid_string_and_is_close(escape):
    """The shortest strings have the most frequent value only."""
    table = [0, 65536 - escape, 65536]
    for latents in (8, 1000, 300_000):
        string = ans.RansEncoder().encode_with_indexes([0] * latents, [0] * latents, [table], [3], [0])
        rans.check_capacity([string], torch.tensor([table]), latents)
        if latents == 300_000 and escape >= 100:
            with pytest.raises(ValueError, match=r"is too short for 360,000 latents in each of 1 channels"):
                rans.check_capacity([string], torch.tensor([table]), 360_000)


def test_the_own_decoder_of_a_model_is_restored():
    model = SimpleNamespace(entropy_coder=SimpleNamespace(_decoder="own"))

    def fail(_):
        assert model.entropy_coder._decoder != "own"
        raise KeyError

    with pytest.raises(KeyError):
        rans.decompress(model, fail, [])
    assert model.entropy_coder._decoder == "own"

from bisect import bisect_right

# Stage 5: the range coder


def table(probabilities):
    """Return cumulative frequencies that end at 65,536; each symbol has a frequency of at least 1."""
    p = np.asarray(probabilities, np.float64)
    frequencies = np.floor(p / p.sum() * (65536 - len(p))).astype(int) + 1
    frequencies[p.argmax()] += 65536 - frequencies.sum()
    return [0, *np.cumsum(frequencies).tolist()]


def encode(symbols, indexes, tables):
    """Return the stream of some symbols, each coded with its table."""
    low, size, shifts = 0, 2**32, 0
    for symbol, index in zip(symbols, indexes, strict=True):
        first = size * tables[index][symbol] >> 16
        low, size = low + first, (size * tables[index][symbol + 1] >> 16) - first
        while size < 2**24:
            low, size, shifts = low << 8, size << 8, shifts + 1
    return ((low + 2**24 - 1) >> 24).to_bytes(1 + shifts, "big")


def decode(data, indexes, tables):
    """Return the symbols of a stream. Raises ValueError if `encode` would not write this stream."""
    code, size, position, symbols = int.from_bytes(data[:4].ljust(4, b"\0"), "big"), 2**32, 4, []
    for index in indexes:
        cumulative = tables[index]
        symbol = bisect_right(cumulative, (((code + 1) << 16) - 1) // size) - 1
        first = size * cumulative[symbol] >> 16
        code, size = code - first, (size * cumulative[symbol + 1] >> 16) - first
        while size < 2**24:
            code, size = code << 8 | (data[position] if position < len(data) else 0), size << 8
            position += 1
        symbols.append(symbol)
    if encode(symbols, indexes, tables) != data:
        raise ValueError("the stream is damaged")
    return symbols

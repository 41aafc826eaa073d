"""Files that are not what they claim to be."""

import struct
import zlib

from labkit.files.container import Container
from tests.bench.hostile import DAMAGE


def with_checksums(data):
    """Return the bytes of a file with correct checksums of its header and sections."""
    data = bytearray(data)
    checksum = zlib.crc32(data[:38])
    struct.pack_into("<I", data, 38, checksum)
    end = 42
    while end + 8 <= len(data):
        (length,) = struct.unpack_from("<I", data, end)
        string = data[end + 8 : end + 8 + length]
        checksum = zlib.crc32(string, zlib.crc32(data[end : end + 4], checksum))
        struct.pack_into("<I", data, end + 4, checksum)
        end += 8 + length
    return bytes(data)


def with_strings(file, strings):
    """Return a file with other strings and correct checksums."""
    sections = b"".join(struct.pack("<II", len(string), 0) + string for string in strings)
    return with_checksums(file[:42] + sections)


def damaged(file, other, draw):
    """Return a file that is damaged anywhere, or behind correct checksums in its strings, sizes or header."""
    way = draw.choice(("anywhere", "strings", "strings", "sizes", "header", "other"))
    if way == "anywhere":
        return (
            DAMAGE[draw.choice(("flip", "zeros", "noise", "extend"))](file, draw)
            if draw.random() < 0.7
            else (file[: draw.randrange(len(file))])
        )
    if way == "sizes":
        changed = bytearray(file)
        struct.pack_into("<H", changed, draw.choice((23, 25)), draw.choice((1, 33, 200, 4000, 65535)))
        return with_checksums(changed)
    if way == "header":
        changed = bytearray(file)
        changed[draw.choice((*range(9, 23), 27, 28, *range(33, 38)))] ^= 1 << draw.randrange(8)
        return with_checksums(changed)
    strings = list(Container.unpack(file).strings)
    place = draw.randrange(len(strings))
    if way == "other":
        strings = draw.choice(([*reversed(strings)], [*Container.unpack(other).strings]))
    else:
        strings[place] = DAMAGE[draw.choice(tuple(DAMAGE))](strings[place], draw)
    return with_strings(file, strings)

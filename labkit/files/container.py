"""The `.lkc` file: what a codec's strings need to be decoded again, and checks that they are what was written.

All numbers are little-endian. A header of 37 bytes, then a section for each string, then nothing:

    8  magic            2  width of the picture     4  length of the string
    1  version          2  its height               4  checksum
    1  network          1  number of strings           the string
    1  its size         1  1 where the next is set
    2  N                4  checksum of the picture
    2  M                4  checksum of the header
    8  weights' hash

Every checksum is a CRC-32. A section's covers its length and its string, and goes on from the one before it, so that
sections cannot change places, or files. The picture's is over what decoding gave where the file was written: 8-bit RGB,
row by row. Eight bytes of the hash tell weights apart, by mistake they agree once in 10¹⁹; nothing here resists
forgery, since who forges a file forges its checksums.

Only the standard library is needed: a bad file is turned away before torch is loaded.
"""

from __future__ import annotations

import re
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from labkit.disk import write_whole

MAGIC = b"\x89LKC\r\n\x1a\n"  # as PNG's: what strips the eighth bit or translates line ends changes it
VERSION = 1
SUFFIX = ".lkc"

# Their places are the numbers in the file: new ones go to the end, none ever moves
NETWORKS = (
    "factorized_prior",
    "scale_hyperprior",
    "mean_scale_hyperprior",
    "joint_autoregressive",
    "cheng2020_anchor",
    "cheng2020_attention",
    "elic",
    "channel_autoregressive",
)
SIZES = ("custom", "tiny", "small", "paper")

HASH_DIGITS = 16  # hexadecimal, the first of `training.weights_hash`
MAX_SIDE = 2**16 - 1
MAX_PIXELS = 100_000_000  # as in labkit.datasets, which is not imported here: it needs torch
MAX_BYTES = 2**26  # of a file: 5 bits for each pixel of the largest picture

_HEADER = struct.Struct("<8s3B2H8s2H2BI")
_CHECKSUM = struct.Struct("<I")
_SECTION = struct.Struct("<II")
_HEADER_BYTES = _HEADER.size + _CHECKSUM.size
_WORD = 4  # the entropy coder writes words of 32 bits, its state of two words first
_NEVER_CODED = b"\xff" * 4 * _WORD


@dataclass(frozen=True, repr=False)
class Container:
    """One coded picture.

    network, size, N, M: the codec, as `networks.get` and `networks.build` name it. weights: the first 16 hexadecimal
    digits of its `training.weights_hash`. width, height: of the picture, in pixels. strings: as the codec gave them,
    in its order. picture: CRC-32 of the decoded picture, None where nobody decoded it.

    Raises ValueError naming the field that is out of its range.
    """

    network: str
    size: str
    N: int
    M: int
    weights: str
    width: int
    height: int
    strings: tuple[bytes, ...]
    picture: int | None = None

    def __post_init__(self) -> None:
        for field, known in (("network", NETWORKS), ("size", SIZES)):
            if getattr(self, field) not in known:
                raise ValueError(f"{field}: takes {', '.join(known)}, got {getattr(self, field)!r}")
        for field in ("N", "M", "width", "height"):
            if not 1 <= getattr(self, field) <= MAX_SIDE:
                raise ValueError(f"{field}: takes 1 to {MAX_SIDE:,}, got {getattr(self, field):,}")
        if self.width * self.height > MAX_PIXELS:
            raise ValueError(f"width × height: takes {MAX_PIXELS:,} pixels at most, got {self.width}×{self.height}")
        if not re.fullmatch(f"[0-9a-f]{{{HASH_DIGITS}}}", self.weights):
            raise ValueError(f"weights: takes {HASH_DIGITS} hexadecimal digits, got {self.weights!r}")
        if self.picture is not None and not 0 <= self.picture < 2**32:
            raise ValueError(f"picture: takes a CRC-32, got {self.picture}")
        if not 1 <= len(self.strings) <= 255:
            raise ValueError(f"strings: takes 1 to 255, got {len(self.strings)}")
        for number, string in enumerate(self.strings, 1):
            if len(string) % _WORD or len(string) < 2 * _WORD:
                raise ValueError(f"string {number}: takes 8, 12, 16, … bytes, got {len(string)}")
            if _NEVER_CODED in string:  # the decoder would take it for a number of a thousand digits and more
                raise ValueError(f"string {number}: holds 16 bytes 255 in a row, which no coder writes")
        if self.file_bytes > MAX_BYTES:
            raise ValueError(
                f"strings: a file takes {MAX_BYTES:,} bytes at most, got {self.file_bytes:,} with its header"
            )

    @property
    def codec(self) -> str:
        """The network in words."""
        return f"{self.network} {self.size} (N = {self.N}, M = {self.M})"

    @property
    def file_bytes(self) -> int:
        """Size of the file."""
        return _HEADER_BYTES + sum(_SECTION.size + len(string) for string in self.strings)

    @property
    def bpp(self) -> float:
        """Bits per pixel of the file, header and all."""
        return 8 * self.file_bytes / (self.width * self.height)

    def summary(self) -> dict[str, Any]:
        """Return the contents without the coded strings, as values that JSON can hold."""
        values = {name: getattr(self, name) for name in ("network", "size", "N", "M", "weights", "width", "height")}
        values |= {"version": VERSION, "bytes": self.file_bytes, "strings": [len(string) for string in self.strings]}
        return values | {"bpp": self.bpp, "picture": self.picture, "checksums": "good"}

    def __repr__(self) -> str:
        return f"Container({self.network} {self.size}, {self.width}×{self.height} pixels, {self.file_bytes} bytes)"

    def __str__(self) -> str:
        lengths = [len(string) for string in self.strings]
        strings = f"{' + '.join(map(str, lengths))} in {len(lengths)} string{'s' * (len(lengths) > 1)}"
        verified = "not verified" if self.picture is None else f"verified, checksum {self.picture:08x}"
        return (
            f"version {VERSION}, all checksums are correct\n"
            f"network  {self.codec}, weights {self.weights}\n"
            f"image    {self.width}×{self.height} pixels, {verified}\n"
            f"bytes    {self.file_bytes:,}: {strings}, {self.file_bytes - sum(lengths)} for headers and checksums\n"
            f"rate     {self.bpp:.4f} bpp"
        )

    def pack(self) -> bytes:
        """The file as bytes."""
        header = _HEADER.pack(
            MAGIC,
            VERSION,
            NETWORKS.index(self.network),
            SIZES.index(self.size),
            self.N,
            self.M,
            bytes.fromhex(self.weights),
            self.width,
            self.height,
            len(self.strings),
            self.picture is not None,
            self.picture or 0,
        )
        checksum = zlib.crc32(header)
        parts = [header, _CHECKSUM.pack(checksum)]
        for string in self.strings:
            checksum = _section_checksum(string, checksum)
            parts += [_SECTION.pack(len(string), checksum), string]
        return b"".join(parts)

    @staticmethod
    def unpack(data: bytes) -> Container:
        """The container that these bytes are. Raises ValueError, one line, for anything that `pack` did not give."""
        if not data:
            raise ValueError("the file is empty")
        if len(data) > MAX_BYTES:
            raise ValueError(f"the file is longer than {MAX_BYTES:,} bytes, which no coded picture is")
        _check_magic(data[: len(MAGIC)])
        if len(data) > len(MAGIC) and data[len(MAGIC)] > VERSION:
            newer = data[len(MAGIC)]
            raise ValueError(f"written by a newer labkit: version {newer} of the format, this one reads {VERSION}")
        if len(data) < _HEADER_BYTES:
            raise ValueError(f"damaged: it ends after {len(data)} bytes, inside its header")
        (checksum,) = _CHECKSUM.unpack_from(data, _HEADER.size)
        if zlib.crc32(data[: _HEADER.size]) != checksum:
            raise ValueError("damaged: its header does not match its checksum")
        _, version, network, size, N, M, weights, width, height, count, verified, picture = _HEADER.unpack_from(data)
        if version != VERSION or verified > 1 or (picture and not verified):
            raise ValueError("its header holds what no labkit writes")
        if network >= len(NETWORKS) or size >= len(SIZES):
            raise ValueError(f"it names network {network} in size {size}, which this labkit does not know")
        strings, end = [], _HEADER_BYTES
        for number in range(1, count + 1):
            start = end + _SECTION.size
            if start > len(data):
                raise ValueError(f"damaged: it ends after {len(data)} bytes, before string {number} of {count}")
            length, stated = _SECTION.unpack_from(data, end)
            end = start + length
            if end > len(data):
                raise ValueError(f"damaged: string {number} of {count} claims {length:,} bytes, more than are left")
            checksum = _section_checksum(data[start:end], checksum)
            if checksum != stated:
                raise ValueError(f"damaged: string {number} of {count} does not match its checksum")
            strings.append(data[start:end])
        if end != len(data):
            raise ValueError(f"damaged: {len(data) - end:,} bytes follow its last string")
        return Container(
            network=NETWORKS[network],
            size=SIZES[size],
            N=N,
            M=M,
            weights=weights.hex(),
            width=width,
            height=height,
            strings=tuple(strings),
            picture=picture if verified else None,
        )

    @staticmethod
    def read(path: str | Path) -> Container:
        """The container in a file. Raises ValueError in one line that names the file."""
        try:
            with open(path, "rb") as file:
                data = file.read(MAX_BYTES + 1)
        except FileNotFoundError:
            raise ValueError(f"{path}: there is no such file") from None
        except OSError as error:
            raise ValueError(f"{path} cannot be read: {error.strerror}") from None
        try:
            return Container.unpack(data)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from None

    def write(self, path: str | Path) -> None:
        """Write the file, whole or not at all. Raises ValueError where it cannot be written."""
        write_whole(path, self.pack())


def _check_magic(start: bytes) -> None:
    if MAGIC.startswith(start):
        return
    if start[1:4] == MAGIC[1:4] or start.startswith("\N{REPLACEMENT CHARACTER}LKC".encode()):
        raise ValueError("damaged: its first bytes were changed, as a transfer in text mode does")
    raise ValueError(f"no {SUFFIX} file: it begins otherwise")


def _section_checksum(string: bytes, previous: int) -> int:
    return zlib.crc32(string, zlib.crc32(len(string).to_bytes(4, "little"), previous))

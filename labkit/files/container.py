"""The `.lkc` file: a coded image with everything that decoding needs, and checksums against damage.

FORMAT.md in this folder specifies the file: a header of 42 bytes and a section for each string, with a CRC-32 of the
header, of each section, of the decoded latents and of the decoded image. The checksum of a section continues the
previous checksum, so sections cannot be reordered or moved to other files. The header names the arithmetic in which σ
and μ are predicted from decoded symbols; 1 is "fixed-1", see `labkit.fixed_point.arithmetic`.

Version 1 has no arithmetic and no checksum of the latents: its header has 37 bytes, which are bytes 0 to 32 of version
2 and their checksum. Its σ and μ are predicted in floating point, so it decodes only on processors like the encoder's.

Eight bytes of the hash identify the weights; two different weights have the same eight bytes by accident once in 10¹⁹
cases. The format does not resist forgery, because a forger can compute checksums.

This module needs only the standard library, so a bad file is refused before torch loads.
"""

from __future__ import annotations

import re
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from labkit.disk import write_whole

MAGIC = b"\x89LKC\r\n\x1a\n"  # like PNG's: changed by transfers that strip the eighth bit or translate line ends
VERSION = 2  # version that labkit writes; it also reads version 1
SUFFIX = ".lkc"

# The index of a name is its number in the file. Append new names, and never move a name.
NETWORKS = (
    "factorized_prior",
    "scale_hyperprior",
    "mean_scale_hyperprior",
    "joint_autoregressive",
    "cheng2020_anchor",
    "cheng2020_attention",
    "elic",
    "channel_autoregressive",
    "patch_linear",
    "patch_mlp",
    "patch_hyperprior",
    "patch_context",
)
SIZES = ("custom", "tiny", "small", "paper")
ARITHMETIC_NAMES = ("floating-point", "fixed-1")  # the first is that of version 1, which does not store it

HASH_DIGITS = 16  # number of leading hexadecimal digits of `networks.weights_hash` in the file
MAX_SIDE = 2**16 - 1
MAX_PIXELS = 100_000_000  # equal to that of labkit.datasets, which this module does not import because it needs torch
MAX_BYTES = 2**26  # size of a file: 5 bits for each pixel of the largest image

_HEADER = struct.Struct("<8s3B2H8s2H2BI")  # of version 1; the header of version 2 continues with _SINCE_VERSION_2
_SINCE_VERSION_2 = struct.Struct("<BI")
_CHECKSUM = struct.Struct("<I")
_SECTION = struct.Struct("<II")
_WORD = 4  # bytes per word of the entropy coder, which first writes its state of two words
_NEVER_CODED = b"\xff" * 4 * _WORD


@dataclass(frozen=True, repr=False)
class Container:
    """A coded image.

    Attributes:
        network: Name of the architecture, as in `networks.get`.
        size: Name of the size, as in `networks.get`, or "custom".
        N: Number of channels of the transforms.
        M: Number of channels of the latent y.
        weights: First 16 hexadecimal digits of `networks.weights_hash`.
        width: Width of the image in pixels.
        height: Height of the image in pixels.
        strings: Strings of the codec, in its order.
        image_checksum: CRC-32 of the decoded image, or None if the image was not decoded for verification.
        latents_checksum: CRC-32 of the decoded latents; None if they were not decoded, and in version 1.
        arithmetic: Arithmetic that predicts (σ, μ) from decoded symbols, "fixed-1" or, in version 1, "floating-point".

    Raises:
        ValueError: If a field is out of range.
    """

    network: str
    size: str
    N: int
    M: int
    weights: str
    width: int
    height: int
    strings: tuple[bytes, ...]
    image_checksum: int | None = None
    latents_checksum: int | None = None
    arithmetic: str = ARITHMETIC_NAMES[-1]

    def __post_init__(self) -> None:
        for field, names in (("network", NETWORKS), ("size", SIZES), ("arithmetic", ARITHMETIC_NAMES)):
            if getattr(self, field) not in names:
                raise ValueError(f"{field} must be one of {', '.join(names)}, got {getattr(self, field)!r}")
        for field in ("N", "M", "width", "height"):
            if not 1 <= getattr(self, field) <= MAX_SIDE:
                raise ValueError(f"{field} must be 1 to {MAX_SIDE:,}, got {getattr(self, field):,}")
        if self.width * self.height > MAX_PIXELS:
            raise ValueError(f"width × height must be at most {MAX_PIXELS:,} pixels, got {self.width}×{self.height}")
        if not re.fullmatch(f"[0-9a-f]{{{HASH_DIGITS}}}", self.weights):
            raise ValueError(f"weights must be {HASH_DIGITS} hexadecimal digits, got {self.weights!r}")
        for field in ("image_checksum", "latents_checksum"):
            value = getattr(self, field)
            if value is not None and not 0 <= value < 2**32:
                raise ValueError(f"{field} must be a CRC-32, got {value}")
        if (self.latents_checksum is None) != (self.image_checksum is None or self.version == 1):
            raise ValueError(
                "latents_checksum must be set if and only if image_checksum is, and never in version 1, got "
                f"{self.latents_checksum} with image_checksum {self.image_checksum} in version {self.version}"
            )
        if not 1 <= len(self.strings) <= 255:
            raise ValueError(f"the number of strings must be 1 to 255, got {len(self.strings)}")
        for number, string in enumerate(self.strings, 1):
            if len(string) % _WORD or len(string) < 2 * _WORD:
                raise ValueError(f"string {number} must have 8, 12, 16, … bytes, got {len(string)}")
            if _NEVER_CODED in string:  # the decoder would read a number with more than a thousand digits
                raise ValueError(f"string {number} has 16 consecutive bytes of 255, which no coder writes")
        if self.file_bytes > MAX_BYTES:
            raise ValueError(f"the file must have at most {MAX_BYTES:,} bytes, got {self.file_bytes:,} with its header")

    @property
    def version(self) -> int:
        """Version of the file format: 1 if (σ, μ) are predicted in floating point, else 2."""
        return 1 if self.arithmetic == ARITHMETIC_NAMES[0] else VERSION

    @property
    def codec(self) -> str:
        """The network and its channel counts, as text."""
        return f"{self.network} {self.size} (N = {self.N}, M = {self.M})"

    @property
    def file_bytes(self) -> int:
        """Size of the file in bytes."""
        return _header_bytes(self.version) + sum(_SECTION.size + len(string) for string in self.strings)

    @property
    def bpp(self) -> float:
        """Bits per pixel of the whole file, including its header."""
        return 8 * self.file_bytes / (self.width * self.height)

    def summary(self) -> dict[str, Any]:
        """Return the contents without the coded strings, as JSON-compatible values."""
        values = {name: getattr(self, name) for name in ("network", "size", "N", "M", "weights", "width", "height")}
        values |= {"version": self.version, "arithmetic": self.arithmetic}
        values |= {"bytes": self.file_bytes, "strings": [len(string) for string in self.strings], "bpp": self.bpp}
        values |= {"latents_checksum": self.latents_checksum, "image_checksum": self.image_checksum}
        return values | {"checksums": "good"}

    def __repr__(self) -> str:
        return f"Container({self.network} {self.size}, {self.width}×{self.height} pixels, {self.file_bytes} bytes)"

    def __str__(self) -> str:
        lengths = [len(string) for string in self.strings]
        strings = f"{' + '.join(map(str, lengths))} in {len(lengths)} string{'s' * (len(lengths) > 1)}"
        latents = "" if self.latents_checksum is None else f" of the latents {self.latents_checksum:08x}"
        image = "" if self.image_checksum is None else f" of the image {self.image_checksum:08x}"
        checksums = f"{latents}{' and' * bool(latents)}{image}"
        verified = f"verified, checksum{'s' * bool(latents)}{checksums}" if image else "not verified"
        machines = "similar processors" if self.version == 1 else "every machine"
        return (
            f"version {self.version}, all checksums are correct\n"
            f"decodes  on {machines} ({self.arithmetic} arithmetic)\n"
            f"network  {self.codec}, weights {self.weights}\n"
            f"image    {self.width}×{self.height} pixels, {verified}\n"
            f"bytes    {self.file_bytes:,}: {strings}, {self.file_bytes - sum(lengths)} for headers and checksums\n"
            f"rate     {self.bpp:.4f} bpp"
        )

    def pack(self) -> bytes:
        """Return the file as bytes."""
        header = _HEADER.pack(
            MAGIC,
            self.version,
            NETWORKS.index(self.network),
            SIZES.index(self.size),
            self.N,
            self.M,
            bytes.fromhex(self.weights),
            self.width,
            self.height,
            len(self.strings),
            self.image_checksum is not None,
            self.image_checksum or 0,
        )
        if self.version > 1:
            header += _SINCE_VERSION_2.pack(ARITHMETIC_NAMES.index(self.arithmetic), self.latents_checksum or 0)
        checksum = zlib.crc32(header)
        parts = [header, _CHECKSUM.pack(checksum)]
        for string in self.strings:
            checksum = _section_checksum(string, checksum)
            parts += [_SECTION.pack(len(string), checksum), string]
        return b"".join(parts)

    @staticmethod
    def unpack(data: bytes) -> Container:
        """Return the container from the bytes of a file.

        Args:
            data: Contents of a file.

        Raises:
            ValueError: If the bytes are damaged or are not a `.lkc` file. The message has one line.
        """
        if not data:
            raise ValueError("the file is empty")
        if len(data) > MAX_BYTES:
            raise ValueError(f"the file is longer than {MAX_BYTES:,} bytes, longer than any coded image")
        _check_magic(data[: len(MAGIC)])
        version = data[len(MAGIC)] if len(data) > len(MAGIC) else VERSION
        if version > VERSION:
            raise ValueError(f"a newer labkit wrote it: its format has version {version}, this labkit reads {VERSION}")
        end = _header_bytes(version)
        if len(data) < end:
            raise ValueError(f"damaged: it ends after {len(data)} bytes, inside its header")
        (checksum,) = _CHECKSUM.unpack_from(data, end - _CHECKSUM.size)
        if zlib.crc32(data[: end - _CHECKSUM.size]) != checksum:
            raise ValueError("damaged: its header does not match its checksum")
        _, _, network, size, N, M, weights, width, height, count, verified, image = _HEADER.unpack_from(data)
        arithmetic, latents = _SINCE_VERSION_2.unpack_from(data, _HEADER.size) if version > 1 else (0, 0)
        if arithmetic >= len(ARITHMETIC_NAMES):
            raise ValueError(f"a newer labkit wrote it: this labkit does not know its arithmetic (number {arithmetic})")
        if (version == 1) != (arithmetic == 0) or verified > 1 or ((image or latents) and not verified):
            raise ValueError("its header has values that labkit never writes")
        if network >= len(NETWORKS) or size >= len(SIZES):
            raise ValueError(f"this labkit does not know its network (number {network}) or size (number {size})")
        strings = []
        for number in range(1, count + 1):
            start = end + _SECTION.size
            if start > len(data):
                raise ValueError(f"damaged: it ends after {len(data)} bytes, before string {number} of {count}")
            length, expected = _SECTION.unpack_from(data, end)
            end = start + length
            if end > len(data):
                raise ValueError(f"damaged: string {number} of {count} claims {length:,} bytes, more than are left")
            checksum = _section_checksum(data[start:end], checksum)
            if checksum != expected:
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
            image_checksum=image if verified else None,
            latents_checksum=latents if verified and version > 1 else None,
            arithmetic=ARITHMETIC_NAMES[arithmetic],
        )

    @staticmethod
    def read(path: str | Path) -> Container:
        """Read a file.

        Raises:
            ValueError: If the file is missing, damaged, or not a `.lkc` file. The message has one line.
        """
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
        """Write a file under a temporary name, and rename it.

        Raises:
            ValueError: If the file cannot be written.
        """
        write_whole(path, self.pack())


def _header_bytes(version: int) -> int:
    return _HEADER.size + (_SINCE_VERSION_2.size if version > 1 else 0) + _CHECKSUM.size


def _check_magic(start: bytes) -> None:
    if MAGIC.startswith(start):
        return
    if start[1:4] == MAGIC[1:4] or start.startswith("\N{REPLACEMENT CHARACTER}LKC".encode()):
        raise ValueError("damaged: its first bytes have changed, as in a transfer in text mode")
    raise ValueError(f"it is not a {SUFFIX} file: its first bytes are different")


def _section_checksum(string: bytes, previous: int) -> int:
    return zlib.crc32(string, zlib.crc32(len(string).to_bytes(4, "little"), previous))

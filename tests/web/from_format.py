"""A decoder of `patch_linear`, written from labkit/files/FORMAT.md alone: without labkit and without torch."""

import hashlib
import json
import struct
import zlib

import numpy as np

PATCH_LINEAR = 8


def read_checkpoint(data):
    """Return the arrays of a safetensors file; half precision becomes float32."""
    (length,) = struct.unpack_from("<Q", data)
    arrays = {}
    for key, entry in json.loads(data[8 : 8 + length]).items():
        if key != "__metadata__":
            start, end = (8 + length + offset for offset in entry["data_offsets"])
            kind = {"F16": "<f2", "F32": "<f4", "I32": "<i4", "U8": "u1"}[entry["dtype"]]
            values = np.frombuffer(data[start:end], kind).reshape(entry["shape"])
            arrays[key] = values.astype(np.float32) if kind == "<f2" else values
    return arrays


def weights_hash(arrays):
    digest = hashlib.sha256()
    for key in sorted(arrays):
        digest.update(f"{key} torch.{arrays[key].dtype} {arrays[key].shape};".encode() + arrays[key].tobytes())
    return digest.digest()[:8]


def unpack(data):
    """Return the header's values and the strings of a file."""
    assert data[:9] == bytes.fromhex("894C4B430D0A1A0A02")
    network, _, _, M, digest, width, height, count, verified, image, arithmetic, latents, checksum = struct.unpack(
        "<BBHH8sHHBBIBII", data[9:42]
    )
    assert (network, arithmetic, verified) == (PATCH_LINEAR, 1, 1)
    covered, strings, end = data[:38], [], 42
    assert zlib.crc32(covered) == checksum
    for _ in range(count):
        length, checksum = struct.unpack_from("<II", data, end)
        covered += data[end : end + 4] + data[end + 8 : end + 8 + length]
        assert zlib.crc32(covered) == checksum
        strings.append(data[end + 8 : end + 8 + length])
        end += 8 + length
    assert end == len(data)
    return M, digest, width, height, image, latents, strings


class Decoder:
    def __init__(self, string):
        self.words = list(struct.unpack(f"<{len(string) // 4}I", string))[::-1]
        self.state = self.words.pop() + (self.words.pop() << 32)
        assert 2**31 <= self.state < 2**63

    def refill(self):
        if self.state < 2**31:
            self.state = (self.state << 32) + self.words.pop()

    def symbol(self, table, offset):
        value = self.state % 2**16
        k = int(np.searchsorted(table, value, side="right")) - 1
        start, end = int(table[k]), int(table[k + 1])
        self.state = (end - start) * (self.state >> 16) + value - start
        self.refill()
        n = len(table) - 1
        return offset + k if k < n - 1 else self.escaped(n, offset)

    def escaped(self, n, offset):
        digit = count = self.digit()
        while digit == 15:
            digit = self.digit()
            count += digit
        assert count <= 8
        r = sum(self.digit() << 4 * i for i in range(count))
        return offset - (r + 1) // 2 if r % 2 else offset + n - 1 + r // 2

    def digit(self):
        digit = self.state % 16
        self.state >>= 4
        self.refill()
        return digit


def decode(data, checkpoint):
    """Return the image of shape (height, width, 3), and the checksums of its latents, decoded and expected."""
    arrays = read_checkpoint(checkpoint)
    M, digest, width, height, _, expected, (string,) = unpack(data)
    assert digest == weights_hash(arrays)
    rows, columns = -(-height // 16), -(-width // 16)
    cumulative, lengths, offsets = (
        arrays[f"entropy_bottleneck.{name}"] for name in ("_quantized_cdf", "_cdf_length", "_offset")
    )
    decoder = Decoder(string)
    symbols = np.array(
        [
            decoder.symbol(cumulative[channel, : lengths[channel]], int(offsets[channel]))
            for channel in range(M)
            for _ in range(rows * columns)
        ]
    )
    assert decoder.state == 2**31 and not decoder.words
    medians = arrays["entropy_bottleneck.quantiles"][:, 0, 1]
    latents = symbols.reshape(M, rows, columns).astype(np.float32) + medians[:, None, None]

    patches = np.einsum("mij,mkab->iajbk", latents, arrays["g_s.0.weight"]) + arrays["g_s.0.bias"]
    padded = patches.reshape(16 * rows, 16 * columns, 3)
    top, left = (16 * rows - height) // 2, (16 * columns - width) // 2
    image = np.rint(255 * padded[top : top + height, left : left + width].clip(0, 1)).astype(np.uint8)
    return image, zlib.crc32(latents.tobytes()), expected

"""Stage 7: files that decode in another process, with every byte accounted for."""

from __future__ import annotations

import json
import os
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch

from .coder import fast_decode
from .verdicts import Array, Result, Wrong, require
from .work import LMBDA, as_tensor, eight_bits, outputs, psnr

HEADER, CHECKSUM = 10, 4
LOG_MIN, LOG_STEP = float(np.log(0.11)), float(np.log(64 / 0.11) / 63)
PHOTOS = slice(0, 13, 3)


def check(codec: Any, work: Any) -> Result:
    """Check fixed point, the ledger of files, decoding here and in a new process, and the refusal of damaged files."""
    net = work.load(codec.Hyperprior(LMBDA), "hyperprior", 6)
    photos = work.test_photos[PHOTOS]
    check_fixed_point(codec, net, photos[0])
    parts, bits = [], 0.0
    for i, photo in enumerate(photos):
        data = codec.compress(net, photo)
        require(isinstance(data, bytes), f"compress must return bytes, got {type(data).__name__}.")
        parts.append(check_ledger(codec, net, photo, data))
        bits += check_image(codec, net, photo, data)
        if i == 0:
            check_fresh_process(codec, net, data, work)
            check_damage(codec, net, data)
    ledger = np.mean(parts, 0)
    real = 8 * float(np.sum(parts))
    gap = 100 * (real / bits - 1)
    require(
        abs(gap) <= 2,
        f"The files have {gap:+.1f}% more bits than estimated; at most 2% are expected. Which part of the ledger is "
        f"too large? Header {ledger[0]:.0f}, z {ledger[1]:.0f}, y {ledger[2]:.0f}, checksum {ledger[3]:.0f} bytes.",
    )
    return Result(
        f"Mean file: header {ledger[0]:.0f}, z {ledger[1]:.0f}, y {ledger[2]:.0f}, checksum {ledger[3]:.0f} bytes, "
        f"{gap:+.2f}% compared with the estimate. A fresh process without the image decoded the same latents.",
        {"gap": gap},
    )


def check_fixed_point(codec: Any, net: Any, photo: Array) -> None:
    """Compare h_s in integers with h_s in floating point, and with itself on a part of z."""
    with torch.no_grad():
        z = torch.round(net.h_a(net.g_a(as_tensor(photo))))
        mu, log_sigma = (each[0].double().numpy() for each in net.h_s(z).chunk(2, 1))
    whole = z[0].numpy().astype(np.int64)
    answer = codec.fixed_point(net, whole)
    require(
        isinstance(answer, tuple) and len(answer) == 2,
        "fixed_point must return a pair: μ in units of 1/256, and levels.",
    )
    for name, values in zip(("μ", "levels"), answer, strict=True):
        require(
            isinstance(values, np.ndarray) and values.dtype.kind in "iu",
            f"fixed_point must return integers for {name}. A float that depends on the order of a sum ruins decoding.",
        )
        require(values.shape == mu.shape, f"fixed_point must return {name} of shape {mu.shape}, got {values.shape}.")
    if np.median(abs(answer[0] / 256 - mu)) > 0.02:
        if np.median(abs(answer[0] - mu)) < 0.6:
            raise Wrong("fixed_point returns μ in whole steps. Return it in units of 1/256: 256 μ, rounded.")
        raise Wrong(
            f"μ of fixed_point is off by {np.median(abs(answer[0] / 256 - mu)):.3f} (median) from h_s in float; "
            "expected less than 0.02. Are weights, biases and hidden values in the units of the text?"
        )
    expected = np.clip(np.rint((log_sigma - LOG_MIN) / LOG_STEP), 0, 63)
    difference = answer[1] - expected
    require(
        abs(difference).max() <= 2 and np.mean(difference == 0) > 0.8,  # the reference: 7% to 10%, by its training
        "Levels of fixed_point differ from ⌊(log σ − log 0.11)/Δ⌉, clipped to 0 … 63, in "
        f"{100 * np.mean(difference != 0):.0f}% of the latents. Are they clipped, and do a and b count rows and "
        "columns?",
    )
    part = codec.fixed_point(net, np.ascontiguousarray(whole[:, 1:3, 2:4]))
    for values, of_part in zip(answer, part, strict=True):
        require(
            np.array_equal(values[:, 2:6, 4:8], of_part),
            "fixed_point of a part of z differs from the same part of fixed_point. Integers must not depend on "
            "their neighbors.",
        )


def check_ledger(codec: Any, net: Any, photo: Array, data: bytes) -> tuple[int, int, int, int]:
    """Take a file apart with the grader's decoder, and return the bytes of header, z, y and checksum."""
    require(len(data) > HEADER + CHECKSUM, f"The file has {len(data)} bytes; header and checksum alone have 14.")
    magic, height, width, length = struct.unpack(">2sHHI", data[:HEADER])
    require(
        magic == b"MC" and (height, width) == photo.shape[:2],
        "The header must be b'MC', height, width (2 bytes each) and the length of z's stream (4 bytes), big-endian; "
        f"got {magic!r}, {height}, {width} for an image of {photo.shape[0]}×{photo.shape[1]} pixels.",
    )
    require(
        HEADER + length <= len(data) - CHECKSUM,
        f"The header says that z's stream has {length} bytes; the file has only {len(data)}.",
    )
    require(
        _crc32(data[:-CHECKSUM]) == int.from_bytes(data[-4:], "big"),
        "The last four bytes are not the CRC-32 of all bytes before.",
    )
    of_z, of_y = codec.tables(net)
    require(
        len(of_z) == 24 and len(of_y) == 64,
        f"tables must return 24 tables of z and 64 of y, got {len(of_z)} and {len(of_y)}.",
    )
    shape = (24, height // 32, width // 32)
    channels = np.repeat(np.arange(24), shape[1] * shape[2]).tolist()
    z = np.array(fast_decode(data[HEADER : HEADER + length], channels, of_z)).reshape(shape) - 31
    with torch.no_grad():
        expected = np.clip(torch.round(net.h_a(net.g_a(as_tensor(photo))))[0].numpy(), -31, 31)
    require(
        np.mean(z != expected) < 0.001,
        f"The grader reads a different z from the file than ⌊h_a(g_a(x))⌉, in {100 * np.mean(z != expected):.0f}% of "
        "the places. Symbols are z + 31, channel after channel, row after row; x is the image divided by 255.",
    )
    levels = codec.fixed_point(net, z)[1]
    reach = np.array([15 + int(np.ceil(6 * np.exp(LOG_MIN + i * LOG_STEP) - 1e-9)) for i in range(64)])
    for level, (entries, largest) in enumerate(zip(map(len, of_y), reach, strict=True)):
        require(
            entries == 2 * largest + 2,
            f"The table of level {level} must reach from −L to L, with L = 15 + ⌈6σ − 10⁻⁹⌉ = {largest}: "
            f"{2 * largest + 2} entries, got {entries}.",
        )
    k = (
        np.array(fast_decode(data[HEADER + length : -CHECKSUM], levels.ravel().tolist(), of_y)).reshape(levels.shape)
        - reach[levels]
    )
    own = codec.latents(net, data)
    require(isinstance(own, tuple) and len(own) == 2, "latents must return a pair: z and k.")
    require(
        np.array_equal(own[0], z) and np.array_equal(own[1], k),
        "latents returns different integers than the grader's decoder reads from the same file.",
    )
    return HEADER, length, len(data) - HEADER - length - CHECKSUM, CHECKSUM


def _crc32(data: bytes) -> int:
    """Return the CRC-32, computed bit by bit from the definition."""
    remainder = 0xFFFFFFFF
    for byte in data:
        remainder ^= byte
        for _ in range(8):
            remainder = remainder >> 1 ^ (0xEDB88320 if remainder & 1 else 0)
    return remainder ^ 0xFFFFFFFF


def check_image(codec: Any, net: Any, photo: Array, data: bytes) -> float:
    """Compare the decoded image with the evaluation pass, and return the estimated bits."""
    image = codec.decompress(net, data)
    require(
        isinstance(image, np.ndarray) and image.dtype == np.uint8 and image.shape == photo.shape,
        f"decompress must return uint8 pixels of shape {photo.shape}, got "
        f"{getattr(image, 'dtype', type(image).__name__)} of shape {getattr(image, 'shape', 'unknown')}.",
    )
    x_hat, likelihoods = outputs(net, as_tensor(photo))
    real, expected = psnr(image, photo), psnr(eight_bits(x_hat), photo)
    require(
        real > expected - 0.1,
        f"The decoded image has {real:.2f} dB; the evaluation pass has {expected:.2f} dB. The decoder must read k + μ.",
    )
    return float(sum(-np.log2(each).sum() for each in likelihoods))


def check_fresh_process(codec: Any, net: Any, data: bytes, work: Any) -> None:
    """Decode in another process that has another number of threads and never sees the image."""
    work.save(net, "decoding")
    (work.weights / "decoding.bin").write_bytes(data)
    job = {"file": codec.__file__, "decode": str(work.weights), "lmbda": LMBDA, "threads": 2}
    child = Path(__file__).resolve().parents[1] / "child.py"
    environment = {**os.environ, "OMP_NUM_THREADS": "2"}
    process = subprocess.run(
        [sys.executable, str(child)],
        input=json.dumps(job),
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    require(
        process.returncode == 0, f"A fresh process cannot decode the file: {process.stderr.strip().splitlines()[-1:]}"
    )
    own = codec.latents(net, data)
    with np.load(work.weights / "decoding.npz") as other:
        require(
            np.array_equal(own[0], other["z"]) and np.array_equal(own[1], other["k"]),
            "A fresh process with two threads decodes different latents. Everything that chooses a table must be an "
            "integer.",
        )


def check_damage(codec: Any, net: Any, data: bytes) -> None:
    """Damage a file in several ways; the decoder must raise ValueError each time."""
    middle = len(data) // 2
    flipped = bytearray(data)
    flipped[middle] ^= 1
    damaged = {
        "truncated by a byte": data[:-1],
        "cut in half": data[:middle],
        "cut within the header": data[:7],
        "empty": b"",
        "with one flipped bit": bytes(flipped),
        "with another checksum": data[:-1] + bytes([data[-1] ^ 1]),
    }
    for name, broken in damaged.items():
        try:
            codec.latents(net, broken)
        except ValueError:
            continue
        except Exception as error:
            raise Wrong(
                f"latents raises {type(error).__name__} for a file that is {name}; raise ValueError."
            ) from error
        raise Wrong(f"latents accepts a file that is {name}. Compare the checksum before anything else.")

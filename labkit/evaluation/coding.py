"""One image, coded to real bytes and decoded again, by a network or by JPEG."""

from __future__ import annotations

import copy
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from labkit import entropy, fixed_point
from labkit.evaluation import bitstream, metrics
from labkit.evaluation.classical import decode, encode, pixels_of
from labkit.evaluation.evaluator import pad
from labkit.networks import Codec
from labkit.state_guard import device_of


class Decoded(NamedTuple):
    """A decoded image and the cost of its bitstream.

    Attributes:
        image: Decoded 8-bit image of shape (3, H, W) with values in [0, 1].
        bytes: Number of bytes of the bitstream.
        bpp: Bits per pixel.
        psnr: PSNR in dB.
    """

    image: Tensor
    bytes: int
    bpp: float
    psnr: float

    def __repr__(self) -> str:
        return f"Decoded({self.bytes} bytes, {self.bpp:.4f} bpp, {self.psnr:.2f} dB)"


def _decoded(image: Tensor, x_hat: Tensor, n_bytes: int) -> Decoded:
    return Decoded(x_hat, n_bytes, 8 * n_bytes / image[0].numel(), metrics.psnr(x_hat, image))


def ready_copy(net: Codec) -> Codec:
    """Return a copy of a network in training that is ready to code: in evaluation mode, with new coder tables.

    The network itself does not change, so a call between two training steps does not affect the training.

    Args:
        net: A network of labkit.
    """
    coder: Codec = copy.deepcopy(net).eval()
    entropy.solve_quantiles(coder)
    coder.update(force=True)
    return coder


@torch.no_grad()
def code(net: Codec, image: Tensor) -> Decoded:
    """Compress an image to real bitstreams and decompress it. This is faster than `evaluate` and measures less.

    Args:
        net: A network of labkit or any image model of CompressAI, in evaluation mode. Missing coder tables are built.
        image: Image of shape (3, H, W) in [0, 1] of any size, which is rounded to 8 bits.
    """
    bitstream.build_missing_tables(net)
    x = metrics.eight_bits(image.to(device_of(net)))[None]
    padded, unpadding = pad(x, getattr(net, "downsampling_factor", 64))
    coded = fixed_point.compress(net, padded)
    x_hat = metrics.eight_bits(F.pad(fixed_point.decompress(net, coded), unpadding))
    return _decoded(x[0], x_hat[0], sum(len(string) for group in coded["strings"] for string in group))


class JpegLadder:
    """One image as JPEG at any quality. Each quality is coded only once.

    The files are the same as those of `classical`: they have optimized Huffman tables and color at full resolution.

    Args:
        image: Image of shape (3, H, W) in [0, 1], which is rounded to 8 bits.
    """

    def __init__(self, image: Tensor):
        self._image = metrics.eight_bits(image.cpu())
        self._files: dict[int, bytes] = {}
        self._decoded: dict[int, Decoded] = {}

    def __repr__(self) -> str:
        return f"JpegLadder({len(self._files)} qualities so far)"

    def at(self, quality: int) -> Decoded:
        """Return the image at one of Pillow's qualities, from 1 to 95."""
        if quality not in self._decoded:
            file = self._file(quality)
            self._decoded[quality] = _decoded(self._image, decode(file), len(file))
        return self._decoded[quality]

    def within(self, n_bytes: int) -> Decoded | None:
        """Return the image at the highest quality with at most `n_bytes` bytes, or None if quality 1 needs more."""
        fitting, too_large = 0, 96
        while too_large - fitting > 1:
            middle = (fitting + too_large) // 2
            if len(self._file(middle)) <= n_bytes:
                fitting = middle
            else:
                too_large = middle
        return self.at(fitting) if fitting else None

    def _file(self, quality: int) -> bytes:
        if quality not in self._files:
            self._files[quality] = encode(pixels_of(self._image), "jpeg", quality)
        return self._files[quality]

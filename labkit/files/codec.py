"""Pictures as `.lkc` files: 8-bit RGB in, a container out, and the same picture back.

A file is coded and decoded in one thread on the CPU. Decoding repeats the encoder's floating-point sums, and these
depend on how they are shared out: with two threads a shipped network decodes a photograph otherwise than with one, by
one step of 8 bits in a few of its values. Where a sum predicts a scale, such a difference can lose the decoder its
place in the string.
"""

from __future__ import annotations

import dataclasses
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress

import torch
from compressai.ops import compute_padding
from torch import Tensor
from torch.nn import functional as F

from labkit import networks
from labkit.evaluation.evaluator import pad
from labkit.evaluation.latents import Latents, replaced_latents
from labkit.files.container import HASH_DIGITS, Container
from labkit.networks import Codec
from labkit.training import weights_hash


def compress(image: Tensor, net: Codec, verify: bool = True, latents: Latents | None = None) -> Container:
    """Code a picture, uint8 RGB of shape (3, H, W), of any size from 1×1.

    verify: decode it again, and keep the decoded picture's checksum, so that a decoder knows whether it got the same.
    latents: y and z to code in place of the encoder's own, as `refine` found them for this picture (`Refined.y`, `.z`).
    The network is given its coder tables where it has none.
    Raises ValueError for another type or shape, and for a picture or network that the file cannot hold.
    """
    if image.dtype != torch.uint8 or image.dim() != 3 or image.size(0) != 3 or not image.numel():
        raise ValueError(f"image: takes uint8 of shape (3, H, W), got {image.dtype} of shape {tuple(image.shape)}")
    with _alone(net):
        container = Container(  # before anything is coded: the picture and the network are checked here
            network=net.kind,
            size=net.size,
            N=net.N,
            M=net.M,
            weights=weights_hash(net)[:HASH_DIGITS],
            width=image.size(2),
            height=image.size(1),
            strings=(bytes(8),),
        )
        padded, _ = pad(image.cpu()[None].float() / 255, _multiple(net))
        with replaced_latents(net, *latents) if latents else nullcontext():
            strings = _strings(net, padded)
        container = dataclasses.replace(container, strings=strings)
    return verified(container, net)[0] if verify else container


def decompress(container: Container, net: Codec, ignore_checksum: bool = False) -> Tensor:
    """The picture of a container, uint8 RGB of shape (3, H, W), decoded with the weights that it was coded with.

    ignore_checksum: return the image even if it differs from the one that was verified when the file was written.
    Raises ValueError, one line, for another network or other weights, for strings that cannot be decoded, and for
    another picture than was verified.
    """
    picture = _decode(container, net)
    if not ignore_checksum and container.picture not in (None, picture_checksum(picture)):
        raise ValueError(
            "it decodes to another picture here than where it was coded: another processor or version of torch gives "
            "other floating-point sums, and the picture may be slightly or wholly different"
        )
    return picture


def verified(container: Container, net: Codec) -> tuple[Container, Tensor]:
    """The container with the checksum of what it decodes to, and that picture. Raises ValueError as `decompress`."""
    picture = _decode(container, net)
    return dataclasses.replace(container, picture=picture_checksum(picture)), picture


def picture_checksum(picture: Tensor) -> int:
    """CRC-32 of a uint8 picture of shape (3, H, W), row by row, its colors interleaved."""
    return zlib.crc32(picture.permute(1, 2, 0).contiguous().numpy().tobytes())


def shipped(container: Container) -> Codec:
    """The shipped network that a container was coded with. Raises ValueError saying which one it wants."""
    for lmbda in networks.pretrained_lmbdas(container.network):
        net = networks.pretrained(container.network, lmbda)
        with suppress(ValueError):
            with _alone(net):
                _check_weights(container, net)
            return net
    raise ValueError(
        f"it was coded with {container.codec} whose weights have the hash {container.weights}, and none that come with "
        "labkit have it: --weights takes them"
    )


@contextmanager
def _alone(net: Codec) -> Iterator[None]:
    """One thread, no gradients, and the network as a decoder would load it; then threads and mode as before."""
    device = next(net.parameters()).device
    if device.type != "cpu":
        raise ValueError(f"net: files are coded on the CPU, it is on {device}")
    training, threads = net.training, torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        net.to(memory_format=torch.contiguous_format).eval()  # a trained one may have another layout, and other sums
        net.update()
        with torch.no_grad():
            yield
    finally:
        net.train(training)
        torch.set_num_threads(threads)


def _decode(container: Container, net: Codec) -> Tensor:
    with _alone(net):
        _check_weights(container, net)
        multiple = _multiple(net)
        expected = len(_strings(net, torch.zeros(1, 3, multiple, multiple)))
        if len(container.strings) != expected:
            raise ValueError(f"it holds {len(container.strings)} strings, {net.kind} writes {expected}")
        padding, unpadding = compute_padding(container.height, container.width, min_div=multiple)
        height, width = container.height + sum(padding[2:]), container.width + sum(padding[:2])
        zeros = bytes(_read_beyond(net, height, width))
        try:
            x_hat = net.decompress([[string + zeros] for string in container.strings], net.coded_shape(height, width))
            x_hat = F.pad(x_hat["x_hat"], unpadding)[0]
        except Exception as error:  # whatever a forged string leads to
            raise ValueError(f"its strings cannot be decoded: {' '.join(str(error).split())[:200]}") from error
    if not torch.isfinite(x_hat).all():
        raise ValueError("its strings decode to values that are not finite")
    return x_hat.clamp(0, 1).mul(255).round().to(torch.uint8)


def _check_weights(container: Container, net: Codec) -> None:
    if (container.network, container.N, container.M) != (net.kind, net.N, net.M):
        raise ValueError(f"it was coded with {container.codec}, not with {net.kind} (N = {net.N}, M = {net.M})")
    digits = weights_hash(net)[:HASH_DIGITS]
    if container.weights != digits:
        raise ValueError(f"it was coded with other weights (hash {container.weights}) than these (hash {digits})")


def _multiple(net: Codec) -> int:
    return net.downsampling_factor


def _strings(net: Codec, padded: Tensor) -> tuple[bytes, ...]:
    return tuple(string for group in net.compress(padded)["strings"] for string in group)


def _read_beyond(net: Codec, height: int, width: int) -> int:
    """Bytes that CompressAI's rANS decoder can read beyond the end of a string, where zeros follow it.

    It does not know where a string ends: forged or of another picture, it is read on into whatever memory follows. A
    good string is read to its last word and no further, so zeros behind it change nothing. Behind a bad one:

    - The decoder takes a word of 32 bits at a time, when fewer than 31 bits are left in its state. A latent takes 16
      bits, and an escaped one digits of 4 bits, first the number of digits in digits of which 15 says that another
      follows. At most 64 bits are in the state, so 80 bits or three words a latent, while the state is not zero.
    - A zero state stays zero: it reads a word for each latent, and one for the digit of an escape.
    - The number of digits of the escape that empties the state is at most 15 for each digit of all ones. These are
      of the state, or of a run of ones in the string, which `Container` keeps under 16 bytes: fewer than 1,100.
    """
    latents = max(net.N, net.M) * (height // 16) * (width // 16)
    return 4 * (3 * latents + 2048)

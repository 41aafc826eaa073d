"""Compression of 8-bit RGB images into containers, and decompression of the same images.

A portable network, which all of labkit's networks are by default, writes files of version 2. It predicts σ and μ in
fixed point, so every CPU decodes the same latents with any number of threads. The synthesis transform g_s uses floating
point: with another processor or thread count, a few values of the image may be rounded differently, by 1 of 255.

After `labkit.portable(net, False)`, a network writes files of version 1. Their decoder repeats the floating-point sums
of the encoder, which depend on the processor and on the number of threads. If a sum changes a predicted scale, the
decoder loses its position in the string. Files of version 1 are therefore coded and decoded in one thread.
"""

from __future__ import annotations

import dataclasses
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from labkit import fixed_point, networks
from labkit.evaluation.latents import Latents, replaced_latents, replaced_output
from labkit.files.container import HASH_DIGITS, Container
from labkit.networks import Codec, weights_hash
from labkit.state_guard import device_of

STRIP = 2**20  # number of pixels of a large image that g_a and g_s of a patch codec transform together


def compress(image: Tensor, net: Codec, verify: bool = True, latents: Latents | None = None) -> Container:
    """Compress an image.

    Args:
        image: uint8 image of shape (3, H, W), of any size from 1×1.
        net: Image codec of labkit. Coder tables are built if it has none.
        verify: Whether to decode the result and store the checksums of the latents and of the image, so that a decoder
            can check them.
        latents: y and z to code instead of those of the encoder, such as `Refined.y` and `Refined.z`.

    Raises:
        ValueError: If the image has another type or shape, if the format cannot hold the image or the network, or if
            the latents cannot be coded.
    """
    if image.dtype != torch.uint8 or image.dim() != 3 or image.size(0) != 3 or not image.numel():
        raise ValueError(f"image must be uint8 of shape (3, H, W), got {image.dtype} of shape {tuple(image.shape)}")
    with _coding(net, net.portable):
        net.update()
        container = Container(  # checks the image and the network before anything is coded
            network=net.kind,
            size=net.size,
            N=net.N,
            M=net.M,
            weights=weights_hash(net)[:HASH_DIGITS],
            width=image.size(2),
            height=image.size(1),
            strings=(bytes(8),),
            arithmetic=net.arithmetic,
        )
        g_a = net.g_a.forward
        in_strips = replaced_output(
            net.g_a, lambda _: torch.cat([g_a(strip) for strip in _padded(image.cpu(), net)], 2)
        )
        with replaced_latents(net, *latents) if latents else in_strips:
            strings = _strings(net, torch.empty(0))
        container = dataclasses.replace(container, strings=strings)
    return verified(container, net)[0] if verify else container


class Decoded(NamedTuple):
    """A decoded image, compared with the one that was verified when the file was written.

    Attributes:
        image: uint8 image of shape (3, H, W).
        latents: ŷ of the padded image, of shape (1, M, height / 16, width / 16), the input of g_s.
        same_image: Whether the image matches the checksum in the file; None if the file has none.
        same_latents: Whether the latents match theirs; None if the file has none, as in version 1.
    """

    image: Tensor
    latents: Tensor
    same_image: bool | None
    same_latents: bool | None


def decode(container: Container, net: Codec) -> Decoded:
    """Decode a container with the weights that coded it, and compare the result with the verified one.

    Args:
        container: Coded image.
        net: Network with the same weights and coder tables.

    Raises:
        ValueError: If the network or its weights are different, if the network has no coder tables, or if the strings
            cannot be decoded. The message has one line.
    """
    image, latents = _decode(container, net)
    wanted = container.image_checksum, container.latents_checksum
    sums = image_checksum(image), latents_checksum(latents)
    same = [None if before is None else before == now for before, now in zip(wanted, sums, strict=True)]
    return Decoded(image, latents, *same)


def decompress(container: Container, net: Codec, ignore_checksum: bool = False) -> Tensor:
    """Decompress an image with the weights that compressed it.

    Args:
        container: Coded image.
        net: Network with the same weights and coder tables.
        ignore_checksum: Whether to return the image even if its latents (in version 1: the image itself) differ from
            the verified ones.

    Returns:
        uint8 image of shape (3, H, W). In version 2, it may differ from the verified image even if the latents are the
        same: g_s may round differently on this processor, which is not an error.

    Raises:
        ValueError: As for `decode`, or if the latents (in version 1: the image) differ from those that were verified
            when the file was written.
    """
    decoded = decode(container, net)
    if not ignore_checksum:
        check_verified(container, decoded)
    return decoded.image


def check_verified(container: Container, decoded: Decoded) -> None:
    """Check that the decoded latents, or in version 1 the image, are the verified ones.

    Raises:
        ValueError: If they are not. The message has one line.
    """
    if container.version == 1 and decoded.same_image is False:
        raise ValueError(
            "the decoded image differs from the verified one: a file of version 1 decodes only on processors like the "
            "encoder's, with a similar version of torch; the difference may be small or large"
        )
    if decoded.same_latents is False:
        raise ValueError(
            "the decoded latents differ from the verified ones, which no difference between processors can cause: its "
            "strings were replaced, or this machine computes wrongly"
        )


def verified(container: Container, net: Codec) -> tuple[Container, Tensor]:
    """Decode a container and store the checksums of its latents and its image in it.

    Returns:
        The container with the checksums, and the uint8 image of shape (3, H, W).

    Raises:
        ValueError: As for `decode`.
    """
    image, latents = _decode(container, net)
    latents_sum = latents_checksum(latents) if container.version > 1 else None
    return dataclasses.replace(container, image_checksum=image_checksum(image), latents_checksum=latents_sum), image


def latents_checksum(latents: Tensor) -> int:
    """Return the CRC-32 of the decoded latents ŷ, the input of g_s.

    Args:
        latents: Tensor of shape (…, M, height / 16, width / 16). The checksum is that of little-endian float32 values
            in C order.
    """
    return zlib.crc32(np.ascontiguousarray(latents.cpu().numpy(), dtype="<f4").data)


def image_checksum(image: Tensor) -> int:
    """Return the CRC-32 of an image, row by row with interleaved colors.

    Args:
        image: uint8 image of shape (3, H, W).
    """
    return zlib.crc32(image.permute(1, 2, 0).contiguous().numpy().data)


def bundled_network(container: Container) -> Codec:
    """Return the bundled network that compressed an image.

    Raises:
        ValueError: If no bundled weights have the hash in the container. The message names the network.
    """
    for lmbda in networks.pretrained_lmbdas(container.network):
        net = networks.pretrained(container.network, lmbda)
        with suppress(ValueError):
            _check_weights(container, net)
            return net
    raise ValueError(
        f"it was coded with {container.codec} whose weights have the hash {container.weights}; no bundled weights have "
        "this hash, so name the checkpoint with --weights"
    )


@contextmanager
def _coding(net: Codec, portable: bool) -> Iterator[None]:
    """Use evaluation mode, no gradients and one arithmetic; in floating point, also one thread and one memory format.

    Mode, arithmetic and number of threads are restored afterwards.
    """
    device = device_of(net)
    if device.type != "cpu":
        raise ValueError(f"net must be on the CPU to code files, got {device}")
    training, before, threads = net.training, net.portable, torch.get_num_threads()
    try:
        fixed_point.portable(net.eval(), portable)
        if not portable:
            torch.set_num_threads(1)
            net.to(memory_format=torch.contiguous_format)  # other formats give different sums
        with torch.no_grad():
            yield
    finally:
        fixed_point.portable(net.train(training), before)
        torch.set_num_threads(threads)


def _decode(container: Container, net: Codec) -> tuple[Tensor, Tensor]:
    """Return the uint8 image, and the latents from which g_s synthesized it."""
    given: list[Tensor] = []
    with _coding(net, container.version > 1):
        _check_weights(container, net)
        expected = len(_strings(net, torch.zeros(1, 3, net.downsampling_factor, net.downsampling_factor)))
        if len(container.strings) != expected:
            raise ValueError(f"it has {len(container.strings)} strings, but {net.kind} writes {expected}")
        left, right, top, bottom = _padding(container.height, container.width, net)
        shape = net.coded_shape(container.height + top + bottom, container.width + left + right)
        strings = [[string] for string in container.strings]
        hook = net.g_s.register_forward_pre_hook(lambda _, inputs: given.append(inputs[0]))
        try:
            with replaced_output(net.g_s, lambda _: torch.empty(0)):  # g_s runs separately below
                net.decompress(strings, shape, container.arithmetic)
        except Exception as error:  # forged strings may cause any exception
            raise ValueError(f"its strings cannot be decoded: {' '.join(str(error).split())[:200]}") from error
        finally:
            hook.remove()
        return _synthesized(given[0], container.height, container.width, net), given[0]


def _padding(height: int, width: int, net: Codec) -> tuple[int, int, int, int]:
    """Return the numbers of columns added at the left and right, and of rows added at the top and bottom."""
    from compressai.ops import compute_padding  # at the top, this would print a warning that labkit hides elsewhere

    padding: tuple[int, int, int, int] = compute_padding(height, width, min_div=net.downsampling_factor)[0]
    return padding


def _strips(height: int, width: int, net: Codec) -> list[slice]:
    """Return the rows of a padded image that are transformed together: all of them, or rows of whole patches."""
    unit = net.downsampling_factor
    rows = unit * max(1, STRIP // (unit * width)) if net.patchwise else height
    return [slice(top, min(top + rows, height)) for top in range(0, height, rows)]


def _padded(image: Tensor, net: Codec) -> Iterator[Tensor]:
    """Yield the strips of a uint8 image as pixels in [0, 1], of shape (1, 3, H, W), with repeated edges."""
    height, width = image.shape[1:]
    left, right, top, bottom = _padding(height, width, net)
    rows = torch.arange(-top, height + bottom).clamp_(0, height - 1)
    for strip in _strips(len(rows), left + width + right, net):
        pixels = image[None, :, rows[strip]].float().div_(255)
        yield F.pad(pixels, (left, right, 0, 0), mode="replicate")


def _synthesized(latents: Tensor, height: int, width: int, net: Codec) -> Tensor:
    """Decode latents to a uint8 image of shape (3, height, width)."""
    left, right, top, bottom = _padding(height, width, net)
    patch = (height + top + bottom) // latents.size(2)  # pixels per latent
    image = torch.empty(3, height, width, dtype=torch.uint8)
    for strip in _strips(height + top + bottom, width + left + right, net):
        x_hat = net.g_s(latents[:, :, strip.start // patch : strip.stop // patch])[0, :, :, left : left + width]
        if not torch.isfinite(x_hat).all():
            raise ValueError("its strings decode to values that are not finite")
        first, last = max(strip.start, top), min(strip.stop, top + height)
        pixels = x_hat[:, first - strip.start : last - strip.start].clamp(0, 1).mul_(255).round_()
        image[:, first - top : last - top] = pixels
    return image


def _check_weights(container: Container, net: Codec) -> None:
    if (container.network, container.N, container.M) != (net.kind, net.N, net.M):
        raise ValueError(f"it was coded with {container.codec}, not with {net.kind} (N = {net.N}, M = {net.M})")
    fixed_point.check_tables(net)
    digits = weights_hash(net)[:HASH_DIGITS]
    if container.weights != digits:
        raise ValueError(f"it was coded with other weights (hash {container.weights}) than these (hash {digits})")


def _strings(net: Codec, padded: Tensor) -> tuple[bytes, ...]:
    return tuple(string for group in net.compress(padded)["strings"] for string in group)

"""Compression of 8-bit RGB images into containers, and decompression of the same images.

Files are coded and decoded in one thread on the CPU. The decoder repeats the floating-point sums of the encoder, and
their results depend on the number of threads. With two threads instead of one, a pretrained network decodes a
photograph differently in a few values, by 1 of 255. If such a difference changes a predicted scale, the decoder may
lose its position in the string.
"""

from __future__ import annotations

import dataclasses
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress

import torch
from torch import Tensor
from torch.nn import functional as F

from labkit import networks
from labkit.evaluation.evaluator import pad
from labkit.evaluation.latents import Latents, replaced_latents
from labkit.files.container import HASH_DIGITS, Container
from labkit.networks import Codec, weights_hash
from labkit.state_guard import device_of


def compress(image: Tensor, net: Codec, verify: bool = True, latents: Latents | None = None) -> Container:
    """Compress an image.

    Args:
        image: uint8 image of shape (3, H, W), of any size from 1×1.
        net: Image codec of labkit; it gets its coder tables if it has none.
        verify: Whether to decode the result again and store the checksum of the image, so that a decoder can check it.
        latents: y and z to code instead of those of the encoder, such as `Refined.y` and `Refined.z`.

    Raises:
        ValueError: If the image has another type or shape, or if the format cannot hold the image or the network.
    """
    if image.dtype != torch.uint8 or image.dim() != 3 or image.size(0) != 3 or not image.numel():
        raise ValueError(f"image must be uint8 of shape (3, H, W), got {image.dtype} of shape {tuple(image.shape)}")
    with _single_thread(net):
        container = Container(  # checks the image and the network before anything is coded
            network=net.kind,
            size=net.size,
            N=net.N,
            M=net.M,
            weights=weights_hash(net)[:HASH_DIGITS],
            width=image.size(2),
            height=image.size(1),
            strings=(bytes(8),),
        )
        padded, _ = pad(image.cpu()[None].float() / 255, net.downsampling_factor)
        with replaced_latents(net, *latents) if latents else nullcontext():
            strings = _strings(net, padded)
        container = dataclasses.replace(container, strings=strings)
    return verified(container, net)[0] if verify else container


def decompress(container: Container, net: Codec, ignore_checksum: bool = False) -> Tensor:
    """Decompress an image with the weights that compressed it.

    Args:
        container: Coded image.
        net: Network with the same weights.
        ignore_checksum: Whether to return the image even if it differs from the image that was verified when the file
            was written.

    Returns:
        uint8 image of shape (3, H, W).

    Raises:
        ValueError: If the network or its weights are different, if the strings cannot be decoded, or if the image
            differs from the verified image. The message has one line.
    """
    image = _decode(container, net)
    if not ignore_checksum and container.image_checksum not in (None, image_checksum(image)):
        raise ValueError(
            "the decoded image differs from the verified one, because another processor or version of torch gives "
            "other floating-point sums; the difference may be small or large"
        )
    return image


def verified(container: Container, net: Codec) -> tuple[Container, Tensor]:
    """Decode a container and store the checksum of the image in it.

    Returns:
        The container with the checksum, and the uint8 image of shape (3, H, W).

    Raises:
        ValueError: As for `decompress`.
    """
    image = _decode(container, net)
    return dataclasses.replace(container, image_checksum=image_checksum(image)), image


def image_checksum(image: Tensor) -> int:
    """Return the CRC-32 of an image, row by row with interleaved colors.

    Args:
        image: uint8 image of shape (3, H, W).
    """
    return zlib.crc32(image.permute(1, 2, 0).contiguous().numpy().tobytes())


def bundled_network(container: Container) -> Codec:
    """Return the bundled network that compressed an image.

    Raises:
        ValueError: If no bundled weights have the hash in the container. The message names the network.
    """
    for lmbda in networks.pretrained_lmbdas(container.network):
        net = networks.pretrained(container.network, lmbda)
        with suppress(ValueError):
            with _single_thread(net):
                _check_weights(container, net)
            return net
    raise ValueError(
        f"it was coded with {container.codec} whose weights have the hash {container.weights}; no bundled weights have "
        "this hash, so name the checkpoint with --weights"
    )


@contextmanager
def _single_thread(net: Codec) -> Iterator[None]:
    """Use one thread, no gradients and the memory format of a loaded network; restore threads and mode afterwards."""
    device = device_of(net)
    if device.type != "cpu":
        raise ValueError(f"net must be on the CPU to code files, got {device}")
    training, threads = net.training, torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        net.to(memory_format=torch.contiguous_format).eval()  # another format gives other sums
        net.update()
        with torch.no_grad():
            yield
    finally:
        net.train(training)
        torch.set_num_threads(threads)


def _decode(container: Container, net: Codec) -> Tensor:
    from compressai.ops import compute_padding  # at the top it would print a warning that labkit hides elsewhere

    with _single_thread(net):
        _check_weights(container, net)
        multiple = net.downsampling_factor
        expected = len(_strings(net, torch.zeros(1, 3, multiple, multiple)))
        if len(container.strings) != expected:
            raise ValueError(f"it has {len(container.strings)} strings, but {net.kind} writes {expected}")
        padding, unpadding = compute_padding(container.height, container.width, min_div=multiple)
        height, width = container.height + sum(padding[2:]), container.width + sum(padding[:2])
        try:
            x_hat = net.decompress([[string] for string in container.strings], net.coded_shape(height, width))
            x_hat = F.pad(x_hat["x_hat"], unpadding)[0]
        except Exception as error:  # forged strings may cause any exception
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


def _strings(net: Codec, padded: Tensor) -> tuple[bytes, ...]:
    return tuple(string for group in net.compress(padded)["strings"] for string in group)

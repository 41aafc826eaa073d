"""Images or points for the measures of a trained network, which are checked, padded, and cut into random batches."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from labkit.datasets import PhotoSet
from labkit.evaluation.evaluator import pad
from labkit.seeds import mix_seeds
from labkit.state_guard import device_of

Images = PhotoSet | Sequence[Tensor] | Tensor


def named_images(images: Any) -> list[tuple[str, Tensor]]:
    """Check images or points, and return their names and tensors.

    Args:
        images: PhotoSet, (3, H, W) tensors in [0, 1], or (n, d) tensors of points.

    Raises:
        ValueError: If there is no image, or if a tensor has another type, shape or range.
    """
    if isinstance(images, Tensor) and images.dim() in (2, 3):
        images = [images]
    names = images.names if isinstance(images, PhotoSet) else [str(index) for index in range(len(images))]
    pairs = list(zip(names, images, strict=True))
    if not pairs:
        raise ValueError("images must have at least one image, got none")
    for name, image in pairs:
        if not isinstance(image, Tensor) or not image.is_floating_point():
            kind = image.dtype if isinstance(image, Tensor) else type(image).__name__
            raise ValueError(f"images must be floating-point tensors, image {name} is {kind}")
        if image.dim() == 3 and (image.size(0) != 3 or image.min() < 0 or image.max() > 1):
            raise ValueError(
                f"images must be (3, H, W) in [0, 1], image {name} is {tuple(image.shape)} in "
                f"[{float(image.min()):g}, {float(image.max()):g}]"
            )
        if image.dim() not in (2, 3):
            raise ValueError(f"images must be (3, H, W) images or (n, d) points, image {name} is {tuple(image.shape)}")
    if len({image.dim() for _, image in pairs}) > 1:
        raise ValueError("images must be all images or all points, got both")
    return pairs


def network_input(net: nn.Module, image: Tensor) -> Tensor:
    """Return the input batch of the network: a padded image of shape (1, 3, H, W), or points unchanged.

    Args:
        net: Network. The padded sides are multiples of its `downsampling_factor`, or of 64 if it has none.
        image: (3, H, W) image or (n, d) points.
    """
    return image if image.dim() == 2 else pad(image[None], _factor(net))[0]


def random_batches(net: nn.Module, images: list[Tensor], n: int, batch_size: int, crop: int, seed: int) -> list[Tensor]:
    """Return n random batches of crops or points, on the device of the network.

    Args:
        net: Network. The crop must be a multiple of its `downsampling_factor`, or of 64 if it has none.
        images: (3, H, W) images or (n, d) points.
        n: Number of batches.
        batch_size: Number of crops or points per batch.
        crop: Side of the crops, in pixels.
        seed: Seed.

    Raises:
        ValueError: If the crop does not fit the network or the images.
    """
    generator = torch.Generator().manual_seed(mix_seeds(seed, 1))

    def below(limit: int, *shape: int) -> Tensor:
        return torch.randint(limit, shape, generator=generator)

    if images[0].dim() == 2:
        points = torch.cat(images)
        return [points[below(len(points), batch_size)].to(device_of(net)) for _ in range(n)]

    factor, smallest = _factor(net), min(min(image.shape[1:]) for image in images)
    if crop % factor or crop > smallest:
        raise ValueError(f"crop must be a multiple of {factor} and at most the smallest side, {smallest}, got {crop}")

    def random_crop() -> Tensor:
        image = images[int(below(len(images)))]
        top, left = (int(below(side - crop + 1)) for side in image.shape[1:])
        return image[:, top : top + crop, left : left + crop]

    return [torch.stack([random_crop() for _ in range(batch_size)]).to(device_of(net)) for _ in range(n)]


def _factor(net: nn.Module) -> int:
    factor: int = getattr(net, "downsampling_factor", 64)
    return factor

"""What the measures of a trained network take: surrogates or schemes by name, images or points, numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from labkit import entropy, schemes, surrogates
from labkit.analysis.inputs import Temperatures, What, labeled, temperatures_of
from labkit.datasets import PhotoSet
from labkit.evaluation.evaluator import pad
from labkit.schemes import QuantizationScheme
from labkit.seeds import mix_seeds
from labkit.state_guard import device_of
from labkit.surrogates import Surrogate

Images = PhotoSet | Sequence[Tensor] | Tensor


@dataclass(frozen=True)
class Setting:
    label: str
    temperature: float  # NaN where no path's law depends on it
    scheme: QuantizationScheme

    def install(self, net: nn.Module, **changes: Any) -> None:
        entropy.set_scheme(net, self.scheme.replace(**changes))
        if not math.isnan(self.temperature):
            entropy.set_temperature(net, self.temperature)

    def rows(self, image: str, names: list[str], training, rounded, se, se_images) -> list[dict[str, Any]]:
        columns = zip(names, training, rounded, training - rounded, *np.broadcast_arrays(se, se_images), strict=True)
        keys = ("quantity", "training", "rounded", "mismatch", "se", "se_images")
        about = {"label": self.label, "temperature": self.temperature, "image": image}
        return [{**about, **dict(zip(keys, values, strict=True))} for values in columns]


def settings_of(net: nn.Module, what: What, temperatures: Temperatures | None) -> list[Setting]:
    """Every scheme at every temperature; a surrogate alone stands on all four paths, with the network's bound on σ."""
    bound = bound_of(net)
    settings = []
    for label, scheme in labeled(what, lambda one: on_all_paths(one, bound), scale_lower_bound=bound).items():
        at = [scheme.temperature.end] if temperatures is None else temperatures_of(temperatures)
        if not any(getattr(scheme, path).annealed for path in schemes.PATHS):
            at = [math.nan]
        settings += [Setting(label, one, scheme) for one in at]
    return settings


def on_all_paths(surrogate: str | Surrogate, bound: float) -> QuantizationScheme:
    made = surrogates.get(surrogate) if isinstance(surrogate, str) else surrogate
    paths: dict[str, Any] = dict.fromkeys(schemes.PATHS, made)
    return QuantizationScheme(**paths, scale_lower_bound=bound)


def bound_of(net: nn.Module) -> float:
    found = entropy.carriers(net)
    if not found:
        raise ValueError(
            f"net: {type(net).__name__} carries no scheme: take one of labkit's networks, or `labkit.adopt` it"
        )
    return found[0].scheme.scale_lower_bound


def items_of(images: Any) -> list[tuple[str, Tensor]]:
    """Names and tensors, (3, H, W) images in [0, 1] or (n, d) points."""
    if isinstance(images, Tensor) and images.dim() in (2, 3):
        images = [images]
    names = images.names if isinstance(images, PhotoSet) else [str(index) for index in range(len(images))]
    items = list(zip(names, images, strict=True))
    if not items:
        raise ValueError("images: takes at least one, got none")
    for name, item in items:
        if not isinstance(item, Tensor) or not item.is_floating_point():
            kind = item.dtype if isinstance(item, Tensor) else type(item).__name__
            raise ValueError(f"images: takes floating-point tensors, image {name} is {kind}")
        if item.dim() == 3 and (item.size(0) != 3 or item.min() < 0 or item.max() > 1):
            raise ValueError(
                f"images: takes (3, H, W) in [0, 1], image {name} is {tuple(item.shape)} in "
                f"[{float(item.min()):g}, {float(item.max()):g}]"
            )
        if item.dim() not in (2, 3):
            raise ValueError(f"images: takes (3, H, W) images or (n, d) points, image {name} is {tuple(item.shape)}")
    if len({item.dim() for _, item in items}) > 1:
        raise ValueError("images: takes images or points, got both")
    return items


def source(net: nn.Module, item: Tensor) -> Tensor:
    """What the network reads: (1, 3, H, W) with padded sides, or points as they are."""
    return item if item.dim() == 2 else pad(item[None], _factor(net))[0]


def random_batches(net: nn.Module, items: list[Tensor], n: int, batch_size: int, crop: int, seed: int) -> list[Tensor]:
    """n random batches, of crops or of points, on the network's device."""
    generator = torch.Generator().manual_seed(mix_seeds(seed, 1))

    def below(limit: int, *shape: int) -> Tensor:
        return torch.randint(limit, shape, generator=generator)

    if items[0].dim() == 2:
        points = torch.cat(items)
        return [points[below(len(points), batch_size)].to(device_of(net)) for _ in range(n)]

    factor, smallest = _factor(net), min(min(item.shape[1:]) for item in items)
    if crop % factor or crop > smallest:
        raise ValueError(f"crop: takes a multiple of {factor} up to the smallest side, {smallest}, got {crop}")

    def one() -> Tensor:
        item = items[int(below(len(items)))]
        top, left = (int(below(side - crop + 1)) for side in item.shape[1:])
        return item[:, top : top + crop, left : left + crop]

    return [torch.stack([one() for _ in range(batch_size)]).to(device_of(net)) for _ in range(n)]


def _factor(net: nn.Module) -> int:
    """What the sides of an image are multiples of: of 64, in a model that does not say."""
    return getattr(net, "downsampling_factor", 64)

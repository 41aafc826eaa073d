"""A context within which a model codes with exact (σ, μ)."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from compressai.entropy_models import EntropyModel
from compressai.latent_codecs import LatentCodec, RasterScanLatentCodec
from compressai.models import JointAutoregressiveHierarchicalPriors
from torch import Tensor, nn

from labkit import rans
from labkit.entropy import SchemeCarrier
from labkit.fixed_point.arithmetic import Checking, FixedPoint
from labkit.fixed_point.raster_scan import RasterScan

FREE = ("g_a", "g_s", "h_a")  # modules that use floating point, unless they are inside a module of another kind


@contextmanager
def coding(model: nn.Module) -> Iterator[FixedPoint]:
    """Within this context, `model.compress` and `model.decompress` predict (σ, μ) in fixed point.

    Modules of the model or of its latent codecs that are named g_a, g_s or h_a are evaluated in floating point. The
    mode applies to the calling thread, and a model can only be in one such context at a time.

    Args:
        model: A CompressAI model with coder tables.
    """
    mode = FixedPoint({id(parameter): name for name, parameter in model.named_parameters()})

    def enter(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        mode.free += 1
        if module is synthesis:
            mode.latents = inputs[0]

    def leave(*_: Any) -> None:
        mode.free -= 1

    synthesis = getattr(model, "g_s", None)
    hooks: list[Any] = []
    changed: list[nn.Module] = []
    for name, module in model.named_modules():
        if _is_free(model, name):
            hooks += [module.register_forward_pre_hook(enter), module.register_forward_hook(leave, always_call=True)]
        if isinstance(module, JointAutoregressiveHierarchicalPriors | RasterScanLatentCodec):
            changed.append(module)
            vars(module).update(_raster_scan(module, mode))
        if isinstance(module, EntropyModel):
            changed.append(module)
            vars(module)["decompress"] = functools.partial(_decompress, module, module.decompress, mode)
    try:
        with torch.no_grad(), mode:
            yield mode
    finally:
        for hook in hooks:
            hook.remove()
        for module in changed:
            for name in ("_compress_ar", "_decompress_ar", "compress", "decompress"):
                vars(module).pop(name, None)


def _is_free(model: nn.Module, name: str) -> bool:
    """Return whether a module has a name in `FREE` and belongs to the model itself or to one of its latent codecs."""
    *parents, last = name.split(".")
    containers = (model.get_submodule(".".join(parents[:i])) for i in range(1, len(parents) + 1))
    return last in FREE and all(isinstance(container, LatentCodec | nn.ModuleDict) for container in containers)


@contextmanager
def checking(model: nn.Module) -> Iterator[None]:
    """Within this context, `model.compress` uses floating point and refuses latents that cannot be coded.

    Args:
        model: A CompressAI model with coder tables.
    """
    with torch.no_grad(), Checking():
        yield


def _decompress(module: Any, own: Callable[..., Tensor], mode: FixedPoint, strings: Any, *rest: Any, **kw: Any) -> Any:
    """Replaces the `decompress` of an entropy model while its model codes."""
    mode.strings += len(strings)
    carrier = isinstance(module, SchemeCarrier)  # carriers never read beyond a string
    return own(strings, *rest, **kw) if carrier else rans.decompress(module, own, strings, *rest, **kw)


def _raster_scan(module: Any, mode: FixedPoint) -> dict[str, Any]:
    """Return replacements for the pixel loops of a model or latent codec, used while it codes."""
    scan = RasterScan(module.gaussian_conditional, module.context_prediction, module.entropy_parameters)

    def compress_one(y_hat: Tensor, params: Tensor, height: int, width: int, side: int, pad: int) -> bytes:
        return scan.encode(y_hat[0, :, pad : pad + height, pad : pad + width], params[0])[0]

    def decompress_one(
        string: bytes, y_hat: Tensor, params: Tensor, height: int, width: int, side: int, pad: int
    ) -> None:
        mode.strings += 1
        y_hat[0, :, pad : pad + height, pad : pad + width] = scan.decode(string, params[0])

    def compress(y: Tensor, ctx_params: Tensor) -> dict[str, Any]:
        coded = [scan.encode(*one) for one in zip(y, ctx_params, strict=True)]
        strings, decoded = [string for string, _ in coded], torch.stack([y_hat for _, y_hat in coded])
        return {"strings": [strings], "shape": y.shape[2:4], "y_hat": decoded}

    def decompress(strings: Any, shape: Any, ctx_params: Tensor, **_: Any) -> dict[str, Any]:
        mode.strings += len(strings[0])
        return {"y_hat": torch.stack([scan.decode(*one) for one in zip(strings[0], ctx_params, strict=True)])}

    if isinstance(module, RasterScanLatentCodec):
        return {"compress": compress, "decompress": decompress}
    return {"_compress_ar": compress_one, "_decompress_ar": decompress_one}

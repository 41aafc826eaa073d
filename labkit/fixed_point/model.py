"""Models whose `compress` and `decompress` use exact (σ, μ)."""

from __future__ import annotations

import copyreg
import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import torch
from compressai.entropy_models import EntropyModel
from torch import Tensor, nn

from labkit.fixed_point.arithmetic import ARITHMETIC, NotCodable
from labkit.fixed_point.context import coding


class PortableCoding:
    """Base that comes before a CompressAI class: `compress` and `decompress` predict (σ, μ) in fixed point."""

    def compress(self, x: Tensor, **options: Any) -> dict[str, Any]:
        """Code images.

        Args:
            x: Images of shape (batch, 3, H, W) in [0, 1].
            **options: Passed to CompressAI's method.

        Returns:
            What CompressAI's method returns ("strings" and "shape"), and "arithmetic", which says how (σ, μ) were
            computed.

        Raises:
            ValueError: If the model evaluates an operation between the symbols and (σ, μ) that is not exact, or if a
                latent is not finite or outside ±2¹³. The message then names the first module whose output is not
                finite.
        """
        compress = super().compress  # type: ignore[misc]  # of CompressAI's class
        try:
            with coding(self):  # type: ignore[arg-type]
                return {**compress(x, **options), "arithmetic": ARITHMETIC}
        except NotCodable as error:
            with coding(self):  # type: ignore[arg-type]
                culprit = _first_not_finite(self, lambda: compress(x, **options))
            raise NotCodable(f"{error}{culprit}") from None

    def decompress(self, strings: Any, shape: Any, arithmetic: str | None = None, **options: Any) -> dict[str, Any]:
        """Decode the strings of `compress`.

        Args:
            strings: Lists of strings, as `compress` returns them.
            shape: Shape of the coded latents, as `compress` returns it.
            arithmetic: The tag that `compress` returns; None if the strings carry none.
            **options: Passed to CompressAI's method.

        Returns:
            {"x_hat": images of shape (batch, 3, H, W) in [0, 1]}.

        Raises:
            ValueError: If the strings were coded with another arithmetic.
        """
        if arithmetic not in (None, ARITHMETIC):
            raise ValueError(f"the strings were coded in {arithmetic} arithmetic, and this labkit has {ARITHMETIC}")
        decompress = super().decompress  # type: ignore[misc]
        with coding(self):  # type: ignore[arg-type]
            decoded: dict[str, Any] = decompress(strings, shape, **options)
            return decoded


def _first_not_finite(model: Any, run: Callable[[], Any]) -> str:
    """Return the end of a sentence that names the first module whose output is not finite, if there is one."""
    names: list[str] = []

    def look(name: str, module: nn.Module, output: Any) -> None:
        if isinstance(output, Tensor) and not torch.isfinite(output).all():
            names.append(f"{name} ({type(module).__name__})")

    hooks = [
        module.register_forward_hook(lambda module, _, output, name=name: look(name, module, output))
        for name, module in model.named_modules()
        if not any(module.children())
    ]
    try:
        with suppress(NotCodable):
            run()
    finally:
        for hook in hooks:
            hook.remove()
    return f"; the first module with such an output is {names[0]}" if names else ""


class _PortableType(type):
    """Type of the classes that `portable_class` makes; pickle finds them by making them again."""


@functools.cache
def portable_class(cls: Any) -> type:
    """Return the subclass of a CompressAI model class that codes with exact (σ, μ)."""
    return _PortableType(f"Portable{cls.__name__}", (PortableCoding, cls), {"__module__": __name__})


def _make(cls: type) -> Any:
    return portable_class(cls)


def plain_class(cls: Any) -> type:
    """Return the class that `portable_class` was given, or `cls` itself."""
    plain: type = cls.__bases__[1] if isinstance(cls, _PortableType) else cls
    return plain


copyreg.pickle(_PortableType, lambda cls: (_make, cls.__bases__[1:]))


@contextmanager
def plain(model: nn.Module) -> Iterator[None]:
    """Give the model its plain class in this context, and afterwards the portable subclass of the class it then has."""
    on = isinstance(type(model), _PortableType)
    if on:
        model.__class__ = plain_class(type(model))
    try:
        yield
    finally:
        if on:
            model.__class__ = _make(type(model))


def portable(model: nn.Module, on: bool = True) -> nn.Module:
    """Let a model code strings that decode to the same latents on every machine, in place.

    The hyper-decoder and the context models are then evaluated in fixed point when the model codes (see
    `labkit.fixed_point.arithmetic`). Training, `forward` and the state dict do not change. The coder's tables are part
    of the code: save them with the weights, and do not build them again before decoding.

    Args:
        model: An image model of CompressAI, adopted or not, one of labkit's networks, or a subclass that changes layers
            only.
        on: False gives the model CompressAI's own arithmetic back.

    Returns:
        The model.

    Raises:
        ValueError: If the model cannot code, or if it has no coder tables.

    Examples:
        >>> import labkit as lk
        >>> net = lk.portable(lk.networks.pretrained())
        >>> coded = net.compress(lk.datasets.photos("test")[0][None, :, :64, :64])
        >>> net.decompress(**coded)["x_hat"].shape
        torch.Size([1, 3, 64, 64])
    """
    if not (isinstance(model, nn.Module) and hasattr(model, "compress") and hasattr(model, "decompress")):
        raise ValueError(f"model must be a CompressAI model with compress and decompress, got {type(model).__name__}")
    if on:
        for name, module in model.named_modules():
            if isinstance(module, EntropyModel) and not module._quantized_cdf.numel():
                raise ValueError(f"{name} has no coder tables: call model.update() and save them with the weights")
    own = plain_class(type(model))
    model.__class__ = _make(own) if on else own
    return model

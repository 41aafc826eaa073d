"""Models whose `compress` and `decompress` use exact (σ, μ)."""

from __future__ import annotations

import copyreg
import functools
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor, nn

from labkit.fixed_point.arithmetic import ARITHMETIC, NotCodable
from labkit.fixed_point.context import coding

FLOATING_POINT = "floating point"  # names CompressAI's own arithmetic, whose strings belong to one kind of machine


class PortableCoding:
    """Base that comes before CompressAI's class: `compress` and `decompress` predict (σ, μ) in fixed point.

    Attributes:
        portable: Whether they do. If False, they are CompressAI's own.
    """

    portable: bool = True

    def compress(self, x: Tensor, **options: Any) -> dict[str, Any]:
        """Code images.

        Args:
            x: Images of shape (batch, 3, H, W) in [0, 1].
            **options: Passed to CompressAI's method.

        Returns:
            What CompressAI's method returns ("strings" and "shape"), and "arithmetic", which says how (σ, μ) were
            computed.

        Raises:
            ValueError: If the model has no coder tables, if it evaluates an operation between the symbols and (σ, μ)
                that is not exact, or if a latent is not finite or outside ±2¹³. The message then names the first
                module whose output is not finite.
        """
        compress = super().compress  # type: ignore[misc]  # of CompressAI's class
        if not self.portable:
            return {**compress(x, **options), "arithmetic": FLOATING_POINT}
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
            arithmetic: Its tag; None if the strings carry none.
            **options: Passed to CompressAI's method.

        Returns:
            {"x_hat": images of shape (batch, 3, H, W) in [0, 1]}.

        Raises:
            ValueError: If the strings were coded with another arithmetic.
        """
        own = ARITHMETIC if self.portable else FLOATING_POINT
        if arithmetic not in (None, own):
            raise ValueError(
                f"the strings were coded in {arithmetic} arithmetic and the model decodes in {own} arithmetic: "
                f"switch it with labkit.portable(model, {not self.portable})"
            )
        decompress = super().decompress  # type: ignore[misc]
        if not self.portable:
            decoded: dict[str, Any] = decompress(strings, shape, **options)
            return decoded
        with coding(self):  # type: ignore[arg-type]
            decoded = decompress(strings, shape, **options)
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
def portable_class(cls: type) -> type:
    """Return the subclass of a CompressAI model class that codes with exact (σ, μ)."""
    return _PortableType(f"Portable{cls.__name__}", (PortableCoding, cls), {"__module__": __name__})


def _make(cls: type) -> Any:
    return portable_class(cls)


def plain_class(cls: type) -> type:
    """Return the class that `portable_class` was given, or `cls` itself."""
    return cls.__bases__[1] if isinstance(cls, _PortableType) else cls


copyreg.pickle(_PortableType, lambda cls: (_make, cls.__bases__[1:]))


def set_portable(model: nn.Module, on: bool = True) -> None:
    """Switch a model's coding between fixed point and CompressAI's arithmetic, in place.

    Args:
        model: A CompressAI model.
        on: True for fixed point.
    """
    if isinstance(model, PortableCoding) and not isinstance(type(model), _PortableType):
        model.portable = on  # one of labkit's networks, which has both ways
    else:
        plain = plain_class(type(model))
        model.__class__ = portable_class(plain) if on else plain

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

from labkit import rans
from labkit.fixed_point.arithmetic import ARITHMETIC, FLOATING_POINT, NotCodable
from labkit.fixed_point.context import checking, coding


class PortableCoding:
    """Mixin placed before a CompressAI class: `compress` and `decompress` predict (σ, μ) in fixed point.

    Attributes:
        portable: If False, the methods are CompressAI's own. `labkit.portable` sets this attribute.
    """

    portable: bool = True

    @property
    def arithmetic(self) -> str:
        """Name of the arithmetic that predicts (σ, μ) in coding: "fixed-1" or "floating-point"."""
        return ARITHMETIC if self.portable else FLOATING_POINT

    def compress(self, x: Tensor, **options: Any) -> dict[str, Any]:
        """Code images.

        Args:
            x: Images of shape (batch, 3, H, W) in [0, 1].
            **options: Passed to CompressAI's method.

        Returns:
            The result of CompressAI's method ("strings" and "shape"), and "arithmetic", the name of the arithmetic that
            predicted (σ, μ).

        Raises:
            ValueError: If the model has no coder tables, if it evaluates an inexact operation between the symbols and
                (σ, μ), or if a latent is not finite or is outside ±2¹³. The message then names the first module whose
                output is not finite.
        """
        compress = super().compress  # type: ignore[misc]  # of CompressAI's class
        check_tables(self)  # type: ignore[arg-type]
        return {**_checked(self, lambda: compress(x, **options)), "arithmetic": self.arithmetic}

    def decompress(self, strings: Any, shape: Any, arithmetic: str | None = None, **options: Any) -> dict[str, Any]:
        """Decode strings from `compress`.

        Args:
            strings: Lists of strings, as returned by `compress`.
            shape: Shape of the coded latents, as returned by `compress`.
            arithmetic: Name of the arithmetic, as returned by `compress`; None if it is unknown.
            **options: Passed to CompressAI's method.

        Returns:
            {"x_hat": images of shape (batch, 3, H, W) in [0, 1]}. In fixed point also {"y_hat": the latents from which
            g_s synthesized the images}, which are the same on every machine.

        Raises:
            ValueError: If the strings were coded with another arithmetic, if the model has no coder tables, or if the
                strings are damaged or do not have this shape. The message has one line.
        """
        if arithmetic not in (None, self.arithmetic):
            raise ValueError(_other_arithmetic(arithmetic, self.arithmetic))
        check_tables(self)  # type: ignore[arg-type]
        decompress = super().decompress  # type: ignore[misc]
        with rans.decoding(strings):
            if not self.portable:
                return dict(decompress(strings, shape, **options))
            with coding(self) as mode:  # type: ignore[arg-type]
                decoded = {**decompress(strings, shape, **options), "y_hat": mode.latents}
        if mode.strings != (given := sum(map(len, strings))):
            raise ValueError(f"strings must be those that compress returned: {mode.strings} of {given} were decoded")
        return decoded


def _other_arithmetic(given: str | None, own: str) -> str:
    if given in (ARITHMETIC, FLOATING_POINT):
        hint = f"call labkit.portable(model, {given == ARITHMETIC}) before decoding"
    else:
        hint = f"this labkit has {ARITHMETIC}"
    return f"the strings were coded in {given} arithmetic and the model decodes in {own}: {hint}"


def check_tables(model: nn.Module) -> None:
    """Check that a model has coder tables, which are part of the code and are never built for decoding.

    Raises:
        ValueError: If an entropy model has no tables.
    """
    for name, module in model.named_modules():
        if isinstance(module, EntropyModel) and not module._quantized_cdf.numel():
            raise ValueError(
                f"{name} has no coder tables: run update() and save them with the weights before you code, as `labkit "
                "convert` does, because tables built on another machine may differ"
            )


def compress(model: Any, x: Tensor) -> dict[str, Any]:
    """Call a model's `compress`, but refuse latents for which CompressAI's coder has no symbol and would hang.

    Args:
        model: Any image model of CompressAI, portable or not.
        x: Images of shape (batch, 3, H, W) in [0, 1].

    Returns:
        The result of the model's method.

    Raises:
        ValueError: If a latent, μ or σ is not finite, or a latent is outside ±2¹³. The message has one line and names
            the first module whose output is not finite.
    """
    coded = model.compress(x) if isinstance(model, PortableCoding) else _checked(model, lambda: model.compress(x))
    return dict(coded)


def decompress(model: Any, coded: dict[str, Any]) -> Tensor:
    """Call a model's `decompress`, but refuse a reconstruction that is not finite.

    Args:
        model: Any image model of CompressAI, portable or not.
        coded: Result of `compress`.

    Returns:
        Images of shape (batch, 3, H, W).

    Raises:
        ValueError: If a value is not finite. The message names the first module with such an output.
    """

    def run() -> Tensor:
        x_hat: Tensor = model.decompress(**coded)["x_hat"]
        return x_hat

    x_hat = run()
    if not torch.isfinite(x_hat).all():
        raise NotCodable(f"the decoded image holds values that are not finite{_culprit(model, run)}")
    return x_hat


def _checked(model: Any, run: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Return the result of `run` in the arithmetic of the model; an error names the module that caused it."""
    mode = coding if getattr(model, "portable", False) else checking
    try:
        with mode(model):
            return run()
    except NotCodable as error:
        with mode(model):
            culprit = _culprit(model, run)
        raise NotCodable(f"{error}{culprit}") from None


def _culprit(model: Any, run: Callable[[], Any]) -> str:
    """Return a clause that names the first module whose output is not finite, or an empty string if there is none."""
    names = modules_not_finite(model, run)
    return f"; the first module with such an output is {names[0]}" if names else ""


def modules_not_finite(model: Any, run: Callable[[], Any]) -> list[str]:
    """Return the names and classes of the modules whose outputs are not finite, in the order in which they run.

    Args:
        model: Any PyTorch module.
        run: Function that runs the module.
    """
    names: list[str] = []

    def look(name: str, module: nn.Module, output: Any) -> None:
        if isinstance(output, Tensor) and output.is_floating_point() and not torch.isfinite(output).all():
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
    return names


class _PortableType(type):
    """Type of the classes that `portable_class` makes. Unpickling makes them again."""


@functools.cache
def portable_class(cls: Any) -> type:
    """Return the subclass of a CompressAI model class that codes with exact (σ, μ)."""
    return _PortableType(f"Portable{cls.__name__}", (PortableCoding, cls), {"__module__": __name__})


def _make(cls: type) -> Any:
    return portable_class(cls)


def plain_class(cls: Any) -> type:
    """Return the class from which `portable_class` made `cls`, or `cls` itself if it did not."""
    plain: type = cls.__bases__[1] if isinstance(cls, _PortableType) else cls
    return plain


copyreg.pickle(_PortableType, lambda cls: (_make, cls.__bases__[1:]))


@contextmanager
def plain(model: nn.Module) -> Iterator[None]:
    """Switch the model to its plain class in this context, and afterwards to the portable subclass of its new class."""
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

    labkit's own networks are portable from the start. Any other model gets a subclass of its own class. It keeps the
    subclass when the arithmetic is switched back, so that it can refuse strings of the other arithmetic.

    Args:
        model: An image model of CompressAI, adopted or not, one of labkit's networks, or a subclass that only changes
            layers.
        on: False restores CompressAI's own arithmetic.

    Returns:
        The model.

    Raises:
        ValueError: If the model cannot code, or if it has no coder tables.

    Examples:
        >>> import labkit as lk
        >>> from compressai.models import MeanScaleHyperprior
        >>> model = MeanScaleHyperprior(8, 12)
        >>> model.update()
        True
        >>> coded = lk.portable(model).compress(lk.datasets.photos("test")[0][None, :, :64, :64])
        >>> coded["arithmetic"], model.decompress(**coded)["x_hat"].shape
        ('fixed-1', torch.Size([1, 3, 64, 64]))
    """
    if not (isinstance(model, nn.Module) and hasattr(model, "compress") and hasattr(model, "decompress")):
        raise ValueError(f"model must be a CompressAI model with compress and decompress, got {type(model).__name__}")
    if on and not isinstance(model, PortableCoding):
        check_tables(model)
        model.__class__ = _make(type(model))
    if isinstance(model, PortableCoding):
        model.portable = on
    return model

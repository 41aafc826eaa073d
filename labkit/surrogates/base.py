"""Base class of the surrogates: temperature, noise, float32 arithmetic and metadata."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

ADDED = {"edition": 2}  # metadata of options that did not exist in the first edition


@dataclass(frozen=True)
class Surrogate:
    """A surrogate: the function that training uses in place of rounding.

    A subclass implements `law(y, v, tau)`, where v is uniform on [0, 1) and has the shape of the latent. Because v is
    drawn outside the law, a scheme can share one draw between two paths, and a test can supply its own.

    A law may work in place, but only on tensors that depend on all of its arguments, because torch.func.vmap may stack
    some of y, v and tau and not others.

    Attributes:
        name: Short name, as accepted by `surrogates.get`.
        forward: Forward law as a formula.
        derivative: Derivative used in back-propagation, as a formula.
        paper: Source of the method.
        year: Year of the source.
        integer: True if ỹ is always an integer.
        annealed: True if the law depends on the temperature.
        random: True if the law draws noise.
        unbiased: True if the derivative is an unbiased gradient of the surrogate's own expected loss, for every loss,
            wherever that expected loss is continuous. (A mixture of two integers jumps at the edges of the bins.)
        expected_rate_gradient: True if an entropy model that scores this surrogate gives the latent the mean of the
            rate's derivative over the noise y + u, which is R(y + ½) − R(y − ½), instead of R′(ỹ).
    """

    name: ClassVar[str]
    forward: ClassVar[str]
    derivative: ClassVar[str]
    paper: ClassVar[str]
    year: ClassVar[int]
    integer: ClassVar[bool] = False
    annealed: ClassVar[bool] = False
    random: ClassVar[bool] = True
    unbiased: ClassVar[bool] = False
    expected_rate_gradient: ClassVar[bool] = False

    def __str__(self) -> str:
        values = {f: getattr(self, f.name) for f in dataclasses.fields(self)}
        chosen = ", ".join(f"{f.name}={value!r}" for f, value in values.items() if value != f.default)
        return f"{self.name}({chosen})" if chosen else self.name

    def to_dict(self) -> dict[str, Any]:
        """Return the name and the options as a JSON-compatible dictionary; `surrogates.get` takes them as keywords.

        Options that did not exist in the first edition are omitted if they have their default, because names of runs
        contain a hash of this dictionary.
        """
        options = {f: getattr(self, f.name) for f in dataclasses.fields(self)}
        old = {f.name: value for f, value in options.items() if not (f.metadata == ADDED and value == f.default)}
        return {"name": self.name, **old}

    def law(self, y: Tensor, v: Tensor, tau: float | Tensor) -> Tensor:
        """Return ỹ as a differentiable function of y.

        Args:
            y: Latents of any shape in float32 or float64.
            v: Uniform noise on [0, 1) of shape `noise_shape(y)`; None if the surrogate is not random.
            tau: Temperature τ.
        """
        raise NotImplementedError(f"{type(self).__name__} must implement law")

    def noise_shape(self, y: Tensor) -> tuple[int, ...]:
        """Return the shape of the noise for latents like y, by default the shape of y."""
        return tuple(y.shape)

    def draw(self, y: Tensor, generator: torch.Generator | None = None) -> Tensor | None:
        """Draw the noise of the law.

        Args:
            y: Latents of any shape.
            generator: Source of the noise.

        Returns:
            Uniform noise on [0, 1) of shape `noise_shape(y)`, or None if the surrogate is not random.
        """
        if not self.random:
            return None
        return torch.rand(self.noise_shape(y), generator=generator, device=y.device, dtype=_arithmetic(y.dtype))

    def __call__(
        self,
        y: Tensor,
        temperature: float | Tensor = 1.0,
        generator: torch.Generator | None = None,
        noise: Tensor | None = None,
    ) -> Tensor:
        """Return ỹ for latents y.

        Args:
            y: Latents of any shape and floating-point type. float16 and bfloat16 are computed in float32.
            temperature: Temperature τ > 0, a number or a 0-d tensor. With a tensor, compiled code is not recompiled
                when the temperature changes.
            generator: Source of the noise.
            noise: Result of `draw`, used instead of a new draw.

        Returns:
            ỹ with the shape and type of y, attached to the graph.

        Raises:
            ValueError: If the temperature is not positive and finite.
            TypeError: If y is not a floating-point tensor.
        """
        if not y.is_floating_point():
            raise TypeError(f"the latent must be a floating-point tensor, got {y.dtype}")
        if not isinstance(temperature, Tensor) and not (temperature > 0 and math.isfinite(temperature)):
            raise ValueError(f"temperature must be positive and finite, got {temperature!r}")
        latent = y.to(_arithmetic(y.dtype))
        noise = self.draw(y, generator) if noise is None else noise
        return self.law(latent, noise, temperature).to(y.dtype)  # type: ignore[arg-type]  # None only if not random


def _arithmetic(dtype: torch.dtype) -> torch.dtype:
    return torch.float64 if dtype == torch.float64 else torch.float32


class _WithSlope(torch.autograd.Function):
    generate_vmap_rule = True  # for stacks of models (torch.func.vmap)

    @staticmethod
    def forward(value: list[Tensor], y: Tensor, slope: Tensor | float) -> Tensor:
        return value[0]

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        slope = inputs[2]
        ctx.constant = None if isinstance(slope, Tensor) else slope
        ctx.save_for_backward(*([slope] if isinstance(slope, Tensor) else []))

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[None, Tensor, None]:
        if ctx.constant is None:
            return None, gradient * ctx.saved_tensors[0], None
        return None, gradient if ctx.constant == 1 else gradient * ctx.constant, None


def with_slope(value: Tensor, y: Tensor, slope: Tensor | float = 1.0) -> Tensor:
    """Return `value`, bit for bit, with `slope` as its derivative with respect to y.

    Args:
        value: New tensor that does not require a gradient.
        y: Tensor that receives the gradient.
        slope: Number, or tensor with the shape of y. It is treated as a constant, so there are no second derivatives.
    """
    if torch.compiler.is_compiling():  # the compiler fuses these operations, and y − y is exactly zero
        return value.detach() + slope * (y - y.detach())
    # Autograd turns an input that is returned unchanged into a view that cannot be modified. A list avoids that.
    output: Tensor = _WithSlope.apply([value], y, slope)
    return output

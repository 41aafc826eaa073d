"""What every surrogate shares: a temperature, one uniform draw per latent, float32 arithmetic, and metadata."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor


@dataclass(frozen=True)
class Surrogate:
    """What training sees instead of rounding.

    A subclass states its law in `law(y, v, tau)`, with v uniform on [0, 1) and of the latent's shape. Drawing v
    outside the law lets a scheme feed one draw to two paths, and lets a test feed its own.

    Class attributes: `name` (the registry's), `forward` and `derivative` (the law, in words of the notation page),
    `paper` and `year`, `integer` (is ỹ always an integer?), `annealed` (does the law depend on the temperature?),
    `random`, and `unbiased` (is the returned gradient an unbiased gradient of the surrogate's own expected loss, for
    every loss, wherever that is continuous? Over the bins' edges a warm mixture of two integers jumps).

    A law may work in place, but only on what depends on all of its arguments so far: torch.func.vmap stacks some of
    y, v and tau and not others.
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

    def __str__(self) -> str:
        """The short name, and the options that are not the default ones."""
        values = {f: getattr(self, f.name) for f in dataclasses.fields(self)}
        chosen = ", ".join(f"{f.name}={value!r}" for f, value in values.items() if value != f.default)
        return f"{self.name}({chosen})" if chosen else self.name

    def law(self, y: Tensor, v: Tensor, tau: float | Tensor) -> Tensor:
        """ỹ, differentiable, for latents y in float32 or float64; v is None where the surrogate is not random."""
        raise TypeError(f"{type(self).__name__} states no law")

    def noise_shape(self, y: Tensor) -> tuple[int, ...]:
        """Shape of the draw that the law takes for y: y's own, unless a subclass says otherwise."""
        return tuple(y.shape)

    def draw(self, y: Tensor, generator: torch.Generator | None = None) -> Tensor | None:
        """The uniform draw on [0, 1) that the law takes for y; None where the law is deterministic."""
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
        """Surrogate of the latent y.

        y: any shape, any floating dtype (float16 and bfloat16 are computed in float32).
        temperature: τ > 0, a number or a 0-d tensor (a tensor keeps compiled code from recompiling).
        generator: source of the noise; noise: a draw made with `draw`, used instead of a new one.
        Returns ỹ with y's shape and dtype, attached to the graph.
        Raises ValueError for a temperature that is not positive and finite, TypeError for an integer tensor.
        """
        if not y.is_floating_point():
            raise TypeError(f"{self.name} takes a floating-point latent, got {y.dtype}")
        if not isinstance(temperature, Tensor) and not (temperature > 0 and math.isfinite(temperature)):
            raise ValueError(f"temperature must be positive and finite, got {temperature!r}")
        latent = y.to(_arithmetic(y.dtype))
        noise = self.draw(y, generator) if noise is None else noise
        return self.law(latent, noise, temperature).to(y.dtype)  # type: ignore[arg-type]  # a law that draws none reads none


def _arithmetic(dtype: torch.dtype) -> torch.dtype:
    return torch.float64 if dtype == torch.float64 else torch.float32


class _WithSlope(torch.autograd.Function):
    generate_vmap_rule = True  # so that stacks of models (torch.func.vmap) take it

    @staticmethod
    def forward(value: list[Tensor], y: Tensor, slope: Tensor | float) -> Tensor:
        return value[0]

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: Tensor) -> None:
        slope = inputs[2]
        ctx.constant = None if isinstance(slope, Tensor) else slope
        ctx.save_for_backward(*([slope] if isinstance(slope, Tensor) else []))

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[None, Tensor, None]:  # type: ignore[override]
        if ctx.constant is None:
            return None, gradient * ctx.saved_tensors[0], None
        return None, gradient if ctx.constant == 1 else gradient * ctx.constant, None


def with_slope(value: Tensor, y: Tensor, slope: Tensor | float = 1.0) -> Tensor:
    """`value`, to the bit, going forward; `slope` as its derivative by y going back.

    value: a fresh tensor that needs no gradient; slope: a number or a tensor of y's shape, taken as a constant, so
    that there are no second derivatives.
    """
    if torch.compiler.is_compiling():  # there the passes over memory are fused, and y − y is zero to the bit
        return value.detach() + slope * (y - y.detach())
    # in a list, value is no input that is returned as it is, which autograd would make a view that nobody may change
    return _WithSlope.apply([value], y, slope)

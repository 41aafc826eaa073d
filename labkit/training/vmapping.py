"""Parts of CompressAI and torch, rewritten so that `torch.func.vmap` accepts them for many networks at once."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import torch
from compressai.ops.bound_ops import LowerBound, LowerBoundFunction, lower_bound_fwd
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode


class Draws(TorchFunctionMode):
    """Replaces `torch.rand` within a block, because vmap does not know the members' generators.

    Args:
        drawn: Tensors that replace the draws, in order. None replaces them with zeros and records the calls.

    Attributes:
        calls: Arguments and keyword arguments of each recorded call, without the generator.
    """

    def __init__(self, drawn: Iterable[Tensor] | None = None):
        super().__init__()
        self.drawn = None if drawn is None else iter(drawn)
        self.calls: list[tuple[tuple[Any, ...], dict[str, Any]]] = []

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is not torch.rand:
            return func(*args, **kwargs)
        if self.drawn is not None:
            return next(self.drawn)
        kwargs = {name: value for name, value in kwargs.items() if name != "generator"}
        self.calls.append((args, kwargs))
        return torch.zeros(*args, **kwargs)


def make_bounds_mappable(net: nn.Module) -> None:
    """Change the lower bounds of a network in place so that vmap can map them."""
    for part in net.modules():
        if isinstance(part, LowerBound):
            part.forward = partial(_bounded, part)


class _LowerBound(LowerBoundFunction):
    """CompressAI's lower bound with its own vmap rule; the one that torch generates takes a tenth of a step."""

    @staticmethod
    def forward(x: Tensor, bound: Tensor) -> Tensor:
        bounded: Tensor = lower_bound_fwd(x, bound)
        return bounded

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int, int | None], x: Tensor, bound: Tensor) -> tuple[Tensor, int]:
        x = x.movedim(in_dims[0], 0)
        return _LowerBound.apply(x, bound.view(-1, *[1] * (x.dim() - 1))), 0  # one bound, or one for each member


def _bounded(part: LowerBound, x: Tensor) -> Tensor:
    bounded: Tensor = _LowerBound.apply(x, part.bound)
    return bounded


def bisect(
    members: int, f: Callable[[Tensor], Tensor], target: Tensor, low: Tensor, high: Tensor, rtol: float, atol: float
) -> Tensor:
    """Solve f(x) = target by CompressAI's bisection, for the channels of several members at once.

    Args:
        members: Number of members. Each stops at the same iteration as it would alone.
        f: Increasing function, applied to each channel.
        target: Value to reach.
        low: Lower ends of the search intervals, with the channels of all members in the first dimension.
        high: Upper ends of the search intervals, of the same shape.
        rtol: Relative tolerance.
        atol: Absolute tolerance.

    Returns:
        The solutions, with the same shape as `low`.
    """
    low = torch.where(target <= f(high), low, high)
    high = torch.where(f(low) <= target, high, low)
    while not (done := torch.isclose(low, high, rtol=rtol, atol=atol).view(members, -1).all(1)).all():
        active = ~done.repeat_interleave(len(low) // members).view_as(low)
        middle = (low + high) / 2
        value = f(middle)
        low = torch.where(active & (value <= target), middle, low)
        high = torch.where(active & (value >= target), middle, high)
    return (low + high) / 2

"""Exact evaluation of everything between decoded symbols and (σ, μ), so that strings decode on every machine.

A decoder reads y with tables that are selected by σ. If a single σ differs between two machines, everything after it is
garbage. Floating-point sums do differ, because they depend on the order of addition. Here, every convolution between
the symbols and (σ, μ) is evaluated in integers that float64 represents without error:

    input ─► clamp to ±2¹³ ─► ⌊x · 2¹⁴ + ½⌋ ─► convolution of integers ─► ⌊sum · 2⁻¹⁴ + ½⌋ ─► · 2⁻¹⁴, in float32

A weight is ⌊w · 2¹⁴ + ½⌋ and a bias is ⌊b · 2²⁸ + ½⌋. Each sum stays below 2⁵², where float64 represents every integer
and every half. The order of addition, the instruction set, the number of threads and the batch size therefore have no
effect. All other operations on the path either move data or are elementwise IEEE arithmetic, which is rounded in only
one way. tanh is read from a table. Any other operation is refused by name.

The transforms g_a and g_s and the hyper-analysis h_a stay in floating point: the encoder is free to choose its symbols,
and g_s affects pixels but never symbols.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from labkit.fixed_point.convolution import convolve

ARITHMETIC = "fixed-1"  # name of the rules above; changing any of them requires a new name
FLOATING_POINT = "floating-point"  # CompressAI's own arithmetic, which depends on the machine
FRACTION = 14  # binary digits after the point in activations and weights
UNIT = 2.0**FRACTION
LIMIT = 2.0**13  # activations are clamped to ±LIMIT before they are multiplied
LARGEST_SUM = 2.0**52  # upper limit of every partial sum, in units of 2⁻²⁸

_MOVES = """
_reshape_alias _unsafe_view _to_copy alias arange as_strided cat clone constant_pad_nd contiguous copy copy_ detach
detach_ empty empty_like empty_strided expand fill fill_ flatten flip full full_like index index_put_ lift_fresh
lift_fresh_copy masked_fill new_empty new_empty_strided new_full new_ones new_zeros ones ones_like permute
pixel_shuffle pixel_unshuffle repeat reshape resize_ roll select select_scatter slice slice_scatter split
split_with_sizes squeeze squeeze_ stack t transpose unbind unsqueeze unsqueeze_ upsample_nearest2d view where zero_
zeros zeros_like
"""
_EXACT = """
abs abs_ add add_ all any bitwise_and bitwise_not bitwise_or bucketize ceil clamp clamp_ clamp_max clamp_min
clamp_min_ eq equal floor ge gt hardtanh hardtanh_ isfinite isinf isnan item le leaky_relu leaky_relu_
_local_scalar_dense logical_and logical_not logical_or lt maximum minimum mul mul_ ne neg neg_ relu relu_ round round_
rsub sign sub sub_ trunc
"""
_ALLOWED = frozenset((_MOVES + _EXACT).split())


def on_grid(x: Tensor) -> Tensor:
    """Round to the nearest multiples of 2⁻¹⁴; halves are rounded upward.

    Args:
        x: Tensor of any shape and floating dtype. Values are first clamped to ±2¹³.

    Returns:
        The multiples of 2⁻¹⁴ as integers, in float64.
    """
    return x.to(torch.float64, copy=True).clamp_(-LIMIT, LIMIT).mul_(UNIT).add_(0.5).floor_()


@functools.cache
def tanh_table() -> np.ndarray[Any, Any]:
    """Return round(tanh(k · 2⁻¹⁴) · 2¹⁴) for k from 0 to 6 · 2¹⁴, as int16; beyond that, tanh rounds to 1."""
    table: np.ndarray[Any, Any] = np.floor(np.tanh(np.arange(6 * 2**FRACTION + 1) / UNIT) * UNIT + 0.5)
    return table.astype(np.int16)


def tanh(x: Tensor) -> Tensor:
    """Return tanh from a table, with 14 binary digits after the point.

    Args:
        x: Tensor of any shape and floating dtype.

    Returns:
        Multiples of 2⁻¹⁴ in [-1, 1], of x's shape and dtype.
    """
    k = on_grid(x)
    table = torch.from_numpy(tanh_table()).to(x.device)
    magnitude = table[k.abs().clamp_max(len(table) - 1).long()].double()
    return (torch.sign(k) * magnitude / UNIT).to(x.dtype)


def _from_sums(sums: Tensor) -> Tensor:
    """Round sums in units of 2⁻²⁸ to multiples of 2⁻¹⁴; halves are rounded upward."""
    return sums.div_(UNIT).add_(0.5).floor_().div_(UNIT)


class NotCodable(ValueError):
    """Raised before coding a latent for which the coder has no symbol and on which it would hang."""


def check_symbols(symbols: Tensor) -> None:
    """Check rounded latents before they are coded.

    Raises:
        NotCodable: If a latent is not finite or is outside ±2¹³.
    """
    if not symbols.numel():
        return
    low, high = torch.aminmax(symbols)
    if not torch.isfinite(high - low):
        raise NotCodable("the latents hold values that are not finite")
    if max(-low, high) > LIMIT:
        outside = symbols[symbols.abs() > LIMIT]
        raise NotCodable(f"a latent of {outside[0].item():.4g} steps is outside ±{LIMIT:.0f}, the range of the coder")


class Checking(TorchDispatchMode):
    """Refuses latents and scales that cannot be coded while this mode is active. Results do not change."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None) -> Any:
        result = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__
        if name == "round":
            check_symbols(result)
        # CompressAI uses `le` to compare σ with its scale table, and labkit uses `bucketize` to look it up
        if name in ("le", "bucketize") and not torch.isfinite(args[0]).all():
            raise NotCodable("the scales σ hold values that are not finite")
        return result


class FixedPoint(TorchDispatchMode):
    """Makes convolutions exact while this mode is active, and refuses operations that cannot be exact.

    Args:
        names: Name of each weight, indexed by the weight's `id`, for error messages.
    """

    def __init__(self, names: Mapping[int, str] | None = None):
        super().__init__()
        self.names = names or {}
        self.latents: Tensor | None = None  # the latest input of the synthesis transform
        self.strings = 0  # number of decoded strings
        self.free = 0  # number of modules being evaluated that stay in floating point
        self._integers: dict[tuple[int, int], tuple[Tensor, Tensor]] = {}  # by id and version of the weights
        self._alive: list[Tensor] = []  # keeps these weights alive, so that no other tensor gets the same id

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None) -> Any:
        kwargs = kwargs or {}
        name = func.overloadpacket.__name__
        if self.free:
            return func(*args, **kwargs)
        if name == "convolution":
            return self._convolution(*args, **kwargs)
        if name in ("tanh", "tanh_"):
            return tanh(args[0]) if name == "tanh" else args[0].copy_(tanh(args[0]))
        if name in ("add", "add_", "sub", "sub_", "rsub"):
            allowed = (
                kwargs.get("alpha", args[2] if len(args) > 2 else 1) == 1
            )  # otherwise a product may be fused with the sum
        else:
            allowed = name in _ALLOWED or not _holds_floats((args, kwargs))
        if not allowed:
            raise ValueError(
                f"{name} is a floating-point operation between the symbols and (σ, μ), whose result differs between "
                "machines: use convolutions, ReLU, LeakyReLU and tanh there, or labkit.portable(model, False)"
            )
        result = func(*args, **kwargs)
        if name in ("round", "round_"):
            check_symbols(result)
        return result

    def _convolution(self, x: Tensor, weight: Tensor, bias: Tensor | None, *geometry: Any) -> Tensor:
        integers = self._weights(weight, bias, transposed=geometry[3])
        if not torch.isfinite(x).all():
            raise NotCodable(f"{self.names.get(id(weight), 'a convolution')} is given values that are not finite")
        # A GPU's libraries may replace a convolution with an algorithm that is not exact
        kernel, start = (tensor.cpu() for tensor in integers)
        stride, padding, dilation, transposed, extra, groups = geometry
        square = all(len({*numbers}) == 1 for numbers in (stride, padding, extra, weight.shape[2:]))
        if square and groups == 1 and {*dilation} == {1} and (transposed or stride[0] == 1):
            extra = extra[0] if transposed else None
            return convolve(x.cpu(), kernel, start, stride[0], padding[0], extra, on_grid, _from_sums).to(x.device)
        return _from_sums(torch.ops.aten.convolution(on_grid(x).cpu(), kernel, start, *geometry)).to(x.device, x.dtype)

    def _weights(self, weight: Tensor, bias: Tensor | None, transposed: bool) -> tuple[Tensor, Tensor]:
        key = (id(weight), weight._version)
        if key not in self._integers:
            integers, start = integer_weights(weight, bias, transposed, self.names.get(id(weight), "a convolution"))
            together = integers.movedim((0, 1), (-2, -1)).contiguous().movedim((-2, -1), (0, 1))
            self._integers[key] = together, start
            self._alive.append(weight)
        return self._integers[key]


def integer_weights(
    weight: Tensor, bias: Tensor | None, transposed: bool = False, name: str = "a convolution"
) -> tuple[Tensor, Tensor]:
    """Round a convolution's weights to multiples of 2⁻¹⁴ and its bias to multiples of 2⁻²⁸.

    Args:
        weight: Weights of shape (out, in, …), or (in, out, …) for a transposed convolution.
        bias: Biases of shape (out,), or None.
        transposed: Whether the convolution is transposed.
        name: Name of the layer in error messages.

    Returns:
        The integer weights and biases, in float64.

    Raises:
        ValueError: If a weight is not finite, or a sum of products could reach 2⁵².
    """
    integers = torch.floor(weight.detach().double() * UNIT + 0.5)
    outputs = integers.size(1) if transposed else integers.size(0)
    start = weight.new_zeros(outputs, dtype=torch.float64) if bias is None else bias.detach().double()
    start = torch.floor(start * UNIT * UNIT + 0.5)
    across = [dim for dim in range(integers.dim()) if dim != int(transposed)]
    norms = integers.abs().sum(across)
    if not (torch.isfinite(norms).all() and torch.isfinite(start).all()):
        raise ValueError(f"{name} holds values that are not finite")
    if not (norms * LIMIT * UNIT + start.abs().max() < LARGEST_SUM).all():
        raise ValueError(
            f"{name} is too large for exact sums: the absolute weights of one output add up to "
            f"{norms.max().item() / UNIT:.0f}, and fixed point allows less than {LARGEST_SUM / LIMIT / UNIT**2:.0f}"
        )
    return integers, start


def _holds_floats(values: Any) -> bool:
    if isinstance(values, Tensor):
        return values.is_floating_point() or values.is_complex()
    if isinstance(values, dict):
        return any(map(_holds_floats, values.values()))
    return isinstance(values, tuple | list) and any(map(_holds_floats, values))

"""Convolutions of integers in float64, as matrix products that need little memory.

Exact sums may be added in any order. A convolution is therefore one matrix product per kernel position, whose right
factor is a view of the padded input. PyTorch's float64 convolution copies each part first.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from torch import Tensor
from torch.nn.functional import pad

VALUES = 2**20  # number of output values that are computed at once


def convolve(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    stride: int,
    padding: int,
    extra: int | None,
    before: Callable[[Tensor], Tensor],
    after: Callable[[Tensor], Tensor],
) -> Tensor:
    """Convolve a block of rows at a time, to save memory.

    Args:
        x: Input of shape (B, in, H, W).
        weight: Weights of shape (out, in, k, k), or (in, out, k, k) for a transposed convolution, in float64. The
            convolution is fastest if the matrix of each kernel position is contiguous in memory.
        bias: Biases of shape (out,), in float64.
        stride: Stride in both directions; 1 unless the convolution is transposed.
        padding: Padding on all sides.
        extra: Output padding of a transposed convolution, or None if the convolution is not transposed.
        before: Function that turns rows of `x` into integers in float64.
        after: Function that turns sums into output values.

    Returns:
        Output of shape (B, out, H', W') with x's dtype.
    """
    size, height, width = weight.size(2), x.size(2), x.size(3)
    if extra is None:
        matrices = weight.permute(2, 3, 0, 1)
        sides = [side + 2 * padding - size + 1 for side in (height, width)]
    else:
        matrices = weight.permute(2, 3, 1, 0)
        sides = [(side - 1) * stride - 2 * padding + size + extra for side in (height, width)]
    output = x.new_empty(len(x), len(bias), *sides)
    phases = [_offsets(size, stride, padding, phase, extra is not None) for phase in range(stride)]
    offsets = [offset for phase in phases for _, offset in phase]
    low, high = min(offsets, default=0), max(offsets, default=0)
    columns = -(-sides[1] // stride) + high - low  # number of columns of the padded input
    for start, rows in _blocks(-(-sides[0] // stride), max(1, VALUES // (len(bias) * columns))):
        needed = rows + high - low
        first, last = (min(height, max(0, row)) for row in (start + low, start + rows + high))
        grid, above = before(x[:, :, first:last]), min(needed, max(0, -start - low))
        around = (-low, columns + low - width, above, needed - above - (last - first))
        flat = pad(grid, around).flatten(2)
        for i, vertical in enumerate(phases):
            for j, horizontal in enumerate(phases):
                part = output[:, :, start * stride + i : (start + rows) * stride : stride, j::stride]
                if not part.numel():
                    continue
                sums = flat.new_empty(len(x), len(bias), rows * columns)
                length = (part.size(2) - 1) * columns + part.size(3)
                for each, total in zip(flat, sums[:, :, :length], strict=True):
                    total.copy_(bias[:, None].expand_as(total))
                    for s, down in vertical:
                        for t, right in horizontal:
                            place = (down - low) * columns + right - low
                            total.addmm_(matrices[s, t], each[:, place : place + length])
                part.copy_(after(sums.view(*sums.shape[:2], rows, columns)[:, :, : part.size(2), : part.size(3)]))
    return output


def _offsets(size: int, stride: int, padding: int, phase: int, transposed: bool) -> list[tuple[int, int]]:
    """Return the kernel positions that add to outputs `phase`, `phase` + stride, …, and the offsets of their inputs.

    The output n = stride · m + phase of a transposed convolution is the sum of w[t] · x[i] over all i and t with
    n = stride · i + t - padding. Therefore i - m is (phase + padding - t) / stride, if that is an integer.
    """
    if not transposed:
        return [(t, t - padding) for t in range(size)]
    return [(t, (phase + padding - t) // stride) for t in range(size) if (phase + padding - t) % stride == 0]


def _blocks(total: int, size: int) -> Iterator[tuple[int, int]]:
    """Divide `total` rows into blocks, and yield the first row and the number of rows of each block."""
    return ((start, min(size, total - start)) for start in range(0, total, size))

"""Raster-scan coding in fixed point, one latent pixel at a time, without PyTorch's overhead for each small operation.

It gives exactly the symbols of CompressAI's loop within `FixedPoint`. The sums are exact in any order, so the part of
the first layer that reads the hyperprior is computed for all pixels at once.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from compressai.ans import BufferedRansEncoder
from torch import Tensor, nn

from labkit import rans
from labkit.fixed_point.arithmetic import LIMIT, UNIT, check_symbols, integer_weights

Array = np.ndarray[Any, Any]


class _Layer(NamedTuple):
    """A pointwise convolution in integers, and the slope of the LeakyReLU after it, or None if there is none."""

    weight: Array  # (out, in)
    bias: Array  # (out,)
    slope: np.float32 | None


class RasterScan:
    """The coder for the latents of a model.

    Args:
        gaussian_conditional: The entropy model, with its tables.
        context_prediction: The masked convolution over decoded latents.
        entropy_parameters: Pointwise convolutions and LeakyReLUs that map (hyperprior, context) to (σ, μ).

    Raises:
        ValueError: If there is a layer of another kind, or a layer is too large for exact sums.
    """

    def __init__(self, gaussian_conditional: Any, context_prediction: Any, entropy_parameters: nn.Module):
        self.gaussian = gaussian_conditional
        self.bounds = gaussian_conditional.scale_table[:-1].cpu().numpy()
        self.lowest = gaussian_conditional.lower_bound_scale.bound.cpu().numpy().astype(np.float32)
        lengths = gaussian_conditional._cdf_length.tolist()
        tables = gaussian_conditional._quantized_cdf.tolist()
        self.tables = [table[:length] for table, length in zip(tables, lengths, strict=True)]
        self.lengths, self.offsets = lengths, gaussian_conditional._offset.tolist()

        weight, bias = integer_weights(
            context_prediction.weight * context_prediction.mask, context_prediction.bias, name="context_prediction"
        )
        weight, bias = weight.cpu(), bias.cpu()
        self.side = weight.size(-1)
        self.pad = self.side // 2
        taps = weight.permute(0, 2, 3, 1).reshape(len(weight), self.side**2, -1)  # (out, tap, in)
        self.before = self.pad * (self.side + 1)  # the taps that come before the center in raster order
        self.depth = taps.size(-1)
        self.context = _Layer(taps[:, : self.before].reshape(len(weight), -1).numpy(), bias.numpy(), None)
        self.layers = _pointwise(entropy_parameters)

    def encode(self, y: Tensor, params: Tensor) -> tuple[bytes, Tensor]:
        """Code the latents of one image.

        Args:
            y: Latents of shape (M, height, width).
            params: Output of the hyperprior, of shape (channels, height, width).

        Returns:
            The string, and the decoded latents of y's shape.
        """
        latents = np.ascontiguousarray(y.cpu().numpy().transpose(1, 2, 0), dtype=np.float32)

        def code(h: int, w: int, index: Array, mean: Array) -> Array:
            symbol: Array = np.rint(latents[h, w] - mean)
            if not np.abs(symbol).max() <= LIMIT:  # also true of values that are not finite
                check_symbols(torch.from_numpy(symbol))
            return symbol

        decoded, scales, means = self._scan(params, code)
        inputs, sigma, mu = (torch.from_numpy(array).to(y.device) for array in (latents, scales, means))
        indexes = self.gaussian.build_indexes(sigma)
        symbols = self.gaussian.quantize(inputs, "symbols", mu)
        encoder = BufferedRansEncoder()
        encoder.encode_with_indexes(
            symbols.flatten().tolist(), indexes.flatten().tolist(), self.tables, self.lengths, self.offsets
        )
        return encoder.flush(), _channels_first(decoded).to(y.device)

    def decode(self, string: bytes, params: Tensor) -> Tensor:
        """Decode the latents of one image, of shape (M, height, width); `params` is the same as in `encode`."""
        decoder = rans.Decoder(string, params[0].numel() * self.depth)

        def code(h: int, w: int, index: Array, mean: Array) -> Array:
            rows, place = np.unique(index, return_inverse=True)  # the decoder copies every table that is passed to it
            tables = [self.tables[row] for row in rows]
            lengths, offsets = [self.lengths[row] for row in rows], [self.offsets[row] for row in rows]
            return np.array(decoder.decode(place.tolist(), tables, lengths, offsets), dtype=np.float32)

        latents, _, _ = self._scan(params, code)
        decoder.finish()
        return _channels_first(latents).to(params.device)

    def _scan(self, params: Tensor, code: Callable[[int, int, Array, Array], Array]) -> tuple[Array, Array, Array]:
        """Visit every pixel and call `code` for its symbols. Return ŷ, σ and μ as float32, each (height, width, M)."""
        channels, height, width = params.shape
        first, *others = self.layers
        hyper = first.bias + _on_grid(params.cpu().numpy().transpose(1, 2, 0)) @ first.weight[:, :channels].T
        from_context = first.weight[:, channels:]
        depth = self.depth
        decoded = np.zeros((height + self.pad, width + 2 * self.pad, depth))  # on the grid, for the context to read
        latents, scales, means = (np.empty((height, width, depth), dtype=np.float32) for _ in range(3))
        above, left = self.pad * self.side * depth, self.pad * depth
        patch = np.empty(above + left)
        for h in range(height):
            for w in range(width):
                patch[:above] = decoded[h : h + self.pad, w : w + self.side].reshape(-1)
                patch[above:] = decoded[h + self.pad, w : w + self.pad].reshape(-1)
                context = _rounded(self.context.weight @ patch + self.context.bias)
                x = _activated(_rounded(hyper[h, w] + from_context @ _on_grid(context)), first.slope)
                for layer in others:
                    x = _activated(_rounded(layer.weight @ _on_grid(x) + layer.bias), layer.slope)
                scales[h, w], means[h, w] = np.split(x, 2)
                index = np.searchsorted(self.bounds, np.maximum(scales[h, w], self.lowest))
                latents[h, w] = code(h, w, index, means[h, w]) + means[h, w]
                decoded[h + self.pad, w + self.pad] = _on_grid(latents[h, w])
        return latents, scales, means


def _channels_first(x: Array) -> Tensor:
    return torch.from_numpy(x.transpose(2, 0, 1).copy())


def _on_grid(x: Array) -> Array:
    integers: Array = np.floor(np.clip(x.astype(np.float64), -LIMIT, LIMIT) * UNIT + 0.5)
    return integers


def _rounded(total: Array) -> Array:
    rounded: Array = np.floor(total / UNIT + 0.5) / UNIT
    return rounded.astype(np.float32)


def _activated(x: Array, slope: np.float32 | None) -> Array:
    return x if slope is None else np.where(x > 0, x, x * slope)


def _pointwise(network: nn.Module) -> list[_Layer]:
    layers: list[_Layer] = []
    for name, module in network.named_children():
        if isinstance(module, nn.Conv2d) and module.kernel_size == (1, 1) and module.groups == 1:
            weight, bias = integer_weights(module.weight, module.bias, name=f"entropy_parameters.{name}")
            layers.append(_Layer(weight[:, :, 0, 0].cpu().numpy(), bias.cpu().numpy(), None))
        elif isinstance(module, nn.LeakyReLU) and layers and layers[-1].slope is None:
            layers[-1] = layers[-1]._replace(slope=np.float32(module.negative_slope))
        else:
            raise ValueError(
                f"entropy_parameters.{name} is a {type(module).__name__}: raster-scan coding takes pointwise "
                "convolutions, each with at most one LeakyReLU after it"
            )
    return layers

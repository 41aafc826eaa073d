"""Stage 2: the transforms, which are initialized with a truncated DCT."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from scipy import fft

from .verdicts import Array, Result, Wrong, array, close, first_match, require

M, N = 24, 32


def order(luma_weight: int = 1, chroma_weight: int = 12) -> Array:
    """Return the positions of all 768 coefficients, starting at the lowest frequency."""
    c, u, v = np.indices((3, 16, 16)).reshape(3, -1)
    return np.argsort((u**2 + v**2 + 1) * np.where(c > 0, chroma_weight, luma_weight), kind="stable")


def gain(lmbda: float) -> float:
    """Return the number of quantization steps per unit of the DCT."""
    return 255 * float(np.sqrt(np.log(2) * lmbda / 30))


def blocks(x: Array) -> Array:
    """Return the 16×16 patches of images (B, 3, H, W), with shape (B, H/16, W/16, 3, 16, 16)."""
    b, _, h, w = x.shape
    return x.reshape(b, 3, h // 16, 16, w // 16, 16).transpose(0, 2, 4, 1, 3, 5)


def latents(x: Array, lmbda: float, keep: Array) -> Array:
    """Return SciPy's truncated block DCT of x − ½, in quantization steps."""
    coefficients = fft.dctn(blocks(x - 0.5), axes=(3, 4, 5), norm="ortho")
    flat = coefficients.reshape(*coefficients.shape[:3], 768)[..., keep]
    y: Array = gain(lmbda) * flat.transpose(0, 3, 1, 2)
    return y


def pixels(y: Array, lmbda: float, keep: Array) -> Array:
    """Return the inverse of `latents`, computed with SciPy."""
    b, _, h, w = y.shape
    flat = np.zeros((b, h, w, 768))
    flat[..., keep] = y.transpose(0, 2, 3, 1) / gain(lmbda)
    patches = fft.idctn(flat.reshape(b, h, w, 3, 16, 16), axes=(3, 4, 5), norm="ortho")
    x: Array = patches.transpose(0, 3, 1, 4, 2, 5).reshape(b, 3, 16 * h, 16 * w) + 0.5
    return x


def check(codec: Any, work: Any) -> Result:
    """Compare the basis and the transforms with SciPy's DCT."""
    for count in (M, 192):
        _check_basis(array(codec.dct_basis(count), "dct_basis(M)", (count, 768)), count)
    rng = np.random.default_rng(0)
    x = rng.random((2, 3, 32, 48))
    keep = order()[:M]
    for lmbda in (0.0067, 0.02):
        g_a, g_s = codec.transforms(M, N, lmbda)
        y = latents(x, lmbda, keep)
        got = array(g_a(torch.tensor(x, dtype=torch.float32)), "g_a(x)", y.shape)
        if not close(got, y, 1e-3):
            raise Wrong(_wrong_latents(got, y, x, lmbda, keep))
        y = np.round(y)
        got, expected = array(g_s(torch.tensor(y, dtype=torch.float32)), "g_s(y)", x.shape), pixels(y, lmbda, keep)
        if not close(got, expected, 1e-3):
            raise Wrong(_wrong_pixels(got, expected, y, lmbda, keep))
    _check_layers(g_a, g_s, x)
    return Result("g_a and g_s agree with SciPy's DCT.")


def _check_basis(basis: Array, count: int) -> None:
    patch = np.random.default_rng(1).random((3, 16, 16))
    coefficients, keep = fft.dctn(patch, norm="ortho").ravel(), order()[:count]
    got, expected = basis @ patch.ravel(), coefficients[keep]
    if close(got, expected, 1e-4):
        return
    if not close(basis @ basis.T, np.eye(count), 1e-3):
        raise Wrong(
            "The vectors of dct_basis are not orthonormal. The DCT has the factor √(2/n), and frequency 0 a further "
            "√½, along the colors (n = 3) as along rows and columns (n = 16)."
        )
    plain, swapped = order(1, 1)[:count], fft.dctn(patch.transpose(0, 2, 1), norm="ortho").ravel()[keep]
    raise Wrong(
        first_match(
            got,
            {
                "The order of dct_basis lacks the factor 12 for chroma: u² + v² + 1 times 12 for the second and third "
                "vector of color.": lambda: coefficients[plain],
                "dct_basis swaps rows and columns. u is the frequency from top to bottom, v from left to "
                "right.": lambda: swapped,
            },
            "The vectors of dct_basis are orthonormal, but are not the DCT vectors in the given order: sort by the "
            "key, ties by color, then u, then v (a stable sort).",
        )
    )


def _wrong_latents(got: Array, y: Array, x: Array, lmbda: float, keep: Array) -> str:
    unshifted = latents(x + 0.5, lmbda, keep)
    ratio = float(np.median(got[abs(y) > 0.5] / y[abs(y) > 0.5]))
    if close(got, unshifted, 1e-3):
        return (
            "g_a does not subtract ½: a gray image must have the latent 0. Put −½ times the sum of each row in "
            "the bias."
        )
    offset = got - y
    if close(offset, np.broadcast_to(offset[:1, :, :1, :1], y.shape), 1e-3):
        return (
            "The bias of g_a is wrong, but its weights are right: a gray image (x = ½) must have the latent 0. The "
            "bias is −½ times the sum of each row of the weights."
        )
    if close(got, ratio * y, 1e-3 * max(1.0, abs(ratio))):
        return (
            f"The latents of g_a are {ratio:.4g} times as large as they should be at λ = {lmbda:g}. The gain is "
            "255 · √(ln 2 · λ / 30)."
        )
    return (
        "g_a differs from SciPy's DCT of x − ½. Is the channel c · 256 + 16 i + j of PixelUnshuffle the pixel (c, i, "
        "j) of your basis, and do the residual layers start as the identity?"
    )


def _wrong_pixels(got: Array, expected: Array, y: Array, lmbda: float, keep: Array) -> str:
    factor = gain(lmbda)
    return first_match(
        got,
        {
            "g_s multiplies by the gain. The synthesis undoes the analysis, so it divides.": lambda: (
                0.5 + (expected - 0.5) * factor**2
            ),
            "g_s does not undo the gain: divide its weights by it.": lambda: 0.5 + (expected - 0.5) * factor,
            "g_s does not add ½ again: put ½ in the bias of the layer that gives pixels.": lambda: expected - 0.5,
        },
        "g_s differs from SciPy's inverse DCT plus ½.",
    )


def _check_layers(g_a: Any, g_s: Any, x: Array) -> None:
    residual = 2 * (2 * M * N + M + N)
    for name, net, linear in (("g_a", g_a, 769 * M), ("g_s", g_s, 768 * (M + 1))):
        count = sum(parameter.numel() for parameter in net.parameters())
        require(
            count == linear + residual,
            f"{name} has {count} parameters; one layer between 768 values and M latents, and two residual layers of "
            f"width N have {linear + residual} for M = {M}, N = {N}.",
        )
    g_s(g_a(torch.tensor(x, dtype=torch.float32))).square().mean().backward()
    moving = sum(bool((p.grad is not None) and (p.grad != 0).any()) for p in [*g_a.parameters(), *g_s.parameters()])
    require(
        moving >= 12,
        "The residual layers get no gradient: if both W₁ and W₂ start at zero, neither can move. Only W₂ starts at "
        "zero.",
    )

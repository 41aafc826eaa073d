import math

import numpy as np
from torch import nn
from torch.nn import functional as F

# Stage 2: transforms

PATCH = 16


def dct_basis(M):
    """Return the M vectors with the lowest frequencies, of shape (M, 768)."""

    def dct(n):
        matrix = math.sqrt(2 / n) * np.cos(np.pi / n * np.outer(np.arange(n), np.arange(n) + 0.5))
        matrix[0] /= math.sqrt(2)
        return matrix

    vectors = np.einsum("ci,uy,vx->cuviyx", dct(3), dct(PATCH), dct(PATCH)).reshape(768, 768)
    c, u, v = np.indices((3, PATCH, PATCH)).reshape(3, -1)
    order = np.argsort((u**2 + v**2 + 1) * np.where(c > 0, 12, 1), kind="stable")
    return torch.tensor(vectors[order[:M]], dtype=torch.float32)


class Residual(nn.Module):
    """x + W₂ gelu(W₁ x) at each position; W₂ starts at zero."""

    def __init__(self, M, N):
        super().__init__()
        self.inner, self.outer = nn.Conv2d(M, N, 1), nn.Conv2d(N, M, 1)
        nn.init.zeros_(self.outer.weight)
        nn.init.zeros_(self.outer.bias)

    def forward(self, x):
        """Return the sum, with the shape of x."""
        return x + self.outer(F.gelu(self.inner(x)))


def transforms(M, N, lmbda):
    """Return g_a and g_s, which start as a DCT with the step for λ."""
    to_latents, to_pixels = nn.Conv2d(768, M, 1), nn.Conv2d(M, 768, 1)
    basis, gain = dct_basis(M), 255 * math.sqrt(math.log(2) * lmbda / 30)
    with torch.no_grad():
        to_latents.weight.copy_(gain * basis[:, :, None, None])
        to_latents.bias.copy_(-0.5 * gain * basis.sum(1))
        to_pixels.weight.copy_(basis.T[:, :, None, None] / gain)
        to_pixels.bias.fill_(0.5)
    g_a = nn.Sequential(nn.PixelUnshuffle(PATCH), to_latents, Residual(M, N), Residual(M, N))
    g_s = nn.Sequential(Residual(M, N), Residual(M, N), to_pixels, nn.PixelShuffle(PATCH))
    return g_a, g_s

"""The image codecs: CompressAI's architectures with labkit's entropy modules inside, under CompressAI's keys."""

from __future__ import annotations

from difflib import get_close_matches
from typing import Any, ClassVar, cast

import compressai.models as _compressai
import torch
from torch import nn

from labkit import entropy, schemes
from labkit.schemes import QuantizationScheme, Scheme, TwoStages

# channels N (transforms) and M (latent); paper: as published, at the higher rates
SIZES: dict[str, tuple[int, int]] = {"tiny": (24, 36), "small": (96, 144), "paper": (192, 320)}


class _Codec:
    """What labkit adds to a CompressAI model: its registry name, its size, the scheme it trains with."""

    kind: ClassVar[str]
    size: str
    scheme: Scheme
    info: dict[str, Any]

    def _equip(self, size: str, scheme: Scheme | None) -> QuantizationScheme:
        self.size, self.info = size, {}
        self.scheme = scheme or schemes.noise()
        return first_stage(self.scheme)

    def set_scheme(self, scheme: Scheme) -> None:
        """Train with another scheme from now on. Coder tables that start at another scale bound are dropped."""
        assert isinstance(self, nn.Module)
        self.scheme = scheme
        entropy.set_scheme(self, first_stage(scheme))


def first_stage(scheme: Scheme) -> QuantizationScheme:
    """The scheme that training starts with."""
    return scheme.first if isinstance(scheme, TwoStages) else scheme


class FactorizedPrior(_Codec, _compressai.FactorizedPrior):
    """Ballé et al., End-to-end Optimized Image Compression, 2017, as in CompressAI's bmshj2018-factorized.

    Takes (batch, 3, H, W) in [0, 1], H and W multiples of 16; gives {"x_hat", "likelihoods": {"y"}}.
    """

    kind = "factorized_prior"

    def __init__(self, N: int, M: int, size: str = "custom", scheme: Scheme | None = None):
        super().__init__(N, M)
        self.entropy_bottleneck = entropy.EntropyBottleneck(M, scheme=self._equip(size, scheme), main=True)


class MeanScaleHyperprior(_Codec, _compressai.MeanScaleHyperprior):
    """Minnen, Ballé & Toderici 2018 without the context model, as in CompressAI's mbt2018-mean.

    Takes (batch, 3, H, W) in [0, 1], H and W multiples of 64; gives {"x_hat", "likelihoods": {"y", "z"}}.
    """

    kind = "mean_scale_hyperprior"

    def __init__(self, N: int, M: int, size: str = "custom", scheme: Scheme | None = None):
        super().__init__(N, M)
        stage = self._equip(size, scheme)
        self.entropy_bottleneck = entropy.EntropyBottleneck(N, scheme=stage)
        self.gaussian_conditional = entropy.GaussianConditional(None, scheme=stage)

    @torch.no_grad()
    def scale_latents(self, gain: float) -> None:
        """Multiply the latent y by `gain`, and undo it wherever y is read: means and scales follow, z stays.

        Only the quantisation step changes, to 1/gain of what it was. At high rate the best step goes with 1/√λ, since
        step²/12 is the distortion, so √(λ/λ₀) takes a network that was trained for λ₀ most of the way to λ.
        """
        for convolution, factor in ((self.g_a[-1], gain), (self.h_s[-1], gain)):
            convolution.weight *= factor
            convolution.bias *= factor
        for convolution in (self.g_s[0], self.h_a[0]):
            convolution.weight /= gain


Codec = FactorizedPrior | MeanScaleHyperprior
_KINDS: dict[str, type[Codec]] = {cls.kind: cls for cls in (FactorizedPrior, MeanScaleHyperprior)}


def names() -> tuple[str, ...]:
    """The image codecs' names."""
    return tuple(_KINDS)


def build(name: str, N: int, M: int, *, size: str = "custom", scheme: Scheme | None = None, seed: int = 0) -> Codec:
    """An untrained image codec of any width, the same for the same seed. Raises ValueError for an unknown name."""
    if name not in _KINDS:
        near = get_close_matches(str(name), _KINDS, n=1, cutoff=0.3)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise ValueError(f"no network is named {name!r}{hint} (there are {', '.join(_KINDS)})")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return _KINDS[name](N, M, size, scheme)


def get(name: str, size: str = "tiny", scheme: Scheme | None = None, seed: int = 0) -> Codec:
    """An untrained image codec by name and size. Raises ValueError naming what there is."""
    if size not in SIZES:
        raise ValueError(f"size: takes {', '.join(SIZES)}, got {size!r}")
    return build(name, *SIZES[size], size=size, scheme=scheme, seed=seed)


def factorized_prior(size: str = "tiny", scheme: Scheme | None = None, seed: int = 0) -> FactorizedPrior:
    """The factorized prior in size tiny, small or paper, with a scheme (default: noise)."""
    return cast(FactorizedPrior, get("factorized_prior", size, scheme, seed))


def mean_scale_hyperprior(size: str = "tiny", scheme: Scheme | None = None, seed: int = 0) -> MeanScaleHyperprior:
    """The mean–scale hyperprior in size tiny, small or paper, with a scheme (default: noise)."""
    return cast(MeanScaleHyperprior, get("mean_scale_hyperprior", size, scheme, seed))

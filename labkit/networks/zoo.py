"""The image codecs by name: their sizes, how one is made, and what each costs."""

from __future__ import annotations

import functools
from typing import Protocol, TypeVar, cast, get_args

import torch
from torch.utils.flop_counter import FlopCounterMode

from labkit.checks import check_name
from labkit.networks.codecs import (
    ChannelAutoregressive,
    Cheng2020Anchor,
    Cheng2020Attention,
    Codec,
    Elic,
    FactorizedPrior,
    JointAutoregressive,
    MeanScaleHyperprior,
    ScaleHyperprior,
)
from labkit.schemes import Scheme

_KINDS: dict[str, type[Codec]] = {cls.kind: cls for cls in get_args(Codec)}

# channels N (transforms) and M (latent). tiny: trains while one looks on, on two cores; small: minutes to an hour;
# paper: as published, at the higher rates. ELIC's M is a multiple of 20, so that its groups keep their shares, and the
# channel-wise autoregressive one has ten slices of M.
_PLAIN = {"tiny": (24, 36), "small": (96, 144), "paper": (192, 320)}
_ONE_WIDTH = {"tiny": (24, 24), "small": (96, 96), "paper": (192, 192)}
_GROUPED = {"tiny": (24, 40), "small": (96, 160), "paper": (192, 320)}
_OTHERS = {
    Cheng2020Anchor.kind: _ONE_WIDTH,
    Cheng2020Attention.kind: _ONE_WIDTH,
    Elic.kind: _GROUPED,
    ChannelAutoregressive.kind: _GROUPED,
}
SIZES: dict[str, dict[str, tuple[int, int]]] = {name: _OTHERS.get(name, _PLAIN) for name in _KINDS}


def names() -> tuple[str, ...]:
    """The image codecs' names."""
    return tuple(_KINDS)


def build(name: str, N: int, M: int, *, size: str = "custom", scheme: Scheme | None = None, seed: int = 0) -> Codec:
    """An untrained image codec of any width, the same for the same seed.

    Raises ValueError for an unknown name, and for widths that the network cannot have: Cheng et al.'s take M = N, ELIC
    takes M ≥ 20, the channel-wise autoregressive one a multiple of 10.
    """
    cls = _KINDS[_known(name)]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return cls(N, M, size, scheme)


def get(name: str, size: str = "tiny", scheme: Scheme | None = None, seed: int = 0) -> Codec:
    """An untrained image codec by name and size. Raises ValueError naming what there is."""
    sizes = SIZES[_known(name)]
    if size not in sizes:
        raise ValueError(f"size: takes {', '.join(sizes)}, got {size!r}")
    return build(name, *sizes[size], size=size, scheme=scheme, seed=seed)


def _known(name: str) -> str:
    check_name("network", name, _KINDS)
    return name


def table():
    """Every network in every size as a pandas table: what it costs, and where it is from.

    Columns: network, size, N, M, parameters, macs_per_pixel, paper, year. macs_per_pixel: multiply–adds of one forward
    in evaluation for each pixel of the image, encoder and decoder together. Counted are convolutions (transposed ones
    and GDN's among them) and matrix products; additions of biases, activations and likelihoods are not. A masked
    convolution counts in full, and ELIC's checkerboard runs its context and parameter networks once for each pass.
    """
    import pandas as pd

    rows = []
    for name, cls in _KINDS.items():
        for size, (N, M) in SIZES[name].items():
            parameters, macs = _cost(name, size)
            row = {"network": name, "size": size, "N": N, "M": M, "parameters": parameters, "macs_per_pixel": macs}
            rows.append(row | {"paper": cls.paper, "year": cls.year})
    return pd.DataFrame(rows)


@functools.cache
def _cost(name: str, size: str) -> tuple[int, float]:
    """Parameters, and multiply–adds per pixel: an image of one downsampled pixel has them in proportion."""
    net = get(name, size).eval()
    x = torch.zeros(1, 3, 64, 64)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        net(x)
    return sum(p.numel() for p in net.parameters()), counter.get_total_flops() / 2 / x[0, 0].numel()


# By name --------------------------------------------------------------------------------------------------------------

Made = TypeVar("Made", covariant=True)


class Maker(Protocol[Made]):
    """Makes an untrained network in size tiny, small or paper, the same for the same seed; scheme defaults to noise."""

    def __call__(self, size: str = "tiny", scheme: Scheme | None = None, seed: int = 0) -> Made: ...


def _maker(cls: type[Made]) -> Maker[Made]:
    kind = cast(type[Codec], cls).kind

    def make(size: str = "tiny", scheme: Scheme | None = None, seed: int = 0) -> Made:
        return cast(Made, get(kind, size, scheme, seed))

    make.__name__ = make.__qualname__ = kind
    make.__annotations__["return"] = cls.__name__
    source = (cls.__doc__ or "").partition("\n")[0]
    make.__doc__ = f"{source}\n\n{Maker.__doc__}\nRaises ValueError for an unknown size."
    return make


factorized_prior = _maker(FactorizedPrior)
scale_hyperprior = _maker(ScaleHyperprior)
mean_scale_hyperprior = _maker(MeanScaleHyperprior)
joint_autoregressive = _maker(JointAutoregressive)
cheng2020_anchor = _maker(Cheng2020Anchor)
cheng2020_attention = _maker(Cheng2020Attention)
elic = _maker(Elic)
channel_autoregressive = _maker(ChannelAutoregressive)

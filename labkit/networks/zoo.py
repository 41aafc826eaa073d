"""Image codecs by name: their sizes, their aliases in CompressAI, constructors, and a table of their costs."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import TYPE_CHECKING, TypeVar, cast, get_args

import torch
from torch.utils.flop_counter import FlopCounterMode

from labkit.checks import check_name
from labkit.defaults import SIZE
from labkit.networks.channel_groups import ChannelAutoregressive, Elic
from labkit.networks.context import Cheng2020Anchor, Cheng2020Attention, JointAutoregressive
from labkit.networks.hyperprior import FactorizedPrior, MeanScaleHyperprior, ScaleHyperprior
from labkit.networks.patch import PatchHyperprior, PatchLinear, PatchMLP
from labkit.networks.patch_context import PatchContext
from labkit.schemes import Scheme

if TYPE_CHECKING:
    import pandas as pd

Codec = (
    FactorizedPrior
    | ScaleHyperprior
    | MeanScaleHyperprior
    | JointAutoregressive
    | Cheng2020Anchor
    | Cheng2020Attention
    | Elic
    | ChannelAutoregressive
    | PatchLinear
    | PatchMLP
    | PatchHyperprior
    | PatchContext
)

_CLASSES: dict[str, type[Codec]] = {cls.kind: cls for cls in get_args(Codec)}

# Names in CompressAI's zoo and registry. They are also accepted with underscores in place of hyphens.
ALIASES = {
    "bmshj2018-factorized": "factorized_prior",
    "bmshj2018-hyperprior": "scale_hyperprior",
    "mbt2018-mean": "mean_scale_hyperprior",
    "mbt2018": "joint_autoregressive",
    "cheng2020-anchor": "cheng2020_anchor",
    "cheng2020-attn": "cheng2020_attention",
    "elic2022-official": "elic",
}

# Channel counts N (transforms) and M (latent). "tiny" trains in a minute on two cores, "small" in minutes to an hour,
# and "paper" has the published counts for higher rates. M of ELIC is a multiple of 20, so its groups keep their
# proportions. M of the channel-wise autoregressive codec is a multiple of 10, its number of slices. The patch codecs
# have one size.
_PLAIN = {"tiny": (24, 36), "small": (96, 144), "paper": (192, 320)}
_EQUAL = {"tiny": (24, 24), "small": (96, 96), "paper": (192, 192)}
_GROUPED = {"tiny": (24, 40), "small": (96, 160), "paper": (192, 320)}
_PATCH = {"tiny": (192, 192)}
SIZES: dict[str, dict[str, tuple[int, int]]] = {
    "factorized_prior": _PLAIN,
    "scale_hyperprior": _PLAIN,
    "mean_scale_hyperprior": _PLAIN,
    "joint_autoregressive": _PLAIN,
    "cheng2020_anchor": _EQUAL,
    "cheng2020_attention": _EQUAL,
    "elic": _GROUPED,
    "channel_autoregressive": _GROUPED,
    "patch_linear": _PATCH,
    "patch_mlp": _PATCH,
    "patch_hyperprior": _PATCH,
    "patch_context": _PATCH,
}

# Keys of the weights whose first dimensions are N and M.
_CHANNEL_KEYS = ("g_a.0.weight", "g_a.6.weight")
_OTHER_CHANNEL_KEYS = {
    "cheng2020_anchor": ("g_a.0.conv1.weight",) * 2,
    "cheng2020_attention": ("g_a.0.conv1.weight",) * 2,
    "elic": ("g_a.0.weight", "g_a.13.weight"),
    **{name: ("g_a.0.weight",) * 2 for name in SIZES if name.startswith("patch_")},
}

T = TypeVar("T")


def names() -> tuple[str, ...]:
    """Return the names of all image codecs."""
    return tuple(_CLASSES)


def canonical_name(name: str) -> str:
    """Return labkit's name for a name of CompressAI, and any other name unchanged.

    >>> import labkit as lk
    >>> lk.networks.canonical_name("mbt2018-mean")
    'mean_scale_hyperprior'
    """
    return ALIASES.get(str(name).replace("_", "-"), name)


def _checked_name(name: str) -> str:
    name = canonical_name(name)
    check_name("network", name, _CLASSES)
    return name


def build(name: str, N: int, M: int, *, size: str = "custom", scheme: Scheme | None = None, seed: int = 0) -> Codec:
    """Create an untrained image codec with any number of channels.

    Args:
        name: Name of the architecture, of labkit or of CompressAI.
        N: Number of channels of the transforms.
        M: Number of channels of the latent y.
        size: Name of the size, written to checkpoints and `.lkc` files.
        scheme: Quantization scheme for training; `schemes.mixed()` by default.
        seed: Seed of the initial weights.

    Raises:
        ValueError: If the name is unknown, or if the architecture does not support this M: Cheng et al. need M = N,
            ELIC
            needs M ≥ 20, and the channel-wise autoregressive codec needs a multiple of 10.
    """
    cls = _CLASSES[_checked_name(name)]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = cls(N, M, scheme)
    net.size = size
    return net


def channels(name: str, tensors: Mapping[str, torch.Tensor]) -> tuple[int, int]:
    """Return the channel counts N and M of a network with these weights. A patch codec must have N = M.

    Args:
        name: Name of the architecture in labkit.
        tensors: State dict of such a network.
    """
    N, M = (tensors[key].shape[:1].numel() for key in _OTHER_CHANNEL_KEYS.get(name, _CHANNEL_KEYS))
    return N, M


def get(name: str, size: str = SIZE, scheme: Scheme | None = None, seed: int = 0) -> Codec:
    """Create an untrained image codec by name and size.

    Args:
        name: Name of the architecture, of labkit or of CompressAI.
        size: "tiny", "small" or "paper".
        scheme: Quantization scheme for training; `schemes.mixed()` by default.
        seed: Seed of the initial weights.

    Raises:
        ValueError: If the name or the size is unknown.

    >>> import labkit as lk
    >>> net = lk.networks.get("mbt2018-mean", "tiny", seed=1)
    >>> net.kind, net.N, net.M
    ('mean_scale_hyperprior', 24, 36)
    """
    name = _checked_name(name)
    sizes = SIZES[name]
    if size not in sizes:
        raise ValueError(f"size must be one of {', '.join(sizes)}, got {size!r}")
    return build(name, *sizes[size], size=size, scheme=scheme, seed=seed)


def table() -> pd.DataFrame:
    """Return a table with the cost and the source of every network in every size.

    The table counts multiply–adds of one forward pass in evaluation mode, encoder and decoder together, per pixel of
    the image. It counts convolutions, transposed convolutions, the convolutions in GDN, and matrix products, including
    those in the density of z. It does not count biases, activations or Gaussian likelihoods. A masked convolution
    counts in full. The context and parameter networks of ELIC count twice, because its checkerboard runs them once per
    pass.

    Returns:
        A pandas table with the columns network, size, N, M, parameters, macs_per_pixel, latents_per_pixel, paper and
        year. The latents are y and z.
    """
    import pandas as pd

    rows = []
    for name, cls in _CLASSES.items():
        for size, (N, M) in SIZES[name].items():
            row = {"network": name, "size": size, "N": N, "M": M, **_cost(name, size)}
            rows.append(row | {"paper": cls.paper, "year": cls.year})
    return pd.DataFrame(rows)


@functools.cache
def _cost(name: str, size: str) -> dict[str, float]:
    """Return the number of parameters, and multiply–adds and latents per pixel, which are equal for all images."""
    net = get(name, size).eval()
    x = torch.zeros(1, 3, 64, 64)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        likelihoods = net(x)["likelihoods"].values()
    pixels = x[0, 0].numel()
    return {
        "parameters": sum(p.numel() for p in net.parameters()),
        "macs_per_pixel": counter.get_total_flops() / 2 / pixels,
        "latents_per_pixel": sum(p.numel() for p in likelihoods) / pixels,
    }


# One constructor per architecture -------------------------------------------------------------------------------------


def _make(cls: type[T], size: str, scheme: Scheme | None, seed: int) -> T:
    return cast(T, get(cast(type[Codec], cls).kind, size, scheme, seed))


def factorized_prior(size: str = SIZE, scheme: Scheme | None = None, seed: int = 0) -> FactorizedPrior:
    """Create an untrained `FactorizedPrior`; see `get` for the arguments."""
    return _make(FactorizedPrior, size, scheme, seed)


def scale_hyperprior(size: str = SIZE, scheme: Scheme | None = None, seed: int = 0) -> ScaleHyperprior:
    """Create an untrained `ScaleHyperprior`; see `get` for the arguments."""
    return _make(ScaleHyperprior, size, scheme, seed)


def mean_scale_hyperprior(size: str = SIZE, scheme: Scheme | None = None, seed: int = 0) -> MeanScaleHyperprior:
    """Create an untrained `MeanScaleHyperprior`; see `get` for the arguments."""
    return _make(MeanScaleHyperprior, size, scheme, seed)


def joint_autoregressive(size: str = SIZE, scheme: Scheme | None = None, seed: int = 0) -> JointAutoregressive:
    """Create an untrained `JointAutoregressive`; see `get` for the arguments."""
    return _make(JointAutoregressive, size, scheme, seed)


def cheng2020_anchor(size: str = SIZE, scheme: Scheme | None = None, seed: int = 0) -> Cheng2020Anchor:
    """Create an untrained `Cheng2020Anchor`; see `get` for the arguments."""
    return _make(Cheng2020Anchor, size, scheme, seed)


def cheng2020_attention(size: str = SIZE, scheme: Scheme | None = None, seed: int = 0) -> Cheng2020Attention:
    """Create an untrained `Cheng2020Attention`; see `get` for the arguments."""
    return _make(Cheng2020Attention, size, scheme, seed)


def elic(size: str = SIZE, scheme: Scheme | None = None, seed: int = 0) -> Elic:
    """Create an untrained `Elic`; see `get` for the arguments."""
    return _make(Elic, size, scheme, seed)


def channel_autoregressive(size: str = SIZE, scheme: Scheme | None = None, seed: int = 0) -> ChannelAutoregressive:
    """Create an untrained `ChannelAutoregressive`; see `get` for the arguments."""
    return _make(ChannelAutoregressive, size, scheme, seed)


def patch_linear(size: str = SIZE, scheme: Scheme | None = None, seed: int = 0) -> PatchLinear:
    """Create an untrained `PatchLinear`; see `get` for the arguments."""
    return _make(PatchLinear, size, scheme, seed)


def patch_mlp(size: str = SIZE, scheme: Scheme | None = None, seed: int = 0) -> PatchMLP:
    """Create an untrained `PatchMLP`; see `get` for the arguments."""
    return _make(PatchMLP, size, scheme, seed)


def patch_hyperprior(size: str = SIZE, scheme: Scheme | None = None, seed: int = 0) -> PatchHyperprior:
    """Create an untrained `PatchHyperprior`; see `get` for the arguments."""
    return _make(PatchHyperprior, size, scheme, seed)


def patch_context(size: str = SIZE, scheme: Scheme | None = None, seed: int = 0) -> PatchContext:
    """Create an untrained `PatchContext`; see `get` for the arguments."""
    return _make(PatchContext, size, scheme, seed)

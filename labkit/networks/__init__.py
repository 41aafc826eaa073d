"""Image codecs and toy transform codes with a quantization scheme, and their weights on disk."""

import labkit.entropy  # noqa: F401  # imports CompressAI without the warning of one of its dependencies
from labkit.networks.channel_groups import ChannelAutoregressive, Elic
from labkit.networks.checkpoints import load_checkpoint, load_weights, save_checkpoint, weights_hash
from labkit.networks.context import Cheng2020Anchor, Cheng2020Attention, JointAutoregressive
from labkit.networks.hyperprior import FactorizedPrior, MeanScaleHyperprior, ScaleHyperprior
from labkit.networks.patch import PatchHyperprior, PatchLinear, PatchMLP
from labkit.networks.patch_context import PatchContext
from labkit.networks.pretrained import pretrained, pretrained_lmbdas
from labkit.networks.state_dicts import CheckpointKeys
from labkit.networks.toy import ToyTransformCode, toy_1d, toy_2d, toy_sawbridge
from labkit.networks.zoo import (
    ALIASES,
    SIZES,
    Codec,
    build,
    canonical_name,
    channel_autoregressive,
    cheng2020_anchor,
    cheng2020_attention,
    elic,
    factorized_prior,
    get,
    joint_autoregressive,
    mean_scale_hyperprior,
    names,
    patch_context,
    patch_hyperprior,
    patch_linear,
    patch_mlp,
    scale_hyperprior,
    table,
)

__all__ = [
    "ALIASES",
    "SIZES",
    "ChannelAutoregressive",
    "CheckpointKeys",
    "Cheng2020Anchor",
    "Cheng2020Attention",
    "Codec",
    "Elic",
    "FactorizedPrior",
    "JointAutoregressive",
    "MeanScaleHyperprior",
    "PatchContext",
    "PatchHyperprior",
    "PatchLinear",
    "PatchMLP",
    "ScaleHyperprior",
    "ToyTransformCode",
    "build",
    "canonical_name",
    "channel_autoregressive",
    "cheng2020_anchor",
    "cheng2020_attention",
    "elic",
    "factorized_prior",
    "get",
    "joint_autoregressive",
    "load_checkpoint",
    "load_weights",
    "mean_scale_hyperprior",
    "names",
    "patch_context",
    "patch_hyperprior",
    "patch_linear",
    "patch_mlp",
    "pretrained",
    "pretrained_lmbdas",
    "save_checkpoint",
    "scale_hyperprior",
    "table",
    "toy_1d",
    "toy_2d",
    "toy_sawbridge",
    "weights_hash",
]

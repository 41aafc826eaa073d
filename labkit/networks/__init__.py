"""Networks that carry a scheme: the image codecs, and a toy transform code."""

from labkit.networks.codecs import (
    Cheng2020Anchor,
    Cheng2020Attention,
    Codec,
    Elic,
    FactorizedPrior,
    JointAutoregressive,
    MeanScaleHyperprior,
    ScaleHyperprior,
)
from labkit.networks.pretrained import pretrained, pretrained_lmbdas
from labkit.networks.toy import ToyTransformCode, toy_2d
from labkit.networks.zoo import (
    SIZES,
    build,
    cheng2020_anchor,
    cheng2020_attention,
    elic,
    factorized_prior,
    get,
    joint_autoregressive,
    mean_scale_hyperprior,
    names,
    scale_hyperprior,
    table,
)

__all__ = [
    "SIZES",
    "Cheng2020Anchor",
    "Cheng2020Attention",
    "Codec",
    "Elic",
    "FactorizedPrior",
    "JointAutoregressive",
    "MeanScaleHyperprior",
    "ScaleHyperprior",
    "ToyTransformCode",
    "build",
    "cheng2020_anchor",
    "cheng2020_attention",
    "elic",
    "factorized_prior",
    "get",
    "joint_autoregressive",
    "mean_scale_hyperprior",
    "names",
    "pretrained",
    "pretrained_lmbdas",
    "scale_hyperprior",
    "table",
    "toy_2d",
]

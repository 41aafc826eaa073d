"""Networks that carry a scheme: the image codecs, and a toy transform code."""

from labkit.networks.codecs import (
    SIZES,
    Codec,
    FactorizedPrior,
    MeanScaleHyperprior,
    build,
    factorized_prior,
    get,
    mean_scale_hyperprior,
    names,
)
from labkit.networks.pretrained import pretrained, pretrained_lmbdas
from labkit.networks.toy import ToyTransformCode, toy_2d

__all__ = [
    "SIZES",
    "Codec",
    "FactorizedPrior",
    "MeanScaleHyperprior",
    "ToyTransformCode",
    "build",
    "factorized_prior",
    "get",
    "mean_scale_hyperprior",
    "names",
    "pretrained",
    "pretrained_lmbdas",
    "toy_2d",
]

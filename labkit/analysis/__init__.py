"""Train–test mismatch and gradient risk: exact for one latent, and measured in trained networks.

sources ─► code ─► risk ─► worked_example            one latent: test loss, exact gradient, mismatch and risk
sources ─► latent_laws ─► scale_bound                a lower bound on σ, in training and at test
sources ─► reference_codes                           the lowest known loss of a quantizer with ideal entropy coding
code ─► scalar_training, mean_training               many small codes that are trained at once
trained                                              the same measures on networks and images
range_coder                                          an entropy coder in Python integers
"""

import labkit.entropy  # noqa: F401  # hides a warning of a dependency of CompressAI
from labkit.analysis import (
    latent_laws,
    mean_training,
    plots,
    range_coder,
    reference_codes,
    scalar_training,
    scale_bound,
    sources,
    worked_example,
)
from labkit.analysis.code import CodeLoss, ScalarCode, exact_gradient, gaussian_bits, squared_error, test_loss
from labkit.analysis.risk import gradient_risk, mismatch, pointwise_risk
from labkit.analysis.trained import gradient_at_means, network_gradient_risk, network_mismatch

__all__ = [
    "CodeLoss",
    "ScalarCode",
    "exact_gradient",
    "gaussian_bits",
    "gradient_at_means",
    "gradient_risk",
    "latent_laws",
    "mean_training",
    "mismatch",
    "network_gradient_risk",
    "network_mismatch",
    "plots",
    "pointwise_risk",
    "range_coder",
    "reference_codes",
    "scalar_training",
    "scale_bound",
    "sources",
    "squared_error",
    "test_loss",
    "worked_example",
]

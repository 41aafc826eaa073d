"""Mismatch and gradient risk: exact in one dimension, measured in trained networks; the scale-bound laboratory.

sources → code (its loss, exact gradient) → risk (mismatch, gradient risk) → worked_example
sources → scale_bound                        trained (the same two for networks on images)
"""

import labkit.entropy  # noqa: F401  # imports CompressAI without the warning of one of its dependencies
from labkit.analysis import plots, scale_bound, sources, worked_example
from labkit.analysis.code import Loss, ScalarCode, exact_gradient, gaussian_bits, squared_error, test_loss
from labkit.analysis.risk import gradient_risk, mismatch, pointwise_risk
from labkit.analysis.trained import gradient_at_means, network_gradient_risk, network_mismatch

__all__ = [
    "Loss",
    "ScalarCode",
    "exact_gradient",
    "gaussian_bits",
    "gradient_at_means",
    "gradient_risk",
    "mismatch",
    "network_gradient_risk",
    "network_mismatch",
    "plots",
    "pointwise_risk",
    "scale_bound",
    "sources",
    "squared_error",
    "test_loss",
    "worked_example",
]

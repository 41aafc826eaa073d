"""Metrics, real bitstreams, rate–distortion plots."""

from labkit.evaluation.classical import classical, classical_names
from labkit.evaluation.evaluator import Report, evaluate, plot, rounded_losses
from labkit.evaluation.metrics import decibels, ms_ssim, psnr

__all__ = [
    "Report",
    "classical",
    "classical_names",
    "decibels",
    "evaluate",
    "ms_ssim",
    "plot",
    "psnr",
    "rounded_losses",
]

"""Metrics, real bitstreams and files, rate–distortion curves, classical codecs, refinement of latents."""

from labkit.evaluation.classical import classical, classical_names
from labkit.evaluation.curves import (
    Interval,
    bd_psnr,
    bd_rate,
    bd_rate_interval,
    curve,
    describe,
    plot,
    read_table,
    save_table,
    to_frame,
)
from labkit.evaluation.evaluator import Report, evaluate, reconstruct, rounded_losses, surrogate_losses
from labkit.evaluation.metrics import decibels, ms_ssim, psnr
from labkit.evaluation.refinement import Coding, Refined, refine, refine_all, replaced_latents

__all__ = [
    "Coding",
    "Interval",
    "Refined",
    "Report",
    "bd_psnr",
    "bd_rate",
    "bd_rate_interval",
    "classical",
    "classical_names",
    "curve",
    "decibels",
    "describe",
    "evaluate",
    "ms_ssim",
    "plot",
    "psnr",
    "read_table",
    "reconstruct",
    "refine",
    "refine_all",
    "replaced_latents",
    "rounded_losses",
    "save_table",
    "surrogate_losses",
    "to_frame",
]

"""Metrics, real bitstreams, rate–distortion curves, classical codecs, and refinement of latents."""

import labkit.entropy  # noqa: F401  # imports CompressAI without the warning of one of its dependencies
from labkit.evaluation.classical import classical, classical_names
from labkit.evaluation.coding import Decoded, JpegLadder, code, ready_copy
from labkit.evaluation.curves import bd_psnr, bd_rate, bd_rate_interval, curve, describe
from labkit.evaluation.evaluator import evaluate, rounded_losses, surrogate_losses
from labkit.evaluation.latents import replaced_latents
from labkit.evaluation.metrics import decibels, ms_ssim, psnr
from labkit.evaluation.plots import plot
from labkit.evaluation.refinement import Coding, Refined, refine, refine_all
from labkit.evaluation.report import Report, to_frame
from labkit.evaluation.tables import read_table, save_table
from labkit.statistics import Interval

__all__ = [
    "Coding",
    "Decoded",
    "Interval",
    "JpegLadder",
    "Refined",
    "Report",
    "bd_psnr",
    "bd_rate",
    "bd_rate_interval",
    "classical",
    "classical_names",
    "code",
    "curve",
    "decibels",
    "describe",
    "evaluate",
    "ms_ssim",
    "plot",
    "psnr",
    "read_table",
    "ready_copy",
    "refine",
    "refine_all",
    "replaced_latents",
    "rounded_losses",
    "save_table",
    "surrogate_losses",
    "to_frame",
]

"""Losses, the trainer, and checkpoints."""

from labkit.training.checkpoints import load_checkpoint, save_checkpoint, weights_hash
from labkit.training.losses import Loss, rate_distortion
from labkit.training.trainer import Run, Step, stream, train

__all__ = [
    "Loss",
    "Run",
    "Step",
    "load_checkpoint",
    "rate_distortion",
    "save_checkpoint",
    "stream",
    "train",
    "weights_hash",
]

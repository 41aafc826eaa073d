"""Losses, the trainer, and checkpoints."""

import labkit.entropy  # noqa: F401  # imports CompressAI without the warning of one of its dependencies
from labkit.networks.checkpoints import load_checkpoint, load_weights, save_checkpoint, weights_hash
from labkit.training.fine_tuning import fine_tune
from labkit.training.from_scratch import train_from_scratch
from labkit.training.losses import Loss, rate_distortion
from labkit.training.precision import native_precision
from labkit.training.run import TrainingRun, train
from labkit.training.settings import Settings
from labkit.training.stacks import StackRun, train_stack
from labkit.training.steps import Step
from labkit.training.threads import Threads
from labkit.training.trainer import Training, stream

__all__ = [
    "Loss",
    "Settings",
    "StackRun",
    "Step",
    "Threads",
    "Training",
    "TrainingRun",
    "fine_tune",
    "load_checkpoint",
    "load_weights",
    "native_precision",
    "rate_distortion",
    "save_checkpoint",
    "stream",
    "train",
    "train_from_scratch",
    "train_stack",
    "weights_hash",
]

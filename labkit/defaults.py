"""The default of every training and refinement setting, defined in one place.

Python, the command line and sweep files read these values. This module does not import torch, so the command line's
help and the process that drives a sweep can read it quickly. `labkit.training.Settings` gives the reasons.
"""

from __future__ import annotations

# The network and its quantization scheme
NETWORK = "mean_scale_hyperprior"
SIZE = "tiny"
SCHEME = "mixed"

# The bundled weights that are used where any good codec will do
PRETRAINED = "patch_hyperprior"
PRETRAINED_LMBDA = 0.0067

# The fields of labkit.training.Settings
BATCH_SIZE = 4
CROP = 256
PERMUTE_COLORS = False
LR = "cosine:8e-4:1e-5"
CLIP = 1.0
EMA: float | None = None
SEED = 0
DEVICE: str | None = None
PRECISION: str | None = None
COMPILE = False
WORKERS: int | None = None

# How a run is executed
THREADS: int | None = None
SAVE_EVERY = 60.0

# The search for better latents of an image, labkit.refine
REFINE_SURROGATE = "sga"
REFINE_STEPS = 200
REFINE_LR = 0.03

"""Fine-tuning: adapt a trained image codec to another λ within seconds."""

from __future__ import annotations

import math
from collections.abc import Iterator

from labkit.networks import Codec
from labkit.schedules import cosine
from labkit.training.data import Images
from labkit.training.trainer import stream

CROP = 256  # side of the training crops, in pixels
BATCH_SIZE = 2  # within a few seconds, many small steps lower the loss more than few large ones
LEARNING_RATE = cosine(1e-4, 1e-5)  # low, because the weights are already trained


def fine_tune(net: Codec, images: Images, *, lmbda: float, steps: int, seed: int) -> Iterator[float]:
    """Train a trained codec in place for another λ, one step for each loss that is read from this generator.

    If the network is `scalable`, its latents are first scaled by √(λ/λ₀), where λ₀ is the λ of its weights. At high
    rates, this sets the quantization step to the right value for the new λ. Training then adapts all weights.

    Args:
        net: Trained codec. Its `info["lmbda"]` is λ₀; without it, the latents are not scaled.
        images: Training images of at least `CROP` pixels on each side.
        lmbda: New weight of the distortion, on CompressAI's scale.
        steps: Number of optimizer steps.
        seed: Seed for crops and noise.

    Yields:
        The training loss of each step.
    """
    if net.scalable and "lmbda" in net.info:
        net.scale_latents(math.sqrt(lmbda / net.info["lmbda"]))
    for step in stream(
        net,
        images,
        lmbda=lmbda,
        steps=steps,
        batch_size=BATCH_SIZE,
        crop=CROP,
        permute_colors=True,
        lr=LEARNING_RATE,
        seed=seed,
        device="cpu",
        precision="float32",
    ):
        yield step.loss

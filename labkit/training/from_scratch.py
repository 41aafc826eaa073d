"""Training an image codec from scratch within seconds."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator
from contextlib import closing

from labkit.checks import check_at_least, check_positive
from labkit.networks import Codec
from labkit.training.data import Images
from labkit.training.settings import Settings
from labkit.training.steps import Step
from labkit.training.trainer import Training

CROP = 128  # side of the training crops, in pixels
BATCH_SIZE = 8
PILOT = 20  # number of steps that measure the pace
RESERVE = 0.95  # fraction of the time that is planned for steps, because later steps may be slower than the first ones


def train_from_scratch(
    net: Codec, images: Images, *, lmbda: float, steps: int, seconds: float, seed: int
) -> Iterator[Step | None]:
    """Train an untrained codec in place, one step for each item that is read from this generator.

    Before the first step, the network's entropy model is fitted to λ and to the first batch. The generator yields None
    after each part of this work, so that its caller can stop.

    The first steps measure the pace, which includes the time that the caller spends on each item. If `steps` steps
    would take longer than `seconds`, the run is shortened to the number of steps that fit. The schedules of the
    learning rate and the temperature then end with the last of these steps, so the learning rate ends low on a slow
    machine, too.

    Args:
        net: Untrained codec.
        images: Training images of at least `CROP` pixels on each side.
        lmbda: Weight of the distortion, on CompressAI's scale.
        steps: Largest number of optimizer steps. A machine that is fast enough to make them all gives reproducible
            numbers.
        seconds: Time after which training ends in any case.
        seed: Seed for crops and noise.

    Yields:
        None after each part of the start, then the measurements of each step.

    Raises:
        ValueError: If a setting is out of range, or an image is smaller than the crops.
        FloatingPointError: If the loss or the gradient is no longer finite.
    """
    check_positive(seconds=seconds)
    check_at_least(1, steps=steps)
    settings = Settings(
        lmbda=lmbda, steps=steps, batch_size=BATCH_SIZE, crop=CROP, permute_colors=True, seed=seed, device="cpu",
        precision="float32",
    )  # fmt: skip
    begin = time.perf_counter()
    training = Training(net, images, settings)
    with closing(training.interruptible()) as taken:
        for step in taken:
            yield step
            if step is None:
                continue
            now = time.perf_counter()
            if step.step == 1:
                first = now  # the first step also allocates memory, so it is excluded from the pace
            elif step.step == PILOT:
                left = RESERVE * seconds - (now - begin)
                affordable = PILOT + max(0, int(left / (now - first) * (PILOT - 1)))
                training.settings = dataclasses.replace(training.settings, steps=min(steps, affordable))
            if now - begin > seconds:
                return

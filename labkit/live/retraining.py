"""Panels that retrain one network: a canvas that shows what it does, and its loss curve; how codecs are fine-tuned."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass

import ipywidgets
import numpy as np

from labkit import networks, schedules, training
from labkit.live.canvas import Canvas, Picture
from labkit.live.chart import LossChart
from labkit.live.engine import Run
from labkit.live.panel import Panel
from labkit.training.data import Images

CROP = 256  # pixels a side, of training crops
_BATCH = 2  # crops a step: many small steps go farther in a few seconds than few large ones
_RATE = schedules.cosine(1e-4, 1e-5)  # Adam's: gentle, since what it starts from is trained already


def fine_tuning(
    net: networks.Codec, photos: Images, *, lmbda: float, steps: int, seed: int, deadline: float = math.inf
) -> Iterator[float]:
    """Train a codec on from the weights that it has, to another λ: the loss after every step.

    Where the network can, its latents are scaled first by √(λ/λ₀), with the λ₀ that it was trained for: the step that
    suits the new λ at high rate; training does the rest. deadline: on `time.perf_counter`; no step begins after it.
    """
    if net.scalable and "lmbda" in net.info:
        net.scale_latents(math.sqrt(lmbda / net.info["lmbda"]))
    for step in training.stream(
        net,
        photos,
        lmbda=lmbda,
        steps=steps,
        batch_size=_BATCH,
        crop=CROP,
        permute_colors=True,
        lr=_RATE,
        seed=seed,
    ):
        yield step.loss
        if time.perf_counter() > deadline:
            break


@dataclass(frozen=True)
class TrainingFrame:
    """What there is to see after a step: the losses so far, progress from 0 to 1, a few words on it, a picture."""

    losses: np.ndarray
    progress: float
    text: str
    picture: Picture


class RetrainingPanel(Panel):
    """Controls and a status line over a canvas and a loss curve. A subclass's views return TrainingFrames."""

    def __init__(self, controls: dict[str, ipywidgets.Widget], canvas: Canvas, chart: LossChart) -> None:
        self.canvas, self.chart = canvas, chart
        super().__init__(controls, screens=[canvas, chart])

    def draw(self, frame: TrainingFrame, run: Run) -> None:
        self.canvas.show(frame.picture, run.number)
        self.chart.show_losses(frame.losses)

    def keep_as_ghost(self, run: Run) -> None:
        self.chart.show_losses(run.result.losses, run.result.loss)  # a run that was canceled since has left its own
        self.chart.keep_as_ghost()

    def finish(self, run: Run) -> None:
        self.chart.show_losses(run.result.losses, run.result.loss)

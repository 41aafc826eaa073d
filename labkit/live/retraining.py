"""Panels that retrain one network: a canvas that shows what it does, and its loss curve."""

from __future__ import annotations

from dataclasses import dataclass

import ipywidgets
import numpy as np

from labkit.live.canvas import Canvas, Picture
from labkit.live.chart import LossChart
from labkit.live.engine import Run
from labkit.live.panel import Panel


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
        self.chart.show_losses(run.result.losses, run.result.loss)  # a run that was cancelled since has left its own
        self.chart.keep_as_ghost()

    def finish(self, run: Run) -> None:
        self.chart.show_losses(run.result.losses, run.result.loss)

"""Panels that train one network: a canvas shows what the network does, and a chart shows its loss."""

from __future__ import annotations

from dataclasses import dataclass

import ipywidgets

from labkit.live.canvas import Canvas, Picture
from labkit.live.chart import LossChart
from labkit.live.engine import LiveRun
from labkit.live.panel import Panel
from labkit.statistics import Array


@dataclass(frozen=True)
class TrainingFrame:
    """What a training panel shows after a step.

    Attributes:
        losses: Training losses so far, one per step.
        progress: Completed share of the run, from 0 to 1.
        text: Short description of the present work for the status line.
        picture: Picture for the canvas.
    """

    losses: Array
    progress: float
    text: str
    picture: Picture


class RetrainingPanel(Panel):
    """Controls and a status line over a canvas and a loss chart. Views of a subclass return a TrainingFrame.

    Args:
        controls: Widgets by the name of their setting.
        canvas: Canvas on the left.
        chart: Loss chart on the right.
    """

    def __init__(self, controls: dict[str, ipywidgets.Widget], canvas: Canvas, chart: LossChart) -> None:
        self.canvas, self.chart = canvas, chart
        super().__init__(controls, screens=[canvas, chart])

    @property
    def losses(self) -> Array:
        """Training losses that the panel shows."""
        return self.chart.losses

    def draw(self, frame: TrainingFrame, run: LiveRun) -> None:
        """Show the picture and the losses so far."""
        self.canvas.show(frame.picture, run.number)
        self.chart.show_losses(frame.losses)

    def keep_as_ghost(self, run: LiveRun) -> None:
        """Copy the loss curve into its ghost."""
        self.finish(run)  # the chart may show a later run that was canceled
        self.chart.keep_as_ghost()

    def finish(self, run: LiveRun) -> None:
        """Show all losses and the test loss."""
        self.chart.show_losses(run.result.losses, run.result.loss)

"""The loss curve of a run, with the curve of the previous run as a ghost behind it."""

from __future__ import annotations

import numpy as np

from labkit.live.plot import Axes, Line, Plot
from labkit.statistics import Array

_TRAINING, _TEST = "training", "test, rounded"


class LossChart(Plot):
    """Training loss over steps, and a diamond at its end for the loss of test data with real rounding.

    Args:
        width: Width in page pixels.
        height: Height in page pixels.
        title: Label of the vertical axis.
        log: True for a logarithmic vertical axis.
        window: Number of steps that each point averages, up to its own step. More than one is useful if small batches
            make the losses vary much.
    """

    def __init__(
        self, *, width: int, height: int = 360, title: str = "loss", log: bool = False, window: int = 1
    ) -> None:
        self._window = window
        lines = (
            Line(_TRAINING, ghost=True),
            Line(_TEST, mode="markers", color=0, symbol="diamond", ghost=True),
        )
        x = "step" if window == 1 else f"step (mean of the last {window})"
        super().__init__([Axes(x=x, y=title, lines=lines, log_y=log)], width=width, height=height)
        self.figure.update_xaxes(rangemode="tozero")

    @property
    def losses(self) -> Array:
        """Present curve."""
        return self.points(_TRAINING)[1]

    @property
    def ghost(self) -> Array:
        """Curve of the previous run."""
        return self.points(_TRAINING, ghost=True)[1]

    def show_losses(self, losses: Array, test_loss: float | None = None) -> None:
        """Show the present run.

        Args:
            losses: Training losses so far, one per step.
            test_loss: Loss of test data with real rounding; None during training.
        """
        curve = trailing_mean(losses, self._window)
        end = ([], []) if test_loss is None else ([len(curve)], [test_loss])
        self.show({_TRAINING: (np.arange(1, len(curve) + 1), curve), _TEST: end}, _in_words(curve, test_loss))
        if test_loss is not None:
            self.settle()


def _in_words(curve: Array, test_loss: float | None) -> str:
    if not len(curve):
        return ""
    text = f"Training loss over {len(curve)} steps, from {curve[0]:.3g} to {curve[-1]:.3g}"
    return f"{text}; at its end the rounded test loss, {test_loss:.3g}." if test_loss is not None else f"{text}."


def trailing_mean(losses: Array, window: int) -> Array:
    """Average the last `window` values at every step, or all values so far during the first steps."""
    total = np.concatenate([[0.0], np.cumsum(losses, dtype=np.float64)])
    end = np.arange(1, len(total))
    begin = np.maximum(0, end - window)
    means: Array = (total[end] - total[begin]) / (end - begin)
    return means.astype(np.float32)

"""The loss curve of a run, with the run before as a ghost behind it."""

from __future__ import annotations

import numpy as np

from labkit.live.plot import Axes, Line, Plot, _points

_NOTHING = np.zeros(0, np.float32)


class LossChart(Plot):
    """Training loss over steps, and a diamond at its end for the loss with real rounding, on test data.

    window: each point is the mean of that many steps up to it; worth it where batches are small and differ much.
    """

    def __init__(
        self, *, width: int, height: int = 360, title: str = "loss", log: bool = False, window: int = 1
    ) -> None:
        self._window = window
        lines = (
            Line("training", ghost=True),
            Line("test, rounded", mode="markers", color=0, symbol="diamond", ghost=True),
        )
        x = "step" if window == 1 else f"step (mean of the last {window})"
        super().__init__([Axes(x=x, y=title, lines=lines, log_y=log)], width=width, height=height)
        self.figure.update_xaxes(rangemode="tozero")

    @property
    def losses(self) -> np.ndarray:
        """The curve on show."""
        return self.points("training")[1]

    @property
    def ghost(self) -> np.ndarray:
        """The curve behind it."""
        return _points(self.figure.data[0])[1]

    def show_losses(self, losses: np.ndarray, test_loss: float | None = None) -> None:
        """The current run so far; `test_loss` once it is known."""
        curve = _trailing_mean(losses, self._window)
        end: tuple[np.ndarray, np.ndarray] = (_NOTHING, _NOTHING)
        if test_loss is not None:
            end = np.array([len(curve)]), np.array([test_loss])
        steps = np.arange(1, len(curve) + 1)
        self.show({"training": (steps, curve), "test, rounded": end}, _in_words(curve, test_loss))
        if test_loss is not None:
            self.settle()


def _in_words(curve: np.ndarray, test_loss: float | None) -> str:
    if not len(curve):
        return ""
    said = f"Training loss over {len(curve)} steps, from {curve[0]:.3g} to {curve[-1]:.3g}"
    return f"{said}; at its end the rounded test loss, {test_loss:.3g}." if test_loss is not None else f"{said}."


def _trailing_mean(losses: np.ndarray, window: int) -> np.ndarray:
    """The mean of the last `window` values at every step; of fewer at the first steps."""
    total = np.concatenate([[0.0], np.cumsum(losses, dtype=np.float64)])
    end = np.arange(1, len(total))
    begin = np.maximum(0, end - window)
    return ((total[end] - total[begin]) / (end - begin)).astype(np.float32)

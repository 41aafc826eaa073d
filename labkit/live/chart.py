"""The loss curve of a run, with the run before as a ghost behind it."""

from __future__ import annotations

import numpy as np
import plotly.graph_objects as go
from PIL import Image, ImageDraw

from labkit.theme import CLEAR, COLOURS, GRID, INK

_LINE = COLOURS[0]
_GHOST = "rgba(128, 128, 128, 0.55)"
_NOTHING = np.zeros(0, np.float32)


class LossChart:
    """Training loss over steps, and a diamond at its end for the loss with real rounding, on test data.

    window: each point is the mean of that many steps up to it; worth it where batches are small and differ much.
    The four traces are made once; an update sends float32 arrays in one message.
    """

    def __init__(
        self, *, width: int, height: int = 360, title: str = "loss", log: bool = False, window: int = 1
    ) -> None:
        self._log, self._window = log, window
        self.losses = self.ghost = _NOTHING
        self.figure = go.FigureWidget(
            data=[
                go.Scatter(x=[], y=[], mode="lines", name="run before", line={"color": _GHOST, "width": 1.5}),
                go.Scatter(x=[], y=[], mode="lines", name="training", line={"color": _LINE, "width": 1.5}),
                go.Scatter(x=[], y=[], mode="markers", showlegend=False, marker=_diamond(_GHOST)),
                go.Scatter(x=[], y=[], mode="markers", name="test, rounded", marker=_diamond(_LINE)),
            ],
            layout={
                "width": width,
                "height": height,
                "margin": {"l": 50, "r": 10, "t": 30, "b": 40},
                "paper_bgcolor": CLEAR,
                "plot_bgcolor": CLEAR,
                "font": {"color": INK, "size": 12},
                "legend": {"orientation": "h", "x": 0, "y": 1.02, "yanchor": "bottom"},
                "xaxis": {
                    "title": {"text": "step" if window == 1 else f"step (mean of the last {window})"},
                    "gridcolor": GRID,
                    "zeroline": False,
                    "rangemode": "tozero",
                },
                "yaxis": {
                    "title": {"text": title},
                    "gridcolor": GRID,
                    "zeroline": False,
                    **({"type": "log", "dtick": "D2", "tickformat": "~g"} if log else {}),
                },
                "hovermode": "x",
            },
        )

    def show(self, losses: np.ndarray, test_loss: float | None = None) -> None:
        """The current run so far; `test_loss` once it is known."""
        self.losses = _trailing_mean(losses, self._window)
        with self.figure.batch_update():
            self._set(1, self.losses)
            self._set(3, *_end(self.losses, test_loss))
        if test_loss is not None:
            self._settle()

    def keep_as_ghost(self, losses: np.ndarray, test_loss: float | None) -> None:
        """Put a finished run behind the one to come."""
        self.ghost = _trailing_mean(losses, self._window)
        with self.figure.batch_update():
            self._set(0, self.ghost)
            self._set(2, *_end(self.ghost, test_loss))
        self._settle()

    def _settle(self) -> None:
        """Put the curves into the widget's state, where a browser finds them that was still loading plotly, or reloads.

        Updates go out as messages, and a page whose script is not there yet drops them; plotly itself puts a figure's
        data into its state only when the figure is shown on its own, which in a panel it never is.
        """
        self.figure._repr_mimebundle_()

    def _set(self, trace: int, y: np.ndarray, x: np.ndarray | None = None) -> None:
        self.figure.data[trace].x = np.arange(1, len(y) + 1, dtype=np.float32) if x is None else x
        self.figure.data[trace].y = y

    def still(self) -> Image.Image:
        """The two curves by Pillow, for wherever there is no browser."""
        width, height = self.figure.layout.width, self.figure.layout.height
        image = Image.new("RGB", (width, height), "white")
        draw = ImageDraw.Draw(image)
        left, top, right, bottom = 50, 30, width - 10, height - 40
        draw.rectangle([left, top, right, bottom], outline="#cccccc")
        draw.text((left, bottom + 12), "training loss over steps; grey: the run before", fill=INK)
        curves = [np.log(curve) if self._log else curve for curve in (self.ghost, self.losses)]
        shown = np.concatenate(curves)
        shown = shown[np.isfinite(shown)]
        if len(shown) < 2 or np.ptp(shown) == 0:
            return image
        low, high = float(shown.min()), float(shown.max())
        for value in (low, high):
            y = bottom - (value - low) / (high - low) * (bottom - top)
            draw.text((8, y - 5), f"{np.exp(value) if self._log else value:.3g}", fill=INK)
        for curve, colour in zip(curves, ("#bbbbbb", _LINE), strict=True):
            x = np.linspace(left, left + (right - left) * len(curve) / max(map(len, curves)), len(curve))
            y = bottom - (np.nan_to_num(curve, nan=high) - low) / (high - low) * (bottom - top)
            draw.line(np.column_stack([x, y]).ravel().tolist(), fill=colour, width=2)
        return image


def _diamond(colour: str) -> dict:
    return {"symbol": "diamond", "size": 11, "color": colour, "line": {"color": INK, "width": 1}}


def _end(losses: np.ndarray, test_loss: float | None) -> tuple[np.ndarray, np.ndarray]:
    """y and x of the mark at the end of a curve: nothing before the test loss is known."""
    if test_loss is None:
        return _NOTHING, _NOTHING
    return np.array([test_loss], np.float32), np.array([len(losses)], np.float32)


def _trailing_mean(losses: np.ndarray, window: int) -> np.ndarray:
    """The mean of the last `window` values at every step; of fewer at the first steps."""
    total = np.concatenate([[0.0], np.cumsum(losses, dtype=np.float64)])
    end = np.arange(1, len(total))
    begin = np.maximum(0, end - window)
    return ((total[end] - total[begin]) / (end - begin)).astype(np.float32)

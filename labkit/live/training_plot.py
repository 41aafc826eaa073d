"""The plots of the training panel: losses and temperature over steps, and the rate–distortion plane."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from labkit import schemes
from labkit.evaluation import Decoded
from labkit.live.lines import Axes, Line, Points
from labkit.live.plot import Plot
from labkit.statistics import Array

TRAINING, TEST = "training", "test, rounded"
SCHEDULE, TEMPERATURE = "τ over the steps", "present τ"
JPEG, PRETRAINED = "JPEG", "bundled weights"
PATH, START, NOW = "path of this run", "its start, a DCT", "this run"

_SYMBOLS = ("circle", "square", "triangle-up", "cross")  # symbols of earlier runs, by structure
_WINDOW = 20  # number of steps averaged in each point of the training curve
_POINTS = 60  # number of points of a curve that is computed from a formula


def make(photo: str, reference: str, networks: Iterable[str]) -> Plot:
    """Return the empty plot.

    Args:
        photo: Name of the photograph.
        reference: Curve whose lowest loss is the goal, JPEG or PRETRAINED.
        networks: Structures of earlier runs.
    """
    losses = [
        Line(TRAINING, ghost=True, dash="solid", color=0),
        Line(TEST, mode="lines+markers", color=1, symbol="diamond", dash="dot", ghost=True),
    ]
    temperature = [
        Line(SCHEDULE, color=3, dash="solid", ghost=True, legend=False),
        Line(TEMPERATURE, mode="markers", color=3, symbol="circle", legend=False),
    ]
    plane = [
        Line(JPEG, mode="lines+markers", color=4, symbol="x", dash="dash"),
        Line(PRETRAINED, mode="lines+markers", color=2, symbol="square", dash="solid"),
        Line(equal_loss(reference), color=3, dash="longdash"),
        Line(PATH, color=0, dash="dot", legend=False),
        *(
            Line(earlier(name), mode="markers", color=5, symbol=symbol)
            for name, symbol in zip(networks, _SYMBOLS, strict=True)
        ),
        Line(START, mode="markers", color=0, symbol="circle-open"),
        Line(NOW, mode="markers", color=0, symbol="diamond"),
    ]
    plot = Plot(
        [
            Axes("loss: bpp + λ · 255² · MSE", f"step (training: mean of {_WINDOW})", "loss", losses, width=0.36),
            Axes("temperature", "step", "τ", temperature, range_y=(0.0, 1.05), width=0.19),
            Axes(f"{photo}, coded to real bytes", "bits per pixel", "PSNR (dB)", plane, width=0.45),
        ],
        width=920,
        height=400,
    )
    plot.figure.update_layout(xaxis_rangemode="tozero", xaxis2_rangemode="tozero")
    return plot


def earlier(network: str) -> str:
    """Return the name of the points of earlier runs."""
    return f"earlier {network}"


def equal_loss(reference: str) -> str:
    """Return the name of the line that `goal` computes."""
    return f"as good as {reference} at this λ"


def curves(losses: Sequence[float] | Array, steps: Sequence[int], tests: Sequence[float]) -> dict[str, Points]:
    """Return the two curves of the loss.

    Args:
        losses: Training loss of each step.
        steps: Steps at which the test loss was measured.
        tests: Test losses.
    """
    return {
        TRAINING: (np.arange(1, len(losses) + 1), trailing_mean(np.asarray(losses), _WINDOW)),
        TEST: (steps, tests),
    }


def trailing_mean(losses: Array, window: int) -> Array:
    """Average the last `window` values at every step, or all values so far during the first steps."""
    total = np.concatenate([[0.0], np.cumsum(losses, dtype=np.float64)])
    end = np.arange(1, len(total))
    begin = np.maximum(0, end - window)
    means: Array = (total[end] - total[begin]) / (end - begin)
    return means.astype(np.float32)


def schedule(scheme: schemes.Scheme, done: int, steps: int) -> dict[str, Points]:
    """Return the temperature over all steps and at the current step, or no points if the scheme ignores it.

    Args:
        scheme: Scheme of the run.
        done: Number of steps so far.
        steps: Planned number of steps.
    """
    stage = schemes.first_stage(scheme)
    if not any(surrogate.annealed for surrogate in stage.pair()):
        return {SCHEDULE: ([], []), TEMPERATURE: ([], [])}
    planned = np.unique(np.linspace(0, steps - 1, _POINTS).round().astype(int))
    now = max(0, done - 1)
    return {
        SCHEDULE: (planned + 1, [stage.temperature(int(step), steps) for step in planned]),
        TEMPERATURE: ([now + 1], [stage.temperature(now, steps)]),
    }


def goal(known: Mapping[str, list[Decoded]], reference: str, lmbda: float) -> tuple[float, dict[str, Points]]:
    """Return the lowest loss bpp + λ · 255² · MSE of a reference, and the line of all points with this loss.

    Args:
        known: Points of JPEG and of the pretrained weights, which limit the line.
        reference: Curve whose lowest loss is used. If it has no points yet, the loss is NaN and the line is empty.
        lmbda: Weight of the distortion.
    """
    loss = min((_loss(each.bpp, each.psnr, lmbda) for each in known[reference]), default=math.nan)
    psnrs = [each.psnr for curve in known.values() for each in curve]
    line = [] if math.isnan(loss) else np.linspace(min(psnrs), max(psnrs), _POINTS).tolist()
    points = [(loss - _loss(0.0, psnr, lmbda), psnr) for psnr in line]
    kept = [point for point in points if point[0] > 0]
    return loss, {equal_loss(reference): ([rate for rate, _ in kept], [psnr for _, psnr in kept])}


def described(scheme: schemes.Scheme) -> str:
    """Describe in one line what training computes instead of rounding."""
    rate, distortion = schemes.first_stage(scheme).pair()
    return f"training sees {rate.forward} for the bits and {distortion.forward} for the reconstruction"


def _loss(bpp: float, psnr: float, lmbda: float) -> float:
    return bpp + lmbda * 255**2 * 10 ** (-psnr / 10)

"""The training panel: a real image codec trains from untrained weights while you watch."""

from __future__ import annotations

import time
from collections.abc import Generator, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
from torch import Tensor

from labkit import datasets, defaults, evaluation, networks, schedules, schemes, training
from labkit.checks import check_name
from labkit.evaluation import Decoded, JpegLadder
from labkit.live.canvas import Canvas, Picture, pixels_of, rgba
from labkit.live.chart import trailing_mean
from labkit.live.codec import LMBDAS, TEMPERATURES
from labkit.live.engine import LiveRun, View
from labkit.live.lines import Points
from labkit.live.panel import Frame, Panel, Result, Settings, choice, menu
from labkit.live.plot import Axes, Line, Plot
from labkit.statistics import Array

# Most steps of a run, and seconds after which it ends. A run with its measurements takes one or two seconds longer.
PLANS = {
    "patch_linear": (500, 14.0),
    "patch_mlp": (400, 14.0),
    "patch_hyperprior": (800, 38.0),
}
BUNDLED = defaults.PRETRAINED  # network whose pretrained weights give the curve to compare with
QUALITIES = (5, 10, 15, 20, 30, 40, 50, 60)  # of the JPEG curve

SYMBOLS_OF = dict(zip(PLANS, ("circle", "square", "triangle-up"), strict=True))

_TRAINING, _TEST = "training", "test, rounded"
_JPEG, _PRETRAINED, _PATH, _NOW = "JPEG", "bundled weights", "path of this run", "this run"
_SIDE, _GAP = 256, 8  # pixels of a crop, and transparent pixels between two crops
_WINDOW = 20  # steps that a point of the training curve averages
_PAUSE, _SHARE = 1.0, 8.0  # between measurements: at least this many seconds, and this many times their duration


@dataclass(frozen=True)
class Measurement:
    """The codec between two training steps.

    Attributes:
        step: Number of steps so far.
        loss: Mean loss with rounded latents, over the center crops of all test photographs.
        photo: The photograph, coded to real bytes.
        jpeg: The photograph as JPEG of at most as many bytes; None if JPEG needs more at its lowest quality.
    """

    step: int
    loss: float
    photo: Decoded
    jpeg: Decoded | None


@dataclass(frozen=True, repr=False)
class TrainingResult(Result):
    """A codec that was trained from untrained weights.

    Attributes:
        measurements: What was measured during training; the last one is that of the trained codec.
        net: The trained network.
    """

    measurements: list[Measurement]
    net: networks.Codec

    def __str__(self) -> str:
        last = self.measurements[-1]
        jpeg = f"JPEG {last.jpeg.psnr:.2f} dB in {last.jpeg.bytes:,}" if last.jpeg else "JPEG needs more bytes"
        return (
            f"rounded test loss {self.loss:.3f} after {last.step} steps; photograph: {last.photo.psnr:.2f} dB in "
            f"{last.photo.bytes:,} bytes ({last.photo.bpp:.3f} bpp), {jpeg}"
        )


@dataclass(frozen=True)
class _Frame:
    """What the panel shows after a step."""

    progress: float
    text: str
    picture: Picture
    lines: dict[str, Points]
    label: str


@dataclass
class _Progress:
    """A run so far."""

    steps: int
    picture: Picture
    earlier: dict[str, list[Decoded]]  # last points of the runs before, by structure
    losses: list[float] = field(default_factory=list)
    measurements: list[Measurement] = field(default_factory=list)


class TrainingPanel(Panel):
    """An image codec that trains from untrained weights. Every change of a control trains a new one.

    The images show the center of a test photograph, its reconstruction from real bytes, and JPEG at as many bytes. The
    left plot shows the training loss and the loss of test photographs with rounded latents. The right plot shows the
    photograph in the rate–distortion plane: the present run, the last points of earlier runs, JPEG, and the pretrained
    weights if labkit has some. A run that is canceled leaves its last point, too.

    Args:
        network: Structure of the codec, one of PLANS.
        scheme: Name of a preset from `labkit.schemes.names()`. Some have no temperature.
        temperature: First temperature, one of TEMPERATURES.
        end: Last temperature, one of TEMPERATURES; a constant schedule ignores it.
        shape: Shape of the temperature schedule, one of `labkit.schedules.SHAPES`.
        lmbda: Weight of the distortion, one of LMBDAS.
        photo: Name of a test photograph, without suffix.
        steps: Largest number of optimizer steps; None takes the plan of the structure.
        seconds: Duration of training after which a run ends; None takes the plan of the structure.
        seed: Seed for weights, crops and noise.

    Raises:
        ValueError: If an argument is not one of the values above.
    """

    def __init__(
        self,
        *,
        network: str = "patch_linear",
        scheme: str = "annealed",
        temperature: float = 0.5,
        end: float = 0.05,
        shape: str = "exponential",
        lmbda: float = 0.0067,
        photo: str = "kleiber",
        steps: int | None = None,
        seconds: float | None = None,
        seed: int = 0,
    ) -> None:
        self._steps, self._seconds, self._seed = steps, seconds, seed
        self._train, test = datasets.photos("train"), datasets.photos("test")
        names = [Path(name).stem for name in test.names]
        check_name("test photograph", photo, names)
        self._name, self._photo = photo, test[names.index(photo)]
        self._crops = datasets.PhotoSet([_center(image, training.from_scratch.CROP) for image in test.images], names)
        self._jpeg = JpegLadder(self._photo)
        self._curves: dict[str, list[Decoded]] = {_JPEG: [], _PRETRAINED: []}
        self._earlier: dict[str, list[Decoded]] = {name: [] for name in PLANS}
        self.canvas = Canvas(width=3 * _SIDE + 2 * _GAP)
        self.plot = _plot(photo)
        super().__init__(
            controls={
                "lmbda": choice("tradeoff λ", LMBDAS, lmbda),
                "network": menu("structure", list(PLANS), network),
                "scheme": menu("scheme", schemes.names(), scheme),
                "temperature": choice("temperature τ", TEMPERATURES, temperature),
                "end": choice("last τ", TEMPERATURES, end),
                "shape": menu("shape", schedules.SHAPES, shape),
            },
            screens=[self.canvas, self.plot],
        )
        self.canvas.show(self._draw(None))

    def job(self, settings: Settings) -> Generator[View, None, TrainingResult]:
        """Train a new codec; from time to time, code the photograph and measure the test loss."""
        network, lmbda = settings["network"], settings["lmbda"]
        seconds = self._seconds or PLANS[network][1]
        run = self._begin(settings)
        yield partial(self._view, run, "preparing")
        for _ in self._references():
            yield partial(self._view, run, "coding the photograph with JPEG and the bundled weights")
        temperature = schedules.between(settings["shape"], settings["temperature"], settings["end"])
        scheme = schemes.get(settings["scheme"], temperature=temperature)
        net = networks.get(network, scheme=scheme, seed=self._seed)
        due = 0.0
        try:
            for step in training.train_from_scratch(
                net, self._train, lmbda=lmbda, steps=run.steps, seconds=seconds, seed=self._seed
            ):
                run.losses.append(step.loss)
                run.steps = step.steps
                yield partial(self._view, run)
                if time.perf_counter() >= due:
                    due = self._measure(run, net, lmbda)
                    yield partial(self._view, run)
            if run.measurements[-1].step < len(run.losses):
                self._measure(run, net, lmbda)
            yield partial(self._view, run)
        finally:
            if run.measurements:
                self._earlier[network].append(run.measurements[-1].photo)
        return TrainingResult(
            settings=settings,
            losses=np.array(run.losses),
            loss=run.measurements[-1].loss,
            measurements=run.measurements,
            net=net,
        )

    @property
    def losses(self) -> Array:
        """Training losses that the panel shows, each a mean of the last steps."""
        return self.plot.points(_TRAINING)[1]

    def draw(self, frame: _Frame, run: LiveRun) -> None:
        """Show the plots, and the images if they are new."""
        if frame.picture is not self.canvas.picture:
            self.canvas.show(frame.picture, run.number)
        self.plot.show(frame.lines, frame.label)

    def keep_as_ghost(self, run: LiveRun) -> None:
        """Copy the loss curves of the last run that was done into their ghosts."""
        self.plot.show(_curves(list(run.result.losses), run.result.measurements))
        self.plot.keep_as_ghost()

    def finish(self, run: LiveRun) -> None:
        """Store the curves for pages that load later."""
        self.plot.settle()

    def _update(self, run: LiveRun, frame: Frame | None) -> None:
        """Show a first frame at once: the worker may still start a network for the run before."""
        if run.state == "queued":
            frame = self._view(self._begin(run.request), "preparing")
        super()._update(run, frame)

    def _begin(self, settings: Settings) -> _Progress:
        """A run without steps, and the last points of the runs before it."""
        earlier = {name: list(points) for name, points in self._earlier.items()}
        return _Progress(self._steps or PLANS[settings["network"]][0], self._draw(None), earlier)

    def _references(self) -> Iterator[None]:
        """Code the photograph with JPEG and with the pretrained weights, one point at a time and only once."""
        jpeg, pretrained = self._curves.values()
        for quality in QUALITIES[len(jpeg) :]:
            jpeg.append(self._jpeg.at(quality))
            yield
        for lmbda in networks.pretrained_lmbdas(BUNDLED)[len(pretrained) :]:
            pretrained.append(evaluation.code(networks.pretrained(BUNDLED, lmbda), self._photo))
            yield

    def _measure(self, run: _Progress, net: networks.Codec, lmbda: float) -> float:
        """Append a measurement to the run, and return the time at which the next one is due."""
        begin = time.perf_counter()
        coder = evaluation.ready_copy(net)
        losses = np.array(evaluation.rounded_losses(coder, self._crops)) @ [1.0, lmbda]
        photo = evaluation.code(coder, self._photo)
        jpeg = self._jpeg.within(photo.bytes)
        run.measurements.append(Measurement(len(run.losses), float(losses.mean()), photo, jpeg))
        run.picture = self._draw(run.measurements[-1])
        end = time.perf_counter()
        return end + max(_PAUSE, _SHARE * (end - begin))

    def _view(self, run: _Progress, text: str = "") -> _Frame:
        done = len(run.losses)
        planes = {
            _PATH: [each.photo for each in run.measurements],
            _NOW: [each.photo for each in run.measurements[-1:]],
            **self._curves,
            **{_earlier(name): points for name, points in run.earlier.items()},
        }
        points = {name: ([each.bpp for each in row], [each.psnr for each in row]) for name, row in planes.items()}
        return _Frame(
            progress=done / run.steps,
            text=text or f"step {done} of {run.steps}",
            picture=run.picture,
            lines=_curves(run.losses, run.measurements) | points,
            label=self._in_words(run, planes),
        )

    def _draw(self, last: Measurement | None) -> Picture:
        """The center of the photograph: the original, the reconstruction, and JPEG."""
        shown = [self._photo, last.photo.image if last else None, last.jpeg.image if last and last.jpeg else None]
        gap = np.zeros((_SIDE, _GAP, 4), np.uint8)
        crops = [rgba(pixels_of(_center(each, _SIDE))) if each is not None else _blank() for each in shown]
        if last is None:
            captions = ["original", "codec: not coded yet", "JPEG: not coded yet"]
        else:
            captions = ["original", f"codec: {_cost(last.photo)}"]
            captions.append(f"JPEG: {_cost(last.jpeg)}" if last.jpeg else "JPEG: needs more bytes")
        return Picture(
            pixels=np.concatenate([crops[0], gap, crops[1], gap, crops[2]], axis=1),
            label=f"The center of {self._name}. {'; '.join(captions)}.",
            captions=tuple(captions),
        )

    def _in_words(self, run: _Progress, points: dict[str, list[Decoded]]) -> str:
        """Text alternative of both plots."""
        if not run.losses:
            return "The run has no steps yet."
        text = f"Training loss over {len(run.losses)} steps, from {run.losses[0]:.3f} to {run.losses[-1]:.3f}"
        if run.measurements:
            text += f"; test loss with rounded latents {run.measurements[-1].loss:.3f}"
        parts = [
            f"{name} {', '.join(f'{each.bpp:.3f} bpp {each.psnr:.2f} dB' for each in row)}"
            for name, row in points.items()
            if row and name != _PATH
        ]
        return f"{text}. Rate–distortion plane of {self._name}: {'; '.join(parts)}."


def _plot(photo: str) -> Plot:
    """The loss over steps, and the rate–distortion plane."""
    losses = [
        Line(_TRAINING, ghost=True, dash="solid", color=0),
        Line(_TEST, mode="lines+markers", color=1, symbol="diamond", dash="dot", ghost=True),
    ]
    plane = [
        Line(_JPEG, mode="lines+markers", color=4, symbol="x", dash="dash"),
        Line(_PRETRAINED, mode="lines+markers", color=2, symbol="square", dash="solid"),
        Line(_PATH, color=0, dash="dot", legend=False),
        *(Line(_earlier(name), mode="markers", color=5, symbol=symbol) for name, symbol in SYMBOLS_OF.items()),
        Line(_NOW, mode="markers", color=0, symbol="diamond"),
    ]
    plot = Plot(
        [
            Axes("loss: bpp + λ · 255² · MSE", f"step (training: mean of {_WINDOW})", "loss", losses),
            Axes(f"{photo}, coded to real bytes", "bits per pixel", "PSNR (dB)", plane),
        ],
        width=920,
        height=400,
    )
    plot.figure.layout.xaxis.rangemode = "tozero"
    return plot


def _curves(losses: list[float], measurements: list[Measurement]) -> dict[str, Points]:
    """The two curves of the loss."""
    steps = np.arange(1, len(losses) + 1)
    return {
        _TRAINING: (steps, trailing_mean(np.array(losses), _WINDOW)),
        _TEST: ([each.step for each in measurements], [each.loss for each in measurements]),
    }


def _earlier(network: str) -> str:
    return f"earlier {network}"


def _cost(decoded: Decoded) -> str:
    return f"{decoded.bytes:,} bytes, {decoded.psnr:.2f} dB"


def _blank() -> Array:
    """A gray crop, visible on light and dark pages."""
    return np.full((_SIDE, _SIDE, 4), (128, 128, 128, 60), np.uint8)


def _center(image: Tensor, side: int) -> Tensor:
    top, left = ((size - side) // 2 for size in image.shape[1:])
    return image[:, top : top + side, left : left + side]

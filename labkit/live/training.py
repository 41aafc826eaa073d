"""The training panel: a real image codec is trained from scratch while you watch."""

from __future__ import annotations

import math
import time
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
from torch import Tensor

from labkit import datasets, defaults, evaluation, networks, schedules, schemes, training
from labkit.checks import check_name
from labkit.evaluation import Decoded, JpegLadder
from labkit.live import training_plot
from labkit.live.canvas import Canvas, Picture, pixels_of, rgba
from labkit.live.engine import LiveRun, View
from labkit.live.lines import Points
from labkit.live.panel import Frame, Panel, Result, Settings, choice, menu
from labkit.live.training_plot import JPEG, NOW, PATH, PRETRAINED, START, TRAINING, earlier
from labkit.statistics import Array

LMBDAS = (0.0018, 0.0035, 0.0067, 0.013, 0.025, 0.0483)
TEMPERATURES = (0.02, 0.05, 0.1, 0.2, 0.35, 0.5, 0.7, 1.0)

# Largest number of steps of a run, and seconds after which it ends. The measurements add one or two seconds.
PLANS = {
    "patch_linear": (500, 14.0),
    "patch_mlp": (400, 14.0),
    "patch_hyperprior": (800, 38.0),
    "patch_context": (600, 38.0),
}
BUNDLED = defaults.PRETRAINED  # network whose pretrained weights provide the curve for comparison
QUALITIES = (5, 10, 15, 20, 30, 40, 50, 60)  # qualities of the JPEG curve

_SIDE, _GAP = 256, 8  # side of a crop in pixels, and transparent pixels between two crops
_PAUSE, _SHARE = 1.0, 8.0  # between measurements: at least this many seconds, and this many times their duration


@dataclass(frozen=True)
class Measurement:
    """The codec between two training steps.

    Attributes:
        step: Number of steps so far.
        loss: Mean loss with rounded latents, over the center crops of all test photographs.
        photo: The photograph, coded to real bytes.
        jpeg: The photograph as JPEG with at most as many bytes; None if JPEG needs more at its lowest quality.
    """

    step: int
    loss: float
    photo: Decoded
    jpeg: Decoded | None


@dataclass(frozen=True, repr=False)
class TrainingResult(Result):
    """A codec that was trained from scratch.

    Attributes:
        measurements: Measurements during training; the last one is of the trained codec.
        net: The trained network.
    """

    measurements: list[Measurement]
    net: networks.Codec

    def __str__(self) -> str:
        first, last = self.measurements[0], self.measurements[-1]
        jpeg = f"JPEG {last.jpeg.psnr:.2f} dB in {last.jpeg.bytes:,}" if last.jpeg else "JPEG needs more bytes"
        return (
            f"rounded test loss {first.loss:.3f} at the start (a DCT), {self.loss:.3f} after {last.step} steps; "
            f"photograph: {last.photo.psnr:.2f} dB in {last.photo.bytes:,} bytes ({last.photo.bpp:.3f} bpp), {jpeg}"
        )


@dataclass(frozen=True)
class _Frame:
    """The content that the panel shows after a step."""

    progress: float
    text: str
    picture: Picture
    lines: dict[str, Points]
    label: str


@dataclass
class _Progress:
    """The state of a run."""

    settings: Settings
    scheme: schemes.Scheme
    steps: int
    picture: Picture
    earlier: dict[str, list[Decoded]]  # last points of earlier runs, by structure
    losses: list[float] = field(default_factory=list)
    measurements: list[Measurement] = field(default_factory=list)


class TrainingPanel(Panel):
    """An image codec that is trained from scratch. Every change of a control trains a new one.

    The images show the center of a test photograph, its reconstruction from real bytes, and JPEG with as many bytes.
    The left plot shows the training loss and the loss of test photographs with rounded latents. The middle plot shows
    the temperature over the steps, if the scheme has one. The right plot shows the photograph in the rate–distortion
    plane: the current run, the last points of earlier runs, JPEG, and the pretrained weights if labkit has some. A
    canceled run also leaves its last point.

    A line in this plane connects all points that have the same loss at the chosen λ as the best of the pretrained
    weights, or the best JPEG if there are no such weights. A run that ends above this line is better on this
    photograph. A run starts with a DCT, which may be better than JPEG before any training.

    Args:
        network: Structure of the codec, one of PLANS.
        scheme: Name of a preset from `labkit.schemes.names()`. Some have no temperature.
        temperature: First temperature, one of TEMPERATURES.
        end: Last temperature, one of TEMPERATURES; a constant schedule ignores it.
        shape: Shape of the temperature schedule, one of `labkit.schedules.SHAPES`.
        lmbda: Weight of the distortion, one of LMBDAS.
        photo: Name of a test photograph, without suffix.
        steps: Largest number of optimizer steps; None uses the plan of the structure.
        seconds: Training time after which a run ends; None uses the plan of the structure.
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
        self._curves: dict[str, list[Decoded]] = {JPEG: [], PRETRAINED: []}
        self._earlier: dict[str, list[Decoded]] = {name: [] for name in PLANS}
        self.canvas = Canvas(width=3 * _SIDE + 2 * _GAP)
        self._reference = PRETRAINED if networks.pretrained_lmbdas(BUNDLED) else JPEG
        self.plot = training_plot.make(photo, self._reference, PLANS)
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
        yield partial(self._view, run)
        for _ in self._references():
            yield partial(self._view, run, "coding the photograph with JPEG and the bundled weights")
        net = networks.get(network, scheme=run.scheme, seed=self._seed)
        due = 0.0
        try:
            for step in training.train_from_scratch(
                net, self._train, lmbda=lmbda, steps=run.steps, seconds=seconds, seed=self._seed
            ):
                if step is None:
                    yield partial(self._view, run, "fitting the entropy model to the latents of a DCT")
                    continue
                run.losses.append(step.loss)
                run.steps = step.steps
                yield partial(self._view, run)
                if time.perf_counter() >= due:
                    due = yield from self._measure(run, net, lmbda)
            if run.measurements[-1].step < len(run.losses):
                yield from self._measure(run, net, lmbda)
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
        """Training losses that the panel shows, each averaged over the last steps."""
        return self.plot.points(TRAINING)[1]

    def draw(self, frame: _Frame, run: LiveRun) -> None:
        """Show the plots, and the images if they are new."""
        if frame.picture is not self.canvas.picture:
            self.canvas.show(frame.picture, run.number)
        self.plot.show(frame.lines, frame.label)

    def keep_as_ghost(self, run: LiveRun) -> None:
        """Copy the loss curves of the last completed run into their ghosts."""
        self.plot.show(_curves(run.result.losses, run.result.measurements))
        self.plot.keep_as_ghost()

    def finish(self, run: LiveRun) -> None:
        """Store the curves for pages that load later."""
        self.plot.settle()

    def _update(self, run: LiveRun, frame: Frame | None) -> None:
        """Show everything that follows from the new settings at once: the worker may still finish an earlier step."""
        super()._update(run, frame)
        if run.state == "queued":
            new = self._begin(run.request)
            loss, goal = training_plot.goal(self._curves, self._reference, run.request["lmbda"])
            lines = training_plot.schedule(new.scheme, 0, new.steps) | goal
            self.plot.show(lines, self._in_words(new, {}, loss))

    def _begin(self, settings: Settings) -> _Progress:
        """Return a run without steps, and the last points of earlier runs."""
        temperature = schedules.between(settings["shape"], settings["temperature"], settings["end"])
        scheme = schemes.get(settings["scheme"], temperature=temperature)
        earlier = {name: list(points) for name, points in self._earlier.items()}
        steps = self._steps or PLANS[settings["network"]][0]
        return _Progress(settings, scheme, steps, self._draw(None), earlier)

    def _references(self) -> Iterator[None]:
        """Code the photograph with JPEG and with the pretrained weights, one point at a time and only once."""
        jpeg, pretrained = self._curves.values()
        for quality in QUALITIES[len(jpeg) :]:
            jpeg.append(self._jpeg.at(quality))
            yield
        for lmbda in networks.pretrained_lmbdas(BUNDLED)[len(pretrained) :]:
            pretrained.append(evaluation.code(networks.pretrained(BUNDLED, lmbda), self._photo))
            yield

    def _measure(self, run: _Progress, net: networks.Codec, lmbda: float) -> Generator[View, None, float]:
        """Append a measurement to the run in small parts, and return the time at which the next one is due."""
        begin = time.perf_counter()
        coder = evaluation.ready_copy(net)
        yield partial(self._view, run)
        losses = np.array(evaluation.rounded_losses(coder, self._crops)) @ [1.0, lmbda]
        yield partial(self._view, run)
        photo = evaluation.code(coder, self._photo)
        yield partial(self._view, run)
        jpeg = self._jpeg.within(photo.bytes)
        run.measurements.append(Measurement(len(run.losses), float(losses.mean()), photo, jpeg))
        run.picture = self._draw(run.measurements[-1])
        yield partial(self._view, run)
        end = time.perf_counter()
        return end + max(_PAUSE, _SHARE * (end - begin))

    def _view(self, run: _Progress, text: str = "") -> _Frame:
        done = len(run.losses)
        planes = {
            PATH: [each.photo for each in run.measurements],
            START: [each.photo for each in run.measurements[:1]],
            NOW: [each.photo for each in run.measurements[-1:]],
            **self._curves,
            **{earlier(name): points for name, points in run.earlier.items()},
        }
        points = {name: ([each.bpp for each in row], [each.psnr for each in row]) for name, row in planes.items()}
        loss, goal = training_plot.goal(self._curves, self._reference, run.settings["lmbda"])
        return _Frame(
            progress=done / run.steps,
            text=text or (f"step {done} of {run.steps}" if done else training_plot.described(run.scheme)),
            picture=run.picture,
            lines=_curves(run.losses, run.measurements)
            | training_plot.schedule(run.scheme, done, run.steps)
            | points
            | goal,
            label=self._in_words(run, planes, loss),
        )

    def _draw(self, last: Measurement | None) -> Picture:
        """Return the center of the photograph: the original, the reconstruction, and JPEG."""
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

    def _in_words(self, run: _Progress, points: dict[str, list[Decoded]], goal: float) -> str:
        """Return a text alternative for the plots. The goal is the lowest loss of the reference on the photograph."""
        best = f" On {self._name}, the lowest loss of {self._reference} at this λ is {goal:.3f}."
        aim = "" if math.isnan(goal) else best
        if not run.losses:
            return f"The run has no steps yet.{aim}"
        text = f"Training loss over {len(run.losses)} steps, from {run.losses[0]:.3f} to {run.losses[-1]:.3f}"
        if run.measurements:
            text += f"; test loss with rounded latents {run.measurements[-1].loss:.3f}"
        parts = [
            f"{name} {', '.join(f'{each.bpp:.3f} bpp {each.psnr:.2f} dB' for each in row)}"
            for name, row in points.items()
            if row and name != PATH
        ]
        return f"{text}.{aim} Rate–distortion plane of {self._name}: {'; '.join(parts)}."


def _cost(decoded: Decoded) -> str:
    return f"{decoded.bytes:,} bytes, {decoded.psnr:.2f} dB"


def _blank() -> Array:
    """Return a gray crop, visible on light and dark pages."""
    return np.full((_SIDE, _SIDE, 4), (128, 128, 128, 60), np.uint8)


def _center(image: Tensor, side: int) -> Tensor:
    top, left = ((size - side) // 2 for size in image.shape[1:])
    return image[:, top : top + side, left : left + side]


def _curves(losses: Sequence[float] | Array, measurements: list[Measurement]) -> dict[str, Points]:
    return training_plot.curves(losses, [each.step for each in measurements], [each.loss for each in measurements])

"""The codec panel: a bundled image codec, fine-tuned on photographs to another tradeoff while you watch."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from labkit import datasets, evaluation, networks, schedules, schemes, training
from labkit.checks import check_name
from labkit.live.canvas import Canvas, Picture, pixels_of, rgba
from labkit.live.chart import LossChart
from labkit.live.engine import View
from labkit.live.panel import Result, Settings, choice, menu
from labkit.live.retraining import RetrainingPanel, TrainingFrame
from labkit.schemes import first_stage
from labkit.statistics import Array
from labkit.training.fine_tuning import CROP

BOUNDS = (0.04, 0.07, 0.11, 0.15, 0.2, 0.3, 0.45, 0.7)
LMBDAS = (0.0018, 0.0035, 0.0067, 0.013, 0.025, 0.0483)
TEMPERATURES = (0.02, 0.05, 0.1, 0.2, 0.35, 0.5, 0.7, 1.0)

NETWORK = "mean_scale_hyperprior"  # seconds of fine-tuning no longer change the loss of a patch codec's weights

MakeScheme = Callable[[schedules.Schedule, float], schemes.Scheme]  # from a temperature and a scale lower bound
Losses = Callable[[networks.Codec, datasets.PhotoSet], list[tuple[float, float]]]

_GAP = 8  # transparent pixels between the original and the reconstruction


@dataclass(frozen=True, repr=False)
class CodecResult(Result):
    """A fine-tuned codec compared with the weights it started from, both with real rounding and at the λ of the run.

    Attributes:
        before: Rate and distortion of each test photograph before the run: a float64 array of shape (photographs, 2)
            with bits per pixel and 255² · MSE.
        after: The same after the run.
        surrogate: The same after the run with the training surrogate in place of rounding, for one draw of the noise at
            the last temperature.
        net: The fine-tuned network.
    """

    before: Array
    after: Array
    surrogate: Array
    net: networks.Codec

    @property
    def mismatch(self) -> tuple[float, float]:
        """Surrogate minus rounding, averaged over the test photographs, of the bits per pixel and of the loss."""
        gap = (self.surrogate - self.after).mean(axis=0)
        return float(gap[0]), float(gap @ [1.0, self.lmbda])

    @property
    def lmbda(self) -> float:
        """Weight of the distortion in this run."""
        return float(self.net.info["lmbda"])

    @property
    def fall(self) -> float:
        """Decrease of the rounded loss, averaged over the test photographs."""
        return float(self._falls.mean())

    @property
    def standard_error(self) -> float:
        """Standard error of `fall`, paired over the test photographs; NaN for a single photograph."""
        falls = self._falls
        return float(falls.std(ddof=1) / math.sqrt(len(falls))) if len(falls) > 1 else math.nan

    @property
    def _falls(self) -> Array:
        return (self.before - self.after) @ [1.0, self.lmbda]

    def __str__(self) -> str:
        rate, distortion = self.after.mean(axis=0)
        return (
            f"rounded test loss {self.loss:.3f} ({rate:.3f} bpp, {10 * math.log10(255**2 / distortion):.2f} dB), "
            f"{'lower' if self.fall > 0 else 'higher'} by {abs(self.fall):.3f} ± {self.standard_error:.3f} "
            f"than before training"
        )


class CodecPanel(RetrainingPanel):
    """An image codec. Every change of a control fine-tunes it, from the bundled weights for the λ closest to the new λ.

    The canvas shows a crop of a test photograph and its reconstruction with real rounding. The chart shows the training
    loss. After training, the panel measures every test photograph with the weights before and after (see CodecResult).

    Args:
        lmbda: Weight of the distortion, one of LMBDAS. A run starts as described in `labkit.training.fine_tune`.
        temperature: First temperature, one of TEMPERATURES.
        end: Last temperature, one of TEMPERATURES; a constant schedule ignores it.
        shape: Shape of the temperature schedule, one of `labkit.schedules.SHAPES`.
        scale_lower_bound: Lower bound of the scales, one of BOUNDS; None keeps the bound of the weights.
        controls: Names of the settings that get a control: the settings above, "scheme" and "photo". All other settings
            keep their initial value.
        schemes: Names of presets, or functions that make a scheme from a temperature and a scale lower bound, by label.
            The first is the initial scheme.
        weights: Image codec to start from; None takes the bundled weights of the network NETWORK.
        photos: Training photographs; None takes the bundled ones.
        test: Test photographs; None takes the bundled ones.
        steps: Number of optimizer steps per run.
        seconds: Duration of training after which a run stops early.
        seed: Seed for crops and noise.

    Raises:
        ValueError: If a control or a scheme is unknown, if there are no bundled weights, or if a test photograph is
            smaller than a crop.
    """

    def __init__(
        self,
        *,
        lmbda: float = 0.0067,
        temperature: float = 0.5,
        end: float = 0.05,
        shape: str = "constant",
        scale_lower_bound: float | None = None,
        controls: Sequence[str] = ("lmbda", "temperature", "photo"),
        schemes: Sequence[str] | Mapping[str, MakeScheme] = ("annealed",),
        weights: networks.Codec | None = None,
        photos: datasets.PhotoSet | None = None,
        test: datasets.PhotoSet | None = None,
        steps: int = 60,
        seconds: float = 10.0,
        seed: int = 0,
    ) -> None:
        self._weights, self._steps, self._seconds, self._seed = weights, steps, seconds, seed
        self._photos = datasets.photos("train") if photos is None else photos
        self._test = datasets.photos("test") if test is None else test
        self._test.check_crop(CROP)
        self._names = [Path(name).stem for name in self._test.names]
        self._schemes = schemes if isinstance(schemes, Mapping) else {name: _preset(name) for name in schemes}
        self._bundled: dict[float, networks.Codec] = {}
        self._before: dict[networks.Codec, Array] = {}  # rates and distortions of the weights that runs start from
        start = self._start(lmbda)  # missing weights raise their error here, not in the first run
        self._initial: Settings = {
            "lmbda": lmbda,
            "temperature": temperature,
            "end": end,
            "shape": shape,
            "scale_lower_bound": scale_lower_bound or first_stage(start.scheme).scale_lower_bound,
            "photo": self._names[0],
            "scheme": next(iter(self._schemes)),
        }
        options: dict[str, tuple[str, Sequence[Any]]] = {
            "lmbda": ("tradeoff λ", LMBDAS),
            "temperature": ("temperature τ", TEMPERATURES),
            "end": ("last τ", TEMPERATURES),
            "shape": ("shape", schedules.SHAPES),
            "scheme": ("scheme", tuple(self._schemes)),
            "scale_lower_bound": ("scale bound", BOUNDS),
            "photo": ("photograph", self._names),
        }
        widgets = {}
        for name in controls:
            check_name("control", name, options)
            make = menu if isinstance(self._initial[name], str) else choice
            widgets[name] = make(*options[name], self._initial[name])
        super().__init__(
            controls=widgets,
            canvas=Canvas(width=2 * CROP + _GAP),
            chart=LossChart(title="bpp + λ · 255² · MSE", width=430, height=300, window=10),
        )
        self.canvas.show(self._draw(start, self._initial["photo"]))

    def job(self, settings: Settings) -> Generator[View, None, CodecResult]:
        """Fine-tune a copy of the weights, then measure both."""
        begin = time.perf_counter()
        values = self._initial | settings
        lmbda = values["lmbda"]
        start = self._start(lmbda)
        net = copy.deepcopy(start)
        temperature = schedules.between(values["shape"], values["temperature"], values["end"])
        net.set_scheme(self._schemes[values["scheme"]](temperature, values["scale_lower_bound"]))
        losses: list[float] = []

        def view(text: str = "") -> TrainingFrame:
            text = text or f"step {len(losses)} of {self._steps}"
            return TrainingFrame(np.array(losses), len(losses) / self._steps, text, self._draw(net, values["photo"]))

        yield view  # the reconstruction with the initial weights
        for loss in training.fine_tune(
            net, self._photos, lmbda=lmbda, steps=self._steps, seed=self._seed, deadline=begin + self._seconds
        ):
            losses.append(loss)
            yield view
        net.info["lmbda"] = lmbda

        def measure(codec: networks.Codec, losses_of: Losses, text: str) -> Generator[View, None, Array]:
            rows = []
            for i in range(len(self._test)):  # one photograph at a time: a canceled run stops between two of them
                rows += losses_of(codec, self._test[i : i + 1])
                yield lambda: view(text)
            return np.array(rows)

        if start not in self._before:
            text = "measuring the weights before training"
            self._before[start] = yield from measure(start, evaluation.rounded_losses, text)
        after = yield from measure(net, evaluation.rounded_losses, "measuring the weights after training")
        surrogate = yield from measure(net, evaluation.surrogate_losses, "measuring the loss that training sees")
        return CodecResult(
            settings=settings,
            losses=np.array(losses),
            loss=float((after @ [1.0, lmbda]).mean()),
            before=self._before[start],
            after=after,
            surrogate=surrogate,
            net=net,
        )

    def _start(self, lmbda: float) -> networks.Codec:
        """The weights that a run at this λ starts from."""
        if self._weights is not None:
            return self._weights
        if lmbda not in self._bundled:
            self._bundled[lmbda] = networks.pretrained(NETWORK, lmbda=lmbda)
        return self._bundled[lmbda]

    def _draw(self, net: networks.Codec, photo: str) -> Picture:
        """A crop of a test photograph beside its reconstruction with real rounding."""
        original = _center(self._test[self._names.index(photo)])
        decoded, bpp = evaluation.reconstruct(net, original)
        quality = evaluation.psnr(decoded, original)
        gap = np.zeros((CROP, _GAP, 4), np.uint8)
        return Picture(
            pixels=np.concatenate([rgba(pixels_of(original)), gap, rgba(pixels_of(decoded))], axis=1),
            label=f"A crop of {photo}, and its reconstruction at {bpp:.3f} bits per pixel and {quality:.1f} decibels.",
            captions=("original", f"rounded: {bpp:.3f} bpp, {quality:.2f} dB"),
        )


def _preset(name: str) -> MakeScheme:
    check_name("scheme", name, schemes.names())
    return lambda temperature, bound: schemes.get(name, temperature=temperature, scale_lower_bound=bound)


def _center(image: Tensor) -> Tensor:
    top, left = ((side - CROP) // 2 for side in image.shape[1:])
    return image[:, top : top + CROP, left : left + CROP]

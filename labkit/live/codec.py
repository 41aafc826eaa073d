"""The codec panel: the shipped image codec, fine-tuned on photographs to another tradeoff while one looks on."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from labkit import datasets, evaluation, networks, schedules, schemes, training
from labkit.checks import check_name
from labkit.live.canvas import Canvas, Picture
from labkit.live.chart import LossChart
from labkit.live.engine import View
from labkit.live.panel import Result, Settings, choice, menu
from labkit.live.retraining import CROP, RetrainingPanel, TrainingFrame, fine_tuning
from labkit.schemes import first_stage

CONTROLS = ("lmbda", "temperature", "end", "shape", "scheme", "scale_lower_bound", "photo")
BOUNDS = (0.04, 0.07, 0.11, 0.15, 0.2, 0.3, 0.45, 0.7)
LMBDAS = (0.0018, 0.0035, 0.0067, 0.013, 0.025, 0.0483)
TEMPERATURES = (0.02, 0.05, 0.1, 0.2, 0.35, 0.5, 0.7, 1.0)

MakeScheme = Callable[[schedules.Schedule, float], schemes.Scheme]

_GAP = 8  # transparent pixels between the original and the reconstruction


@dataclass(frozen=True, repr=False)
class CodecResult(Result):
    """A fine-tuned codec against the weights it came from, both with real rounding and at the run's λ.

    before, after: float64 (photographs, 2), bits per pixel and 255² · MSE of each test photograph.
    seen: the same after training, with the training surrogate in place of rounding (one draw, at the last temperature).
    """

    before: np.ndarray
    after: np.ndarray
    seen: np.ndarray
    net: networks.Codec

    @property
    def mismatch(self) -> tuple[float, float]:
        """What training sees less what rounding gives, mean over the test photographs: bits per pixel, and the loss."""
        gap = (self.seen - self.after).mean(axis=0)
        return float(gap[0]), float(gap @ [1.0, self.lmbda])

    @property
    def lmbda(self) -> float:
        """The λ that it was trained for."""
        return self.net.info["lmbda"]

    @property
    def falls(self) -> np.ndarray:
        """By how much the rounded loss of each test photograph fell."""
        return (self.before - self.after) @ [1.0, self.lmbda]

    @property
    def fall(self) -> float:
        """Mean fall of the rounded loss over the test photographs."""
        return float(self.falls.mean())

    @property
    def standard_error(self) -> float:
        """Of `fall`, paired over the test photographs; nan for one photograph."""
        falls = self.falls
        return float(falls.std(ddof=1) / math.sqrt(len(falls))) if len(falls) > 1 else math.nan

    def __str__(self) -> str:
        rate, distortion = self.after.mean(axis=0)
        return (
            f"rounded test loss {self.loss:.3f} ({rate:.3f} bpp, {10 * math.log10(255**2 / distortion):.2f} dB), "
            f"{'lower' if self.fall > 0 else 'higher'} by {abs(self.fall):.3f} ± {self.standard_error:.3f} "
            f"than before training"
        )


class CodecPanel(RetrainingPanel):
    """See `codec_panel`."""

    def __init__(
        self,
        *,
        controls: Sequence[str],
        schemes: Sequence[str] | Mapping[str, MakeScheme],
        weights: networks.Codec | None,
        photos: datasets.PhotoSet | None,
        test: datasets.PhotoSet | None,
        steps: int,
        seconds: float,
        seed: int,
        **values: Any,
    ) -> None:
        self._weights, self._steps, self._seconds, self._seed = weights, steps, seconds, seed
        self._photos = datasets.photos("train") if photos is None else photos
        self._test = datasets.photos("test") if test is None else test
        self._test.check_crop(CROP)
        self._names = [Path(name).stem for name in self._test.names]
        self._schemes = schemes if isinstance(schemes, Mapping) else {name: _preset(name) for name in schemes}
        self._shipped: dict[float, networks.Codec] = {}
        self._measured: dict[networks.Codec, np.ndarray] = {}
        start = self._start(values["lmbda"])  # so that missing weights are told of here, not in the first run
        values["scale_lower_bound"] = values["scale_lower_bound"] or first_stage(start.scheme).scale_lower_bound
        values |= {"photo": self._names[0], "scheme": next(iter(self._schemes))}
        self._fixed = values
        every = {
            "lmbda": lambda: choice("tradeoff λ", LMBDAS, values["lmbda"]),
            "temperature": lambda: choice("temperature τ", TEMPERATURES, values["temperature"]),
            "end": lambda: choice("last τ", TEMPERATURES, values["end"]),
            "shape": lambda: menu("shape", schedules.SHAPES, values["shape"]),
            "scheme": lambda: menu("scheme", list(self._schemes), values["scheme"]),
            "scale_lower_bound": lambda: choice("scale bound", BOUNDS, values["scale_lower_bound"]),
            "photo": lambda: menu("photograph", self._names, values["photo"]),
        }
        for name in controls:
            check_name("control", name, every)
        super().__init__(
            controls={name: every[name]() for name in controls},
            canvas=Canvas(width=2 * CROP + _GAP),
            chart=LossChart(title="bpp + λ · 255² · MSE", width=430, height=300, window=10),
        )
        self.canvas.show(self._draw(start, self._values(self.settings)))

    def _values(self, settings: Settings) -> Settings:
        """The settings, and what has no control."""
        return {**self._fixed, **settings}

    def job(self, settings: Settings) -> Generator[View, None, CodecResult]:
        begun = time.perf_counter()
        values = self._values(settings)
        lmbda = values["lmbda"]
        start = self._start(lmbda)
        net = copy.deepcopy(start)
        temperature = schedules.between(values["shape"], values["temperature"], values["end"])
        net.set_scheme(self._schemes[values["scheme"]](temperature, values["scale_lower_bound"]))
        losses: list[float] = []

        def view(words: str = "") -> TrainingFrame:
            words = words or f"step {len(losses)} of {self._steps}"
            return TrainingFrame(np.array(losses), len(losses) / self._steps, words, self._draw(net, values))

        yield view  # what the weights it starts from make of the crop
        for loss in fine_tuning(
            net, self._photos, lmbda=lmbda, steps=self._steps, seed=self._seed, deadline=begun + self._seconds
        ):
            losses.append(loss)
            yield view
        net.info["lmbda"] = lmbda
        if start not in self._measured:
            self._measured[start] = yield from self._losses(start, view, "measuring the weights it started from")
        after = yield from self._losses(net, view, "measuring what came of it")
        seen = yield from self._losses(net, view, "measuring what training sees of it", evaluation.surrogate_losses)
        return CodecResult(
            settings=settings,
            losses=np.array(losses),
            loss=float((after @ [1.0, lmbda]).mean()),
            seconds=time.perf_counter() - begun,
            before=self._measured[start],
            after=after,
            seen=seen,
            net=net,
        )

    def _start(self, lmbda: float) -> networks.Codec:
        """The weights that a run at this λ starts from: those given, or the shipped ones nearest in λ."""
        if self._weights is not None:
            return self._weights
        if lmbda not in self._shipped:
            self._shipped[lmbda] = networks.pretrained("mean_scale_hyperprior", lmbda=lmbda)
        return self._shipped[lmbda]

    def _losses(
        self,
        net: networks.Codec,
        view: Callable[[str], TrainingFrame],
        words: str,
        measure: Callable[[networks.Codec, datasets.PhotoSet], list[tuple[float, float]]] = evaluation.rounded_losses,
    ) -> Generator[View, None, np.ndarray]:
        """Rate and distortion of every test photograph, with a chance to stop after each."""
        rows = []
        for i in range(len(self._test)):
            rows += measure(net, self._test[i : i + 1])
            yield lambda: view(words)
        return np.array(rows)

    @torch.no_grad()
    def _draw(self, net: networks.Codec, settings: Settings) -> Picture:
        """The crop of the chosen photograph and its reconstruction with real rounding."""
        original = _center(self._test[self._names.index(settings["photo"])])
        was_training = net.training
        net.eval()
        output = net(original[None])
        net.train(was_training)
        loss = training.rate_distortion(output, original[None], settings["lmbda"])
        coded = output["x_hat"][0].clamp(0, 1)
        quality = evaluation.psnr(coded, original)
        gap = np.zeros((CROP, _GAP, 4), np.uint8)
        return Picture(
            pixels=np.concatenate([_rgba(original), gap, _rgba(coded)], axis=1),
            label=f"A crop of {settings['photo']}, and its reconstruction at {loss.rate:.3f} bits per pixel and "
            f"{quality:.1f} decibels.",
            captions=("original", f"rounded: {loss.rate:.3f} bpp, {quality:.2f} dB"),
        )


def codec_panel(
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
) -> CodecPanel:
    """An image codec, fine-tuned at every move of a control from the shipped weights nearest in λ.

    A run first scales the latents by √(λ/λ₀), where λ₀ is what the weights were trained for: the quantization step that
    suits the new λ at high rate, in networks that are `scalable`. Then all weights are trained.

    The canvas shows a crop of a test photograph and its reconstruction with real rounding; the chart the training loss.
    A run ends after `steps`, or after `seconds` of training if that comes first; then every test photograph is measured
    with the weights it started from and with what came of them (see CodecResult).

    controls: which of CONTROLS the panel shows; what is not shown stays at its argument. lmbda, temperature, end (the
    last temperature of a schedule of that shape, see `schedules.between`) and scale_lower_bound (None is the weights'
    own) are taken from the sliders' values, LMBDAS, TEMPERATURES and BOUNDS. schemes: names of presets, or functions
    that make a scheme from a temperature and a scale lower bound, under labels; a run takes the first until another is
    chosen.
    weights: an image codec to start from instead of the shipped ones; photos, test: other photographs to train on and
    to measure. Raises ValueError for an unknown control or scheme, where no weights are shipped, or a test photograph
    is smaller than the crop.
    """
    return CodecPanel(
        lmbda=lmbda,
        temperature=temperature,
        end=end,
        shape=shape,
        scale_lower_bound=scale_lower_bound,
        controls=controls,
        schemes=schemes,
        weights=weights,
        photos=photos,
        test=test,
        steps=steps,
        seconds=seconds,
        seed=seed,
    )


def _preset(name: str) -> MakeScheme:
    check_name("scheme", name, schemes.names())
    return lambda temperature, bound: schemes.get(name, temperature=temperature, scale_lower_bound=bound)


def _center(image: Tensor) -> Tensor:
    top, left = ((side - CROP) // 2 for side in image.shape[1:])
    return image[:, top : top + CROP, left : left + CROP]


def _rgba(image: Tensor) -> np.ndarray:
    pixels = (image * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()
    return np.concatenate([pixels, np.full_like(pixels[..., :1], 255)], axis=2)

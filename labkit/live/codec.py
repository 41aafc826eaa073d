"""The codec panel: the shipped image codec, fine-tuned on photographs to another tradeoff while one looks on."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Generator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from labkit import datasets, evaluation, networks, schedules, schemes, training
from labkit.live.canvas import Canvas, Picture
from labkit.live.chart import LossChart
from labkit.live.engine import View
from labkit.live.panel import Frame, Panel, Result, Settings, choice, menu
from labkit.networks.codecs import first_stage

LMBDAS = (0.0018, 0.0035, 0.0067, 0.013, 0.025, 0.0483)
TEMPERATURES = (0.05, 0.1, 0.2, 0.35, 0.5, 0.7, 1.0)

_CROP = 256  # pixels a side: of the crop on show, and of training crops
_GAP = 8  # transparent pixels between the original and the reconstruction
_BATCH = 2  # crops a step: many small steps go farther in a few seconds than few large ones
_RATE = schedules.cosine(1e-4, 1e-5)  # Adam's: gentle, since what it starts from is trained already


@dataclass(frozen=True, repr=False)
class CodecResult(Result):
    """A fine-tuned codec against the weights it came from, both with real rounding and at the run's λ.

    before, after: float64 (photographs, 2), bits per pixel and 255² · MSE of each test photograph.
    """

    before: np.ndarray
    after: np.ndarray
    net: networks.Codec

    @property
    def falls(self) -> np.ndarray:
        """By how much the rounded loss of each test photograph fell."""
        return (self.before - self.after) @ [1.0, self.settings["lmbda"]]

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


class CodecPanel(Panel):
    """See `codec_panel`."""

    def __init__(
        self,
        *,
        lmbda: float,
        temperature: float,
        weights: networks.Codec | None,
        photos: datasets.PhotoSet | None,
        test: datasets.PhotoSet | None,
        steps: int,
        seconds: float,
        seed: int,
    ) -> None:
        self._weights, self._steps, self._seconds, self._seed = weights, steps, seconds, seed
        self._photos = datasets.photos("train") if photos is None else photos
        self._test = datasets.photos("test") if test is None else test
        self._test.check_crop(_CROP)
        self._names = [Path(name).stem for name in self._test.names]
        self._shipped: dict[float, networks.Codec] = {}
        self._measured: dict[networks.Codec, np.ndarray] = {}
        start = self._start(lmbda)  # so that missing weights are told of here, not in the first run
        super().__init__(
            controls={
                "lmbda": choice("tradeoff λ", LMBDAS, lmbda),
                "temperature": choice("temperature τ", TEMPERATURES, temperature),
                "photo": menu("photograph", self._names, self._names[0]),
            },
            canvas=Canvas(width=2 * _CROP + _GAP),
            chart=LossChart(title="bpp + λ · 255² · MSE", width=430, height=300, window=10),
        )
        self.canvas.show(self._draw(start, self.settings))

    def job(self, settings: Settings) -> Generator[View, None, CodecResult]:
        begun = time.perf_counter()
        start = self._start(settings["lmbda"])
        net = copy.deepcopy(start)
        bound = first_stage(start.scheme).scale_lower_bound
        net.set_scheme(schemes.annealed(temperature=settings["temperature"], scale_lower_bound=bound))
        losses: list[float] = []

        def view(words: str = "") -> Frame:
            words = words or f"step {len(losses)} of {self._steps}"
            return Frame(np.array(losses), len(losses) / self._steps, words, self._draw(net, settings))

        yield view  # what the weights it starts from make of the crop
        if (
            isinstance(net, networks.MeanScaleHyperprior) and "lmbda" in start.info
        ):  # the step that suits the new λ at high rate; training does the rest
            net.scale_latents(math.sqrt(settings["lmbda"] / start.info["lmbda"]))
        for step in training.stream(
            net,
            self._photos,
            lmbda=settings["lmbda"],
            steps=self._steps,
            batch_size=_BATCH,
            crop=_CROP,
            permute_colours=True,
            lr=_RATE,
            seed=self._seed,
        ):
            losses.append(step.loss)
            yield view
            if time.perf_counter() - begun > self._seconds:
                break
        if start not in self._measured:
            self._measured[start] = yield from self._losses(start, view, "measuring the weights it started from")
        after = yield from self._losses(net, view, "measuring what came of it")
        return CodecResult(
            settings=settings,
            losses=np.array(losses),
            loss=float((after @ [1.0, settings["lmbda"]]).mean()),
            seconds=time.perf_counter() - begun,
            before=self._measured[start],
            after=after,
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
        self, net: networks.Codec, view: Callable[[str], Frame], words: str
    ) -> Generator[View, None, np.ndarray]:
        """Rate and distortion of every test photograph, with a chance to stop after each."""
        rows = []
        for i in range(len(self._test)):
            rows += evaluation.rounded_losses(net, self._test[i : i + 1])
            yield lambda: view(words)
        return np.array(rows)

    @torch.no_grad()
    def _draw(self, net: networks.Codec, settings: Settings) -> Picture:
        """The crop of the chosen photograph and its reconstruction with real rounding."""
        original = _centre(self._test[self._names.index(settings["photo"])])
        was_training = net.training
        net.eval()
        output = net(original[None])
        net.train(was_training)
        loss = training.rate_distortion(output, original[None], settings["lmbda"])
        coded = output["x_hat"][0].clamp(0, 1)
        quality = evaluation.psnr(coded, original)
        gap = np.zeros((_CROP, _GAP, 4), np.uint8)
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
    weights: networks.Codec | None = None,
    photos: datasets.PhotoSet | None = None,
    test: datasets.PhotoSet | None = None,
    steps: int = 60,
    seconds: float = 10.0,
    seed: int = 0,
) -> CodecPanel:
    """An image codec, fine-tuned at every move of a control from the shipped weights nearest in λ.

    A run first scales the latents by √(λ/λ₀), where λ₀ is what the weights were trained for: the quantisation step that
    suits the new λ at high rate. Then all weights are trained.

    The canvas shows a crop of a test photograph and its reconstruction with real rounding; the chart the training loss.
    A run ends after `steps`, or after `seconds` of training if that comes first; then every test photograph is measured
    with the weights it started from and with what came of them (see CodecResult).

    lmbda and temperature are taken from the sliders' values, LMBDAS and TEMPERATURES; weights: an image codec to start
    from instead of the shipped ones; photos, test: other photographs to train on and to measure. Raises ValueError
    where no weights are shipped, or a test photograph is smaller than the crop.
    """
    return CodecPanel(
        lmbda=lmbda,
        temperature=temperature,
        weights=weights,
        photos=photos,
        test=test,
        steps=steps,
        seconds=seconds,
        seed=seed,
    )


def _centre(image: Tensor) -> Tensor:
    top, left = ((side - _CROP) // 2 for side in image.shape[1:])
    return image[:, top : top + _CROP, left : left + _CROP]


def _rgba(image: Tensor) -> np.ndarray:
    pixels = (image * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()
    return np.concatenate([pixels, np.full_like(pixels[..., :1], 255)], axis=2)

"""The rate–distortion panel: fine-tune a codec, code a photograph to real bytes, and compare with classical codecs."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Generator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from labkit import datasets, defaults, evaluation, networks, schedules, schemes, training
from labkit.checks import check_name
from labkit.live.canvas import pixels_of
from labkit.live.codec import LMBDAS
from labkit.live.divider import Divider
from labkit.live.engine import LiveRun, View
from labkit.live.panel import Panel, Result, Settings, choice, menu
from labkit.live.plot import Axes, Line, Plot
from labkit.schemes import first_stage

QUALITIES = {"jpeg": (10, 25, 45, 65, 80), "webp": (5, 25, 50, 70, 85), "avif": (20, 35, 50, 60, 70)}
TEMPERATURE = schedules.exponential(0.5, 0.1)  # for schemes that have a temperature

_NAMES = {"jpeg": "JPEG", "webp": "WebP", "avif": "AVIF"}
_BUNDLED, _TUNED, _EARLIER = "bundled weights", "fine-tuned", "earlier runs"

Points = list[tuple[float, float]]  # bits per pixel and PSNR


@dataclass(frozen=True, repr=False)
class TradeoffResult(Result):
    """A fine-tuned codec and the photograph that it coded to real bytes.

    Attributes:
        bpp: Bits per pixel of the photograph after fine-tuning.
        psnr: PSNR of the photograph in dB after fine-tuning.
        n_bytes: Bytes of the photograph after fine-tuning.
        before: Bits per pixel and PSNR before fine-tuning.
        at: Bits per pixel that each classical codec needs for the same PSNR, by interpolation; NaN if the PSNR is out
            of its range.
        net: The fine-tuned network.
    """

    bpp: float
    psnr: float
    n_bytes: int
    before: tuple[float, float]
    at: dict[str, float]
    net: networks.Codec

    def __str__(self) -> str:
        rates = ", ".join(f"{_NAMES[name]} {bpp:.3f}" for name, bpp in self.at.items() if math.isfinite(bpp))
        comparison = f"for that PSNR: {rates} bpp" if rates else "no classical codec covers that PSNR"
        return f"{self.n_bytes:,} bytes, {self.bpp:.3f} bpp at {self.psnr:.2f} dB; {comparison}"


@dataclass(frozen=True)
class _Frame:
    """The photograph as the codec reconstructs it at present, and the points of the rate–distortion plane."""

    progress: float
    text: str
    photo: str
    decoded: Tensor
    quality: str
    points: dict[str, Points]


class TradeoffPanel(Panel):
    """A codec that is fine-tuned and then codes a test photograph to real bytes, beside JPEG, WebP and AVIF.

    The image shows the original to the left of a movable divider and the reconstruction with rounded latents to its
    right. The plot shows bits per pixel, as written, and PSNR of the photograph: for the classical codecs at several
    qualities, for the bundled weights, for the fine-tuned weights, and for earlier runs.

    Args:
        network: Name of a network with bundled weights.
        scheme: Name of a preset. If it has a temperature, the temperature follows TEMPERATURE.
        lmbda: Weight of the distortion, one of LMBDAS.
        photo: Name of a test photograph, without suffix.
        steps: Number of optimizer steps per run.
        seconds: Duration of training after which a run stops early.
        seed: Seed for crops and noise.

    Raises:
        ValueError: If the photograph is unknown.
    """

    def __init__(
        self,
        *,
        network: str = defaults.PRETRAINED,
        scheme: str = "annealed",
        lmbda: float = 0.0067,
        photo: str = "kleiber",
        steps: int = 40,
        seconds: float = 10.0,
        seed: int = 0,
    ) -> None:
        self._steps, self._seconds, self._seed = steps, seconds, seed
        self._train, self._test = datasets.photos("train"), datasets.photos("test")
        self._names = [Path(name).stem for name in self._test.names]
        check_name("test photograph", photo, self._names)
        self._bundled: dict[tuple[str, float], networks.Codec] = {}  # by network and λ
        self._before: dict[tuple[str, float, str], dict[str, Any]] = {}  # evaluations, by network, λ and photograph
        self._classical: dict[str, dict[str, Points]] = {}  # by photograph and codec
        self._earlier: dict[str, Points] = {}  # finished runs, by photograph
        self._divider = Divider(width=470)
        lines = [
            *(Line(name, mode="lines+markers", color=i + 1) for i, name in enumerate(_NAMES.values())),
            Line(_BUNDLED, mode="markers", color=5, symbol="x"),
            Line(_TUNED, mode="markers", color=0, symbol="diamond"),
            Line(_EARLIER, mode="markers", color=4, symbol="cross"),
        ]
        self.plot = Plot([Axes(x="bits per pixel, as written", y="PSNR (dB)", lines=lines)], width=470, height=390)
        super().__init__(
            controls={
                "network": menu(
                    "network", [each for each in networks.names() if networks.pretrained_lmbdas(each)], network
                ),
                "scheme": menu("scheme", schemes.names(), scheme),
                "lmbda": choice("tradeoff λ", LMBDAS, lmbda),
                "photo": menu("photograph", self._names, photo),
            },
            screens=[self._divider, self.plot],
        )
        self.draw(_Frame(0, "", photo, self._photo(photo)[0], "", {}), LiveRun(0, self.settings))

    def job(self, settings: Settings) -> Generator[View, None, TradeoffResult]:
        """Fine-tune a copy of the bundled weights, then code the photograph with all codecs."""
        begin = time.perf_counter()
        lmbda, name = settings["lmbda"], settings["photo"]
        photo = self._photo(name)
        start = self._start(settings["network"], lmbda)
        net = copy.deepcopy(start)
        bound = first_stage(start.scheme).scale_lower_bound
        net.set_scheme(schemes.get(settings["scheme"], temperature=TEMPERATURE, scale_lower_bound=bound))
        curves = self._classical.setdefault(name, {codec: [] for codec in QUALITIES})
        earlier = self._earlier.setdefault(name, [])
        points: dict[str, Points] = {_BUNDLED: [], _TUNED: [], _EARLIER: list(earlier)}
        points |= {_NAMES[codec]: curve for codec, curve in curves.items()}
        done = 0

        def view(text: str = "") -> _Frame:
            decoded, bpp = evaluation.reconstruct(net, photo[0])
            quality = f"{bpp:.3f} bpp estimated, {evaluation.psnr(decoded, photo[0]):.2f} dB"
            text = text or f"step {done} of {self._steps}"
            return _Frame(done / self._steps, text, name, decoded, quality, points)

        yield view
        for _ in training.fine_tune(
            net, self._train, lmbda=lmbda, steps=self._steps, seed=self._seed, deadline=begin + self._seconds
        ):
            done += 1
            yield view
        for codec, curve in curves.items():
            for quality in QUALITIES[codec][len(curve) :]:  # an earlier run may have been canceled on the way
                (report,) = evaluation.classical(photo, codec, (quality,), progress=False)
                curve.append((report.mean["bpp"], report.mean["psnr"]))
                yield partial(view, f"coding the photograph with {_NAMES[codec]}")
        key = settings["network"], lmbda, name
        if key not in self._before:
            (self._before[key],) = evaluation.evaluate(start, photo, progress=False).rows
        before = self._before[key]
        points[_BUNDLED] = [(before["bpp"], before["psnr"])]
        yield lambda: view("coding the photograph with the bundled weights")
        net.update(force=True)
        (after,) = evaluation.evaluate(net, photo, progress=False).rows
        points[_TUNED] = [(after["bpp"], after["psnr"])]
        earlier += points[_TUNED]
        yield lambda: view("coding the photograph with the fine-tuned weights")
        return TradeoffResult(
            settings=settings,
            loss=after["bpp"] + lmbda * 255**2 * 10 ** (-after["psnr"] / 10),
            bpp=after["bpp"],
            psnr=after["psnr"],
            n_bytes=after["bytes"],
            before=(before["bpp"], before["psnr"]),
            at={codec: _rate_at(after["psnr"], curve) for codec, curve in curves.items()},
            net=net,
        )

    def draw(self, frame: _Frame, run: LiveRun) -> None:
        """Show the photograph and its reconstruction beside the rate–distortion plane."""
        self._divider.show(
            pixels_of(self._photo(frame.photo)[0]),
            pixels_of(frame.decoded),
            label=f"{frame.photo}: the original left of the divider, its reconstruction right of it. {frame.quality}",
            captions=("original", frame.quality or "not coded yet"),
            run=run.number,
        )
        lines = {name: tuple(np.reshape(points, (-1, 2)).T) for name, points in frame.points.items()}
        self.plot.show(lines, _in_words(frame.points))

    def finish(self, run: LiveRun) -> None:
        """Store the curves for pages that load later."""
        self.plot.settle()

    def _photo(self, name: str) -> datasets.PhotoSet:
        index = self._names.index(name)
        return self._test[index : index + 1]

    def _start(self, network: str, lmbda: float) -> networks.Codec:
        """The bundled weights for the λ closest to this one."""
        if (network, lmbda) not in self._bundled:
            self._bundled[network, lmbda] = networks.pretrained(network, lmbda=lmbda)
        return self._bundled[network, lmbda]


def _rate_at(psnr: float, curve: Points) -> float:
    """Bits per pixel at a PSNR, on straight lines between the points over the logarithm of the rate."""
    rates, psnrs = np.transpose(curve)
    return float(np.exp(np.interp(psnr, psnrs, np.log(rates), left=np.nan, right=np.nan)))


def _in_words(points: dict[str, Points]) -> str:
    parts = []
    for name, curve in points.items():
        rates, psnrs = np.reshape(curve, (-1, 2)).T
        if len(curve) == 1:
            parts.append(f"{name}: {rates[0]:.3f} bpp, {psnrs[0]:.2f} dB")
        elif len(curve):
            extent = f"{min(rates):.2f} to {max(rates):.2f} bpp, {min(psnrs):.1f} to {max(psnrs):.1f} dB"
            parts.append(f"{name}: {len(curve)} points, {extent}")
    return "Rate–distortion plane of this photograph. " + "; ".join(parts) + "." if parts else ""

"""The rate–distortion panel: fine-tune a codec, code a photograph to real bytes, and see where it lands."""

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
import torch
from torch import Tensor

from labkit import datasets, evaluation, networks, schedules, schemes, training
from labkit.checks import check_name
from labkit.evaluation.evaluator import pad
from labkit.live.divider import Divider
from labkit.live.engine import Run, View
from labkit.live.panel import Panel, Result, Settings, choice, menu
from labkit.live.plot import Axes, Line, Plot
from labkit.live.retraining import fine_tuning
from labkit.schemes import first_stage

LMBDAS = (0.0018, 0.0035, 0.0067, 0.013, 0.025, 0.0483)
QUALITIES = {"jpeg": (10, 25, 45, 65, 80), "webp": (5, 25, 50, 70, 85), "avif": (20, 35, 50, 60, 70)}
TEMPERATURE = schedules.exponential(0.5, 0.05)  # of the schemes that have one

_NAMES = {"jpeg": "JPEG", "webp": "WebP", "avif": "AVIF"}
_EARLIER = "earlier runs"


@dataclass(frozen=True, repr=False)
class TradeoffResult(Result):
    """A fine-tuned codec and what it made of the photograph, in real bytes.

    bpp, psnr: of the photograph as coded after fine-tuning; before: the same two with the weights it started from; at:
    bits per pixel that each classical codec needs for that PSNR, by interpolation, NaN out of its range.
    """

    bpp: float
    psnr: float
    n_bytes: int
    before: tuple[float, float]
    at: dict[str, float]
    net: networks.Codec

    def __str__(self) -> str:
        others = ", ".join(f"{_NAMES[name]} {bpp:.3f}" for name, bpp in self.at.items() if math.isfinite(bpp))
        beside = f"; for that PSNR: {others} bpp" if others else "; no classical codec was asked for so low a PSNR"
        return f"{self.n_bytes:,} bytes, {self.bpp:.3f} bpp at {self.psnr:.2f} dB{beside}"


@dataclass(frozen=True)
class _Frame:
    """The picture as it is coded now, and the points of the plane, or None where they have not changed."""

    progress: float
    text: str
    coded: Tensor
    words: str
    points: dict[str, tuple[Any, Any]] | None = None


class TradeoffPanel(Panel):
    """See `tradeoff_panel`."""

    def __init__(
        self, *, network: str, scheme: str, lmbda: float, photo: str, steps: int, seconds: float, seed: int
    ) -> None:
        self._steps, self._seconds, self._seed = steps, seconds, seed
        self._train, self._test = datasets.photos("train"), datasets.photos("test")
        self._names = [Path(name).stem for name in self._test.names]
        check_name("test photograph", photo, self._names)
        self._networks = [name for name in networks.names() if networks.pretrained_lmbdas(name)]
        self._curves: dict[
            str, dict[str, tuple[list[float], list[float]]]
        ] = {}  # of the classical codecs, by photograph
        self._points: dict[str, list[tuple[float, float]]] = {}  # of finished runs, by photograph
        self._shipped: dict[tuple[str, float], tuple[networks.Codec, dict[str, evaluation.Report]]] = {}
        self._divider = Divider(width=470)
        self.plot = Plot(
            [
                Axes(
                    x="bits per pixel, as written",
                    y="PSNR (dB)",
                    lines=[
                        *(Line(name, mode="lines+markers", color=i + 1) for i, name in enumerate(_NAMES.values())),
                        Line("as shipped", mode="markers", color=5, symbol="x"),
                        Line("fine-tuned", mode="markers", color=0, symbol="diamond"),
                        Line(_EARLIER, mode="markers", color=4, symbol="cross"),
                    ],
                )
            ],
            width=470,
            height=390,
        )
        super().__init__(
            controls={
                "network": menu("network", self._networks, network),
                "scheme": menu("scheme", schemes.names(), scheme),
                "lmbda": choice("tradeoff λ", LMBDAS, lmbda),
                "photo": menu("photograph", self._names, photo),
            },
            screens=[self._divider, self.plot],
        )
        self.draw(_Frame(0, "", self._photo(photo), ""), None)

    def job(self, settings: Settings) -> Generator[View, None, TradeoffResult]:
        begun = time.perf_counter()
        lmbda, name = settings["lmbda"], settings["photo"]
        photo = self._photo(name)
        start = self._start(settings)
        net = copy.deepcopy(start)
        bound = first_stage(start.scheme).scale_lower_bound
        net.set_scheme(schemes.get(settings["scheme"], temperature=TEMPERATURE, scale_lower_bound=bound))
        points: dict[str, tuple[Any, Any]] = {each: ([], []) for each in ("as shipped", "fine-tuned")}
        earlier = self._points.setdefault(name, [])
        points[_EARLIER] = tuple(zip(*earlier, strict=True)) if earlier else ([], [])  # type: ignore[assignment]
        curves = self._curves.setdefault(name, {})
        points |= {_NAMES[each]: curves.get(each, ([], [])) for each in QUALITIES}
        done = 0

        def view(words: str = "") -> _Frame:
            coded, said = self._rounded(net, photo, lmbda)
            return _Frame(done / self._steps, words or f"step {done} of {self._steps}", coded, said, dict(points))

        yield view
        for _ in fine_tuning(
            net, self._train, lmbda=lmbda, steps=self._steps, seed=self._seed, deadline=begun + self._seconds
        ):
            done += 1
            yield view
        for each, qualities in QUALITIES.items():
            for quality in qualities[len(curves.get(each, ([], []))[0]) :]:
                (report,) = evaluation.classical(self._one(name), each, (quality,), progress=False)
                rates, qualities_so_far = curves.setdefault(each, ([], []))
                rates.append(report.mean["bpp"])
                qualities_so_far.append(report.mean["psnr"])
                points[_NAMES[each]] = (list(rates), list(qualities_so_far))
                yield partial(view, f"coding the photograph with {_NAMES[each]}")
        before = self._coded(start, name)
        points["as shipped"] = ([before["bpp"]], [before["psnr"]])
        yield lambda: view("coding it with the weights it started from")
        net.update(force=True)
        after = evaluation.evaluate(net, self._one(name), progress=False).rows[0]
        points["fine-tuned"] = ([after["bpp"]], [after["psnr"]])
        earlier.append((after["bpp"], after["psnr"]))
        yield lambda: view("coding it with what came of them")
        return TradeoffResult(
            settings=settings,
            losses=np.zeros(0),
            loss=after["bpp"] + lmbda * 255**2 * 10 ** (-after["psnr"] / 10),
            seconds=time.perf_counter() - begun,
            bpp=after["bpp"],
            psnr=after["psnr"],
            n_bytes=after["bytes"],
            before=(before["bpp"], before["psnr"]),
            at={each: _rate_at(after["psnr"], *curves[each]) for each in QUALITIES},
            net=net,
        )

    def draw(self, frame: _Frame, run: Run | None) -> None:
        name = run.request["photo"] if run else self.settings["photo"]
        photo = self._photo(name)
        self._divider.show(
            _pixels(photo),
            _pixels(frame.coded),
            label=f"{name}: the original left of the divider, its reconstruction right of it. {frame.words}",
            captions=("original", frame.words or "not coded yet"),
            run=run.number if run else 0,
        )
        if frame.points is not None:
            self.plot.show(frame.points, _in_words(frame.points))

    def finish(self, run: Run) -> None:
        self.plot.settle()

    def _photo(self, name: str) -> Tensor:
        return self._test[self._names.index(name)]

    def _one(self, name: str) -> datasets.PhotoSet:
        index = self._names.index(name)
        return self._test[index : index + 1]

    def _start(self, settings: Settings) -> networks.Codec:
        """The shipped weights nearest in λ."""
        key = settings["network"], settings["lmbda"]
        if key not in self._shipped:
            self._shipped[key] = networks.pretrained(settings["network"], lmbda=settings["lmbda"]), {}
        return self._shipped[key][0]

    def _coded(self, start: networks.Codec, name: str) -> dict[str, Any]:
        """The photograph in real bytes, by shipped weights; coded once."""
        reports = next(reports for net, reports in self._shipped.values() if net is start)
        if name not in reports:
            start.update()
            reports[name] = evaluation.evaluate(start, self._one(name), progress=False)
        return reports[name].rows[0]

    @torch.no_grad()
    def _rounded(self, net: networks.Codec, photo: Tensor, lmbda: float) -> tuple[Tensor, str]:
        """The photograph with rounded latents, and its estimated bits and PSNR in words."""
        was_training = net.training
        net.eval()
        padded, unpadding = pad(photo[None], net.downsampling_factor)
        output = net(padded)
        net.train(was_training)
        x_hat = torch.nn.functional.pad(output["x_hat"], unpadding)[0].clamp(0, 1)
        bits = float(training.rate_distortion(output, padded, lmbda).rate) * padded[0, 0].numel()
        return x_hat, f"{bits / photo[0].numel():.3f} bpp estimated, {evaluation.psnr(x_hat, photo):.2f} dB"


def tradeoff_panel(
    *,
    network: str = "mean_scale_hyperprior",
    scheme: str = "annealed",
    lmbda: float = 0.0067,
    photo: str = "kleiber",
    steps: int = 40,
    seconds: float = 10.0,
    seed: int = 0,
) -> TradeoffPanel:
    """Fine-tune a shipped codec, code a test photograph to real bytes, and place it beside JPEG, WebP and AVIF.

    The picture has the original left of a divider to drag, and right of it the reconstruction with rounded latents. The
    plane has the photograph's bits as written and PSNR: classical codecs over their qualities, the weights as shipped,
    what fine-tuning made of them, and what earlier runs came to. A run takes `steps`, or `seconds` if that comes first.

    network: one of which weights are shipped; scheme: a preset's name, whose temperature, if it has one, falls as
    TEMPERATURE does; lmbda: one of LMBDAS; photo: a test photograph's name. Raises ValueError for what there is not.
    """
    return TradeoffPanel(
        network=network, scheme=scheme, lmbda=lmbda, photo=photo, steps=steps, seconds=seconds, seed=seed
    )


def _pixels(image: Tensor) -> np.ndarray:
    return (image * 255).round().to(torch.uint8).permute(1, 2, 0).contiguous().numpy()


def _rate_at(psnr: float, rates: list[float], qualities: list[float]) -> float:
    """Bits per pixel at that PSNR, on straight lines between the points over the logarithm of the rate."""
    if not min(qualities) <= psnr <= max(qualities):
        return math.nan
    return float(np.exp(np.interp(psnr, qualities, np.log(rates))))


def _in_words(points: dict[str, tuple[Any, Any]]) -> str:
    said = []
    for name, (rates, qualities) in points.items():
        if len(rates) == 1:
            said.append(f"{name}: {rates[0]:.3f} bpp, {qualities[0]:.2f} dB")
        elif len(rates):
            ends = f"{min(rates):.2f} to {max(rates):.2f} bpp, {min(qualities):.1f} to {max(qualities):.1f} dB"
            said.append(f"{name}: {len(rates)} points, {ends}")
    return "Rate–distortion plane of this photograph. " + "; ".join(said) + "." if said else ""

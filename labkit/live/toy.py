"""The toy panel: a transform code of the plane, whose cells and codewords move while it trains."""

from __future__ import annotations

import time
from collections.abc import Generator
from dataclasses import dataclass

import numpy as np
import torch

from labkit import datasets, networks, schedules, schemes, training
from labkit.live.canvas import Canvas, Picture
from labkit.live.chart import LossChart
from labkit.live.engine import View
from labkit.live.panel import Result, Settings, choice, menu
from labkit.live.retraining import RetrainingPanel, TrainingFrame

TEMPERATURES = (0.04, 0.06, 0.09, 0.12, 0.18, 0.25, 0.35, 0.5, 0.7, 1.0)
LMBDAS = (0.3, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0)

_EXTENT = (-4.0, 8.0, -6.0, 6.0)  # x0, x1, y0, y1: where 97% of the banana lies
_MOVING, _STILL = 120, 240  # grid points a side, while it trains and at the end: a fine grid takes time from training
# Neighboring cells differ in at least one symbol, so four tints by the parity of two symbols keep all neighbors
# apart, and a cell keeps its tint while it moves. They are thin: pastel on a white page, dusk on a black one.
_TINTS = np.array([[76, 110, 245], [18, 184, 134], [245, 159, 0], [230, 73, 128]], np.uint8)
_TINT_ALPHA, _EDGE_ALPHA = 50, 140
_EDGE = (128, 128, 128)


@dataclass(frozen=True, repr=False)
class ToyResult(Result):
    """A trained toy. Rates are in bits a point, distortions squared distances, on test points with real rounding."""

    rate: float
    distortion: float
    codewords: int
    net: networks.ToyTransformCode

    def __str__(self) -> str:
        return (
            f"rounded test loss {self.loss:.3f} = {self.rate:.3f} bits + λ · {self.distortion:.3f}"
            f" ({self.codewords} codewords)"
        )


class ToyPanel(RetrainingPanel):
    """See `toy_panel`."""

    def __init__(self, *, temperature: float, lmbda: float, scheme: str, steps: int, seed: int) -> None:
        self._steps, self._seed = steps, seed
        self._test = datasets.banana(4096, generator=torch.Generator().manual_seed(seed + 1_000_000))
        super().__init__(
            controls={
                "temperature": choice("temperature τ", TEMPERATURES, temperature),
                "lmbda": choice("tradeoff λ", LMBDAS, lmbda),
                "scheme": menu("scheme", schemes.names(), scheme),
            },
            canvas=Canvas(cloud=_to_canvas(self._test[:1500].numpy())),
            chart=LossChart(width=440, title="bits + λ · squared distance", log=True),
        )
        self.canvas.show(self._draw(self._network(self.settings)))

    def job(self, settings: Settings) -> Generator[View, None, ToyResult]:
        start = time.perf_counter()
        net = self._network(settings)
        losses: list[float] = []

        def view(resolution: int = _MOVING) -> TrainingFrame:
            words = f"step {len(losses)} of {self._steps}"
            return TrainingFrame(np.array(losses), len(losses) / self._steps, words, self._draw(net, resolution))

        for step in training.stream(
            net,
            datasets.Banana(),
            lmbda=settings["lmbda"],
            steps=self._steps,
            batch_size=1024,
            lr=schedules.cosine(1e-2, 5e-4),
            seed=self._seed,
        ):
            losses.append(step.loss)
            yield view
        yield lambda: view(_STILL)
        with torch.no_grad():
            loss = training.rate_distortion(net(self._test), self._test, settings["lmbda"])
        return ToyResult(
            settings=settings,
            losses=np.array(losses),
            loss=float(loss.total),
            rate=float(loss.rate),
            distortion=float(loss.distortion),
            codewords=len(net.codewords(self._test)[0]),
            seconds=time.perf_counter() - start,
            net=net,
        )

    def _network(self, settings: Settings) -> networks.ToyTransformCode:
        scheme = schemes.get(settings["scheme"], temperature=settings["temperature"])
        return networks.toy_2d(scheme=scheme, seed=self._seed)

    def _draw(self, net: networks.ToyTransformCode, resolution: int = _STILL) -> Picture:
        x0, x1, y0, y1 = _EXTENT
        xs, ys = torch.linspace(x0, x1, resolution), torch.linspace(y1, y0, resolution)  # the canvas counts down
        grid = torch.stack(torch.meshgrid(xs, ys, indexing="xy"), -1).reshape(-1, 2)
        symbols = net.symbols(grid).reshape(resolution, resolution, 2).numpy()
        points, shares = net.codewords(self._test)
        radius = np.maximum(0.006, 0.05 * np.sqrt(shares))
        return Picture(
            pixels=_paint(symbols),
            discs=np.column_stack([_to_canvas(points), radius]).astype(np.float32),
            label=f"Plane of samples cut into quantization cells; {len(points)} codewords in use, "
            f"the largest serves {100 * shares.max():.0f}% of the samples.",
            captions=("gray samples, orange codewords, tinted cells",),
        )


def toy_panel(
    *, temperature: float = 0.5, lmbda: float = 5.0, scheme: str = "annealed", steps: int = 300, seed: int = 0
) -> ToyPanel:
    """A transform code of the "banana" source, retrained from scratch at every move of a control.

    The canvas shows samples, quantization cells, and codewords as large as the share of samples they serve; the chart
    shows the training loss, and at its end the loss with real rounding on test samples. temperature and lmbda are taken
    from the sliders' values, TEMPERATURES and LMBDAS; scheme is a preset's name.
    """
    return ToyPanel(temperature=temperature, lmbda=lmbda, scheme=scheme, steps=steps, seed=seed)


def _to_canvas(points: np.ndarray) -> np.ndarray:
    """Points of the plane in the canvas's coordinates, 0 to 1 from the top left corner."""
    x0, x1, y0, y1 = _EXTENT
    return (points - [x0, y1]) / [x1 - x0, y0 - y1]


def _paint(symbols: np.ndarray) -> np.ndarray:
    """Tinted cells with thin edges, uint8 RGBA, from the two symbols of every point of a grid."""
    parity = symbols[..., 0] % 2 + 2 * (symbols[..., 1] % 2)
    edge = np.zeros(parity.shape, bool)
    edge[1:] |= (symbols[1:] != symbols[:-1]).any(-1)
    edge[:, 1:] |= (symbols[:, 1:] != symbols[:, :-1]).any(-1)
    pixels = np.empty((*parity.shape, 4), np.uint8)
    pixels[..., :3] = np.where(edge[..., None], np.array(_EDGE, np.uint8), _TINTS[parity])
    pixels[..., 3] = np.where(edge, _EDGE_ALPHA, _TINT_ALPHA)
    return pixels

"""The toy panel: a transform code of the plane whose cells and codewords move during training."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass

import numpy as np
import torch

from labkit import datasets, networks, schedules, schemes, training
from labkit.analysis.reference_codes import toy_reference
from labkit.live.canvas import Canvas, Picture
from labkit.live.engine import LiveRun, View
from labkit.live.lines import Axes, Line
from labkit.live.panel import Panel, Result, Settings, choice, menu
from labkit.live.plot import Plot
from labkit.statistics import Array

TRAINING, TEST = "training", "test, rounded"
TEMPERATURES = (0.04, 0.06, 0.09, 0.12, 0.18, 0.25, 0.35, 0.5, 0.7, 1.0)
LMBDAS = (0.3, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0)

_EXTENT = (-4.0, 8.0, -6.0, 6.0)  # x0, x1, y0, y1: this square holds 97% of the banana
_COARSE, _FINE = 120, 240  # grid points per side during training and at the end; a fine grid slows training
# Neighboring cells differ in at least one symbol, so the parities of the two symbols select one of four tints.
# Neighbors always have different tints, and a moving cell keeps its tint. A low alpha makes tints pale on white and
# dark on black.
_TINTS = np.array([[76, 110, 245], [18, 184, 134], [245, 159, 0], [230, 73, 128]], np.uint8)
_TINT_ALPHA, _EDGE_ALPHA = 50, 140
_EDGE = (128, 128, 128)


@dataclass(frozen=True, repr=False)
class ToyResult(Result):
    """A trained toy code, measured on test points with real rounding.

    Attributes:
        rate: Bits per point.
        distortion: Mean squared distance.
        codewords: Number of codewords in use.
        net: The trained network.
        excess: Loss minus the loss of an entropy-coded vector quantizer (ECVQ) on the same points. The quantizer is a
            local optimum, so the lowest possible loss may be lower.
    """

    rate: float
    distortion: float
    codewords: int
    net: networks.ToyTransformCode
    excess: float

    def __str__(self) -> str:
        return (
            f"rounded test loss {self.loss:.3f} = {self.rate:.3f} bits + λ · {self.distortion:.3f}"
            f" ({self.codewords} codewords), {self.excess:.3f} above ECVQ"
        )


@dataclass(frozen=True)
class ToyFrame:
    """The content that the panel shows after a step.

    Attributes:
        losses: Training losses so far, one per step.
        progress: Completed fraction of the run, from 0 to 1.
        text: Short description of the current work for the status line.
        picture: Picture for the canvas.
    """

    losses: Array
    progress: float
    text: str
    picture: Picture


class ToyPanel(Panel):
    """A transform code of the "banana" source. Every change of a control trains a new one from scratch.

    The canvas shows samples, quantization cells and codewords. The area of a codeword's disc is proportional to its
    share of the samples. The plot shows the training loss and, at its end, the loss of test samples with real rounding.
    The curve of the previous run stays as a ghost.

    Args:
        temperature: Temperature of the scheme, one of TEMPERATURES.
        lmbda: Weight of the distortion, one of LMBDAS.
        scheme: Name of a preset from `labkit.schemes.names()`.
        steps: Number of optimizer steps per run.
        seed: Seed for the weights, the training batches and the test points.

    Raises:
        ValueError: If an argument is not one of the values above.
    """

    def __init__(
        self,
        *,
        temperature: float = 0.5,
        lmbda: float = 5.0,
        scheme: str = "stochastic_rounding",
        steps: int = 300,
        seed: int = 0,
    ) -> None:
        self._steps, self._seed = steps, seed
        self._test = datasets.banana(4096, generator=torch.Generator().manual_seed(seed + 1_000_000))
        lines = (
            Line(TRAINING, ghost=True),
            Line(TEST, mode="markers", color=0, symbol="diamond", ghost=True),
        )
        self.canvas = Canvas(cloud=_to_canvas(self._test[:1500].numpy()))
        self.plot = Plot([Axes(x="step", y="bits + λ · squared distance", lines=lines, log_y=True)], width=440)
        self.plot.figure.update_xaxes(rangemode="tozero")
        super().__init__(
            controls={
                "temperature": choice("temperature τ", TEMPERATURES, temperature),
                "lmbda": choice("tradeoff λ", LMBDAS, lmbda),
                "scheme": menu("scheme", schemes.names(), scheme),
            },
            screens=[self.canvas, self.plot],
        )
        self.canvas.show(self._draw(self._network(self.settings), _FINE))

    def job(self, settings: Settings) -> Generator[View, None, ToyResult]:
        """Train a new code."""
        net = self._network(settings)
        losses: list[float] = []

        def view(resolution: int = _COARSE) -> ToyFrame:
            text = f"step {len(losses)} of {self._steps}"
            return ToyFrame(np.array(losses), len(losses) / self._steps, text, self._draw(net, resolution))

        for step in training.stream(
            net,
            datasets.Banana(),
            lmbda=settings["lmbda"],
            steps=self._steps,
            batch_size=1024,
            lr=schedules.cosine(1e-2, 5e-4),
            seed=self._seed,
            device="cpu",
        ):
            losses.append(step.loss)
            yield view
        yield lambda: view(_FINE)
        with torch.no_grad():
            loss = training.rate_distortion(net(self._test), self._test, settings["lmbda"])
        reference = toy_reference("banana", settings["lmbda"]).loss_on(self._test.numpy())
        return ToyResult(
            settings=settings,
            losses=np.array(losses),
            loss=float(loss.total),
            rate=float(loss.rate),
            distortion=float(loss.distortion),
            codewords=len(net.codewords(self._test)[0]),
            net=net,
            excess=float(loss.total) - reference.total,
        )

    @property
    def losses(self) -> Array:
        """Training losses that the panel shows."""
        return self.plot.points(TRAINING)[1]

    def draw(self, frame: ToyFrame, run: LiveRun) -> None:
        """Show the picture and the losses so far."""
        self.canvas.show(frame.picture, run.number)
        self._show_losses(frame.losses)

    def keep_as_ghost(self, run: LiveRun) -> None:
        """Copy the loss curve into its ghost."""
        self.finish(run)  # the plot may show a later run that was canceled
        self.plot.keep_as_ghost()

    def finish(self, run: LiveRun) -> None:
        """Show all losses and the test loss."""
        self._show_losses(run.result.losses, run.result.loss)
        self.plot.settle()

    def _show_losses(self, losses: Array, test_loss: float | None = None) -> None:
        """Show the training losses, and the loss of the test points as soon as it is known."""
        end = ([], []) if test_loss is None else ([len(losses)], [test_loss])
        self.plot.show({TRAINING: (np.arange(1, len(losses) + 1), losses), TEST: end}, _in_words(losses, test_loss))

    def _network(self, settings: Settings) -> networks.ToyTransformCode:
        scheme = schemes.get(settings["scheme"], temperature=settings["temperature"])
        return networks.toy_2d(scheme=scheme, seed=self._seed)

    def _draw(self, net: networks.ToyTransformCode, resolution: int) -> Picture:
        x0, x1, y0, y1 = _EXTENT
        xs, ys = (
            torch.linspace(x0, x1, resolution),
            torch.linspace(y1, y0, resolution),
        )  # canvas rows go from top to bottom
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


def _in_words(losses: Array, test_loss: float | None) -> str:
    if not len(losses):
        return ""
    text = f"Training loss over {len(losses)} steps, from {losses[0]:.3g} to {losses[-1]:.3g}"
    return f"{text}; at its end the rounded test loss, {test_loss:.3g}." if test_loss is not None else f"{text}."


def _to_canvas(points: Array) -> Array:
    """Convert points of the plane to canvas coordinates, which run from 0 to 1 from the top left corner."""
    x0, x1, y0, y1 = _EXTENT
    return (points - [x0, y1]) / [x1 - x0, y0 - y1]


def _paint(symbols: Array) -> Array:
    """Paint tinted cells with thin edges, as uint8 RGBA, given the two symbols of every grid point."""
    parity = symbols[..., 0] % 2 + 2 * (symbols[..., 1] % 2)
    edge = np.zeros(parity.shape, bool)
    edge[1:] |= (symbols[1:] != symbols[:-1]).any(-1)
    edge[:, 1:] |= (symbols[:, 1:] != symbols[:, :-1]).any(-1)
    pixels = np.empty((*parity.shape, 4), np.uint8)
    pixels[..., :3] = np.where(edge[..., None], np.array(_EDGE, np.uint8), _TINTS[parity])
    pixels[..., 3] = np.where(edge, _EDGE_ALPHA, _TINT_ALPHA)
    return pixels

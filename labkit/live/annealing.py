"""The annealing panel: mismatch, gradient risk and final loss over the temperature, for codes that train together.

The code is the smallest one that has a rate–distortion loss. One latent of a Laplacian source, and three parameters:

    x ~ Laplace(0, 1) ─► y = gain · x ─► ỹ ─┬─ bits under N(0, scale²), integrated over a bin
                                            └─ x̂ = step · ỹ ─► λ (x̂ − x)²

A row of codes has one surrogate, one temperature schedule, and several seeds. All rows and seeds are one tensor, and
all see the same samples and the same noise, so that a difference between two rows is not one of luck.
"""

from __future__ import annotations

import math
import time
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from labkit import schedules, surrogates
from labkit.analysis import ScalarCode, exact_gradient, gaussian_bits, sources
from labkit.live.engine import View
from labkit.live.panel import Result, Settings, choice, menu
from labkit.live.plot import Axes, Line, Plot, PlotFrame, PlotPanel, Points
from labkit.schedules import Schedule
from labkit.schemes import QuantizationScheme
from labkit.surrogates import SoftRounding, Surrogate
from labkit.theme import SYMBOLS

TEMPERATURES = (0.05, 0.07, 0.1, 0.14, 0.2, 0.3, 0.45, 0.7, 1.0)
LMBDAS = (1.5, 3.0, 6.0, 12.0)
ANNEALED = {
    "soft rounding": surrogates.get("soft", noise=True),
    "Gumbel": surrogates.get("sga"),
    "uniform, slope 1": surrogates.get("sua"),
    "uniform, expected slope": surrogates.get("sua", gradient="expected"),
}
UNANNEALED = {"noise": surrogates.get("aun"), "straight-through": surrogates.get("ste")}
BATCH = 64

_RATE = schedules.cosine(2e-2, 4e-4)  # Adam's
_SYMBOLS = torch.arange(-40, 41, dtype=torch.float64)  # of a code whose gain is below 4, all that ever occur
_POINTS = 1 << 15  # of the lattice over source and noise
_GOLDEN = (math.sqrt(5) - 1) / 2

Row = tuple[Surrogate, Schedule]


class Codes(NamedTuple):
    """Parameters of any number of codes, tensors of one shape: encoder's gain, decoder's step, model's σ."""

    gain: Tensor
    step: Tensor
    scale: Tensor


def rounded_loss(codes: Codes, lmbda: float) -> Tensor:
    """E[bits + λ (x̂ − x)²] with real rounding, exact: a sum over integers of the source's moments in each cell.

    Returns float64 of the parameters' shape.
    """
    gain, step, scale = (each.detach().double()[..., None] for each in codes)
    edges = torch.cat([_SYMBOLS - 0.5, _SYMBOLS[-1:] + 0.5]) / gain
    # Laplace(0, 1) has the density exp(−|x|/b)/(2b) with b = 1/√2; E[x; x < t] = −(|t| + b) exp(−|t|/b)/2
    b = math.sqrt(0.5)
    tail = torch.exp(-edges.abs() / b) / 2
    mass = torch.where(edges < 0, tail, 1 - tail).diff(dim=-1)
    moment = (-tail * (edges.abs() + b)).diff(dim=-1)
    rate = (mass * gaussian_bits(_SYMBOLS, torch.zeros_like(scale), scale)).sum(-1)
    distortion = 1 + (mass * (step * _SYMBOLS) ** 2 - 2 * step * _SYMBOLS * moment).sum(-1)
    return rate + lmbda * distortion


def best_code(lmbda: float) -> tuple[Codes, float]:
    """The code of least loss with real rounding, by a search that closes in on it, and that loss."""
    low, high = torch.full((3,), math.log(0.05)).double(), torch.log(torch.tensor([4.0, 20.0, 4.0]).double())
    for _ in range(22):
        axes = [torch.linspace(a, b, 9).double() for a, b in zip(low, high, strict=True)]
        grid = torch.meshgrid(*axes, indexing="ij")
        codes = Codes(*(torch.exp(each.reshape(-1)) for each in grid))
        loss = rounded_loss(codes, lmbda)
        at = int(loss.argmin())
        best = torch.stack([each[at].log() for each in codes])
        reach = (high - low) / 4
        low, high = best - reach, best + reach
    return Codes(*best.exp()), float(loss[at])


def train(
    rows: Sequence[Row], lmbda: float, *, steps: int, seeds: int, batch: int = BATCH, seed: int = 0
) -> Iterator[Codes]:
    """Train all rows at once, each as if alone; yields the codes, of shape (rows, seeds), after every step.

    Every code starts at gain, step and σ of one. The loss is a sum over codes, so that none has a say in another's
    gradient, and Adam works parameter by parameter.
    """
    order = sorted(range(len(rows)), key=lambda i: str(rows[i][0]))  # surrogates side by side, each called once
    back = torch.tensor(order).argsort()
    runs = [[i for i in order if rows[i][0] == one] for one in dict.fromkeys(rows[i][0] for i in order)]
    theta = torch.zeros(3, len(rows), seeds, 1, requires_grad=True)
    adam = torch.optim.Adam([theta])
    generator = torch.Generator().manual_seed(seed)
    for step in range(steps):
        adam.param_groups[0]["lr"] = _RATE(step, steps)
        x, v = _laplace(torch.rand(seeds, batch, generator=generator)), torch.rand(seeds, batch, generator=generator)
        codes = Codes(*theta.exp())
        latents = (codes.gain * x).split([len(run) for run in runs])
        noisy = []
        for run, y in zip(runs, latents, strict=True):
            tau = torch.tensor([rows[i][1](step, steps) for i in run]).view(-1, 1, 1)
            noisy.append(rows[run[0]][0](y, tau, noise=v.expand_as(y)))
        seen = torch.cat(noisy)
        loss = _bits(seen, codes.scale) + lmbda * (codes.step * seen - x) ** 2
        adam.zero_grad()
        loss.mean(-1).sum().backward()
        adam.step()
        yield Codes(*(each.detach().exp()[back, :, 0] for each in theta))


def _laplace(v: Tensor) -> Tensor:
    """Samples of mean 0 and standard deviation 1 from uniform ones on [0, 1)."""
    centered = v - 0.5
    return -centered.sign() * torch.log1p(-2 * centered.abs()) * math.sqrt(0.5)


def _bits(y: Tensor, scale: Tensor) -> Tensor:
    """`gaussian_bits` around 0 for training: in float32, and up to 120 bits only, which takes a third of the time."""
    distance, unit = y.abs(), scale * math.sqrt(2)
    mass = torch.erfc((distance - 0.5) / unit) - torch.erfc((distance + 0.5) / unit)
    return 1 - torch.log2(mass.clamp_min(1e-36))


def measure(
    surrogate: Surrogate, temperature: float, codes: Codes, lmbda: float, batch: int = BATCH
) -> tuple[float, float]:
    """Mismatch of the loss, and gradient risk for the gain at this batch size, for one code.

    On a lattice of 32,768 points over source and noise: good to a few per cent. The variance of soft rounding below
    τ = 0.1 is carried by samples rarer than that (and than any that training sees): its risk is NaN there.
    """
    code = ScalarCode(sources.laplace(), float(codes.gain), lmbda, scale=float(codes.scale), step=float(codes.step))
    i = torch.arange(_POINTS, dtype=torch.float64)
    x, v = _laplace((i + 0.5) / _POINTS).numpy(), i * _GOLDEN % 1
    scheme = QuantizationScheme(rate=surrogate, distortion=surrogate)
    rate, distortion, gradient = code.training_losses(scheme, x, (v, v), temperature, "gain")
    tested = code.test_losses(x)
    mismatch = np.mean(rate - tested[0] + lmbda * (distortion - tested[1]))
    bias = gradient.mean() - exact_gradient(code, "gain")
    followed = not isinstance(surrogate, SoftRounding) or temperature >= 0.1
    return float(mismatch), float(bias**2 + gradient.var() / batch) if followed else math.nan


@dataclass(frozen=True, repr=False)
class AnnealingResult(Result):
    """What came of a grid of codes. Losses are with real rounding, less that of the best code there is: excess loss.

    best: the least loss, bits + λ D; constant: excess, float64 (temperatures, seeds), at each constant temperature of
    TEMPERATURES; scheduled: excess, (seeds,), with the chosen schedule; unannealed: the same of noise and of
    straight-through rounding; mismatch, risk: (temperatures,), at the best code (see `measure`). All by surrogate.
    """

    best: float
    constant: dict[str, np.ndarray]
    scheduled: dict[str, np.ndarray]
    unannealed: dict[str, np.ndarray]
    mismatch: dict[str, np.ndarray]
    risk: dict[str, np.ndarray]

    def __str__(self) -> str:
        parts = [f"{name} {_plus_minus(excess)}" for name, excess in (self.scheduled | self.unannealed).items()]
        return f"excess loss, in thousandths: {'; '.join(parts)}"


class AnnealingPanel(PlotPanel):
    """See `annealing_panel`."""

    def __init__(
        self, *, temperature: float, end: float, shape: str, lmbda: float, steps: int, seeds: int, seed: int
    ) -> None:
        self._steps, self._seeds, self._seed = steps, seeds, seed
        self._best: dict[float, tuple[Codes, float]] = {}
        self._measured: dict[tuple[float, str, float], tuple[float, float]] = {}
        self._grid: dict[float, np.ndarray] = {}  # excess losses of the rows that no schedule touches
        super().__init__(
            controls={
                "temperature": choice("temperature τ", TEMPERATURES, temperature),
                "end": choice("τ at the end", TEMPERATURES, end),
                "shape": menu("shape", schedules.SHAPES, shape),
                "lmbda": choice("tradeoff λ", LMBDAS, lmbda),
            },
            plot=_plot(),
        )

    def job(self, settings: Settings) -> Generator[View, None, AnnealingResult]:
        begun = time.perf_counter()
        lmbda = settings["lmbda"]
        schedule = schedules.between(settings["shape"], settings["temperature"], settings["end"])
        shown = self._at_once(lmbda, schedule)

        def view(text: str) -> View:
            return lambda: PlotFrame(dict(shown), 0.0, text, f"The temperature's schedule: {schedule}.")

        yield view("the schedule")
        if lmbda not in self._best:
            self._best[lmbda] = best_code(lmbda)
        code, best = self._best[lmbda]
        for tau in TEMPERATURES[::-1]:
            for name, surrogate in ANNEALED.items():
                if (lmbda, name, tau) not in self._measured:
                    self._measured[lmbda, name, tau] = measure(surrogate, tau, code, lmbda)
                    shown |= self._measures(lmbda)
                    yield view(f"mismatch and risk at τ = {tau:g}")

        rows: list[Row] = [(one, schedule) for one in ANNEALED.values()]
        known = self._grid.get(lmbda)
        if known is None:
            rows += [(one, schedules.constant(tau)) for one in ANNEALED.values() for tau in TEMPERATURES]
            rows += [(one, schedules.constant(1.0)) for one in UNANNEALED.values()]

        def trained(codes: Codes, done: int) -> PlotFrame:
            excess = rounded_loss(codes, lmbda).numpy() - best
            scheduled, grid = excess[: len(ANNEALED)], excess[len(ANNEALED) :] if known is None else known
            shown.update(_losses(scheduled, grid, schedule(done - 1, self._steps)))
            words = f"step {done} of {self._steps}"
            return PlotFrame(dict(shown), done / self._steps, words, _label(scheduled, grid))

        for done, codes in enumerate(train(rows, lmbda, steps=self._steps, seeds=self._seeds, seed=self._seed), 1):
            yield partial(trained, codes, done)
        excess = rounded_loss(codes, lmbda).numpy() - best
        grid = self._grid.setdefault(lmbda, excess[len(ANNEALED) :]) if known is None else known
        scheduled = dict(zip(ANNEALED, excess, strict=False))
        n = len(TEMPERATURES)
        measured = {name: np.array([self._measured[lmbda, name, tau] for tau in TEMPERATURES]).T for name in ANNEALED}
        return AnnealingResult(
            settings=settings,
            losses=np.zeros(0),
            loss=best + min(float(each.mean()) for each in scheduled.values()),
            seconds=time.perf_counter() - begun,
            best=best,
            constant={name: grid[i * n : (i + 1) * n] for i, name in enumerate(ANNEALED)},
            scheduled=scheduled,
            unannealed=dict(zip(UNANNEALED, grid[n * len(ANNEALED) :], strict=True)),
            mismatch={name: values[0] for name, values in measured.items()},
            risk={name: values[1] for name, values in measured.items()},
        )

    def _at_once(self, lmbda: float, schedule: Schedule) -> dict[str, Points]:
        """What can be drawn before anything is computed; all other lines are cleared."""
        shown: dict[str, Points] = dict.fromkeys((f"{name}, your schedule" for name in ANNEALED), ((), (), ()))
        share = np.linspace(0, 1, 101)
        shown["schedule"] = share, [schedule(i, 101) for i in range(101)]
        ends = [schedule.start] * 2 + [math.nan] + [schedule.end] * 2
        for name, (low, high) in (("mismatch", _MISMATCH), ("risk", _RISK)):
            shown[f"chosen τ, {name}"] = ends, [low, high, math.nan, low, high]
        shown |= dict.fromkeys((*ANNEALED, *UNANNEALED), ((), (), ())) | self._measures(lmbda)
        if lmbda in self._grid:
            shown |= _grid_lines(self._grid[lmbda])
        return shown

    def _measures(self, lmbda: float) -> dict[str, Points]:
        """The curves of mismatch and risk, as far as they are known."""
        lines: dict[str, Points] = {}
        for name in ANNEALED:
            known = [
                (tau, *self._measured[key]) for tau in TEMPERATURES if (key := (lmbda, name, tau)) in self._measured
            ]
            taus, mismatch, risk = np.array(known).reshape(-1, 3).T
            followed = np.isfinite(risk)
            lines |= {f"{name}, mismatch": (taus, mismatch), f"{name}, risk": (taus[followed], risk[followed])}
        return lines


_TAU = (TEMPERATURES[0] / 1.15, TEMPERATURES[-1] * 1.15)  # what the axes show
_MISMATCH, _RISK, _EXCESS = (5e-4, 3.0), (0.3, 1e3), (3e-4, 2.0)


def _plot() -> Plot:
    """Four axes; a surrogate has the same color and dash on each, and its points the same symbol."""
    tau, mark = "temperature τ", 4  # the color of what the learner chose

    def curves(what: str) -> list[Line]:
        surrogate = [Line(f"{name}, {what}", color=i, legend=False) for i, name in enumerate(ANNEALED)]
        return [*surrogate, Line(f"chosen τ, {what}", color=mark, dash="dot", legend=False)]

    losses = [
        *(Line(name, color=i) for i, name in enumerate(ANNEALED)),
        *(Line(name, color=5, dash=dash) for name, dash in zip(UNANNEALED, ("longdash", "dot"), strict=True)),
        *(
            Line(f"{name}, your schedule", "markers", i, symbol=symbol, ghost=True, legend=False)
            for i, (name, symbol) in enumerate(zip(ANNEALED, SYMBOLS, strict=False))
        ),
    ]
    schedule = Line("schedule", color=mark, dash="solid", ghost=True, legend=False)
    risk = f"risk of the gain's gradient, batches of {BATCH}"
    plot = Plot(
        [
            Axes(
                "mismatch of the loss, at the best code", tau, "bits", curves("mismatch"), True, True, _TAU, _MISMATCH
            ),
            Axes(risk, tau, "bias² + variance/n", curves("risk"), True, True, _TAU, _RISK),
            Axes("the schedule", "share of the training", tau, [schedule], False, True, (0, 1), _TAU),
            Axes("after training: loss above the best code's", tau, "excess loss", losses, True, True, _TAU, _EXCESS),
        ],
        columns=2,
        width=920,
        height=680,
    )
    for axis in (plot.figure.layout.yaxis, plot.figure.layout.yaxis2, plot.figure.layout.yaxis4):
        axis.dtick = 1  # several decades: a number at each is enough
    return plot


def _grid_lines(grid: np.ndarray) -> dict[str, Points]:
    """Excess loss over the temperature, with standard errors; what is not annealed, as a level line."""
    mean, error = grid.mean(1), _error(grid)
    n, ends = len(TEMPERATURES), (TEMPERATURES[0], TEMPERATURES[-1])
    lines: dict[str, Points] = {
        name: (TEMPERATURES, mean[i * n : (i + 1) * n], error[i * n : (i + 1) * n]) for i, name in enumerate(ANNEALED)
    }
    for i, name in enumerate(UNANNEALED, n * len(ANNEALED)):
        lines[name] = ends, mean[[i, i]], error[[i, i]]
    return lines


def _losses(scheduled: np.ndarray, grid: np.ndarray, tau: float) -> dict[str, Points]:
    """The grid's lines, and the scheduled codes as points at the temperature that they have come to."""
    points: dict[str, Points] = {
        f"{name}, your schedule": ([tau], [each.mean()], [_error(each)])
        for name, each in zip(ANNEALED, scheduled, strict=True)
    }
    return points | _grid_lines(grid)


def _error(excess: np.ndarray) -> np.ndarray:
    """Standard error of the mean over seeds, the last dimension."""
    n = excess.shape[-1]
    return excess.std(-1, ddof=1) / math.sqrt(n) if n > 1 else np.zeros(excess.shape[:-1])


def _plus_minus(excess: np.ndarray) -> str:
    return f"{1000 * excess.mean():.1f} ± {1000 * float(_error(excess)):.1f}"


def _label(scheduled: np.ndarray, grid: np.ndarray) -> str:
    n = len(TEMPERATURES)
    words = []
    for i, (name, each) in enumerate(zip(ANNEALED, scheduled, strict=True)):
        mean = grid[i * n : (i + 1) * n].mean(1)
        words.append(
            f"{name}: {each.mean():.4f} with your schedule, at best {mean.min():.4f} at a constant temperature, "
            f"{TEMPERATURES[int(mean.argmin())]:g}"
        )
    noise, straight = grid[n * len(ANNEALED) :].mean(1)
    return f"Loss above the best code's. {'; '.join(words)}; noise {noise:.4f}, straight-through {straight:.4f}."


def annealing_panel(
    *,
    temperature: float = 0.45,
    end: float = 0.05,
    shape: str = "exponential",
    lmbda: float = 1.5,
    steps: int = 800,
    seeds: int = 6,
    seed: int = 0,
) -> AnnealingPanel:
    """Mismatch, gradient risk and final loss over the temperature, for four annealed surrogates.

    A run trains small codes of a Laplacian source (see the module), all at once: for each surrogate of ANNEALED one
    with the chosen schedule and one at each constant temperature of TEMPERATURES, and one each with noise and with
    straight-through rounding; each with several seeds. The constant ones are trained once for each λ. Losses are with
    real rounding and exact; error bars are standard errors over seeds.

    temperature, end: the schedule's first and last, from TEMPERATURES; shape: its shape, one of constant (which has no
    end), linear, exponential, cosine; lmbda: λ, one of LMBDAS; steps: of Adam, with batches of 64 samples.
    """
    return AnnealingPanel(
        temperature=temperature, end=end, shape=shape, lmbda=lmbda, steps=steps, seeds=seeds, seed=seed
    )

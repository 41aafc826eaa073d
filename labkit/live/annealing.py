"""The annealing panel: mismatch, gradient risk and final loss against the temperature, for codes trained together.

The codes and their training are in `labkit.analysis.scalar_training`.
"""

from __future__ import annotations

import math
from collections.abc import Generator
from dataclasses import dataclass
from functools import partial

import ipywidgets
import numpy as np

from labkit import schedules, surrogates
from labkit.analysis import scalar_training
from labkit.analysis.scalar_training import BATCH_SIZE, Codes, Row, best_code, mismatch_and_risk, rounded_loss
from labkit.live.engine import View
from labkit.live.panel import Result, Settings, choice, menu
from labkit.live.plot import Axes, Line, Plot, PlotFrame, PlotPanel, Points
from labkit.schedules import Schedule
from labkit.statistics import Array
from labkit.theme import SYMBOLS

TEMPERATURES = (0.05, 0.07, 0.1, 0.2, 0.3, 0.45, 1.0)
LMBDAS = (1.5, 3.0, 6.0, 12.0)
ANNEALED = {
    "soft rounding": surrogates.get("soft", noise=True),
    "Gumbel": surrogates.get("sga"),
    "uniform, slope 1": surrogates.get("sua"),
    "uniform, expected slope": surrogates.get("sua", gradient="expected"),
    "uniform, relaxed": surrogates.get("sua", relaxed=True),
}
UNANNEALED = {"noise": surrogates.get("aun"), "straight-through": surrogates.get("ste")}

_TAU = (TEMPERATURES[0] / 1.15, TEMPERATURES[-1] * 1.15)  # range of the τ axes
_MISMATCH, _RISK, _EXCESS = (5e-4, 3.0), (0.3, 1e3), (3e-4, 2.0)
_CHOSEN = 5  # color of the chosen schedule
_COVER = {"x0": 0, "x1": 1, "y0": 0, "y1": 1, "layer": "above", "fillcolor": "#6b7280", "line": {"width": 0}}


@dataclass(frozen=True, repr=False)
class AnnealingResult(Result):
    """Excess losses of a grid of codes: losses with real rounding minus the loss of the best possible code.

    Each dictionary has one entry per surrogate.

    Attributes:
        best: Loss of the best code, bits + λ · D.
        reference: Loss of the best entropy-coded scalar quantizer (ECSQ), which is lower.
        constant: (temperatures, seeds) excess losses at each constant temperature of TEMPERATURES.
        scheduled: (seeds,) excess losses with the chosen schedule.
        unannealed: (seeds,) excess losses of additive noise and of straight-through rounding.
        mismatch: (temperatures,) mismatch of the loss at the best code.
        risk: (temperatures,) gradient risk at the best code; see `labkit.analysis.scalar_training.mismatch_and_risk`.
    """

    best: float
    reference: float
    constant: dict[str, Array]
    scheduled: dict[str, Array]
    unannealed: dict[str, Array]
    mismatch: dict[str, Array]
    risk: dict[str, Array]

    def __str__(self) -> str:
        parts = [f"{name} {_plus_minus(excess)}" for name, excess in (self.scheduled | self.unannealed).items()]
        gap = 1000 * (self.best - self.reference)
        return f"excess loss, in thousandths: {'; '.join(parts)}; the best code is {gap:.1f} above ECSQ"


class AnnealingPanel(PlotPanel):
    """Mismatch, gradient risk and final loss against the temperature, for five annealed surrogates.

    A run trains small codes of a Laplacian source, all at once. For each surrogate in ANNEALED, it trains one code with
    the chosen schedule and one code at each constant temperature in TEMPERATURES. Additive noise and straight-through
    rounding have one code each. Every code has several seeds. The codes at constant temperatures are trained only once
    per λ. All losses are exact losses with real rounding, and error bars are standard errors over seeds.

    If `covered` is True, the plots of the risk and of the final loss are hidden at first. A button, or `uncover`, shows
    the next one, so that a learner can predict it first.

    Args:
        temperature: First temperature of the schedule, one of TEMPERATURES.
        end: Last temperature of the schedule, one of TEMPERATURES; a constant schedule ignores it.
        shape: Shape of the schedule: "constant", "linear", "exponential" or "cosine".
        lmbda: Weight λ of the distortion, one of LMBDAS.
        steps: Number of Adam steps, each with batches of 64 samples.
        seeds: Number of seeds per code.
        seed: Seed of the samples and the noise.
        covered: Whether the plots of the risk and of the final loss are hidden at first.
    """

    def __init__(
        self,
        *,
        temperature: float = 0.45,
        end: float = 0.05,
        shape: str = "exponential",
        lmbda: float = 1.5,
        steps: int = 800,
        seeds: int = 6,
        seed: int = 0,
        covered: bool = False,
    ) -> None:
        self._steps, self._seeds, self._seed = steps, seeds, seed
        self._best: dict[float, tuple[Codes, float]] = {}
        self._measured: dict[tuple[float, str, float], tuple[float, float]] = {}
        self._grid: dict[float, Array] = {}  # by λ: excess losses of the codes at constant temperatures
        super().__init__(
            controls={
                "temperature": choice("temperature τ", TEMPERATURES, temperature),
                "end": choice("τ at the end", TEMPERATURES, end),
                "shape": menu("shape", schedules.SHAPES, shape),
                "lmbda": choice("tradeoff λ", LMBDAS, lmbda),
            },
            plot=_plot(),
        )
        if covered:
            for axes in (2, 4):
                place = {"xref": f"x{axes} domain", "yref": f"y{axes} domain"}
                text = {"text": "Predict this plot, then uncover it.", "font": {"color": "#ffffff", "size": 14}}
                self.plot.figure.add_shape(type="rect", **place, **_COVER, label=text)
            button = ipywidgets.Button(description="Uncover the next plot", layout={"width": "max-content"})
            button.on_click(lambda _: self.uncover())
            self._uncover_button = button
            self.widget.children = (button, *self.widget.children)

    def uncover(self) -> None:
        """Show the next covered plot, if there is one."""
        with self.engine.lock:
            covers = self.plot.figure.layout.shapes
            self.plot.figure.layout.shapes = covers[1:]
            if len(covers) == 1:
                self._uncover_button.disabled = True

    def job(self, settings: Settings) -> Generator[View, None, AnnealingResult]:
        """Measure the surrogates at the best code, then train the codes."""
        lmbda = settings["lmbda"]
        schedule = schedules.between(settings["shape"], settings["temperature"], settings["end"])
        shown = self._first_lines(lmbda, schedule)

        def view(text: str) -> View:
            return lambda: PlotFrame(dict(shown), 0.0, text, f"The temperature's schedule: {schedule}.")

        yield view("the schedule")
        if lmbda not in self._best:
            self._best[lmbda] = best_code(lmbda)
        code, best = self._best[lmbda]
        for tau in TEMPERATURES[::-1]:
            for name, surrogate in ANNEALED.items():
                if (lmbda, name, tau) not in self._measured:
                    self._measured[lmbda, name, tau] = mismatch_and_risk(surrogate, tau, code, lmbda)
                    shown |= self._measures(lmbda)
                    yield view(f"mismatch and risk at τ = {tau:g}")

        rows: list[Row] = [(surrogate, schedule) for surrogate in ANNEALED.values()]
        trained_grid = self._grid.get(lmbda)
        if trained_grid is None:
            rows += [(surrogate, schedules.constant(tau)) for surrogate in ANNEALED.values() for tau in TEMPERATURES]
            rows += [(surrogate, schedules.constant(1.0)) for surrogate in UNANNEALED.values()]

        def frame(codes: Codes, done: int) -> PlotFrame:
            excess = rounded_loss(codes, lmbda).numpy() - best
            scheduled = excess[: len(ANNEALED)]
            grid = excess[len(ANNEALED) :] if trained_grid is None else trained_grid
            shown.update(_loss_lines(scheduled, grid, schedule(done - 1, self._steps)))
            text = f"step {done} of {self._steps}"
            return PlotFrame(dict(shown), done / self._steps, text, _label(scheduled, grid))

        training = scalar_training.train_codes(rows, lmbda, steps=self._steps, seeds=self._seeds, seed=self._seed)
        for done, codes in enumerate(training, 1):
            yield partial(frame, codes, done)
        excess = rounded_loss(codes, lmbda).numpy() - best
        grid = self._grid.setdefault(lmbda, excess[len(ANNEALED) :]) if trained_grid is None else trained_grid
        scheduled = dict(zip(ANNEALED, excess, strict=False))
        n = len(TEMPERATURES)
        measured = {name: np.array([self._measured[lmbda, name, tau] for tau in TEMPERATURES]).T for name in ANNEALED}
        return AnnealingResult(
            settings=settings,
            loss=best + min(float(losses.mean()) for losses in scheduled.values()),
            best=best,
            reference=scalar_training.best_quantizer(lmbda).loss.total,
            constant={name: grid[i * n : (i + 1) * n] for i, name in enumerate(ANNEALED)},
            scheduled=scheduled,
            unannealed=dict(zip(UNANNEALED, grid[n * len(ANNEALED) :], strict=True)),
            mismatch={name: values[0] for name, values in measured.items()},
            risk={name: values[1] for name, values in measured.items()},
        )

    def _first_lines(self, lmbda: float, schedule: Schedule) -> dict[str, Points]:
        """Return the lines that need no computation; all other lines are cleared."""
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
        """Return the curves of mismatch and risk at the temperatures that have been measured."""
        lines: dict[str, Points] = {}
        for name in ANNEALED:
            measured = [
                (tau, *self._measured[key]) for tau in TEMPERATURES if (key := (lmbda, name, tau)) in self._measured
            ]
            taus, mismatch, risk = np.array(measured).reshape(-1, 3).T
            resolved = np.isfinite(risk)
            lines |= {f"{name}, mismatch": (taus, np.abs(mismatch)), f"{name}, risk": (taus[resolved], risk[resolved])}
        return lines


def _plot() -> Plot:
    """Return a plot with four axes. A surrogate has the same color, dash and symbol on all of them."""
    tau = "temperature τ"

    def curves(quantity: str) -> list[Line]:
        lines = [Line(f"{name}, {quantity}", color=i, legend=False) for i, name in enumerate(ANNEALED)]
        return [*lines, Line(f"chosen τ, {quantity}", color=_CHOSEN, dash="dot", legend=False)]

    losses = [
        *(Line(name, color=i) for i, name in enumerate(ANNEALED)),
        *(Line(name, color=5, dash=dash) for name, dash in zip(UNANNEALED, ("longdash", "dot"), strict=True)),
        *(
            Line(f"{name}, your schedule", "markers", i, symbol=symbol, ghost=True, legend=False)
            for i, (name, symbol) in enumerate(zip(ANNEALED, SYMBOLS, strict=False))
        ),
    ]
    schedule = Line("schedule", color=_CHOSEN, dash="solid", ghost=True, legend=False)
    risk = f"risk of the gain's gradient, batches of {BATCH_SIZE}"
    plot = Plot(
        [
            Axes(
                "size of the mismatch, at the best code", tau, "|bits|", curves("mismatch"), True, True, _TAU, _MISMATCH
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
        axis.dtick = 1  # the axes span several decades, so one number per decade is enough
    return plot


def _grid_lines(grid: Array) -> dict[str, Points]:
    """Return excess losses against the temperature with standard errors; other surrogates become horizontal lines."""
    mean, error = grid.mean(1), _standard_error(grid)
    n, ends = len(TEMPERATURES), (TEMPERATURES[0], TEMPERATURES[-1])
    lines: dict[str, Points] = {
        name: (TEMPERATURES, mean[i * n : (i + 1) * n], error[i * n : (i + 1) * n]) for i, name in enumerate(ANNEALED)
    }
    for i, name in enumerate(UNANNEALED, n * len(ANNEALED)):
        lines[name] = ends, mean[[i, i]], error[[i, i]]
    return lines


def _loss_lines(scheduled: Array, grid: Array, tau: float) -> dict[str, Points]:
    """Return the lines of the grid, and the scheduled codes as points at their current temperature."""
    points: dict[str, Points] = {
        f"{name}, your schedule": ([tau], [excess.mean()], [_standard_error(excess)])
        for name, excess in zip(ANNEALED, scheduled, strict=True)
    }
    return points | _grid_lines(grid)


def _standard_error(excess: Array) -> Array:
    """Return the standard error of the mean over seeds, the last dimension."""
    n = excess.shape[-1]
    return excess.std(-1, ddof=1) / math.sqrt(n) if n > 1 else np.zeros(excess.shape[:-1])


def _plus_minus(excess: Array) -> str:
    return f"{1000 * excess.mean():.1f} ± {1000 * float(_standard_error(excess)):.1f}"


def _label(scheduled: Array, grid: Array) -> str:
    n = len(TEMPERATURES)
    parts = []
    for i, (name, excess) in enumerate(zip(ANNEALED, scheduled, strict=True)):
        mean = grid[i * n : (i + 1) * n].mean(1)
        parts.append(
            f"{name}: {excess.mean():.4f} with your schedule, {mean.min():.4f} at the best constant temperature, "
            f"{TEMPERATURES[int(mean.argmin())]:g}"
        )
    noise, straight_through = grid[n * len(ANNEALED) :].mean(1)
    return (
        f"Loss above the best code's. {'; '.join(parts)}; noise {noise:.4f}, straight-through {straight_through:.4f}."
    )

"""The mismatch panel: what a surrogate makes of one Gaussian latent, in training and at test, at one σ and over σ."""

from __future__ import annotations

import math
import time
from collections.abc import Generator
from dataclasses import astuple, dataclass

import numpy as np
import torch
from scipy.special import ndtr

from labkit import surrogates
from labkit.analysis import gaussian_bits
from labkit.live.engine import View
from labkit.live.panel import Result, Settings, choice, menu
from labkit.live.plot import Axes, Line, Plot, PlotFrame, PlotPanel

SURROGATES = tuple(name for name in surrogates.names() if name != "round")  # which cannot train, and has ste's values
SCALES = (0.05, 0.07, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.7, 1.0, 1.5, 2.0)
TEMPERATURES = (0.1, 0.2, 0.35, 0.5, 0.7, 1.0)

_GRID = np.geomspace(0.04, 3, 28)  # σ of the curves
_PHASES, _DRAWS = 512, 256
_REACH = 8  # standard deviations that are counted
_SIDE, _FINE = 3.5, 128  # of the densities on show: from −3.5 to 3.5, in steps of 1/128
_HIGHEST = 2.2  # densities above are cut off
_Y, _TRAINING, _TEST = 2, 1, 0  # colors


@dataclass(frozen=True)
class AtScale:
    """Rate in bits and mean squared error, in training and at test."""

    rate_training: float
    rate_test: float
    distortion_training: float
    distortion_test: float


@dataclass(frozen=True)
class _Law:
    """What a surrogate makes of a latent in [0, 1); in other bins it does the same, since it has no other landmarks.

    masses: (phases, 3 · phases + 1), the law of ỹ for each phase, on a grid from −1 to 2; error: E(ỹ − y)² a phase.
    """

    masses: np.ndarray
    error: np.ndarray

    @staticmethod
    def of(name: str, temperature: float) -> _Law:
        surrogate, n = surrogates.get(name), _PHASES
        phase = _phases()[:, None]
        if surrogate.random:  # each phase's draws are evenly spaced, and shifted against its neighbor's
            shift = np.modf(np.arange(n) * (math.sqrt(5) - 1) / 2)[0]
            v = (np.arange(_DRAWS) + shift[:, None]) / _DRAWS
            phase = np.repeat(phase, _DRAWS, axis=1)
            values = surrogate(torch.from_numpy(phase), temperature, noise=torch.from_numpy(v)).numpy()
        else:
            values = surrogate(torch.from_numpy(phase), temperature).numpy()
        place = (values + 1) * n  # each value is shared out between the two grid points around it
        below = np.floor(place).astype(np.int64)
        share = (place - below) / values.shape[1]
        cell = below + np.arange(n)[:, None] * (3 * n + 1)
        masses = np.bincount(cell.ravel(), 1 / values.shape[1] - share.ravel(), n * (3 * n + 1) + 1)
        masses += np.bincount(cell.ravel() + 1, share.ravel(), len(masses))
        return _Law(masses[:-1].reshape(n, 3 * n + 1), ((values - phase) ** 2).mean(1))

    def law(self, scale: float) -> tuple[np.ndarray, np.ndarray]:
        """ỹ on a grid, and its masses there, for a Gaussian latent of mean 0 and this scale."""
        weights, n = _weights(scale), _PHASES
        masses = np.zeros((len(weights) + 2) * n + 1)
        for k, part in enumerate(weights @ self.masses):
            masses[k * n : (k + 3) * n + 1] += part
        return np.arange(len(masses)) / n - len(weights) // 2 - 1, masses

    def loss(self, scale: float) -> AtScale:
        """Of that latent, under the entropy model that fits it: the same Gaussian, integrated over a bin."""
        weights, phase = _weights(scale), _phases()
        y, masses = self.law(scale)
        k, test = _test_law(scale)
        rates = [float(p[p > 0] @ _bits(at[p > 0], scale)) for at, p in ((y, masses), (k, test))]
        errors = [float((weights @ each).sum()) for each in (self.error, np.minimum(phase, 1 - phase) ** 2)]
        return AtScale(*rates, *errors)


def _phases() -> np.ndarray:
    return (np.arange(_PHASES) + 0.5) / _PHASES


def _weights(scale: float) -> np.ndarray:
    """Probability of every bin (rows, from below to above zero) and phase (columns): the midpoint rule."""
    k = np.arange(-math.ceil(_REACH * scale), math.ceil(_REACH * scale))
    density = np.exp(-0.5 * ((k[:, None] + _phases()) / scale) ** 2)
    return density / density.sum()


def _test_law(scale: float) -> tuple[np.ndarray, np.ndarray]:
    k = np.arange(-math.ceil(_REACH * scale), math.ceil(_REACH * scale) + 1.0)
    return k, ndtr((0.5 - np.abs(k)) / scale) - ndtr((-0.5 - np.abs(k)) / scale)


def _bits(y: np.ndarray, scale: float) -> np.ndarray:
    zero, sigma = torch.zeros((), dtype=torch.float64), torch.tensor(scale, dtype=torch.float64)
    return gaussian_bits(torch.from_numpy(y), zero, sigma).numpy()


@dataclass(frozen=True, repr=False)
class MismatchResult(Result):
    """Rates in bits, distortions in squared steps; `loss` is not a number, since no λ is chosen.

    here: at the chosen σ; curve: float64 (σ, 5), each row σ and the four numbers of `here`.
    """

    here: AtScale
    curve: np.ndarray

    @property
    def rate(self) -> float:
        """Mismatch of the rate, training less test, in bits."""
        return self.here.rate_training - self.here.rate_test

    @property
    def distortion(self) -> float:
        """Mismatch of the squared error, training less test."""
        return self.here.distortion_training - self.here.distortion_test

    def __str__(self) -> str:
        here = self.here
        return (
            f"rate {here.rate_training:.3f} bits in training, {here.rate_test:.3f} at test: "
            f"mismatch {_signed(self.rate)}; 12·distortion {12 * here.distortion_training:.3f} and "
            f"{12 * here.distortion_test:.3f}: mismatch {_signed(12 * self.distortion)}"
        )


class MismatchPanel(PlotPanel):
    """See `mismatch_panel`."""

    def __init__(self, *, surrogate: str, scale: float, temperature: float) -> None:
        self._laws: dict[tuple[str, float], _Law] = {}  # only the newest: one takes 6 MB
        self._curves: dict[tuple[str, float], list[list[float]]] = {}
        over_sigma = {"x": "scale σ", "log_x": True, "range_x": (_GRID[0], _GRID[-1])}
        curves = [
            Axes(title, y=y, **over_sigma, lines=_lines(what), range_y=limits)  # type: ignore[arg-type]
            for title, y, what, limits in (
                ("rate over σ", "bits", "rate", (0, 5)),
                ("distortion over σ", "12 × squared error", "distortion", (0, 2.6)),
            )
        ]
        super().__init__(
            controls={
                "surrogate": menu("surrogate", SURROGATES, surrogate),
                "scale": choice("scale σ", SCALES, scale),
                "temperature": choice("temperature τ", TEMPERATURES, temperature),
            },
            plot=Plot(
                [
                    Axes(
                        "densities, and masses at the integers",
                        x="latent",
                        y="density, or mass",
                        range_x=(-_SIDE, _SIDE),
                        range_y=(0, _HIGHEST),
                        lines=[
                            Line("ŷ at test, masses", mode="bars", color=_TEST),
                            Line("ỹ in training, masses", mode="bars", color=_TRAINING),
                            Line("ỹ in training", color=_TRAINING, dash="dash"),
                            Line("y", color=_Y, dash="dot"),
                        ],
                    ),
                    Axes(
                        "at the chosen σ",
                        y="bits, or 12 × squared error",
                        lines=[
                            Line("at test", mode="bars", color=_TEST, legend=False),
                            Line("in training", mode="bars", color=_TRAINING, legend=False),
                        ],
                    ),
                    *curves,
                ],
                columns=2,
                width=900,
                height=620,
            ),
        )

    def job(self, settings: Settings) -> Generator[View, None, MismatchResult]:
        begun = time.perf_counter()
        name, scale = settings["surrogate"], settings["scale"]
        annealed = surrogates.get(name).annealed
        key = name, settings["temperature"] if annealed else 1.0
        if key not in self._laws:
            self._laws = {key: _Law.of(*key)}
        law = self._laws[key]
        here = law.loss(scale)
        rows = self._curves.setdefault(key, [])
        said = f"{name} at τ = {key[1]:g}" if annealed else f"{name}, in which τ has no say"
        still = self._at(law, scale, here)

        def view() -> PlotFrame:
            words = f"σ {len(rows)} of {len(_GRID)}"
            return PlotFrame(still | _curves(rows), len(rows) / len(_GRID), words, _in_words(said, scale, here))

        yield view
        for sigma in _GRID[len(rows) :]:
            rows.append([sigma, *astuple(law.loss(sigma))])
            yield view
        return MismatchResult(
            settings=settings,
            losses=np.zeros(0),
            loss=math.nan,
            seconds=time.perf_counter() - begun,
            here=here,
            curve=np.array(rows),
        )

    def _at(self, law: _Law, scale: float, here: AtScale) -> dict[str, tuple]:
        """What depends on the chosen σ: densities, masses, bars, and the points on the curves."""
        x = np.arange(-_SIDE, _SIDE, 1 / _FINE)
        y, masses = law.law(scale)
        k, test = _test_law(scale)
        shown = np.abs(k) < _SIDE
        at_integers = np.round(masses[::_PHASES], 12)
        integer = at_integers.sum() > 1 - 1e-6
        density = np.histogram(y + 0.5 / _PHASES, bins=np.append(x, _SIDE), weights=masses * _FINE)[0]
        places = ["rate", "12 × distortion"]
        pairs = [(here.rate_training, here.rate_test), (here.distortion_training, here.distortion_test)]
        bars = list(zip(pairs[0], (12 * each for each in pairs[1]), strict=True))
        inside = np.abs(y[::_PHASES]) < _SIDE
        nothing = np.zeros(0), np.zeros(0)
        return {
            "y": (x, np.exp(-0.5 * (x / scale) ** 2) / (scale * math.sqrt(2 * math.pi))),
            "ỹ in training": nothing if integer else (x + 0.5 / _FINE, density),
            "ỹ in training, masses": (y[::_PHASES][inside], at_integers[inside]) if integer else nothing,
            "ŷ at test, masses": (k[shown], test[shown]),
            "in training": (places, bars[0]),
            "at test": (places, bars[1]),
            "rate, chosen σ": ([scale, scale], pairs[0]),
            "distortion, chosen σ": ([scale, scale], [12 * each for each in pairs[1]]),
        }


def _lines(what: str) -> list[Line]:
    return [
        Line(f"{what}, training", color=_TRAINING, dash="dash", ghost=True, legend=False),
        Line(f"{what}, test", color=_TEST, dash="solid", legend=False),
        Line(f"{what}, chosen σ", mode="markers", color=_Y, symbol="diamond", legend=False),
    ]


def _curves(rows: list[list[float]]) -> dict[str, tuple]:
    sigma, *losses = np.array(rows).reshape(-1, 5).T
    names = ("rate, training", "rate, test", "distortion, training", "distortion, test")
    return {
        name: (sigma, 12 * loss if name.startswith("distortion") else loss)
        for name, loss in zip(names, losses, strict=True)
    }


def _signed(value: float) -> str:
    return f"{round(value, 3) + 0.0:+.3f}"  # what rounds to zero has no minus


def _in_words(said: str, scale: float, here: AtScale) -> str:
    cut = f"; densities are cut off at {_HIGHEST:g}" if 0.4 / scale > _HIGHEST else ""
    return (
        f"{said}; σ = {scale:g}. The rate is {here.rate_training:.2f} bits in training and {here.rate_test:.2f} at "
        f"test, 12 × distortion {12 * here.distortion_training:.2f} and {12 * here.distortion_test:.2f}{cut}."
    )


def mismatch_panel(*, surrogate: str = "aun", scale: float = 0.2, temperature: float = 0.5) -> MismatchPanel:
    """One Gaussian latent of mean 0 and scale σ under the entropy model that fits it, in training and at test.

    Above: the density of y, the law of ỹ that training sees, and the masses of ŷ = ⌊y⌉; rate and distortion as bars.
    Below: both over σ, in training and at test, with the chosen σ marked; the run before stays in gray. Rates are in
    bits, distortions E(ỹ − y)² in twelfths of a squared step, which is what rounding costs at high rate.

    Numbers come from 512 phases of the latent in its bin and 256 evenly spaced draws for each, which is quick and right
    to about 0.3% of a rate (`labkit.analysis.mismatch` is exact and slow). surrogate, scale and temperature are taken
    from SURROGATES, SCALES and TEMPERATURES; where a surrogate is not annealed, τ has no say.
    """
    return MismatchPanel(surrogate=surrogate, scale=scale, temperature=temperature)

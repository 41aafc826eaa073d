"""The mismatch panel: one Gaussian latent in training and at test, at one scale σ and against σ.

The laws of the latent are in `labkit.analysis.latent_laws`.
"""

from __future__ import annotations

import math
from collections.abc import Generator
from dataclasses import astuple, dataclass

import numpy as np

from labkit import surrogates
from labkit.analysis.latent_laws import BinLaw, LatentLosses, test_law
from labkit.live.engine import View
from labkit.live.panel import Result, Settings, choice, menu
from labkit.live.plot import Axes, Line, Plot, PlotFrame, PlotPanel, Points
from labkit.statistics import Array

SURROGATES = tuple(name for name in surrogates.names() if name != "round")  # equals ste in value, but cannot train
SCALES = (0.05, 0.07, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.7, 1.0, 1.5, 2.0)
TEMPERATURES = (0.1, 0.2, 0.35, 0.5, 0.7, 1.0)

_GRID = np.geomspace(0.04, 3, 28)  # values of σ for the curves
_SIDE, _FINE = 3.5, 128  # the density plot covers −3.5 to 3.5 in steps of 1/128
_HIGHEST = 2.2  # upper end of the density plot
_Y, _TRAINING, _TEST = 2, 1, 0  # colors
_NOTHING = np.zeros(0), np.zeros(0)


@dataclass(frozen=True, repr=False)
class MismatchResult(Result):
    """Rates in bits and distortions in squared steps. `loss` is NaN, because no λ is chosen.

    Attributes:
        here: Rate and distortion at the chosen σ.
        curve: (σ, 5) rows of σ and the four numbers of `here`.
    """

    here: LatentLosses
    curve: Array

    @property
    def rate(self) -> float:
        """Mismatch of the rate, training minus test, in bits."""
        return self.here.rate_training - self.here.rate_test

    @property
    def distortion(self) -> float:
        """Mismatch of the squared error, training minus test, in squared steps."""
        return self.here.distortion_training - self.here.distortion_test

    def __str__(self) -> str:
        here = self.here
        return (
            f"rate {here.rate_training:.3f} bits in training, {here.rate_test:.3f} at test: "
            f"mismatch {_signed(self.rate)}; 12·distortion {12 * here.distortion_training:.3f} and "
            f"{12 * here.distortion_test:.3f}: mismatch {_signed(12 * self.distortion)}"
        )


class MismatchPanel(PlotPanel):
    """One Gaussian latent with mean 0 and scale σ under the matching entropy model, in training and at test.

    The upper plots show the density of y, the law of ỹ in training, the probabilities of ŷ = ⌊y⌉, and the rate and the
    distortion as bars. The lower plots show both against σ, in training and at test, with the chosen σ marked; the
    previous run stays in gray. Rates are in bits. Distortions E(ỹ − y)² are in twelfths of a squared step, which is the
    error of rounding at a high rate.

    The law of ỹ is computed on a lattice of positions in the bin and of draws. This is fast, and rates are accurate to
    about 0.3%; `labkit.analysis.mismatch` is exact and slow.

    Args:
        surrogate: Name of the surrogate, one of SURROGATES.
        scale: Scale σ of the latent, one of SCALES.
        temperature: Temperature τ, one of TEMPERATURES. It has no effect on a surrogate that is not annealed.
    """

    def __init__(self, *, surrogate: str = "aun", scale: float = 0.2, temperature: float = 0.5) -> None:
        self._laws: dict[tuple[str, float], BinLaw] = {}  # holds only the newest, because a law takes several megabytes
        self._curves: dict[tuple[str, float], list[list[float]]] = {}
        over_sigma = {"x": "scale σ", "log_x": True, "range_x": (_GRID[0], _GRID[-1])}
        curves = [
            Axes(title, y=y, **over_sigma, lines=_lines(quantity), range_y=limits)  # type: ignore[arg-type]
            for title, y, quantity, limits in (
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
        """Compute the losses at the chosen σ, then the curves over σ."""
        name, scale = settings["surrogate"], settings["scale"]
        annealed = surrogates.get(name).annealed
        key = name, settings["temperature"] if annealed else 1.0
        if key not in self._laws:
            self._laws = {key: BinLaw.on_lattice(*key)}
        law = self._laws[key]
        here = law.losses(scale)
        rows = self._curves.setdefault(key, [])
        title = f"{name} at τ = {key[1]:g}" if annealed else f"{name}, which does not depend on τ"
        still = _lines_at(law, scale, here)

        def view() -> PlotFrame:
            text = f"σ {len(rows)} of {len(_GRID)}"
            return PlotFrame(still | _curves(rows), len(rows) / len(_GRID), text, _label(title, scale, here))

        yield view
        for sigma in _GRID[len(rows) :]:
            rows.append([sigma, *astuple(law.losses(float(sigma)))])
            yield view
        return MismatchResult(
            settings=settings,
            here=here,
            curve=np.array(rows),
        )


def _lines_at(bin_law: BinLaw, scale: float, here: LatentLosses) -> dict[str, Points]:
    """Return the lines that depend on the chosen σ: densities, probabilities, bars, and the points on the curves."""
    x = np.arange(-_SIDE, _SIDE, 1 / _FINE)
    training, test = bin_law.law(scale), test_law(scale)
    k = np.arange(-math.floor(_SIDE), math.floor(_SIDE) + 1.0)
    integer = np.abs(training.values - np.round(training.values)).max() < 1e-9
    density = np.histogram(training.values, bins=np.append(x, _SIDE), weights=training.weights * _FINE)[0]
    masses, test_masses = (
        np.histogram(law.values, bins=np.append(k - 0.5, k[-1] + 0.5), weights=law.weights)[0]
        for law in (training, test)
    )
    places = ["rate", "12 × distortion"]
    rates = here.rate_training, here.rate_test
    distortions = 12 * here.distortion_training, 12 * here.distortion_test
    return {
        "y": (x, np.exp(-0.5 * (x / scale) ** 2) / (scale * math.sqrt(2 * math.pi))),
        "ỹ in training": _NOTHING if integer else (x + 0.5 / _FINE, density),
        "ỹ in training, masses": (k, masses) if integer else _NOTHING,
        "ŷ at test, masses": (k, test_masses),
        "in training": (places, (rates[0], distortions[0])),
        "at test": (places, (rates[1], distortions[1])),
        "rate, chosen σ": ([scale, scale], rates),
        "distortion, chosen σ": ([scale, scale], distortions),
    }


def _lines(quantity: str) -> list[Line]:
    return [
        Line(f"{quantity}, training", color=_TRAINING, dash="dash", ghost=True, legend=False),
        Line(f"{quantity}, test", color=_TEST, dash="solid", legend=False),
        Line(f"{quantity}, chosen σ", mode="markers", color=_Y, symbol="diamond", legend=False),
    ]


def _curves(rows: list[list[float]]) -> dict[str, Points]:
    sigma, *losses = np.array(rows).reshape(-1, 5).T
    names = ("rate, training", "rate, test", "distortion, training", "distortion, test")
    return {
        name: (sigma, 12 * loss if name.startswith("distortion") else loss)
        for name, loss in zip(names, losses, strict=True)
    }


def _signed(value: float) -> str:
    return f"{round(value, 3) + 0.0:+.3f}"  # adding 0.0 removes the minus sign of a rounded zero


def _label(title: str, scale: float, here: LatentLosses) -> str:
    cut = f"; densities above {_HIGHEST:g} are cut off" if 0.4 / scale > _HIGHEST else ""
    return (
        f"{title}; σ = {scale:g}. The rate is {here.rate_training:.2f} bits in training and {here.rate_test:.2f} at "
        f"test, 12 × distortion {12 * here.distortion_training:.2f} and {12 * here.distortion_test:.2f}{cut}."
    )

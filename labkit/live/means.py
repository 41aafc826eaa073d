"""The means panel: the gradient with respect to μ, path by path, and its effect on a small code that learns μ.

The gradients and the training are in `labkit.analysis.mean_training`.
"""

from __future__ import annotations

import math
from collections.abc import Generator
from dataclasses import dataclass
from functools import partial

import numpy as np

from labkit import surrogates
from labkit.analysis import mean_training
from labkit.analysis.mean_training import PATHS, WAYS, Curves, exact_gradients, gradient_moments, schemes_of_ways
from labkit.checks import check_at_least, check_name, check_positive
from labkit.live.engine import View
from labkit.live.panel import Result, Settings, choice, menu, switch
from labkit.live.plot import Axes, Line, Plot, PlotFrame, PlotPanel, Points
from labkit.statistics import Array
from labkit.surrogates import Surrogate

SURROGATES: dict[str, Surrogate] = {
    "ste": surrogates.get("ste"),
    "aun": surrogates.get("aun"),
    "sua, slope 1": surrogates.get("sua"),
    "sua, expected slope": surrogates.get("sua", gradient="expected"),
    "soft with noise": surrogates.get("soft", noise=True),
    "sga": surrogates.get("sga"),
}
TEMPERATURES = (0.1, 0.15, 0.2, 0.3, 0.5, 1.0)

_BATCH_SIZE = 64  # number of latents in the mean gradient that the error bars describe


@dataclass(frozen=True, repr=False)
class MeansResult(Result):
    """The gradient of μ in a fixed code, and the losses of codes that were trained in three ways.

    Ways have the order of `labkit.analysis.mean_training.WAYS`, and paths have the order of `PATHS`.

    Attributes:
        gradient: (ways, paths, 2) mean and variance of one latent's gradient over draws.
        exact: (paths,) gradient of the test loss.
        test: (ways, seeds) test losses of the trained codes with real rounding.
        mismatch: (ways, seeds) λ times the difference of the distortions in training and at test.
    """

    gradient: Array
    exact: Array
    test: Array
    mismatch: Array

    def saves(self, way: str, other: str) -> tuple[float, float]:
        """Return how much lower the test loss of one way is than the test loss of another.

        Args:
            way: Name of one way.
            other: Name of the other way.

        Returns:
            Mean difference over seeds, and its standard error.

        Raises:
            ValueError: If a name is unknown.
        """
        for name in (way, other):
            check_name("way", name, WAYS)
        differences = self.test[list(WAYS).index(other)] - self.test[list(WAYS).index(way)]
        return float(differences.mean()), float(differences.std(ddof=1) / math.sqrt(len(differences)))

    def __str__(self) -> str:
        saved, error = self.saves("y − μ, stop", "y − μ")
        effect = f"saves {saved:.3f} ± {error:.3f}" if saved or error else "changes nothing"
        text = f"rounded test loss {_by_way(self.test)}; the stop {effect}."
        return f"{text} {_remark(self.settings)}".strip()


class MeansPanel(PlotPanel):
    """The gradient with respect to the mean μ, by path, and codes that learn μ with and without this gradient.

    The surrogate is used on the distortion path, and the rate path uses additive noise. The upper plots show a scalar
    code whose μ is off by a quarter of a bin: a standard normal source, a gain of ½, and λ = 6. They show the gradient
    of μ for the chosen switches next to the exact gradient of the test loss, and the variance of one latent's gradient
    in all three ways: quantizing y, y − μ, and y − μ with the partial stop-gradient. The lower plots show a code whose
    μ and σ are the outputs of a small network that reads side information. It is trained in the three ways at once, on
    the same samples and noise, with several seeds; the plots show means over seeds.

    The stop-gradient needs zero-center: without it, μ is not on the distortion path. If zero-center is off, the panel
    says so and ignores the stop-gradient.

    Args:
        surrogate: Name of the surrogate, one of SURROGATES.
        temperature: Temperature τ, one of TEMPERATURES.
        zero_center: Whether the scheme quantizes y − μ.
        stop_gradient: Whether the distortion path treats μ as a constant.
        lmbda: Weight λ of the distortion for the trained codes.
        steps: Number of Adam steps.
        seeds: Number of codes per way, at least 2.
        seed: Seed of the weights, the samples and the noise.

    Raises:
        ValueError: If an argument is invalid.
    """

    def __init__(
        self,
        *,
        surrogate: str = "soft with noise",
        temperature: float = 0.2,
        zero_center: bool = True,
        stop_gradient: bool = False,
        lmbda: float = 3.0,
        steps: int = 300,
        seeds: int = 6,
        seed: int = 0,
    ) -> None:
        check_name("surrogate", surrogate, SURROGATES)
        check_positive(lmbda=lmbda)
        check_at_least(1, steps=steps)
        check_at_least(2, seeds=seeds)
        check_at_least(0, seed=seed)
        self._lmbda, self._steps, self._seeds, self._seed = lmbda, steps, seeds, seed
        self._gradients: dict[tuple[str, float], Array] = {}
        self._trained: dict[tuple[str, float], Curves] = {}  # does not depend on the switches
        self._exact = exact_gradients()
        super().__init__(
            controls={
                "surrogate": menu("surrogate", list(SURROGATES), surrogate),
                "temperature": choice("temperature τ", TEMPERATURES, temperature),
                "zero_center": switch("zero-center", zero_center),
                "stop_gradient": switch("stop-gradient", stop_gradient),
            },
            plot=Plot(
                [
                    Axes(
                        f"gradient of μ: {_BATCH_SIZE} latents, mean ± one standard deviation",
                        y="loss per bin",
                        lines=[Line("training", mode="bars", color=3), Line("exact", mode="bars", color=4)],
                    ),
                    Axes(
                        "variance of one latent's gradient",
                        y="(loss per bin)²",
                        lines=[Line(f"{way}: variance", mode="bars", legend=False) for way in WAYS],
                    ),
                    Axes(
                        "a code that learns μ: test loss",
                        x="step",
                        y="bits + λ · error",
                        lines=[Line(way, ghost=True) for way in WAYS],
                    ),
                    Axes(
                        "λ · (error in training − at test)",
                        x="step",
                        y="loss",
                        lines=[Line(f"{way}: mismatch", legend=False) for way in WAYS],
                    ),
                ],
                columns=2,
                width=900,
                height=640,
            ),
        )

    def job(self, settings: Settings) -> Generator[View, None, MeansResult]:
        """Measure the gradients, then train the codes in three ways."""
        surrogate = SURROGATES[settings["surrogate"]]
        temperature = settings["temperature"] if surrogate.annealed else 1.0
        key = (settings["surrogate"], temperature)
        schemes = schemes_of_ways(surrogate)
        if key not in self._gradients:
            self._gradients[key] = gradient_moments(schemes, temperature, self._seed)
        gradient = self._gradients[key]
        bars = self._bars(settings, gradient)
        yield lambda: PlotFrame(bars, 0.0, _remark(settings), self._label(settings, gradient))
        if key not in self._trained:
            training = mean_training.train_codes(
                schemes, temperature, self._lmbda, self._steps, self._seeds, self._seed
            )
            for curves in training:
                yield partial(self._halfway, settings, bars, curves)
            self._trained[key] = curves
        curves = self._trained[key]
        label = self._label(settings, gradient, curves)
        yield lambda: PlotFrame({**bars, **_lines(curves)}, 1.0, _remark(settings), label)
        chosen = _chosen_way(settings)
        return MeansResult(
            settings=settings,
            losses=curves.test[chosen].mean(0),
            loss=float(curves.test[chosen, :, -1].mean()),
            gradient=gradient,
            exact=self._exact,
            test=curves.test[..., -1],
            mismatch=curves.mismatch[..., -1],
        )

    def _halfway(self, settings: Settings, bars: dict[str, Points], curves: Curves) -> PlotFrame:
        text = f"step {curves.step} of {self._steps}. {_remark(settings)}".strip()
        return PlotFrame({**bars, **_lines(curves)}, curves.step / self._steps, text)

    def _bars(self, settings: Settings, gradient: Array) -> dict[str, Points]:
        mean, variance = gradient[_chosen_way(settings)].T
        spread = np.sqrt(variance / _BATCH_SIZE)
        variances = {f"{way}: variance": (PATHS, gradient[i, :, 1]) for i, way in enumerate(WAYS)}
        return {"training": (PATHS, mean, spread), "exact": (PATHS, self._exact), **variances}

    def _label(self, settings: Settings, gradient: Array, curves: Curves | None = None) -> str:
        way = _chosen_way(settings)
        (rate, rate_variance), (distortion, variance), _ = gradient[way]
        text = (
            f"Quantizing {list(WAYS)[way]}: the rate's gradient of μ is {rate:.2f} (exact: {self._exact[0]:.2f}), and "
            f"the distortion's is {distortion:.2f} (exact: {self._exact[1]:.2f}); the variances of one latent's "
            f"gradient are {rate_variance:.3g} and {variance:.3g}."
        )
        if curves is not None:
            text += f" The trained codes end at a test loss of {_by_way(curves.test[..., -1])}."
        return f"{text} {_remark(settings)}".strip()


def _chosen_way(settings: Settings) -> int:
    """Return the index of the way that the switches select; the stop-gradient has an effect only with zero-center."""
    switches = settings["zero_center"], settings["zero_center"] and settings["stop_gradient"]
    return list(WAYS.values()).index(switches)


def _by_way(losses: Array) -> str:
    return ", ".join(f"{loss:.3f} ({way})" for way, loss in zip(WAYS, losses.mean(1), strict=True))


def _remark(settings: Settings) -> str:
    if settings["stop_gradient"] and not settings["zero_center"]:
        return "Above, the stop changes no gradient: without zero-center μ is not on the distortion path."
    return ""


def _lines(curves: Curves) -> dict[str, Points]:
    tests = {way: (curves.steps, curves.test[i].mean(0)) for i, way in enumerate(WAYS)}
    return tests | {f"{way}: mismatch": (curves.steps, curves.mismatch[i].mean(0)) for i, way in enumerate(WAYS)}

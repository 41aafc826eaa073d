"""The risk panel: gradient estimates next to the exact gradient, and bias² and variance/n against the temperature.

The simulation and the quadrature are in `labkit.analysis.worked_example`.
"""

from __future__ import annotations

import math
from collections.abc import Generator
from dataclasses import dataclass
from functools import partial

import numpy as np

from labkit import surrogates
from labkit.analysis import exact_gradient, worked_example
from labkit.analysis.code import ScalarCode
from labkit.live.engine import View
from labkit.live.panel import Result, Settings, choice, menu
from labkit.live.plot import Axes, Line, Plot, PlotFrame, PlotPanel
from labkit.statistics import Array

SURROGATES = {
    "aun": surrogates.get("aun"),
    "ste": surrogates.get("ste"),
    "sr": surrogates.get("sr"),
    "sua, identity slope": surrogates.get("sua"),
    "sua, expected slope": surrogates.get("sua", gradient="expected"),
    "soft, with noise": surrogates.get("soft", noise=True),
    "sga": surrogates.get("sga"),
}
TEMPERATURES = (0.1, 0.15, 0.25, 0.35, 0.5, 0.7, 1.0)
GAINS = (0.3, 0.5, 0.7, 1.0, 1.7)
LMBDAS = (2.0, 6.0, 20.0)
BATCH_SIZES = (1, 4, 16, 64, 256, 1024, 4096)
BATCHES = 200

_LOW = 1e-6  # lower end of the plot of bias² and variance/n
_Curve = dict[float, tuple[float, float]]  # mean and standard deviation of one sample's gradient, for each τ


@dataclass(frozen=True, repr=False)
class RiskResult(Result):
    """A surrogate's gradient with respect to the gain, compared with the exact one. `loss` is the risk bias² + std²/n.

    Attributes:
        exact: Gradient of the test loss.
        mean: Mean of the returned gradient, by quadrature.
        std: Standard deviation of one sample's gradient, by quadrature.
        estimates: (200,) simulated gradients, one per batch.
        temperatures: (7,) temperatures of the curves.
        biases: (7,) bias at each temperature.
        stds: (7,) standard deviation of one sample's gradient at each temperature.
    """

    exact: float
    mean: float
    std: float
    estimates: Array
    temperatures: Array
    biases: Array
    stds: Array

    @property
    def bias(self) -> float:
        """Mean of the returned gradient minus the exact gradient."""
        return self.mean - self.exact

    @property
    def best_temperature(self) -> float:
        """The temperature on the curve with the lowest risk at this batch size."""
        risks = self.biases**2 + self.stds**2 / self.settings["batch_size"]
        return float(self.temperatures[risks.argmin()])

    def __str__(self) -> str:
        n = self.settings["batch_size"]
        bias = f"{self.bias:+.3f}" if abs(self.bias) >= 5e-4 else "0.000"
        square = f"{self.bias**2:#.3g}" if self.bias**2 >= 1e-4 * self.loss else "0"
        return (
            f"exact {self.exact:.3f}, bias {bias}, std of one sample {self.std:#.3g}: "
            f"bias² {square} + variance/{n} {self.std**2 / n:#.3g} = risk {self.loss:#.3g}"
        )


class RiskPanel(PlotPanel):
    """Gradient estimates for the code of the worked example, y = g x with a standard normal x.

    The left plot shows 200 estimates of ∂ loss/∂ g, each the mean over a batch of n samples, with their mean and
    spread, and the exact gradient of the rounded loss as a line. The height of a dot has no meaning. The right plot
    shows bias², variance/n and their sum against the temperature, by quadrature. The decoder and the entropy model are
    matched to the gain and held fixed. The panel does not train anything.

    Much of the variance of sga, and of soft rounding at a small τ, comes from rare samples. A simulation of these
    surrogates, as in the left plot, therefore usually has a smaller spread than the curve shows.

    Args:
        surrogate: Name of the surrogate, one of SURROGATES.
        temperature: Temperature τ, one of TEMPERATURES.
        gain: Gain g of the encoder, one of GAINS.
        lmbda: Weight λ of the distortion, one of LMBDAS.
        batch_size: Number n of samples per batch, one of BATCH_SIZES.
    """

    def __init__(
        self,
        *,
        surrogate: str = "sua, identity slope",
        temperature: float = 0.5,
        gain: float = 0.5,
        lmbda: float = 6.0,
        batch_size: int = 64,
    ) -> None:
        self._moments: dict[tuple[str, float, float, float], tuple[float, float]] = {}  # by surrogate, gain, λ and τ
        super().__init__(
            controls={
                "surrogate": menu("surrogate", tuple(SURROGATES), surrogate),
                "temperature": choice("temperature τ", TEMPERATURES, temperature),
                "gain": choice("gain g", GAINS, gain),
                "lmbda": choice("tradeoff λ", LMBDAS, lmbda),
                "batch_size": choice("batch size n", BATCH_SIZES, batch_size),
            },
            plot=Plot(
                [
                    Axes(
                        f"{BATCHES} batches",
                        x="∂ loss / ∂ g",
                        range_y=(-0.35, 1.05),
                        lines=[
                            Line("one batch", mode="markers"),
                            Line("exact", dash="solid"),
                            Line("their mean ± std", mode="lines+markers", dash="solid"),
                        ],
                    ),
                    Axes(
                        "squared error over τ",
                        x="temperature τ",
                        log_x=True,
                        log_y=True,
                        range_x=(0.09, 1.12),
                        range_y=(_LOW, 1e5),
                        lines=[
                            Line("bias²", color=3, dash="dash", ghost=True),
                            Line("variance/n", color=4, dash="dot", ghost=True),
                            Line("risk", color=0, dash="solid", ghost=True),
                            Line("at τ", mode="markers", color=0, symbol="diamond"),
                        ],
                    ),
                ],
                columns=2,
                height=380,
            ),
        )
        figure = self.plot.figure
        figure.update_traces(marker={"size": 5, "opacity": 0.5}, selector={"name": "one batch"})
        figure.update_yaxes(showticklabels=False, row=1, col=1)  # the height of a dot has no meaning
        figure.update_yaxes(dtick=2, exponentformat="power", tickformat="", row=1, col=2)
        figure.update_xaxes(tickvals=[0.1, 0.15, 0.25, 0.5, 1], row=1, col=2)

    def job(self, settings: Settings) -> Generator[View, None, RiskResult]:
        """Simulate the batches, then integrate bias and variance at every temperature."""
        temperature, n = settings["temperature"], settings["batch_size"]
        code = worked_example.code(settings["gain"], settings["lmbda"])
        exact = exact_gradient(code)

        surrogate = SURROGATES[settings["surrogate"]]
        view: View
        for estimates in worked_example.batch_gradients(code, surrogate, temperature, n, BATCHES):
            view = partial(_cloud_frame, estimates, exact, n)
            yield view

        curve: _Curve = {}
        for tau in sorted(TEMPERATURES, key=lambda tau: (tau != temperature, -tau)):
            curve[tau] = yield from self._quadrature(code, settings["surrogate"], tau, view)
            view = partial(_curve_frame, dict(curve), estimates, exact, settings)
            yield view

        taus = np.array(sorted(curve))
        mean, std = curve[temperature]
        return RiskResult(
            settings=settings,
            loss=(mean - exact) ** 2 + std**2 / n,
            exact=exact,
            mean=mean,
            std=std,
            estimates=estimates,
            temperatures=taus,
            biases=np.array([curve[tau][0] for tau in taus]) - exact,
            stds=np.array([curve[tau][1] for tau in taus]),
        )

    def _quadrature(
        self, code: ScalarCode, name: str, temperature: float, view: View
    ) -> Generator[View, None, tuple[float, float]]:
        """Return the mean and standard deviation of one sample's gradient, integrated in parts that can be canceled."""
        surrogate = SURROGATES[name]
        temperature = temperature if surrogate.annealed else 1.0  # the laws of all others do not depend on τ
        key = (name, code.gain, code.lmbda, temperature)
        if key not in self._moments:
            for mean, square in worked_example.partial_moments(code, surrogate, temperature):
                moments = mean, math.sqrt(square - mean**2)
                yield view
            self._moments[key] = moments
        return self._moments[key]


def _cloud_frame(estimates: Array, exact: float, n: int) -> PlotFrame:
    # golden-ratio steps fill the height evenly, and a dot keeps its place when others are added
    height = np.arange(len(estimates)) * 0.618034 % 1
    mean, std = estimates.mean(), estimates.std()
    return PlotFrame(
        {
            "one batch": (estimates, height),
            "exact": ([exact, exact], [-0.35, 1.05]),
            "their mean ± std": ([mean - std, mean, mean + std], [-0.2, -0.2, -0.2]),
        },
        progress=0.3 * len(estimates) / BATCHES,
        text=f"batch {len(estimates)} of {BATCHES}",
        label=f"{len(estimates)} estimates from batches of {n}: mean {mean:.3g}, standard deviation {std:.3g}; "
        f"the exact gradient is {exact:.3f}.",
    )


def _curve_frame(curve: _Curve, estimates: Array, exact: float, settings: Settings) -> PlotFrame:
    taus = sorted(curve)
    mean, std = np.array([curve[tau] for tau in taus]).T
    bias, variance = (mean - exact) ** 2, std**2 / settings["batch_size"]
    now = taus.index(settings["temperature"])
    cloud = _cloud_frame(estimates, exact, settings["batch_size"])  # its last frame may not have been shown
    sentences = [
        cloud.label,
        f"By quadrature at τ = {taus[now]:g}: bias² {bias[now]:.2g}, variance/n {variance[now]:.2g}.",
    ]
    if not SURROGATES[settings["surrogate"]].annealed:
        sentences.append("This surrogate does not depend on τ.")
    elif bias.max() < _LOW:
        sentences.append("bias² lies below the plot.")
    return PlotFrame(
        {
            **cloud.lines,
            "bias²": (taus, bias),
            "variance/n": (taus, variance),
            "risk": (taus, bias + variance),
            "at τ": ([taus[now]] * 3, [bias[now], variance[now], bias[now] + variance[now]]),
        },
        progress=0.3 + 0.7 * len(curve) / len(TEMPERATURES),
        text=f"τ {len(curve)} of {len(TEMPERATURES)}",
        label=" ".join(sentences),
    )

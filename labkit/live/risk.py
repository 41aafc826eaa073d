"""The risk panel: a cloud of gradient estimates beside the gradient they are after, and bias² and variance/n over τ."""

from __future__ import annotations

import math
import time
from collections.abc import Generator
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
from scipy import stats

from labkit import surrogates
from labkit.analysis import ScalarCode, exact_gradient, sources
from labkit.analysis.risk import gradient_given
from labkit.live.engine import View
from labkit.live.panel import Result, Settings, choice, menu
from labkit.live.plot import Axes, Line, Plot, PlotFrame, PlotPanel
from labkit.schemes import QuantizationScheme
from labkit.surrogates import Surrogate

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

_SAMPLES = 20_000  # of the cloud between two looks at whether anybody still wants it
_NODES = 1000  # of the quadrature's source, likewise; fewer at a time take nearly as long
_LOW = 1e-6  # where the plot of bias² and variance/n begins
_Curve = dict[float, tuple[float, float]]  # mean and std of one sample's gradient, by τ


@dataclass(frozen=True, repr=False)
class RiskResult(Result):
    """A surrogate's gradient against the exact one, by quadrature, and 200 estimates by simulation.

    exact, mean: of ∂ℓ/∂gain; std: of one sample's gradient; `loss` is the risk, bias² + std²/n. estimates: the batches'
    gradients, (200,). temperatures, biases, stds: the curves over τ, (7,); bias and std are theirs at the current τ.
    """

    exact: float
    mean: float
    std: float
    estimates: np.ndarray
    temperatures: np.ndarray
    biases: np.ndarray
    stds: np.ndarray

    @property
    def bias(self) -> float:
        return self.mean - self.exact

    @property
    def best_temperature(self) -> float:
        """The τ on the curve whose risk is least at this batch size."""
        risks = self.biases**2 + self.stds**2 / self.settings["batch_size"]
        return float(self.temperatures[risks.argmin()])

    def __str__(self) -> str:
        n = self.settings["batch_size"]
        return (
            f"exact {self.exact:.3f}, bias {self.bias:+.3f}, std of one sample {self.std:.3g}: "
            f"bias² {self.bias**2:.3g} + variance/{n} {self.std**2 / n:.3g} = risk {self.loss:.3g}"
        )


class RiskPanel(PlotPanel):
    """See `risk_panel`."""

    def __init__(self, *, surrogate: str, temperature: float, gain: float, lmbda: float, batch_size: int) -> None:
        self._moments: dict[tuple, tuple[float, float]] = {}  # mean and std, by surrogate, gain, λ and τ
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
        figure.update_yaxes(showticklabels=False, row=1, col=1)  # the height of a dot means nothing
        figure.update_yaxes(dtick=2, exponentformat="power", tickformat="", row=1, col=2)
        figure.update_xaxes(tickvals=[0.1, 0.15, 0.25, 0.5, 1], row=1, col=2)

    def job(self, settings: Settings) -> Generator[View, None, RiskResult]:
        start = time.perf_counter()
        one, temperature, n = SURROGATES[settings["surrogate"]], settings["temperature"], settings["batch_size"]
        code = ScalarCode(sources.gaussian(), gain=settings["gain"], lmbda=settings["lmbda"])
        exact = exact_gradient(code)

        estimates = np.zeros(0)
        view: View
        for estimates in _clouds(code, one, temperature, n):
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
            losses=np.zeros(0),
            loss=(mean - exact) ** 2 + std**2 / n,
            seconds=time.perf_counter() - start,
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
        """Mean and standard deviation of one sample's gradient, with a chance to stop now and then."""
        same = temperature if SURROGATES[name].annealed else 1.0  # the law of the others knows no τ
        key = (name, code.gain, code.lmbda, same)
        if key not in self._moments:
            # source, laws and loss are even: |x| tells all, in half the time
            half = replace(code, source=stats.halfnorm())
            scheme = QuantizationScheme(rate=SURROGATES[name], distortion=SURROGATES[name])
            x, weight = half.nodes(same, (half.center,))
            mean = square = 0.0
            for part in np.array_split(np.arange(len(x)), -(-len(x) // _NODES)):
                given_x, variance = gradient_given(half, scheme, x[part], "gain", same)
                mean += float(weight[part] @ given_x)
                square += float(weight[part] @ (variance + given_x**2))
                yield view
            self._moments[key] = mean, math.sqrt(square - mean**2)
        return self._moments[key]


def risk_panel(
    *,
    surrogate: str = "sua, identity slope",
    temperature: float = 0.5,
    gain: float = 0.5,
    lmbda: float = 6.0,
    batch_size: int = 64,
) -> RiskPanel:
    """Gradient estimates for the code of the worked example, y = g x with a standard normal x, at every setting.

    On the left 200 estimates of ∂ loss/∂ g, each the mean over a batch of n samples, their mean and spread, and the
    exact gradient of the rounded loss as a line; on the right bias², variance/n and their sum over τ, by quadrature.
    Decoder and entropy model fit the gain and are held fixed. The height of a dot means nothing. All arguments are
    taken from the controls' values: SURROGATES, TEMPERATURES, GAINS, LMBDAS, BATCH_SIZES. Nothing is trained.

    Rare samples carry much of the variance of soft rounding at small τ and of sga: a simulation of these, as on the
    left, usually spreads less than the curve says.
    """
    return RiskPanel(surrogate=surrogate, temperature=temperature, gain=gain, lmbda=lmbda, batch_size=batch_size)


def _clouds(code: ScalarCode, one: Surrogate, temperature: float, n: int) -> Generator[np.ndarray, None, None]:
    """The batches' gradients, ever more of them; from the same samples x whatever the surrogate."""
    scheme = QuantizationScheme(rate=one, distortion=one)
    rng, generator = np.random.default_rng(0), torch.Generator().manual_seed(0)
    at_once = max(1, min(BATCHES, _SAMPLES // n))
    estimates = np.zeros(0)
    while len(estimates) < BATCHES:
        x = np.asarray(code.source.rvs(size=at_once * n, random_state=rng))
        noise = scheme.draw(torch.as_tensor(x), generator)
        gradient = code.training_losses(scheme, x, noise, temperature, "gain")[2]
        estimates = np.append(estimates, gradient.reshape(at_once, n).mean(1))[:BATCHES]
        yield estimates


def _cloud_frame(estimates: np.ndarray, exact: float, n: int) -> PlotFrame:
    # golden-ratio steps fill the height evenly, and a dot stays where it is when others join it
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


def _curve_frame(curve: _Curve, estimates: np.ndarray, exact: float, settings: Settings) -> PlotFrame:
    taus = sorted(curve)
    mean, std = np.array([curve[tau] for tau in taus]).T
    bias, variance = (mean - exact) ** 2, std**2 / settings["batch_size"]
    now = taus.index(settings["temperature"])
    cloud = _cloud_frame(estimates, exact, settings["batch_size"])  # its own last frame may not have been shown
    words = [
        cloud.label,
        f"By quadrature at τ = {taus[now]:g}: bias² {bias[now]:.2g}, variance/n {variance[now]:.2g}.",
    ]
    if not SURROGATES[settings["surrogate"]].annealed:
        words.append("This surrogate does not depend on τ.")
    elif bias.max() < _LOW:
        words.append("bias² lies below the plot.")
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
        label=" ".join(words),
    )

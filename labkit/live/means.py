"""The means panel: the gradient that reaches μ, path by path, and what it does to a small code that has to learn μ."""

from __future__ import annotations

import math
import time
from collections.abc import Generator, Iterator
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
from compressai.ops import LowerBound
from torch import Tensor

from labkit import surrogates
from labkit.analysis import ScalarCode, exact_gradient, gaussian_bits, sources
from labkit.checks import check_at_least, check_name, check_positive
from labkit.live.engine import View
from labkit.live.panel import Result, Settings, choice, menu, switch
from labkit.live.plot import Axes, Line, Plot, PlotFrame, PlotPanel
from labkit.schemes import QuantizationScheme
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
WAYS = {"y": (False, False), "y − μ": (True, False), "y − μ, stop": (True, True)}  # zero_center, stop_gradient
PATHS = ("rate", "λ · distortion", "both")

_CODE = ScalarCode(sources.gaussian(), gain=0.5, mean=0.25)  # λ = 6; μ is a quarter of a bin off
_DRAWS, _BATCH = 16384, 64  # of the gradient's moments; latents whose mean gradient the error bar is for
_TEST, _EVERY, _LR = 1000, 10, 1e-2  # latents a seed that are tested, after so many steps; Adam's rate at the start
_QUIET, _SHARE = 0.1, 0.7  # the standard deviation of most samples around what c tells of them; others have 1


@dataclass(frozen=True, repr=False)
class MeansResult(Result):
    """The gradient at μ of a fixed code, and the losses of the codes trained in three ways, in the order of WAYS.

    gradient: mean and variance of one latent's gradient over draws, float64 (way, path, 2) in the order of PATHS;
    exact: of the test loss, (path,). test: rounded test loss of the trained codes, (way, seed); mismatch: λ times the
    distortion that training sees less that of the test, (way, seed).
    """

    gradient: np.ndarray
    exact: np.ndarray
    test: np.ndarray
    mismatch: np.ndarray

    def saves(self, way: str, other: str) -> tuple[float, float]:
        """By how much `way` has the lower test loss than `other`, and the standard error of that, paired by seeds."""
        for name in (way, other):
            check_name("way", name, WAYS)
        falls = self.test[list(WAYS).index(other)] - self.test[list(WAYS).index(way)]
        return float(falls.mean()), float(falls.std(ddof=1) / math.sqrt(len(falls)))

    def __str__(self) -> str:
        saved, error = self.saves("y − μ, stop", "y − μ")
        said = f"rounded test loss {_by_way(self.test)}; the stop saves {saved:.3f} ± {error:.3f}."
        return f"{said} {_remark(self.settings)}".strip()


class MeansPanel(PlotPanel):
    """See `means_panel`."""

    def __init__(
        self,
        *,
        surrogate: str,
        temperature: float,
        zero_center: bool,
        stop_gradient: bool,
        lmbda: float,
        steps: int,
        seeds: int,
        seed: int,
    ) -> None:
        check_name("surrogate", surrogate, SURROGATES)
        check_positive(lmbda=lmbda)
        check_at_least(1, steps=steps)
        check_at_least(2, seeds=seeds)
        check_at_least(0, seed=seed)
        self._lmbda, self._steps, self._seeds, self._seed = lmbda, steps, seeds, seed
        self._gradients: dict[tuple[str, float], np.ndarray] = {}
        self._trained: dict[tuple[str, float], Curves] = {}  # a switch changes none of them
        whole = exact_gradient(_CODE, "mean")
        rate = exact_gradient(replace(_CODE, lmbda=0.0), "mean")
        self._exact = np.array([rate, whole - rate, whole])
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
                        f"gradient of μ: {_BATCH} latents, mean ± one standard deviation",
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
        start = time.perf_counter()
        surrogate = SURROGATES[settings["surrogate"]]
        temperature = settings["temperature"] if surrogate.annealed else 1.0
        key = (settings["surrogate"], temperature)
        if key not in self._gradients:
            self._gradients[key] = gradients(_schemes(surrogate), temperature, self._seed)
        gradient = self._gradients[key]
        bars = self._bars(settings, gradient)
        yield lambda: PlotFrame(bars, 0.0, _remark(settings), self._label(settings, gradient))
        if key not in self._trained:
            for curves in train(_schemes(surrogate), temperature, self._lmbda, self._steps, self._seeds, self._seed):
                yield partial(self._halfway, settings, bars, curves)
            self._trained[key] = curves
        curves = self._trained[key]
        label = self._label(settings, gradient, curves)
        yield lambda: PlotFrame({**bars, **_lines(curves)}, 1.0, _remark(settings), label)
        chosen = list(WAYS).index(_way(settings))
        return MeansResult(
            settings=settings,
            losses=curves.test[chosen].mean(0),
            loss=float(curves.test[chosen, :, -1].mean()),
            seconds=time.perf_counter() - start,
            gradient=gradient,
            exact=self._exact,
            test=curves.test[..., -1],
            mismatch=curves.mismatch[..., -1],
        )

    def _halfway(self, settings: Settings, bars: dict[str, tuple], curves: Curves) -> PlotFrame:
        words = f"step {curves.step} of {self._steps}. {_remark(settings)}".strip()
        return PlotFrame({**bars, **_lines(curves)}, curves.step / self._steps, words)

    def _bars(self, settings: Settings, gradient: np.ndarray) -> dict[str, tuple]:
        mean, variance = gradient[list(WAYS).index(_way(settings))].T
        spread = np.sqrt(variance / _BATCH)
        every = {f"{way}: variance": (PATHS, gradient[i, :, 1]) for i, way in enumerate(WAYS)}
        return {"training": (PATHS, mean, spread), "exact": (PATHS, self._exact), **every}

    def _label(self, settings: Settings, gradient: np.ndarray, curves: Curves | None = None) -> str:
        way = _way(settings)
        (rate, rate_variance), (distortion, variance), _ = gradient[list(WAYS).index(way)]
        said = (
            f"Quantizing {way}, the gradient of μ is {rate:.2f} by the rate, exactly {self._exact[0]:.2f}, and "
            f"{distortion:.2f} by the distortion, exactly {self._exact[1]:.2f}; the variance of one latent's is "
            f"{rate_variance:.3g} and {variance:.3g}."
        )
        if curves is not None:
            said += f" Trained codes end at a test loss of {_by_way(curves.test[..., -1])}."
        return f"{said} {_remark(settings)}".strip()


def means_panel(
    *,
    surrogate: str = "soft with noise",
    temperature: float = 0.2,
    zero_center: bool = True,
    stop_gradient: bool = False,
    lmbda: float = 3.0,
    steps: int = 300,
    seeds: int = 6,
    seed: int = 0,
) -> MeansPanel:
    """The gradient that reaches the mean μ, by path, and codes that learn μ with and without it.

    The surrogate stands on the distortion path; the rate has additive noise. Above: the gradient of μ in a scalar code
    whose μ is a quarter of a bin off (a standard normal source, gain ½, λ = 6), beside the exact gradient of the test
    loss, for what the switches say; and the variance of one latent's gradient in all three ways: quantizing y, y − μ,
    and y − μ with the partial stop. Below: a code whose μ and σ are the outputs of a small network that reads side
    information, trained in the three ways at once, on the same samples and noise, from several seeds; shown are means.

    The stop needs zero-center: without it μ is not on the distortion path. With that switch off the panel says so, and
    ignores the stop. surrogate and temperature are taken from SURROGATES and TEMPERATURES; lmbda: of the trained codes;
    seeds: how many of each way. Raises ValueError for what is not among them, or out of range.
    """
    return MeansPanel(
        surrogate=surrogate,
        temperature=temperature,
        zero_center=zero_center,
        stop_gradient=stop_gradient,
        lmbda=lmbda,
        steps=steps,
        seeds=seeds,
        seed=seed,
    )


def gradients(schemes: list[QuantizationScheme], temperature: float, seed: int = 0) -> np.ndarray:
    """Mean and variance of one latent's gradient at μ, over samples and noise: float64 (scheme, path, 2), as PATHS."""
    uniform = torch.rand(_DRAWS, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    x = np.asarray(_CODE.source.ppf(uniform.numpy().clip(1e-12)))
    noise = schemes[0].draw(torch.as_tensor(x), torch.Generator().manual_seed(seed + 1))
    moments = np.zeros((len(schemes), len(PATHS), 2))
    for i, scheme in enumerate(schemes):
        rate, distortion = (
            _CODE.training_losses(scheme, x, noise, temperature, "mean", (path,))[2] for path in ("rate", "distortion")
        )
        for j, values in enumerate((rate, distortion, rate + distortion)):
            moments[i, j] = values.mean(), values.var(ddof=1)
    return moments


@dataclass(frozen=True)
class Curves:
    """Codes in training: rounded test loss and λ times the distortion's mismatch, (scheme, seed, tested step)."""

    step: int  # the last one
    steps: np.ndarray
    test: np.ndarray
    mismatch: np.ndarray


def train(
    schemes: list[QuantizationScheme], temperature: float, lmbda: float, steps: int, seeds: int, seed: int = 0
) -> Iterator[Curves]:
    """Train codes whose μ and σ a small network reads off side information c, one a scheme and seed, all at once.

        x = 2 sin(1.5 c₀) + c₁ + noise whose scale c₂ tells ─► y = gain · x ─► ỹ ─► x̂ = step · ỹ
                                                 c ─► 16 tanh units ─► μ, log σ

    Every scheme has the same start, samples and noise. Yields the curves after each step.
    """
    generator = torch.Generator().manual_seed(seed)
    weights = _start(len(schemes), seeds, generator)
    optimizer = torch.optim.Adam(weights.values(), lr=_LR)
    bound = LowerBound(schemes[0].scale_lower_bound)
    held_out = torch.Generator().manual_seed(seed + 1_000_000)
    c_test, x_test = _samples(seeds, _TEST, held_out)
    noise_test = schemes[0].draw(x_test, held_out)
    at, test, gaps = [], [], []
    for step in range(1, steps + 1):
        c, x = _samples(seeds, 128, generator)
        rate, distortion = _losses(weights, bound, c, x, schemes, temperature, schemes[0].draw(x, generator))
        optimizer.param_groups[0]["lr"] = 0.5 * _LR * (1 + math.cos(math.pi * (step - 1) / steps))
        optimizer.zero_grad()
        (rate + lmbda * distortion).sum().backward()
        optimizer.step()
        if step % _EVERY == 0 or step in (1, steps):
            with torch.no_grad():
                tested = _losses(weights, bound, c_test, x_test)
                _, seen = _losses(weights, bound, c_test, x_test, schemes, temperature, noise_test)
            at.append(step)
            test.append((tested[0] + lmbda * tested[1]).numpy())
            gaps.append((lmbda * (seen - tested[1])).numpy())
        yield Curves(step, np.array(at), np.stack(test, -1), np.stack(gaps, -1))


def _start(ways: int, seeds: int, generator: torch.Generator) -> dict[str, Tensor]:
    """Parameters, (way, seed, …), the same for every way."""

    def normal(scale: float, *shape: int) -> Tensor:
        return scale * torch.randn(1, seeds, *shape, generator=generator)

    weights = {
        "in": normal(3**-0.5, 3, 16),
        "in_bias": torch.zeros(1, seeds, 1, 16),
        "out": normal(0.1, 16, 2),
        "out_bias": torch.zeros(1, seeds, 1, 2),
        "log_gain": torch.zeros(1, seeds, 1, 1),
        "log_step": torch.zeros(1, seeds, 1, 1),
    }
    return {name: value.repeat(ways, 1, 1, 1).requires_grad_() for name, value in weights.items()}


def _samples(seeds: int, n: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Side information c, (seed, n, 3), and samples x, (seed, n, 1)."""
    c = torch.randn(seeds, n, 3, generator=generator)
    quiet = torch.rand(seeds, n, generator=generator) < _SHARE
    c[..., 2] = torch.where(quiet, -1.0, 1.0)
    scale = torch.where(quiet, _QUIET, 1.0)
    x = 2 * torch.sin(1.5 * c[..., 0]) + c[..., 1] + scale * torch.randn(seeds, n, generator=generator)
    return c, x[..., None]


def _losses(
    weights: dict[str, Tensor],
    bound: LowerBound,
    c: Tensor,
    x: Tensor,
    schemes: list[QuantizationScheme] | None = None,
    temperature: float = 1.0,
    noise: tuple[Tensor | None, Tensor | None] = (None, None),
) -> tuple[Tensor, Tensor]:
    """Rate and squared error, (way, seed): as each way's scheme sees them, or with real rounding without schemes."""
    out = torch.tanh(c @ weights["in"] + weights["in_bias"]) @ weights["out"] + weights["out_bias"]
    mean, scale = out[..., :1], bound(out[..., 1:].exp())
    y = weights["log_gain"].exp() * x
    if schemes is None:
        y_rate = y_distortion = torch.round(y - mean) + mean
    else:
        pairs = [scheme.quantize(y[i], mean[i], temperature, noise=noise) for i, scheme in enumerate(schemes)]
        y_rate, y_distortion = (torch.stack(each) for each in zip(*pairs, strict=True))
    rate = gaussian_bits(y_rate, mean, scale)
    return rate.mean((2, 3)), (weights["log_step"].exp() * y_distortion - x).square().mean((2, 3))


def _schemes(surrogate: Surrogate) -> list[QuantizationScheme]:
    """The surrogate on the distortion path and noise on the rate path, in every one of WAYS."""
    return [
        QuantizationScheme(distortion=surrogate, zero_center=zero_center, stop_gradient=stop_gradient)
        for zero_center, stop_gradient in WAYS.values()
    ]


def _way(settings: Settings) -> str:
    """Which of WAYS the switches say; the stop counts only with zero-center."""
    wanted = settings["zero_center"], settings["zero_center"] and settings["stop_gradient"]
    return next(way for way, switches in WAYS.items() if switches == wanted)


def _by_way(losses: np.ndarray) -> str:
    return ", ".join(f"{loss:.3f} ({way})" for way, loss in zip(WAYS, losses.mean(1), strict=True))


def _remark(settings: Settings) -> str:
    if settings["stop_gradient"] and not settings["zero_center"]:
        return "The stop does nothing here: without zero-center μ is not on the distortion path."
    return ""


def _lines(curves: Curves) -> dict[str, tuple]:
    tests = {way: (curves.steps, curves.test[i].mean(0)) for i, way in enumerate(WAYS)}
    return tests | {f"{way}: mismatch": (curves.steps, curves.mismatch[i].mean(0)) for i, way in enumerate(WAYS)}

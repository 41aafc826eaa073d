"""The bound panel: what a lower bound on σ does to the rate of one latent, and to the rate of the shipped codec."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Generator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from labkit import datasets, evaluation, networks, surrogates, training
from labkit.analysis import gaussian_bits
from labkit.analysis.scale_bound import LIKELIHOOD_BOUND, Law, test_law, training_law
from labkit.checks import check_at_least, check_name
from labkit.live.engine import View
from labkit.live.panel import Result, Settings, choice, menu
from labkit.live.plot import Axes, Line, Plot, PlotFrame, PlotPanel, Points
from labkit.schemes import first_stage

BOUNDS = (0.02, 0.05, 0.11, 0.15, 0.2, 0.3, 0.5, 0.7, 1.0)
SURROGATES = ("aun", "sua", "soft", "ste")
TEMPERATURES = (0.1, 0.2, 0.35, 0.5, 0.7, 1.0)
CODECS = ("measure", "retrain")

_SCALES = np.geomspace(0.02, 1.0, 24)  # of the curves over σ
_EDGES = np.geomspace(0.02, 10.0, 41)  # of the histogram; what lies beyond goes into the outermost bins
_RATES, _SHARES = (0.0, 2.2), (0.0, 9.0)  # ranges of the axes


@dataclass(frozen=True)
class _Latents:
    """What a codec's entropy model was given for the test photographs, and what came of it.

    residuals, scales: y − μ and the predicted σ of every latent, float32, one photograph after the other; counts:
    latents of each photograph, pixels: of each; bound: of the codec; losses: its rounded losses, (photographs, 2).
    """

    residuals: Tensor
    scales: Tensor
    counts: list[int]
    pixels: np.ndarray
    bound: float
    losses: np.ndarray

    def bpp(self, values: Tensor, bound: float) -> np.ndarray:
        """Bits per pixel of each photograph's y, where `values` stand in for y − μ and σ is bounded."""
        bits = gaussian_bits(values, torch.zeros(()), self.scales.clamp(min=bound))
        bits = bits.clamp(max=-math.log2(LIKELIHOOD_BOUND))
        return np.array([float(part.double().sum()) for part in bits.split(self.counts)]) / self.pixels

    def losses_at(self, bound: float) -> np.ndarray:
        """The rounded losses with another bound and the same weights: only y's rate depends on it."""
        rounded = self.residuals.round()
        return self.losses + np.array([1.0, 0.0]) * (self.bpp(rounded, bound) - self.bpp(rounded, self.bound))[:, None]


@dataclass(frozen=True, repr=False)
class BoundResult(Result):
    """What a bound does to the shipped codec, in bits per pixel of the latent y, means over the test photographs.

    price: bits of a zero at σ = bound; share: of the codec's latents whose predicted σ lies below the bound; scales: σ
    of them all; train_rate, test_rate: at this bound. bounds, train_rates, test_rates: of the shipped weights at every
    bound of the slider. before, switched, after: (photographs, 2), bits per pixel (z's included) and 255² · MSE with
    real rounding, as shipped, with this bound, and with it after retraining (None where nothing was trained).
    """

    price: float
    share: float
    scales: np.ndarray
    train_rate: float
    test_rate: float
    bounds: np.ndarray
    train_rates: np.ndarray
    test_rates: np.ndarray
    before: np.ndarray
    switched: np.ndarray
    after: np.ndarray | None
    net: networks.Codec

    @property
    def rise(self) -> float:
        """Of the rounded test loss over that of the codec as shipped."""
        return self.loss - float((self.before @ [1.0, self.settings["lmbda"]]).mean())

    def __str__(self) -> str:
        codec = "the codec" if self.after is None else f"after {len(self.losses)} steps the codec"
        return (
            f"a zero at the bound costs {self.price:.3f} bits; {100 * self.share:.1f}% of the latents lie below; "
            f"{codec} takes {self.train_rate:.4f} bpp in training, {self.test_rate:.4f} at test; "
            f"rounded test loss {self.loss:.4f}, {self.rise:+.4f} against the codec as shipped"
        )


class BoundPanel(PlotPanel):
    """See `bound_panel`."""

    def __init__(
        self,
        *,
        bound: float,
        surrogate: str,
        temperature: float,
        lmbda: float,
        codec: str,
        photos: datasets.PhotoSet | None,
        test: datasets.PhotoSet | None,
        steps: int,
        seed: int,
    ) -> None:
        check_at_least(1, steps=steps)
        for what, name, names in (("surrogate", surrogate, SURROGATES), ("codec", codec, CODECS)):
            check_name(what, name, names)
        self._photos = datasets.photos("train") if photos is None else photos
        self._test = datasets.photos("test") if test is None else test
        self._steps, self._seed = steps, seed
        self._laws: dict[tuple[str, float | None, float], tuple[Law, Law]] = {}
        self._shipped: dict[float, tuple[networks.Codec, _Latents]] = {}
        self._bpp: dict[tuple[float, str, float | None, float], tuple[float, float]] = {}
        over_sigma = {"x": "scale σ", "log_x": True}
        super().__init__(
            controls={
                "bound": choice("scale bound", BOUNDS, bound),
                "surrogate": menu("surrogate", SURROGATES, surrogate),
                "temperature": choice("temperature τ", TEMPERATURES, temperature),
                "lmbda": choice("weights λ", networks.pretrained_lmbdas(), lmbda),
                "codec": menu("codec", CODECS, codec),
            },
            plot=Plot(
                [
                    Axes(
                        "one latent",
                        y="bits",
                        **over_sigma,  # type: ignore[arg-type]
                        range_x=(_SCALES[0], _SCALES[-1]),
                        range_y=_RATES,
                        lines=[
                            Line("training rate", color=1, dash="dash", ghost=True),
                            Line("test rate", color=0, dash="solid", ghost=True),
                            _mark("bound"),
                        ],
                    ),
                    Axes(
                        "the codec's own σ",
                        y="latents (%)",
                        **over_sigma,  # type: ignore[arg-type]
                        range_x=(_EDGES[0], _EDGES[-1]),
                        range_y=_SHARES,
                        lines=[Line("codec's latents", mode="area", color=2, ghost=True), _mark("bound there")],
                    ),
                    Axes(
                        "the codec over the bound",
                        x="scale bound",
                        y="bits per pixel",
                        log_x=True,
                        range_x=(BOUNDS[0] / 1.2, BOUNDS[-1] * 1.2),
                        lines=[
                            Line("codec, training", "lines+markers", color=1, dash="dash", symbol="square"),
                            Line("codec, test", "lines+markers", color=0, dash="solid", symbol="circle"),
                            Line("retrained, training", "markers", color=4, symbol="x"),
                            Line("retrained, test", "markers", color=3, symbol="diamond"),
                            _mark("bound in the codec"),
                        ],
                    ),
                ],
                width=1000,
                height=360,
            ),
        )

    def job(self, settings: Settings) -> Generator[View, None, BoundResult]:
        begun = time.perf_counter()
        bound, lmbda, retrain = settings["bound"], settings["lmbda"], settings["codec"] == "retrain"
        price = float(gaussian_bits(*(torch.tensor(v, dtype=torch.float64) for v in (0.0, 0.0, bound))))
        lines: dict[str, Points] = {
            "bound": ([bound] * 2, _RATES),
            "bound there": ([bound] * 2, _SHARES),
            "retrained, training": ([], []),
            "retrained, test": ([], []),
        }
        words = [f"Scale bound {bound:g}: a zero there costs {price:.3f} bits."]

        def view(progress: float, text: str) -> View:
            shown, label = dict(lines), " ".join(words)
            return lambda: PlotFrame(shown, progress, text, label)

        yield view(0.0, "the rate of one latent")
        for curves in self._over_sigma(settings):
            lines |= curves
            yield view(0.05, "the rate of one latent")
        if lmbda not in self._shipped:
            net = networks.pretrained(lmbda=lmbda)
            shipped = yield from self._read(net, lambda done: view(0.05 + 0.1 * done, "reading the codec's σ"))
            self._shipped[lmbda] = net, shipped
        start, latents = self._shipped[lmbda]
        lines["codec's latents"] = _histogram(latents.scales)
        words.append(_share_in_words(latents.scales, bound))
        yield view(0.15, "the codec's rate")
        for done in self._over_bounds(settings):
            reached = [b for b in BOUNDS if self._key(settings, b) in self._bpp]
            rates = np.array([self._bpp[self._key(settings, b)] for b in reached])
            lines |= {"codec, training": (reached, rates[:, 0]), "codec, test": (reached, rates[:, 1])}
            lines["bound in the codec"] = ([bound] * 2, [rates.min(), rates.max()])
            yield view(0.15 + 0.15 * done, "the codec's rate")
        train_rate, test_rate = self._bpp[self._key(settings, bound)]
        words.append(f"The codec takes {train_rate:.4f} bpp in training and {test_rate:.4f} at test.")
        net, losses, after = start, [], None
        switched = latents.losses_at(bound)
        if retrain:
            net = copy.deepcopy(start)
            scheme = first_stage(start.scheme).replace(
                rate=settings["surrogate"], temperature=settings["temperature"], scale_lower_bound=bound
            )
            net.set_scheme(scheme)
            for loss in training.fine_tune(net, self._photos, lmbda=lmbda, steps=self._steps, seed=self._seed):
                losses.append(loss)
                yield view(0.3 + 0.5 * len(losses) / self._steps, f"step {len(losses)}, training loss {loss:.3f}")
            latents = yield from self._read(net, lambda done: view(0.8 + 0.2 * done, "measuring what came of it"))
            after = latents.losses
            train_rate, test_rate = self._rates(latents, settings, bound)
            lines["codec's latents"] = _histogram(latents.scales)
            lines |= {"retrained, training": ([bound], [train_rate]), "retrained, test": ([bound], [test_rate])}
            words[1:] = [
                _share_in_words(latents.scales, bound),
                f"Retrained, the codec takes {train_rate:.4f} bpp in training and {test_rate:.4f} at test.",
            ]
        yield view(1.0, "measured")
        rates = np.array([self._bpp[self._key(settings, b)] for b in BOUNDS])
        return BoundResult(
            settings=settings,
            losses=np.array(losses),
            loss=float(((switched if after is None else after) @ [1.0, lmbda]).mean()),
            seconds=time.perf_counter() - begun,
            price=price,
            share=float((latents.scales < bound).float().mean()),
            scales=latents.scales.numpy(),
            train_rate=train_rate,
            test_rate=test_rate,
            bounds=np.array(BOUNDS),
            train_rates=rates[:, 0],
            test_rates=rates[:, 1],
            before=self._shipped[lmbda][1].losses,
            switched=switched,
            after=after,
            net=net,
        )

    def _key(self, settings: Settings, bound: float) -> tuple[float, str, float | None, float]:
        return settings["lmbda"], settings["surrogate"], _temperature(settings), bound

    def _over_sigma(self, settings: Settings) -> Generator[dict[str, Points], None, None]:
        """The curves of one latent whose model knows its σ but for the bound, further along after each σ."""
        name, temperature = settings["surrogate"], _temperature(settings)
        rates: list[list[float]] = []
        for scale in _SCALES:
            key = name, temperature, float(scale)
            if key not in self._laws:
                self._laws[key] = training_law(float(scale), name, temperature or 1.0), test_law(float(scale))
            model = torch.tensor([max(scale, settings["bound"])], dtype=torch.float64)
            rates.append([float(law.rate(model)) for law in self._laws[key]])
            train, test = np.transpose(rates)
            yield {"training rate": (_SCALES[: len(rates)], train), "test rate": (_SCALES[: len(rates)], test)}

    def _over_bounds(self, settings: Settings) -> Generator[float, None, None]:
        """Measure the shipped weights at every bound, the chosen one first; the share that is done."""
        bound, latents = settings["bound"], self._shipped[settings["lmbda"]][1]
        for done, each in enumerate(sorted(BOUNDS, key=lambda b: abs(math.log(b / bound))), start=1):
            if self._key(settings, each) not in self._bpp:
                self._bpp[self._key(settings, each)] = self._rates(latents, settings, each)
            yield done / len(BOUNDS)

    def _rates(self, latents: _Latents, settings: Settings, bound: float) -> tuple[float, float]:
        """Bits per pixel of y in training, with one draw, and at test."""
        generator = torch.Generator().manual_seed(self._seed)
        surrogate = surrogates.get(settings["surrogate"])
        noisy = surrogate(latents.residuals, settings["temperature"], generator=generator)
        return latents.bpp(noisy, bound).mean(), latents.bpp(latents.residuals.round(), bound).mean()

    def _read(self, net: networks.Codec, view: Callable[[float], View]) -> Generator[View, None, _Latents]:
        """What the entropy model is given for every test photograph; views of the share that is done."""
        seen: list[tuple[Tensor, Tensor]] = []

        def keep(_module: torch.nn.Module, args: tuple, keywords: dict) -> None:
            seen.append(((args[0] - keywords["means"]).flatten(), args[1].flatten()))

        hook = net.gaussian_conditional.register_forward_pre_hook(keep, with_kwargs=True)
        losses: list[tuple[float, float]] = []
        try:
            for i in range(len(self._test)):
                losses += evaluation.rounded_losses(net, self._test[i : i + 1])
                yield view((i + 1) / len(self._test))
        finally:
            hook.remove()
        return _Latents(
            residuals=torch.cat([each for each, _ in seen]),
            scales=torch.cat([each for _, each in seen]),
            counts=[len(each) for each, _ in seen],
            pixels=np.array([image[0].numel() for image in self._test]),
            bound=first_stage(net.scheme).scale_lower_bound,
            losses=np.array(losses),
        )


def bound_panel(
    *,
    bound: float = 0.11,
    surrogate: str = "aun",
    temperature: float = 0.5,
    lmbda: float = 0.0035,
    codec: str = "measure",
    photos: datasets.PhotoSet | None = None,
    test: datasets.PhotoSet | None = None,
    steps: int = 40,
    seed: int = 0,
) -> BoundPanel:
    """A lower bound on σ, moved while one looks on: one latent, the shipped codec's latents, and the codec's rate.

    Left: training and test rate in bits of a Gaussian latent whose model knows its σ but for the bound. Middle: the σ
    that the shipped codec predicts for its latents on test photographs. Right: the codec's rate with its weights as
    they are, over the bound. With codec "retrain" its weights are also trained for so many steps with the bound, and
    with the surrogate on the rate path; the rest of the scheme is that of the weights. See BoundResult.

    bound, surrogate, temperature are taken from BOUNDS, SURROGATES and TEMPERATURES, lmbda from the shipped weights';
    codec: "measure" or "retrain"; photos, test: other photographs to train on and to measure. Raises ValueError for
    other values, and where no weights are shipped.
    """
    return BoundPanel(
        bound=bound,
        surrogate=surrogate,
        temperature=temperature,
        lmbda=lmbda,
        codec=codec,
        photos=photos,
        test=test,
        steps=steps,
        seed=seed,
    )


def _mark(name: str) -> Line:
    """The vertical line at the bound; the first of them stands in the legend."""
    return Line(name, color=3, dash="dot", legend=name == "bound")


def _temperature(settings: Settings) -> float | None:
    """The temperature, or None where the surrogate has none."""
    return settings["temperature"] if surrogates.get(settings["surrogate"]).annealed else None


def _histogram(scales: Tensor) -> Points:
    """Percent of the latents in each bin, as the corners of steps."""
    shares, _ = np.histogram(scales.double().numpy().clip(_EDGES[0], _EDGES[-1]), _EDGES)
    return np.repeat(_EDGES, 2), np.concatenate([[0], np.repeat(100 * shares / len(scales), 2), [0]])


def _share_in_words(scales: Tensor, bound: float) -> str:
    return f"{100 * float((scales < bound).float().mean()):.1f}% of the codec's {len(scales):,} latents lie below it."

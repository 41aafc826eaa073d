"""The bound panel: the effect of a lower bound on σ on the rate of one latent and on the rate of a pretrained codec.

The laws of one latent are in `labkit.analysis.latent_laws`, and the rates of a codec's latents are in
`labkit.analysis.trained.latent_rates`.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Generator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from labkit import datasets, networks, surrogates, training
from labkit.analysis import gaussian_bits
from labkit.analysis.latent_laws import Law, test_law, training_law
from labkit.analysis.trained import CodecLatents, codec_latents
from labkit.checks import check_at_least, check_name
from labkit.live.engine import View
from labkit.live.panel import Result, Settings, choice, menu
from labkit.live.plot import Axes, Line, Plot, PlotFrame, PlotPanel, Points
from labkit.schemes import first_stage
from labkit.statistics import Array

BOUNDS = (0.02, 0.05, 0.11, 0.15, 0.2, 0.3, 0.5, 0.7, 1.0)
SURROGATES = ("aun", "sua", "soft", "ste")
TEMPERATURES = (0.1, 0.2, 0.35, 0.5, 0.7, 1.0)
CODECS = ("measure", "retrain")
NETWORK = "mean_scale_hyperprior"  # network whose pretrained weights are used

_SCALES = np.geomspace(0.02, 1.0, 24)  # values of σ for the curves
_EDGES = np.geomspace(0.02, 10.0, 41)  # bin edges of the histogram; values outside go to the outermost bins
_RATES, _SHARES = (0.0, 2.2), (0.0, 9.0)  # ranges of the axes


@dataclass(frozen=True, repr=False)
class BoundResult(Result):
    """Effect of a bound on a pretrained codec. Rates are bits per pixel of y, averaged over the test photographs.

    Attributes:
        price: Number of bits for a zero at σ = bound.
        share: Fraction of the codec's latents whose predicted σ is below the bound.
        scales: Predicted σ of all latents.
        train_rate: Rate in training at this bound.
        test_rate: Rate at test at this bound.
        bounds: All bounds of the slider.
        train_rates: Rate in training at each bound, with the pretrained weights.
        test_rates: Rate at test at each bound, with the pretrained weights.
        before: (photographs, 2) bits per pixel (including z) and 255² · MSE with real rounding, of the pretrained
            codec.
        switched: The same with this bound and the pretrained weights.
        after: The same with this bound after training; None if the codec was not trained.
        net: The codec.
    """

    price: float
    share: float
    scales: Array
    train_rate: float
    test_rate: float
    bounds: Array
    train_rates: Array
    test_rates: Array
    before: Array
    switched: Array
    after: Array | None
    net: networks.Codec

    @property
    def rise(self) -> float:
        """Rounded test loss minus the loss of the pretrained codec with its own bound."""
        return self.loss - float((self.before @ [1.0, self.settings["lmbda"]]).mean())

    def __str__(self) -> str:
        codec = "the codec" if self.after is None else f"after {len(self.losses)} steps the codec"
        return (
            f"a zero at the bound costs {self.price:.3f} bits; {100 * self.share:.1f}% of the latents lie below; "
            f"{codec} takes {self.train_rate:.4f} bpp in training, {self.test_rate:.4f} at test; "
            f"rounded test loss {self.loss:.4f}, {self.rise:+.4f} against the pretrained codec"
        )


class BoundPanel(PlotPanel):
    """A lower bound on σ and its effect on one latent, on the latents of a pretrained codec, and on the codec's rate.

    The left plot shows the training rate and the test rate of a Gaussian latent whose model knows its σ except for the
    bound. The middle plot shows the σ that the pretrained codec predicts for its latents on test photographs. The right
    plot shows the rate of the codec against the bound, with unchanged weights. If codec is "retrain", the weights are
    also fine-tuned with the bound and with the surrogate on the rate path; the rest of the scheme stays the same.

    Args:
        bound: Lower bound on σ, one of BOUNDS.
        surrogate: Name of the surrogate on the rate path, one of SURROGATES.
        temperature: Temperature τ, one of TEMPERATURES. It has no effect on a surrogate that is not annealed.
        lmbda: λ of the pretrained weights, one of `labkit.networks.pretrained_lmbdas(NETWORK)`.
        codec: "measure" keeps the weights, "retrain" fine-tunes them.
        photos: Training photographs; the bundled ones by default.
        test: Test photographs; the bundled ones by default.
        steps: Number of optimizer steps.
        seed: Seed of the noise and of the training.

    Raises:
        ValueError: If an argument is invalid, or if no pretrained weights exist.
    """

    def __init__(
        self,
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
    ) -> None:
        check_at_least(1, steps=steps)
        check_name("surrogate", surrogate, SURROGATES)
        check_name("codec", codec, CODECS)
        self._photos = datasets.photos("train") if photos is None else photos
        self._test = datasets.photos("test") if test is None else test
        self._steps, self._seed = steps, seed
        self._laws: dict[tuple[str, float | None, float], tuple[Law, Law]] = {}
        self._pretrained: dict[float, tuple[networks.Codec, CodecLatents]] = {}
        self._bpp: dict[tuple[float, str, float | None, float], tuple[float, float]] = {}
        over_sigma = {"x": "scale σ", "log_x": True}
        super().__init__(
            controls={
                "bound": choice("scale bound", BOUNDS, bound),
                "surrogate": menu("surrogate", SURROGATES, surrogate),
                "temperature": choice("temperature τ", TEMPERATURES, temperature),
                "lmbda": choice("weights λ", networks.pretrained_lmbdas(NETWORK), lmbda),
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
        """Compute the rates of one latent and of the codec, and fine-tune the codec if the settings require it."""
        bound, lmbda = settings["bound"], settings["lmbda"]
        price = float(gaussian_bits(*(torch.tensor(v, dtype=torch.float64) for v in (0.0, 0.0, bound))))
        lines: dict[str, Points] = {
            "bound": ([bound] * 2, _RATES),
            "bound there": ([bound] * 2, _SHARES),
            "retrained, training": ([], []),
            "retrained, test": ([], []),
        }
        sentences = [f"Scale bound {bound:g}: a zero there costs {price:.3f} bits."]

        def view(progress: float, text: str) -> View:
            shown, label = dict(lines), " ".join(sentences)
            return lambda: PlotFrame(shown, progress, text, label)

        yield view(0.0, "the rate of one latent")
        for curves in self._over_sigma(settings):
            lines |= curves
            yield view(0.05, "the rate of one latent")
        if lmbda not in self._pretrained:
            net = networks.pretrained(NETWORK, lmbda)
            measured = yield from self._latents(net, lambda done: view(0.05 + 0.1 * done, "reading the codec's σ"))
            self._pretrained[lmbda] = net, measured
        net, latents = self._pretrained[lmbda]
        before, switched, after = latents.losses, latents.losses_at(bound), None
        lines["codec's latents"] = _histogram(latents.scales)
        sentences.append(_share_sentence(latents.scales, bound))
        yield view(0.15, "the codec's rate")
        for done in self._over_bounds(settings):
            measured_bounds = [b for b in BOUNDS if self._key(settings, b) in self._bpp]
            rates = np.array([self._bpp[self._key(settings, b)] for b in measured_bounds])
            lines |= {"codec, training": (measured_bounds, rates[:, 0]), "codec, test": (measured_bounds, rates[:, 1])}
            lines["bound in the codec"] = ([bound] * 2, [rates.min(), rates.max()])
            yield view(0.15 + 0.15 * done, "the codec's rate")
        train_rate, test_rate = self._bpp[self._key(settings, bound)]
        sentences.append(f"The codec takes {train_rate:.4f} bpp in training and {test_rate:.4f} at test.")
        losses: list[float] = []
        if settings["codec"] == "retrain":
            net = copy.deepcopy(net)
            scheme = first_stage(net.scheme).replace(
                rate=settings["surrogate"], temperature=settings["temperature"], scale_lower_bound=bound
            )
            net.set_scheme(scheme)
            for loss in training.fine_tune(net, self._photos, lmbda=lmbda, steps=self._steps, seed=self._seed):
                losses.append(loss)
                yield view(0.3 + 0.5 * len(losses) / self._steps, f"step {len(losses)}, training loss {loss:.3f}")
            latents = yield from self._latents(net, lambda done: view(0.8 + 0.2 * done, "measuring the trained codec"))
            after = latents.losses
            train_rate, test_rate = self._rates(latents, settings, bound)
            lines["codec's latents"] = _histogram(latents.scales)
            lines |= {"retrained, training": ([bound], [train_rate]), "retrained, test": ([bound], [test_rate])}
            sentences[1:] = [
                _share_sentence(latents.scales, bound),
                f"Retrained, the codec takes {train_rate:.4f} bpp in training and {test_rate:.4f} at test.",
            ]
        yield view(1.0, "measured")
        rates = np.array([self._bpp[self._key(settings, b)] for b in BOUNDS])
        return BoundResult(
            settings=settings,
            losses=np.array(losses),
            loss=float(((switched if after is None else after) @ [1.0, lmbda]).mean()),
            price=price,
            share=float((latents.scales < bound).float().mean()),
            scales=latents.scales.numpy(),
            train_rate=train_rate,
            test_rate=test_rate,
            bounds=np.array(BOUNDS),
            train_rates=rates[:, 0],
            test_rates=rates[:, 1],
            before=before,
            switched=switched,
            after=after,
            net=net,
        )

    def _key(self, settings: Settings, bound: float) -> tuple[float, str, float | None, float]:
        return settings["lmbda"], settings["surrogate"], _temperature(settings), bound

    def _over_sigma(self, settings: Settings) -> Generator[dict[str, Points], None, None]:
        """Yield the curves of one latent whose model knows its σ except for the bound, with one more σ each time."""
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
        """Measure the pretrained weights at every bound, starting near the chosen one; yield the completed fraction."""
        bound, latents = settings["bound"], self._pretrained[settings["lmbda"]][1]
        for done, each in enumerate(sorted(BOUNDS, key=lambda b: abs(math.log(b / bound))), start=1):
            if self._key(settings, each) not in self._bpp:
                self._bpp[self._key(settings, each)] = self._rates(latents, settings, each)
            yield done / len(BOUNDS)

    def _rates(self, latents: CodecLatents, settings: Settings, bound: float) -> tuple[float, float]:
        return latents.rates(settings["surrogate"], settings["temperature"], bound, self._seed)

    def _latents(self, net: networks.Codec, view: Callable[[float], View]) -> Generator[View, None, CodecLatents]:
        """Read the latents of every test photograph; yield views of the completed fraction."""
        parts = []
        for i in range(len(self._test)):
            parts.append(codec_latents(net, self._test[i : i + 1]))
            yield view((i + 1) / len(self._test))
        return CodecLatents.joined(parts)


def _mark(name: str) -> Line:
    """Return the vertical line at the bound; only the first one is in the legend."""
    return Line(name, color=3, dash="dot", legend=name == "bound")


def _temperature(settings: Settings) -> float | None:
    """Return the temperature, or None if the surrogate does not depend on it."""
    return settings["temperature"] if surrogates.get(settings["surrogate"]).annealed else None


def _histogram(scales: Tensor) -> Points:
    """Return the percentage of the latents in each bin, as the corners of steps."""
    shares, _ = np.histogram(scales.double().numpy().clip(_EDGES[0], _EDGES[-1]), _EDGES)
    return np.repeat(_EDGES, 2), np.concatenate([[0], np.repeat(100 * shares / len(scales), 2), [0]])


def _share_sentence(scales: Tensor, bound: float) -> str:
    share = 100 * float((scales < bound).float().mean())
    return f"{share:.1f}% of the codec's {len(scales):,} latents lie below it."

"""The adoption panel: a CompressAI model adopts a scheme, reports what changed, and trains while you watch."""

from __future__ import annotations

import copy
from collections.abc import Generator
from dataclasses import dataclass
from html import escape
from typing import Any

import ipywidgets
import numpy as np
import torch
from torch import Tensor, nn

from labkit import adoption, datasets, schedules, schemes, training
from labkit.analysis.trained.latent_errors import LatentErrors, latent_errors, tensors_of
from labkit.checks import check_at_least
from labkit.live.engine import LiveRun, View
from labkit.live.panel import Result, Settings, choice, menu
from labkit.live.plot import Axes, Line, Plot, PlotFrame, PlotPanel
from labkit.statistics import Array

MODELS: dict[str, tuple[Any, ...]] = {  # arguments for few channels, so that dozens of steps take seconds
    "FactorizedPrior": (16, 24),
    "ScaleHyperprior": (16, 24),
    "MeanScaleHyperprior": (16, 24),
    "JointAutoregressiveHierarchicalPriors": (16, 24),
    "Cheng2020Anchor": (12,),
    "Cheng2020AnchorCheckerboard": (12,),
    "Elic2022Official": (12, 24, [4, 4, 4, 4, 8]),
}
TEMPERATURES = (0.05, 0.1, 0.2, 0.35, 0.5, 0.7, 1.0)
LMBDA = 0.0067

_CROP, _BATCH, _TEST = 128, 2, 4  # side of the crops in pixels, crops per step, test crops
_MEASURE_EVERY = 10  # steps between two measurements of the rounded loss
_BINS = np.linspace(-1.25, 1.25, 26)
_TABLE = "border-collapse: collapse; font-size: 12px; line-height: 1.5"
_CELL = "text-align: left; padding: 1px 14px 1px 0; border: none"


@dataclass(frozen=True, repr=False)
class AdoptionResult(Result):
    """An adopted model after some training. `loss` is measured with real rounding, on crops of test photographs.

    Attributes:
        before: The same loss before training.
        changed: Modules whose class changed at adoption, as rows of `labkit.adoption.summary`.
        same_outputs: True if, before training, adoption did not change a bit of the reconstruction and of the
            likelihoods in evaluation mode.
        same_keys: True if adoption did not change the keys of the state dict.
        errors: Latents that the decoder reads minus latents of the analysis transform, after training, for all latents
            of the test crops: float32 arrays under "training" and "evaluation".
        model: The trained model, still adopted.
    """

    before: float
    changed: list[dict[str, str]]
    same_outputs: bool
    same_keys: bool
    errors: dict[str, Array]
    model: nn.Module

    def __str__(self) -> str:
        return (
            f"{len(self.changed)} module{'s' * (len(self.changed) > 1)} changed, {_verdict(self)}; rounded loss "
            f"{self.before:.1f} → {self.loss:.1f} in {len(self.losses)} steps"
        )


@dataclass(frozen=True)
class _Adoption:
    """A model right after adoption, and how it compares with itself before."""

    model: Any
    changed: list[dict[str, str]]
    same_outputs: bool
    same_keys: bool
    report: str  # HTML
    rounded: LatentErrors


@dataclass(frozen=True)
class _AdoptionFrame(PlotFrame):
    report: str = ""


class AdoptionPanel(PlotPanel):
    """A small CompressAI model. Every change of a control adopts it anew and trains it from its initial weights.

    The left plot shows the training loss, and the loss of test crops with rounding. The right plot shows how much the
    latents that the decoder reads differ from those of the analysis transform, in training and in evaluation. A
    table lists the modules that changed and the paths they take. See AdoptionResult for the comparisons.

    Args:
        model: Name of the model, one of MODELS.
        scheme: Name of a preset from `labkit.schemes.names()`.
        temperature: Temperature during the whole run, one of TEMPERATURES.
        steps: Number of optimizer steps per run, at least 1.
        seed: Seed for the initial weights, crops and noise.

    Raises:
        ValueError: If an argument is not one of the values above.
    """

    def __init__(
        self,
        *,
        model: str = "MeanScaleHyperprior",
        scheme: str = "annealed",
        temperature: float = 0.5,
        steps: int = 60,
        seed: int = 0,
    ) -> None:
        check_at_least(1, steps=steps)
        self._steps, self._seed = steps, seed
        self._photos = datasets.photos("train")
        self._test = datasets.photos("test").crops(_TEST, _CROP, torch.Generator().manual_seed(seed))
        self._plain_models: dict[str, tuple[nn.Module, dict[str, Tensor]]] = {}
        loss = Axes(
            "bpp + λ · 255² · MSE",
            x="step",
            y="loss",
            log_y=True,
            range_x=(0, steps),
            lines=[
                Line("training crops, surrogate", ghost=True),
                Line("test crops, rounded", mode="markers", symbol="diamond"),
            ],
        )
        error = Axes(
            "latents at the decoder minus latents at the encoder",
            x="difference",
            y="share of latents",
            range_x=(_BINS[0], _BINS[-1]),
            lines=[Line("in evaluation", mode="area"), Line("in training", mode="lines+markers")],
        )
        super().__init__(
            controls={
                "model": menu("CompressAI model", list(MODELS), model),
                "scheme": menu("scheme", schemes.names(), scheme),
                "temperature": choice("temperature τ", TEMPERATURES, temperature),
            },
            plot=Plot([loss, error], width=900, height=340),
        )
        self.report = ipywidgets.HTML()
        self.report.add_class("labkit-text")
        self.widget.children = (*self.widget.children, self.report)

    def job(self, settings: Settings) -> Generator[View, None, AdoptionResult]:
        """Adopt a fresh model, compare it with itself before, then train it."""
        adopted = self._adopt(settings)
        model = adopted.model
        losses: list[float] = []
        rounded = {0: adopted.rounded.loss}
        errors = {"evaluation": adopted.rounded.errors, "training": self._measure(model, train=True).errors}

        def measure() -> None:
            rounded[len(losses)], errors["evaluation"], _ = self._measure(model, train=False)
            errors["training"] = self._measure(model, train=True).errors

        def view() -> _AdoptionFrame:
            last = rounded[max(rounded)]
            return _AdoptionFrame(
                {
                    "training crops, surrogate": (np.arange(1, len(losses) + 1), losses),
                    "test crops, rounded": (list(rounded), list(rounded.values())),
                    "in evaluation": _shares(errors["evaluation"]),
                    "in training": _shares(errors["training"]),
                },
                progress=len(losses) / self._steps,
                text=f"step {len(losses)} of {self._steps}; {_verdict(adopted)}",
                label=f"Left, the loss on test crops with rounding went from {rounded[0]:.1f} to {last:.1f}. "
                "Right, the decoder's latents differ from the analysis transform's by "
                f"{_spread(errors['evaluation'])} in evaluation and {_spread(errors['training'])} in training "
                "(root mean square).",
                report=adopted.report,
            )

        yield view
        for step in training.stream(
            model,
            self._photos,
            lmbda=LMBDA,
            steps=self._steps,
            batch_size=_BATCH,
            crop=_CROP,
            lr=schedules.constant(1e-3),
            seed=self._seed,
            device="cpu",
            precision="float32",
        ):
            losses.append(step.loss)
            if len(losses) % _MEASURE_EVERY == 0 and len(losses) < self._steps:
                measure()
            yield view
        measure()
        yield view
        return AdoptionResult(
            settings=settings,
            losses=np.array(losses),
            loss=rounded[len(losses)],
            before=rounded[0],
            changed=adopted.changed,
            same_outputs=adopted.same_outputs,
            same_keys=adopted.same_keys,
            errors=errors,
            model=model,
        )

    def draw(self, frame: PlotFrame, run: LiveRun) -> None:
        """Show the curves, and the report of the adoption below them."""
        super().draw(frame, run)
        if isinstance(frame, _AdoptionFrame) and frame.report != self.report.value:
            self.report.value = frame.report

    def _adopt(self, settings: Settings) -> _Adoption:
        plain, before = self._plain(settings["model"])
        model = copy.deepcopy(plain)
        scheme = schemes.get(settings["scheme"], temperature=settings["temperature"])
        adoption.adopt(model, scheme)
        rounded = self._measure(model, train=False)
        changed = adoption.summary(model).to_dict("records")
        return _Adoption(
            model=model,
            changed=changed,
            same_outputs=all(torch.equal(rounded.output[name], value) for name, value in before.items()),
            same_keys=list(model.state_dict()) == list(plain.state_dict()),
            report=_report(changed, scheme),
            rounded=rounded,
        )

    def _plain(self, name: str) -> tuple[nn.Module, dict[str, Tensor]]:
        """CompressAI's model with initial weights from the seed, and its outputs for the test crops; made only once."""
        from compressai import models  # not at the top, where it would print a warning before labkit can hide it

        if name not in self._plain_models:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(self._seed)
                model = getattr(models, name)(*MODELS[name]).eval()
            with torch.no_grad():
                self._plain_models[name] = model, tensors_of(model(self._test))
        return self._plain_models[name]

    def _measure(self, model: nn.Module, train: bool) -> LatentErrors:
        return latent_errors(model, self._test, lmbda=LMBDA, train=train, seed=self._seed)


def _verdict(adopted: _Adoption | AdoptionResult) -> str:
    outputs = "the same to the bit" if adopted.same_outputs else "NOT the same"
    return f"evaluation {outputs}, {'same' if adopted.same_keys else 'OTHER'} state-dict keys"


def _shares(errors: Array) -> tuple[Array, Array]:
    counts, edges = np.histogram(errors, _BINS)
    return (edges[1:] + edges[:-1]) / 2, counts / len(errors)


def _spread(errors: Array) -> str:
    return f"{np.sqrt(np.mean(errors**2)):.2f}"


def _report(changed: list[dict[str, str]], scheme: schemes.Scheme) -> str:
    """HTML with a table of the modules that changed, and the description of the scheme."""
    columns = {"module": "module", "class": "class before", "role": "role in training"}
    head = "".join(f'<th scope="col" style="{_CELL}">{escape(title)}</th>' for title in columns.values())
    rows = []
    for row in changed:
        cells = "".join(f'<td style="{_CELL}">{escape(row[name])}</td>' for name in columns)
        rows.append(f"<tr>{cells}</tr>")
    caption = '<caption style="text-align: left; font-weight: 600">What adoption changed</caption>'
    return (
        f'<table style="{_TABLE}">{caption}<thead><tr>{head}</tr></thead><tbody>{"".join(rows)}</tbody></table>'
        f'<details><summary>The scheme</summary><pre style="font-size: 12px; overflow-x: auto">'
        f"{escape(str(scheme.describe()))}</pre></details>"
    )

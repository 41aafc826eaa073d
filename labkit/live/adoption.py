"""The adoption panel: a CompressAI model gets a scheme, says what changed, and is trained while one looks on."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Generator
from dataclasses import dataclass
from html import escape
from typing import Any

import ipywidgets
import numpy as np
import torch
from compressai import models
from torch import Tensor, nn

from labkit import adoption, datasets, entropy, schedules, schemes, training
from labkit.checks import check_at_least
from labkit.live.engine import Run, View
from labkit.live.panel import Result, Settings, choice, menu
from labkit.live.plot import Axes, Line, Plot, PlotFrame, PlotPanel

MODELS: dict[str, Callable[[], nn.Module]] = {  # small, so that dozens of steps take seconds
    "FactorizedPrior": lambda: models.FactorizedPrior(16, 24),
    "ScaleHyperprior": lambda: models.ScaleHyperprior(16, 24),
    "MeanScaleHyperprior": lambda: models.MeanScaleHyperprior(16, 24),
    "JointAutoregressiveHierarchicalPriors": lambda: models.JointAutoregressiveHierarchicalPriors(16, 24),
    "Cheng2020Anchor": lambda: models.Cheng2020Anchor(12),
    "Cheng2020AnchorCheckerboard": lambda: models.Cheng2020AnchorCheckerboard(12),
    "Elic2022Official": lambda: models.Elic2022Official(12, 24, [4, 4, 4, 4, 8]),
}
TEMPERATURES = (0.05, 0.1, 0.2, 0.35, 0.5, 0.7, 1.0)
LMBDA = 0.0067

_CROP, _BATCH, _TEST = 128, 2, 4  # pixels a side; crops a step, and to test on
_EVERY = 10  # steps between two looks at the rounded loss
_BINS = np.linspace(-1.25, 1.25, 26)
_LOOK = "border-collapse: collapse; font-size: 12px; line-height: 1.5"


@dataclass(frozen=True, repr=False)
class AdoptionResult(Result):
    """An adopted model after some training; `loss` is with real rounding, on test crops that it has not seen.

    before: the same loss before training. changed: the modules that adoption gave another class, as
    `adoption.summary` lists them. same_outputs: reconstruction and likelihoods in evaluation mode were, before any
    training, equal to those before adoption, bit for bit. same_keys: and so were the state dict's keys.
    errors: float32, what the decoder reads less what the analysis transform gave, for each latent of the test crops,
    after training, "training" and "evaluation". model: the trained one, still adopted.
    """

    before: float
    changed: list[dict[str, str]]
    same_outputs: bool
    same_keys: bool
    errors: dict[str, np.ndarray]
    model: nn.Module

    def __str__(self) -> str:
        return (
            f"{len(self.changed)} module{'s' * (len(self.changed) > 1)} changed, {_verdict(self)}; rounded loss "
            f"{self.before:.1f} → {self.loss:.1f} in {len(self.losses)} steps"
        )


def _verdict(adoption: _Adoption | AdoptionResult) -> str:
    same = "the same to the bit" if adoption.same_outputs else "NOT the same"
    return f"evaluation {same}, {'same' if adoption.same_keys else 'OTHER'} state-dict keys"


@dataclass(frozen=True)
class AdoptionFrame(PlotFrame):
    """A frame with the adoption's account, as HTML."""

    account: str = ""


@dataclass(frozen=True)
class _Adoption:
    """A model that has just been adopted, and what was compared before any training."""

    model: Any
    changed: list[dict[str, str]]
    same_outputs: bool
    same_keys: bool
    account: str
    loss: float  # with rounding, before any step
    errors: np.ndarray  # in evaluation, likewise


class AdoptionPanel(PlotPanel):
    """See `adoption_panel`."""

    def __init__(self, *, model: str, scheme: str, temperature: float, steps: int, seed: int) -> None:
        self._steps, self._seed = steps, seed
        self._photos = datasets.photos("train")
        self._test = datasets.photos("test").crops(_TEST, _CROP, torch.Generator().manual_seed(seed))
        self._fresh: dict[str, tuple[nn.Module, dict[str, Tensor]]] = {}
        super().__init__(
            controls={
                "model": menu("CompressAI model", list(MODELS), model),
                "scheme": menu("scheme", schemes.names(), scheme),
                "temperature": choice("temperature τ", TEMPERATURES, temperature),
            },
            plot=Plot(
                [
                    Axes(
                        "bpp + λ · 255² · MSE",
                        x="step",
                        y="loss",
                        log_y=True,
                        range_x=(0, steps),
                        lines=[
                            Line("training crops, surrogate", ghost=True),
                            Line("test crops, rounded", mode="markers", symbol="diamond"),
                        ],
                    ),
                    Axes(
                        "what the decoder reads, less what analysis gave",
                        x="difference",
                        y="share of latents",
                        range_x=(_BINS[0], _BINS[-1]),
                        lines=[Line("in evaluation", mode="area"), Line("in training", mode="lines+markers")],
                    ),
                ],
                width=900,
                height=340,
            ),
        )
        self.account = ipywidgets.HTML()
        self.account.add_class("labkit-words")
        self.widget.children = (*self.widget.children, self.account)

    def job(self, settings: Settings) -> Generator[View, None, AdoptionResult]:
        begun = time.perf_counter()
        adoption = self._adopt(settings)
        model = adoption.model
        losses: list[float] = []
        rounded = {0: adoption.loss}
        errors = {"evaluation": adoption.errors, "training": self._measured(model, train=True)[1]}

        def look() -> None:
            rounded[len(losses)], errors["evaluation"], _ = self._measured(model, train=False)
            _, errors["training"], _ = self._measured(model, train=True)

        def view() -> AdoptionFrame:
            return AdoptionFrame(
                {
                    "training crops, surrogate": (np.arange(1, len(losses) + 1), losses),
                    "test crops, rounded": (list(rounded), list(rounded.values())),
                    "in evaluation": _shares(errors["evaluation"]),
                    "in training": _shares(errors["training"]),
                },
                progress=len(losses) / self._steps,
                text=f"step {len(losses)} of {self._steps}; {_verdict(adoption)}",
                label=f"Left, the loss on test crops with rounding went from {rounded[0]:.1f} to "
                f"{list(rounded.values())[-1]:.1f}. Right, the decoder's latents differ from the analysis transform's "
                f"by {_spread(errors['evaluation'])} in evaluation and {_spread(errors['training'])} in training "
                "(root mean square).",
                account=adoption.account,
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
        ):
            losses.append(step.loss)
            if len(losses) % _EVERY == 0 and len(losses) < self._steps:
                look()
            yield view
        look()
        yield view
        return AdoptionResult(
            settings=settings,
            losses=np.array(losses),
            loss=rounded[len(losses)],
            seconds=time.perf_counter() - begun,
            before=rounded[0],
            changed=adoption.changed,
            same_outputs=adoption.same_outputs,
            same_keys=adoption.same_keys,
            errors=errors,
            model=model,
        )

    def draw(self, frame: PlotFrame, run: Run) -> None:
        super().draw(frame, run)
        if isinstance(frame, AdoptionFrame) and frame.account != self.account.value:
            self.account.value = frame.account

    def _adopt(self, settings: Settings) -> _Adoption:
        """A fresh model, adopted, and compared with itself before."""
        plain, before = self._plain(settings["model"])
        model, keys = copy.deepcopy(plain), list(plain.state_dict())
        scheme = schemes.get(settings["scheme"], temperature=settings["temperature"])
        adoption.adopt(model, scheme)
        loss, errors, after = self._measured(model, train=False)
        changed = adoption.summary(model).to_dict("records")
        return _Adoption(
            model=model,
            changed=changed,
            same_outputs=all(torch.equal(after[name], value) for name, value in before.items()),
            same_keys=list(model.state_dict()) == keys,
            account=_account(changed, scheme),
            loss=loss,
            errors=errors,
        )

    def _plain(self, name: str) -> tuple[nn.Module, dict[str, Tensor]]:
        """CompressAI's model with first weights from the seed, and what it gives for the test crops; made once."""
        if name not in self._fresh:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(self._seed)
                model = MODELS[name]()
            self._fresh[name] = model, self._evaluated(model)
        return self._fresh[name]

    @torch.no_grad()
    def _evaluated(self, model: nn.Module) -> dict[str, Tensor]:
        return _outputs(model.eval()(self._test))

    @torch.no_grad()
    def _measured(self, model: Any, train: bool) -> tuple[float, np.ndarray, dict[str, Tensor]]:
        """Loss on the test crops, the decoder's latents less those of the analysis transform, and the outputs."""
        was, generator = model.training, entropy.carriers(model)[0].generator
        seen: dict[str, Tensor] = {}
        hooks = [
            model.g_a.register_forward_hook(lambda _module, _inputs, y: seen.update(y=y)),
            model.g_s.register_forward_pre_hook(lambda _module, inputs: seen.update(y_hat=inputs[0])),
        ]
        entropy.set_generator(model, torch.Generator().manual_seed(self._seed))
        try:
            output = model.train(train)(self._test)
        finally:
            entropy.set_generator(model, generator)
            model.train(was)
            for hook in hooks:
                hook.remove()
        loss = training.rate_distortion(output, self._test, LMBDA).total
        return float(loss), (seen["y_hat"] - seen["y"]).flatten().numpy(), _outputs(output)


def adoption_panel(
    *,
    model: str = "MeanScaleHyperprior",
    scheme: str = "annealed",
    temperature: float = 0.5,
    steps: int = 60,
    seed: int = 0,
) -> AdoptionPanel:
    """A small CompressAI model, given a scheme in place and trained from its first weights at every move of a control.

    The plot shows the training loss with the loss on test crops when latents are rounded, and by how much the latents
    that the decoder reads differ from those that the analysis transform gave, in training and in evaluation. The table
    under it says which modules changed and which paths they take. See AdoptionResult for what is compared.

    model: a name from MODELS; scheme: a preset's name; temperature: constant over the run, from TEMPERATURES. Raises
    ValueError for others, and for steps below 1.
    """
    check_at_least(1, steps=steps)
    for name, value, takes in (
        ("model", model, MODELS),
        ("scheme", scheme, schemes.names()),
        ("temperature", temperature, TEMPERATURES),
    ):
        if value not in takes:
            raise ValueError(f"{name}: takes {', '.join(map(str, takes))}, got {value!r}")
    return AdoptionPanel(model=model, scheme=scheme, temperature=temperature, steps=steps, seed=seed)


def _outputs(output: dict[str, Any]) -> dict[str, Tensor]:
    return {"x_hat": output["x_hat"], **output["likelihoods"]}


def _shares(errors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    counts, edges = np.histogram(errors, _BINS)
    return (edges[1:] + edges[:-1]) / 2, counts / len(errors)


def _spread(errors: np.ndarray) -> str:
    return f"{np.sqrt(np.mean(errors**2)):.2f}"


def _account(changed: list[dict[str, str]], scheme: schemes.Scheme) -> str:
    """What changed, as a table, and the scheme's own account."""
    cell = "text-align: left; padding: 1px 14px 1px 0; border: none"
    head = "".join(
        f'<th scope="col" style="{cell}">{escape(name)}</th>' for name in ("module", "was", "in training it")
    )
    rows = "".join(
        "<tr>"
        + "".join(f'<td style="{cell}">{escape(row[name])}</td>' for name in ("module", "class", "role"))
        + "</tr>"
        for row in changed
    )
    caption = '<caption style="text-align: left; font-weight: 600">What adoption changed</caption>'
    return (
        f'<table style="{_LOOK}">{caption}<thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>'
        f'<details><summary>The scheme</summary><pre style="font-size: 12px; overflow-x: auto">'
        f"{escape(str(scheme.describe()))}</pre></details>"
    )

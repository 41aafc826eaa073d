"""The exercise of the lesson on your own model: four broken models, whose faults the doctor finds."""

from __future__ import annotations

from functools import cache
from typing import Any

import labkit.entropy  # noqa: F401  # imports CompressAI without the warning of one of its dependencies

# isort: split
import torch
from compressai.models import MeanScaleHyperprior
from torch import Tensor, nn

from labkit import datasets, diagnosis, entropy, networks
from labkit.checks import check_name
from labkit.course.exercises.base import Answer, Exercise
from labkit.diagnosis import Diagnosis
from labkit.statistics import Array

# model.faults: the finding that names the fault of a broken model


def causes(reports: list[Diagnosis]) -> list[str]:
    """Return, for each report, the kind of the finding that names the fault."""
    kinds = []
    for report in reports:
        explaining = [finding.kind for finding in report.findings if finding.kind != "mismatch"]
        kinds.append(explaining[0])
    return kinds


class _OwnModel(MeanScaleHyperprior):
    """Rounds and scores y in the forward pass, whereas the coder rounds and scores y − μ."""

    def forward(self, x: Tensor) -> dict[str, Any]:
        y = self.g_a(x)
        z_hat, z = self.entropy_bottleneck(self.h_a(y))
        scales, _ = self.h_s(z_hat).chunk(2, 1)
        y_hat, likelihoods = self.gaussian_conditional(y, scales)
        return {"x_hat": self.g_s(y_hat), "likelihoods": {"y": likelihoods, "z": z}}


def _model(cls: Any = MeanScaleHyperprior) -> Any:
    """Return a model of CompressAI with the bundled weights."""
    model = cls(24, 36).eval()
    weights = networks.pretrained("mean_scale_hyperprior", 0.0035).state_dict()
    model.load_state_dict(weights, strict=False)
    model.update(force=True)
    return model


@torch.no_grad()
def broken_models() -> dict[str, nn.Module]:
    """Return one model for each fault, by the kind of its finding."""
    stale, bound, quantiles, center = _model(), _model(), _model(), _model(_OwnModel)
    gaussian, table = stale.gaussian_conditional, stale.gaussian_conditional.scale_table
    gaussian.update_scale_table(entropy.scale_table(1.0), force=True)
    gaussian.scale_table = table  # the tables still belong to the larger scales

    bound.g_a[-1].weight.mul_(1e-3)
    for parameter in (bound.g_a[-1].bias, bound.h_s[-1].weight, bound.h_s[-1].bias):
        parameter.zero_()

    quantiles.entropy_bottleneck.quantiles.add_(3)
    quantiles.update(force=True)

    center.g_a[-1].bias.add_(1)
    center.h_s[-1].bias[36:].add_(1)
    return {"stale_tables": stale, "scale_bound": bound, "quantiles": quantiles, "center": center}


@cache
def _reports() -> dict[str, Diagnosis]:
    photo = datasets.photos("test")[0][:, :64, :64]
    models = broken_models().items()
    return {kind: diagnosis.diagnose(model, [photo], progress=False) for kind, model in models}


def _in_another_order(seed: int) -> list[str]:
    kinds = list(_reports())
    return kinds[seed % 4 :] + kinds[: seed % 4]


def _cases(seed: int) -> tuple[list[Diagnosis]]:
    return ([_reports()[kind] for kind in _in_another_order(seed)],)


def _planted(reports: list[Diagnosis]) -> list[float]:
    """Return the numbers of the faults that were planted in the models of these reports."""
    planted = {id(report): kind for kind, report in _reports().items()}
    return _numbers([planted[id(report)] for report in reports])


def _numbers(kinds: Any) -> list[float]:
    names = list(diagnosis.KINDS)
    for kind in kinds:
        check_name("kind", kind, names)
    return [float(names.index(kind)) for kind in kinds]


def _as_numbers(answer: Answer, reports: list[Diagnosis]) -> Array | list[float]:
    return _numbers(answer(reports))


def _the_first(reports: list[Diagnosis]) -> list[str]:
    return [report.findings[0].kind for report in reports]


def _the_last(reports: list[Diagnosis]) -> list[str]:
    return [report.findings[-1].kind for report in reports]


def _the_largest_figure(reports: list[Diagnosis]) -> list[str]:
    return [max(report.findings, key=lambda finding: finding.figure).kind for report in reports]


EXERCISES = (
    Exercise(
        key="model.faults",
        title="Four broken models",
        difficulty=2,
        importance=3,
        minutes=10,
        hints=(
            "Print a report and read its findings from the top. The most severe comes first.",
            "Each finding has a kind, a severity and a figure. Ask which finding is a cause and which a symptom.",
            "A mismatch between training and rounding is a symptom here. Return the first finding of another kind.",
        ),
        answer=causes,
        cases=_cases,
        oracle=_planted,
        probe=_as_numbers,
        misconceptions={
            _the_first: "In one report the first finding is the mismatch between training and rounding. That is a "
            "symptom: look for the finding that explains it.",
            _the_last: "These are the least severe findings. The most severe one comes first.",
            _the_largest_figure: "Figures have different units, so the largest figure is not the most severe finding. "
            "Look at the severity.",
        },
    ),
)

"""The exercises on a model of your own recognize mistakes in other code and accept other correct answers."""

import math

import numpy as np
import pytest
import torch

import labkit as lk
from labkit.course import exercise


def loop(model, batches, optimizer, lmbda, temperature="each", mode="train", clear=True, scale=65025, update=True):
    """Train with a loop that is written differently from the solution and makes at most one mistake."""
    getattr(model, mode)()
    history, steps = [], len(batches)
    if temperature == "once":
        lk.set_temperature(model, model.scheme.temperature)
    for i in range(steps):
        if temperature == "each":
            lk.set_temperature(model, model.scheme.temperature(i, steps))
        if clear:
            model.zero_grad()
        out, x = model(batches[i]), batches[i]
        rate = sum(p.log().sum() for p in out["likelihoods"].values()) / (-math.log(2) * len(x) * x.size(2) * x.size(3))
        total = rate + lmbda * scale * torch.nn.functional.mse_loss(out["x_hat"], x)
        total.backward()
        if update:
            optimizer.step()
        history.append(total.detach())
    return history


def loop_with(**mistake):
    return lambda *arguments: loop(*arguments, **mistake)


def differs(scheme, temperature, center, exact):
    """Return whether each of the four paths differs from rounding around a center.

    Without `exact`, a path differs only if its values are not integers.
    """
    y = torch.linspace(-4, 4, 1000).reshape(1, 1, 10, 100) + 0.003
    mean = torch.full_like(y, 0.3) if center else None
    target = torch.round(y - 0.3) + 0.3 if center else torch.round(y)
    outputs = [*scheme.quantize(y, mean, temperature), *scheme.quantize(y, mean, temperature, hyper=True)]
    return [bool(((output - (target if exact else output.round())).abs() > 1e-3).any()) for output in outputs]


def by_hand(report):
    """Name the fault from the figures of a report."""
    figures = {finding.kind: finding.figure for finding in report.findings if finding.severity != "note"}
    return next(kind for kind in ("stale_tables", "scale_bound", "quantiles", "center") if kind in figures)


REWRITTEN_MISTAKES = [  # common mistakes, written differently from the misconceptions
    ("model.loop", loop_with(temperature="once"), "again at every step"),
    ("model.loop", loop_with(temperature="never"), "again at every step"),
    ("model.loop", loop_with(mode="eval"), "evaluation mode"),
    ("model.loop", loop_with(clear=False), "accumulate"),
    ("model.loop", loop_with(scale=1), "scale 0 to 1"),
    ("model.loop", loop_with(update=False), "never makes a step"),
    ("model.paths", lambda scheme, tau: differs(scheme, tau, center=False, exact=False), "neighboring integer"),
    ("model.paths", lambda scheme, tau: differs(scheme, tau, center=False, exact=True), "zero_center"),
    ("model.paths", lambda scheme, tau: np.ones(4), "round in the forward pass"),
    (
        "model.paths",
        lambda s, tau: [path.random for path in (s.rate, s.distortion, s.hyper_rate, s.hyper_distortion)],
        "without noise",
    ),
    ("model.faults", lambda reports: [report.to_dict()["findings"][0]["kind"] for report in reports], "a symptom"),
    ("model.faults", lambda reports: ["not_reproducible"] * 4, "least severe"),
    ("model.faults", lambda reports: [f.kind for r in reports for f in r.findings if f.kind == "oops"], "shape (0,)"),
    ("model.faults", lambda reports: ["stale"] * 4, "unknown kind"),
]


@pytest.mark.parametrize(("key", "wrong", "fragment"), REWRITTEN_MISTAKES)
def test_a_mistake_is_recognized_in_other_code(key, wrong, fragment):
    verdict = exercise(key).check(wrong)
    assert verdict.state == "failed" and fragment in verdict.message


def test_other_correct_answers_pass():
    assert exercise("model.loop").check(loop)
    assert exercise("model.paths").check(lambda scheme, tau: differs(scheme, tau, center=True, exact=True))
    assert exercise("model.faults").check(lambda reports: [by_hand(report) for report in reports])


def test_an_answer_does_not_change_the_model_of_the_check():
    """Every answer trains a copy, so a second check gives the same verdict, even after a wrong answer."""
    task = exercise("model.loop")
    model, batches, lmbda = task.cases(0)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    first = task.probe(loop, model, batches, lmbda)
    assert np.array_equal(task.probe(loop, model, batches, lmbda), first)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert not model.training and len(first) == len(batches) and first[-1] < first[0]

"""Exercises of lesson 09: mistakes as learners write them, and other right answers."""

import math

import numpy as np
import pytest
import torch

import labkit as lk
from labkit import course
from labkit.course import record


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("LABKIT_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(record, "_memory", None)


def loop(model, batches, optimizer, lmbda, temperature="each", mode="train", clear=True, scale=65025, update=True):
    """A loop in other words than the solution's, with one thing amiss or none."""
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


def amiss(**what):
    return lambda *given: loop(*given, **what)


def compared(scheme, temperature, center, exact):
    """The four paths, each against rounding around a center, or (without `exact`) asked only for integers."""
    y = torch.linspace(-4, 4, 1000).reshape(1, 1, 10, 100) + 0.003
    mean = torch.full_like(y, 0.3) if center else None
    target = torch.round(y - 0.3) + 0.3 if center else torch.round(y)
    seen = [*scheme.quantize(y, mean, temperature), *scheme.quantize(y, mean, temperature, hyper=True)]
    return [bool(((each - (target if exact else each.round())).abs() > 1e-3).any()) for each in seen]


LOOKALIKES = [  # the same mistakes as learners write them, in other code
    ("09.1", amiss(temperature="once"), "anew at every step"),
    ("09.1", amiss(temperature="never"), "anew at every step"),
    ("09.1", amiss(mode="eval"), "evaluation mode"),
    ("09.1", amiss(clear=False), "pile up"),
    ("09.1", amiss(scale=1), "scale 0 to 1"),
    ("09.1", amiss(update=False), "never makes a step"),
    ("09.2", lambda scheme, tau: compared(scheme, tau, center=False, exact=False), "the neighbor"),
    ("09.2", lambda scheme, tau: compared(scheme, tau, center=False, exact=True), "zero_center"),
    ("09.2", lambda scheme, tau: np.ones(4), "is rounding"),
    (
        "09.2",
        lambda s, tau: [path.random for path in (s.rate, s.distortion, s.hyper_rate, s.hyper_distortion)],
        "noise",
    ),
    ("09.3", lambda done, steps, start, end: start + 0 * end, "starts over"),
    ("09.3", lambda done, steps, a, b: lk.schedules.exponential(a, b)(0, steps - done), "starts over"),
    (
        "09.3",
        lambda done, steps, a, b: math.exp(math.log(a) + (done - 1) / (steps - 1) * math.log(b / a)),
        "not of the",
    ),
    ("09.3", lambda done, steps, a, b: a ** (1 - done / steps) * b ** (done / steps), "intervals"),
    ("09.3", lambda done, steps, a, b: lk.schedules.exponential(a, b)(done + 1, steps), "one step later"),
    ("09.3", lambda done, steps, a, b: lk.schedules.linear(a, b)(done, steps), "straight line"),
]


@pytest.mark.parametrize(("key", "wrong", "fragment"), LOOKALIKES)
def test_the_same_mistake_in_other_words(key, wrong, fragment):
    verdict = course.exercise(key).check(wrong)
    assert verdict.state == "failed" and fragment in verdict.message


def test_other_right_answers_pass():
    assert course.exercise("09.1").check(loop)
    assert course.exercise("09.2").check(lambda scheme, tau: compared(scheme, tau, center=True, exact=True))
    assert course.exercise("09.3").check(lambda done, steps, a, b: lk.schedules.exponential(a, b)(done, steps))


def test_a_loop_leaves_the_model_of_the_check_alone():
    """Every answer trains a copy: a second check judges as the first did, also after a wrong answer."""
    exercise = course.exercise("09.1")
    model, batches, lmbda = exercise.cases(0)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    first = exercise.probe(loop, model, batches, lmbda)
    assert np.array_equal(exercise.probe(loop, model, batches, lmbda), first)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert not model.training and len(first) == len(batches) and first[-1] < first[0]

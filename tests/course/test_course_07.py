"""Lesson 07's exercises: the mistakes as learners write them, and right answers in other words."""

import pytest
import torch

from labkit import course
from labkit.course import exercises, record

KEYS = list(exercises.exercises("07"))
WRONG = [(key, wrong, message) for key in KEYS for wrong, message in course.exercise(key).misconceptions.items()]


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("LABKIT_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(record, "_memory", None)


def fixed(mean):
    return mean.detach()


LOOKALIKES = [
    ("07.1", lambda y, m, q: (q(y - m) + m, q(y)), "should have been"),
    ("07.1", lambda y, m, q: [q(y)] * 2, "around 0"),
    ("07.1", lambda y, m, q: (q(y - m) + m,) * 2, "nothing is stopped"),
    ("07.1", lambda y, m, q: (q(y - fixed(m)) + fixed(m),) * 2, "partial"),
    ("07.1", lambda y, m, q: (q(y - m) + m, m + q(y - m.data)), "1 instead of 1 − slope"),
    ("07.1", lambda y, m, q: (q(y - m) + m, m.data + q(y - m)), "−slope instead"),
    ("07.1", lambda y, m, q: (q(y - m) + m, q(y.detach() - m.detach()) + m.detach()), "Detach only μ"),
    ("07.1", lambda y, m, q: (q(y - m), q(y - m.data)), "add μ back"),
    ("07.1", lambda y, m, q: (q(y - m), q(y - m.data) + m.data), "For the rate"),
    ("07.1", lambda y, m, q: (q(y - m.data) + m.data, q(y - m) + m), "wrong path"),
    ("07.2", lambda t: (0, (1 - t) / t**0.5 / t**0.5 + 1), "mean square"),
    ("07.2", lambda t: (0, ((1 - t) / t) ** 0.5), "standard deviation"),
    ("07.2", lambda t: (t * (1 / t), (1 - t) / t), "1 − slope"),
    ("07.2", lambda t: (0 * t, 0 * t), "slope 1 everywhere"),
    ("07.3", lambda a, b: torch.var(b) / torch.var(a), "pooled"),
    ("07.3", lambda a, b: torch.trace(torch.cov(a.T)) / torch.trace(torch.cov(b.T)), "upside down"),
    ("07.3", lambda a, b: b.numpy().var(0).sum() / a.numpy().var(0).sum(), "n − 1"),
    (
        "07.3",
        lambda a, b: sum(row.numpy().var(ddof=1) for row in b) / sum(row.numpy().var(ddof=1) for row in a),
        "from draw to draw",
    ),
    ("07.3", lambda a, b: (torch.trace(torch.cov(b.T)) / torch.trace(torch.cov(a.T))) ** 0.5, "standard deviations"),
]


@pytest.mark.parametrize(("key", "wrong", "fragment"), LOOKALIKES)
def test_the_same_mistake_in_other_words(key, wrong, fragment):
    verdict = course.exercise(key).check(wrong)
    assert verdict.state == "failed" and fragment in verdict.message


@pytest.mark.parametrize(("key", "wrong", "message"), WRONG, ids=[f"{key}{wrong.__name__}" for key, wrong, _ in WRONG])
def test_wrong_answer_gets_its_message(key, wrong, message):
    verdict = course.exercise(key).check(wrong)
    assert verdict.state == "failed" and verdict.message == message


def test_other_right_answers_pass():
    def step_by_step(y, mean, surrogate):
        rate = surrogate(y - mean).add(mean)
        mean = mean.clone().detach()
        return [rate, surrogate(y.sub(mean)).add(mean)]

    assert course.exercise("07.1").check(step_by_step)
    assert course.exercise("07.2").check(lambda t: torch.tensor([0.0, (1 - t) / t]))
    assert course.exercise("07.3").check(lambda a, b: torch.trace(torch.cov(b.T)) / torch.trace(torch.cov(a.T)))


@pytest.mark.parametrize("key", KEYS)
def test_solution_passes_and_stub_is_not_attempted(key):
    exercise = course.exercise(key)
    assert exercise.check(exercise.answer).state == "passed"
    assert exercise.check(lambda *_: ...).state == "not attempted"


def test_what_is_no_answer_is_said_in_one_line():
    assert "two tensors" in course.exercise("07.1").check(lambda y, mean, surrogate: y).message
    assert "shape" in course.exercise("07.3").check(lambda a, b: a.var(0)).message

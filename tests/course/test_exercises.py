"""The stubs, solutions, oracles and misconceptions of all exercises, and the checks of answers."""

import math
import re

import numpy as np
import pytest
import torch
from scipy import stats

import labkit
from labkit.course import LESSONS, exercise
from labkit.course.exercises import all_exercises, exercises, visible_number
from labkit.course.exercises.base import SEEDS

KEYS = list(all_exercises())
WRONG = [
    (key, wrong, message)
    for key, exercise in all_exercises().items()
    for wrong, message in exercise.misconceptions.items()
]


@pytest.mark.parametrize("key", KEYS)
def test_a_stub_counts_as_not_attempted(key, home):
    def stub(*arguments): ...

    for answer in (stub, ..., None, lambda *arguments: ...):
        verdict = exercise(key).check(answer)
        assert verdict.state == "not attempted" and not verdict
    assert not home.exists()  # nothing is written to the learner's record


@pytest.mark.parametrize("key", KEYS)
def test_the_displayed_solution_passes(key):
    task = exercise(key)
    assert task.check(task.answer).state == "passed"
    shown = str(task.solution())
    assert shown.startswith("def ") and task.answer.__name__ in shown
    namespace = {"torch": torch, "math": math, "np": np, "stats": stats, "lk": labkit}  # the imports of the setup cells
    exec(shown, namespace)  # the displayed text is itself a solution
    assert task.check(namespace[task.answer.__name__])


@pytest.mark.parametrize("key", KEYS)
def test_the_oracle_does_not_use_the_solution(key):
    task = exercise(key)
    assert task.oracle is not task.answer
    assert task.answer.__name__ not in task.oracle.__code__.co_names
    assert len(task.misconceptions) >= 2
    cases = {str(task.cases(seed)) for seed in SEEDS}
    assert len(cases) == len(SEEDS) or cases == {"()"}  # without arguments, the answer is a value
    assert task.hints == () or (len(task.hints) == 3 and all(task.hints))


@pytest.mark.parametrize(("key", "wrong", "message"), WRONG, ids=[key for key, _, _ in WRONG])
def test_a_wrong_answer_gets_the_message_of_its_misconception(key, wrong, message):
    verdict = exercise(key).check(wrong)
    assert verdict.state == "failed" and verdict.message == message


REWRITTEN_MISTAKES = [  # the same mistakes in other code, as learners might write it
    ("codec.bpp", lambda n, h, w: n / h / w, "bytes per pixel"),
    ("codec.bpp", lambda n, h, w: 24 / (3 * h * w / n) / 3, "per color value"),
    ("codec.psnr", lambda db: 65025 * 10 ** (-db / 10), "square root"),
    ("codec.psnr", lambda db: 255 * 0.1 ** (db / 10), "factor 20"),
    ("codec.psnr", lambda db: math.sqrt(10 ** (-db / 10)), "up to 255"),
    ("codec.psnr", lambda db: 255 * np.exp(-db / 20), "power of ten"),
    (
        "scalar.loss",
        lambda p, x, y, k: -p.log().sum() / (x.shape[2] * x.shape[3]) + k * ((255 * (x - y)) ** 2).mean(),
        "nats",
    ),
    ("scalar.loss", lambda p, x, y, k: -p.log2().sum() / (24 * 32) + k * (x - y).pow(2).mean(), "scale 0 to 1"),
    ("scalar.loss", lambda p, x, y, k: -p.log2().sum() / (24 * 32) + k * (255 * (x - y)).pow(2).sum(), "a sum"),
    ("scalar.straight_through", lambda y: torch.floor(y + 0.5), "no gradient"),
    ("scalar.straight_through", lambda y: y.detach().round(), "no gradient"),
    ("scalar.straight_through", lambda y: 1.0 * y, "nothing is rounded"),
    ("scalar.gain", lambda k: (k / 6) ** 0.5, "ln 2"),
    ("scalar.gain", lambda k: np.sqrt(6 / (k * np.log(2))), "step size"),
]


@pytest.mark.parametrize(("key", "wrong", "fragment"), REWRITTEN_MISTAKES)
def test_a_mistake_is_recognized_in_other_code(key, wrong, fragment):
    verdict = exercise(key).check(wrong)
    assert verdict.state == "failed" and fragment in verdict.message


def test_other_correct_answers_pass():
    assert exercise("scalar.gain").check(lambda lmbda: np.sqrt(lmbda * np.log(2) / 6))
    assert exercise("scalar.straight_through").check(lambda y: y.round().detach() - y.detach() + y)
    assert exercise("codec.psnr").check(lambda db: torch.tensor(65025 / 10 ** (db / 10)).sqrt())


def test_an_answer_of_the_wrong_type_gets_a_one_line_message():
    task = exercise("scalar.loss")
    assert "shape (3, 24, 32)" in task.check(lambda p, x, x_hat, lmbda: x[0]).message
    assert "ZeroDivisionError: division by zero (in <lambda>" in task.check(lambda *_: 1 / 0).message
    assert "should have been" in task.check(lambda *_: -7.0).message
    assert task.check(lambda *_: math.nan).state == "failed"
    assert task.check("a string").state == "failed"
    assert exercise("scalar.straight_through").check(lambda y: 1.0).message.endswith("with the shape of y.")


def test_the_error_for_an_unknown_key_suggests_similar_keys():
    with pytest.raises(ValueError, match=r"unknown exercise 'scalar.gains'; did you mean scalar.gain"):
        exercise("scalar.gains")
    with pytest.raises(ValueError, match="unknown lesson 'scaler'; did you mean scalar"):
        exercises("scaler")


def test_keys_have_two_words_and_visible_numbers_give_positions():
    assert all(re.fullmatch(r"[a-z]+\.[a-z_]+", key) for key in KEYS)
    assert [visible_number(exercise(key)) for key in ("codec.psnr", "mismatch.sampled")] == ["00.2", "03.1"]
    assert sum(len(exercises(lesson)) for lesson in LESSONS) == len(KEYS)


@pytest.mark.parametrize("key", KEYS)
def test_cards_have_html_and_text(key):
    task = exercise(key)
    for card in (task, task.hint(), task.solution(), task.check(...)):
        assert len(str(card)) > 20 and "\n" not in repr(card) and "<div" in card._repr_html_()
    assert "<details>" in task._repr_html_() and f"{task.minutes} minutes" in repr(task)
    assert all(len(text) > 20 and text not in str(task.solution()) for text in task.steps.values())

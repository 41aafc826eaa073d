"""The course's machinery: exercises, guesses, the progress file, the set-up cell."""

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import stats

from labkit import course, networks
from labkit.course import exercises, record

ROOT = Path(__file__).resolve().parents[2]
KEYS = [key for lesson in course.LESSONS for key in exercises.exercises(lesson)]
WRONG = [(key, wrong, message) for key in KEYS for wrong, message in course.exercise(key).misconceptions.items()]


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("LABKIT_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(record, "_memory", None)
    return tmp_path / "home"


def python(code: str, **environment: str) -> subprocess.CompletedProcess:
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    env = {**os.environ, "PYTHONPATH": path, **environment}
    return subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, timeout=120)


def test_import_labkit_imports_no_course():
    done = python(
        "import sys, labkit\n"
        "print([m for m in sys.modules if m.split('.')[0] in ('plotly', 'ipywidgets', 'IPython') or 'course' in m])"
    )
    assert done.stdout.strip() == "[]", done.stderr


def test_start_says_what_there_is_and_seeds_nothing(home):
    done = python(
        "import torch, labkit as lk\n"
        "torch.manual_seed(3); before = torch.get_rng_state()\n"
        "assert lk.course.start('00') is None\n"
        "assert torch.equal(before, torch.get_rng_state())\n"
        "import plotly.io as pio; assert pio.templates.default == 'labkit'",
        LABKIT_HOME=str(home),
    )
    assert done.returncode == 0 and done.stderr == ""  # no warning of what compressai imports, either
    for word in ("Lesson 00", "torch", "thread", "training and", "test photographs", "weights", "ready in"):
        assert word in done.stdout
    assert "opened" in json.loads((home / "progress.json").read_text())["lessons"]["00"]


def test_start_of_an_unknown_lesson():
    with pytest.raises(ValueError, match="there is no lesson '9'"):
        course.start("9")


# Exercises


@pytest.mark.parametrize("key", KEYS)
def test_stub_is_not_attempted(key, home):
    def stub(*arguments): ...

    for answer in (stub, ..., None, lambda *arguments: ...):
        verdict = course.exercise(key).check(answer)
        assert verdict.state == "not attempted" and not verdict
    assert not home.exists()  # and leaves no trace


@pytest.mark.parametrize("key", KEYS)
def test_solution_passes_and_is_what_is_shown(key):
    exercise = course.exercise(key)
    assert exercise.check(exercise.answer).state == "passed"
    shown = str(exercise.solution())
    assert shown.startswith("def ") and exercise.answer.__name__ in shown
    namespace = {"torch": torch, "math": math, "np": np, "stats": stats}  # what set-up cells import
    exec(shown, namespace)  # the text itself is a solution
    assert exercise.check(namespace[exercise.answer.__name__])


@pytest.mark.parametrize("key", KEYS)
def test_oracle_does_not_use_the_solution(key):
    exercise = course.exercise(key)
    assert exercise.oracle is not exercise.answer
    assert exercise.answer.__name__ not in exercise.oracle.__code__.co_names
    assert len(exercise.misconceptions) >= 2
    assert len({str(exercise.cases(seed)) for seed in exercises.SEEDS}) == len(exercises.SEEDS)


@pytest.mark.parametrize(("key", "wrong", "message"), WRONG, ids=[f"{key}{wrong.__name__}" for key, wrong, _ in WRONG])
def test_wrong_answer_gets_its_message(key, wrong, message):
    verdict = course.exercise(key).check(wrong)
    assert verdict.state == "failed" and verdict.message == message


LOOKALIKES = [  # the same mistakes as learners write them, in other code
    ("00.1", lambda n, h, w: n / h / w, "bytes per pixel"),
    ("00.1", lambda n, h, w: 24 / (3 * h * w / n) / 3, "per color value"),
    ("00.2", lambda mse: 20 * math.log10(1 / math.sqrt(mse)), "peak is 255"),
    ("00.2", lambda mse: 20 * math.log(255) - 10 * math.log(mse), "base ten"),
    ("00.2", lambda mse: 40 * math.log10(255 / math.sqrt(mse)), "Twice too much"),
    ("02.1", lambda p, x, y, k: -p.log().sum() / (x.shape[2] * x.shape[3]) + k * ((255 * (x - y)) ** 2).mean(), "nats"),
    ("02.1", lambda p, x, y, k: -p.log2().sum() / (24 * 32) + k * (x - y).pow(2).mean(), "scale 0 to 1"),
    ("02.1", lambda p, x, y, k: -p.log2().sum() / (24 * 32) + k * (255 * (x - y)).pow(2).sum(), "a sum"),
    ("02.2", lambda y: torch.floor(y + 0.5), "no gradient"),
    ("02.2", lambda y: y.detach().round(), "no gradient"),
    ("02.2", lambda y: 1.0 * y, "nothing is rounded"),
    ("02.3", lambda k: (k / 6) ** 0.5, "ln 2"),
    ("02.3", lambda k: np.sqrt(6 / (k * np.log(2))), "step size"),
]


@pytest.mark.parametrize(("key", "wrong", "fragment"), LOOKALIKES)
def test_the_same_mistake_in_other_words(key, wrong, fragment):
    verdict = course.exercise(key).check(wrong)
    assert verdict.state == "failed" and fragment in verdict.message


def test_other_right_answers_pass():
    assert course.exercise("02.3").check(lambda lmbda: np.sqrt(lmbda * np.log(2) / 6))
    assert course.exercise("02.2").check(lambda y: y.round().detach() - y.detach() + y)
    assert course.exercise("00.2").check(lambda mse: torch.tensor(20 * math.log10(255 / mse**0.5)))


def test_what_is_no_answer_is_said_in_one_line():
    exercise = course.exercise("02.1")
    assert "shape (3, 24, 32)" in exercise.check(lambda p, x, x_hat, lmbda: x[0]).message
    assert "ZeroDivisionError: division by zero (in <lambda>" in exercise.check(lambda *_: 1 / 0).message
    assert "should have been" in exercise.check(lambda *_: -7.0).message
    assert exercise.check(lambda *_: math.nan).state == "failed"
    assert exercise.check("a string").state == "failed"
    assert course.exercise("02.2").check(lambda y: 1.0).message.endswith("of the shape of y.")


def test_unknown_exercise():
    with pytest.raises(ValueError, match=r"did you mean 02\.\d"):
        course.exercise("02.9")
    with pytest.raises(ValueError, match="there is no lesson 'x'"):
        course.exercise("x.1")


@pytest.mark.parametrize("key", KEYS)
def test_cards_have_html_and_text(key):
    exercise = course.exercise(key)
    for card in (exercise, exercise.hint(), exercise.solution(), exercise.check(...)):
        assert len(repr(card)) > 20 and "<div" in card._repr_html_()
    assert "<details>" in exercise._repr_html_() and f"{exercise.minutes} minutes" in repr(exercise)
    assert exercise.clue not in str(exercise.solution())


# The record


def test_progress_counts_what_was_solved(home):
    exercise = course.exercise("02.3")
    exercise.check(lambda lmbda: 1.0)
    exercise.check(exercise.answer)
    exercise.check(lambda lmbda: 1.0)  # what was solved once stays solved
    assert record.read()["exercises"]["02.3"] == {"state": "passed", "tries": 3}
    assert "02 Uniform scalar quantization · not opened yet · 0 guessed · 1 of 3" in str(course.progress())
    assert [file.name for file in home.iterdir()] == ["progress.json"]


def test_damaged_file_is_set_aside_not_lost(home):
    home.mkdir()
    for damage in ("{ not JSON", '["a list"]', '{"guesses": 7}', "\udcff"):
        (home / "progress.json").write_text(damage, errors="surrogateescape")
        assert record.read() == {"lessons": {}, "guesses": {}, "exercises": {}}
        record.write("guesses", "02.1", "a guess")
        assert record.read()["guesses"] == {"02.1": "a guess"}
        assert (home / "progress.damaged.json").read_text(errors="surrogateescape") == damage


def test_file_is_whole_or_as_before(home, monkeypatch):
    record.write("guesses", "02.1", "before")

    def fail(*_, **__):
        raise OSError("disk full")

    with monkeypatch.context() as broken:
        broken.setattr(json, "dump", fail)
        record.write("guesses", "02.1", "after")  # goes on in memory
        assert record.read()["guesses"]["02.1"] == "after" and not record.kept()
    assert json.loads((home / "progress.json").read_text())["guesses"]["02.1"] == "before"
    assert [file.name for file in home.iterdir()] == ["progress.json"]


def test_home_that_cannot_be_written(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("LABKIT_HOME", str(tmp_path / "file" / "home"))
    exercise = course.exercise("00.1")
    assert exercise.check(exercise.answer)
    assert "1 of 2 exercises" in str(course.progress()) and "cannot be written" in str(course.progress())


def test_two_notebooks_keep_each_others_entries(home):
    record.write("guesses", "00.1", 4)
    done = python("from labkit.course import record; record.write('guesses', '02.1', 'b')", LABKIT_HOME=str(home))
    assert done.returncode == 0, done.stderr
    record.write("lessons", "00", {})
    assert record.read()["guesses"] == {"00.1": 4, "02.1": "b"}


# Guesses


def test_guess_is_recorded_and_found_again():
    prediction = course.predict("02.1", "Which?", ["left", "right"])
    assert prediction.guess is None and "You made no guess" in str(course.reveal("02.1", "left"))
    prediction._control.value = "right"
    again = course.predict("02.1", "Which?", ["left", "right"])
    assert again._control.value == "right" and "Your guess: right" in again._said.value
    assert "You guessed: right. The answer: left." in str(course.reveal("02.1", "left"))
    assert "You guessed so." in str(course.reveal("02.1", "right"))


def test_guess_of_a_number():
    prediction = course.predict("02.2", "How many?", low=0, high=300)
    assert prediction.guess is None  # where the slider starts is no guess
    prediction._control.value = 80
    assert str(course.reveal("02.2", 151, unit="cells")) == "You guessed 80 cells. The answer: 151 cells."
    assert course.predict("02.2", "How many?", low=0, high=300)._control.value == 80
    assert course.predict("02.2", "How many?", low=100, high=300)._control.value == 100  # no longer in range


def test_prediction_shows_a_widget_and_a_text():
    share = course.predict("08.2", "How much?", low=0.0, high=40.0)
    assert (share._control.min, share._control.max, share._control.value) == (0.0, 40.0, 0.0)
    bundle = course.predict("02.1", "Which?", ["left", "right"])._repr_mimebundle_()
    assert bundle["text/plain"] == "Which? (left / right)"
    assert "application/vnd.jupyter.widget-view+json" in bundle


# Figures


def test_images_have_text_alternatives():
    card = course.figures.images({"a <gray> card": torch.full((3, 4, 5), 0.5)})
    assert 'alt="a &lt;gray&gt; card"' in card._repr_html_() and "a <gray> card" in repr(card)


def test_cells_show_the_networks_own_cells():
    net = networks.toy_2d()
    x = torch.randn(200, 2, generator=torch.Generator().manual_seed(0))
    figure = course.figures.cells({"one": net, "two": net}, x)
    assert len(figure.data) == 6
    heat, _, discs = figure.data[:3]
    assert heat.z.shape == (240, 240)
    points, _ = net.codewords(x)
    assert np.allclose(np.stack([discs.x, discs.y], 1), points)

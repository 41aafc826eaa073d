"""The setup cell, predictions and figures of the course."""

import json

import numpy as np
import pytest
import torch

from labkit import course, networks


def test_importing_labkit_does_not_import_the_course(python):
    output = python(
        "import sys, labkit\n"
        "print([m for m in sys.modules if m.split('.')[0] in ('plotly', 'ipywidgets', 'IPython') or 'course' in m])"
    )
    assert output.strip() == "[]"


@pytest.mark.slow
def test_start_describes_the_machine_and_sets_no_seed(python, home):
    output = python(
        "import torch, labkit as lk\n"
        "torch.manual_seed(3); before = torch.get_rng_state()\n"
        "assert lk.course.start('codec') is None\n"
        "assert torch.equal(before, torch.get_rng_state())\n"
        "import plotly.io as pio; assert pio.templates.default == 'labkit'",
    )
    for text in ("Lesson 00 Start here", "torch", "thread", "training and", "test photographs", "weights", "ready in"):
        assert text in output
    assert "opened" in json.loads((home / "progress.json").read_text())["lessons"]["codec"]


def test_start_rejects_an_unknown_lesson():
    with pytest.raises(ValueError, match="unknown lesson '9'; expected one of codec, bits, scalar, "):
        course.start("9")


# Predictions


def test_a_guess_is_recorded_and_shown_again():
    prediction = course.predict("scalar.derivative", "Which?", ["left", "right"])
    assert prediction.guess is None and "You made no guess" in str(course.reveal("scalar.derivative", "left"))
    prediction.control.value = "right"
    again = course.predict("scalar.derivative", "Which?", ["left", "right"])
    assert again.control.value == "right" and "Your guess: right" in again._status.value
    assert "You guessed: right. The answer: left." in str(course.reveal("scalar.derivative", "left"))
    assert "Your guess was right." in str(course.reveal("scalar.derivative", "right"))


def test_a_numeric_guess_is_recorded_and_shown_again_if_it_is_in_range():
    prediction = course.predict("scalar.codewords", "How many?", low=0, high=300)
    assert prediction.guess is None  # the initial value of the slider is not a guess
    prediction.control.value = 80
    assert str(course.reveal("scalar.codewords", 151, unit="cells")) == "You guessed 80 cells. The answer: 151 cells."
    assert course.predict("scalar.codewords", "How many?", low=0, high=300).control.value == 80
    assert course.predict("scalar.codewords", "How many?", low=100, high=300).control.value == 100  # out of range


def test_a_prediction_has_a_widget_and_a_text_form():
    prediction = course.predict("method.span", "How much?", low=0.0, high=40.0)
    assert (prediction.control.min, prediction.control.max, prediction.control.value) == (0.0, 40.0, 0.0)
    bundle = course.predict("scalar.derivative", "Which?", ["left", "right"])._repr_mimebundle_()
    assert bundle["text/plain"] == "Which? (left / right)"
    assert "application/vnd.jupyter.widget-view+json" in bundle


# Figures


def test_images_have_alternative_text():
    card = course.figures.images({"a <gray> card": torch.full((3, 4, 5), 0.5)})
    assert 'alt="a &lt;gray&gt; card"' in card._repr_html_() and "a <gray> card" in repr(card)


def test_the_plot_shows_the_cells_and_codewords_of_every_network():
    net = networks.toy_2d()
    x = torch.randn(200, 2, generator=torch.Generator().manual_seed(0))
    figure = course.figures.cells({"one": net, "two": net}, x)
    assert len(figure.data) == 6
    heat, _, discs = figure.data[:3]
    assert heat.z.shape == (240, 240)
    points, _ = net.codewords(x)
    assert np.allclose(np.stack([discs.x, discs.y], 1), points)

"""The coder panel codes words as exact fractions do, and draws every interval."""

from __future__ import annotations

import math
from fractions import Fraction

import pytest

from labkit.live.coder import LETTERS, MODELS, WORDS, CoderPanel, code_word
from labkit.live.drawing import Drawing

PATIENCE = 20  # seconds after which a waiting test fails


@pytest.fixture(scope="module")
def panel():
    panel = CoderPanel()
    yield panel
    panel.close()


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("word", WORDS)
def test_intervals_and_digits_agree_with_exact_fractions(word, model):
    result = code_word({"word": word, "model": model, "step": 5})
    low, width, shares = Fraction(0), Fraction(1), [Fraction(size, 16) for size in MODELS[model]]
    for letter, interval, bits in zip(word, result.intervals[1:], result.surprises, strict=True):
        place = LETTERS.index(letter)
        low, width = low + width * sum(shares[:place]), width * shares[place]
        assert Fraction(interval.low, interval.parts) == low and Fraction(interval.width, interval.parts) == width
        assert bits == pytest.approx(-math.log2(shares[place]))
    number, count = Fraction(int(result.digits, 2), 2 ** len(result.digits)), len(result.digits)
    assert low <= number and number + Fraction(1, 2**count) <= low + width
    assert sum(result.surprises) <= count + 1e-9 and count <= sum(result.surprises) + 2


def test_the_panel_draws_the_word_step_by_step(panel):
    result = panel.run(PATIENCE, word="NOTE", model="E 7, N 4, O 3, T 2", step=5)
    assert str(result) == "NOTE: 2.00 + 2.42 + 3.00 + 1.19 = 8.61 bits; code 101001101, 9 digits"
    svg = panel.sketch.frame["svg"]
    assert svg.count("<rect") == 21 and "42,624 / 65,536" in svg and "code 0.101001101…, 9 digits" in svg
    assert "N keeps 4/16, 2.00 bits: [7, 11) / 16." in panel.sketch.label
    for step in range(5):
        panel.run(PATIENCE, step=step)
        assert panel.sketch.frame["svg"].count("<rect") == 4 * (step + 1)
        assert ("code 0." in panel.sketch.frame["svg"]) is False
    assert panel.still().size[0] > 800


def test_a_drawing_is_the_same_as_svg_and_as_image():
    drawing = Drawing(40, 30)
    drawing.box(5, 5, 20, 10, "#1c7ed6", opacity=1)
    drawing.line((30, 2), (30, 20), color="#d55e00", arrow=True)
    drawing.text(20, 25, "a < b")
    svg, image = drawing.svg('a "box"'), drawing.image()
    assert 'aria-label="a &quot;box&quot;"' in svg and "a &lt; b" in svg and svg.count("<polygon") == 1
    assert image.getpixel((15, 10)) == (0x1C, 0x7E, 0xD6) and image.getpixel((38, 2)) == (255, 255, 255)
    assert image.getpixel((30, 17)) == (0xD5, 0x5E, 0x00)

"""The coder panel: a range coder codes a word of four letters, and a drawing shows the interval after each letter."""

from __future__ import annotations

import math
from collections.abc import Generator
from dataclasses import dataclass

from PIL import Image

from labkit.analysis.range_coder import Encoder
from labkit.live.canvas import HERE, FrameWidget
from labkit.live.drawing import Drawing
from labkit.live.engine import LiveRun, View
from labkit.live.panel import Panel, Result, Settings, choice, menu
from labkit.theme import COLORS

LETTERS = "ENOT"
WORDS = ("NOTE", "TONE", "TEEN", "NEON", "NONE", "ONTO", "NOON", "TENT", "TOOT")
MODELS = {  # frequencies of the letters, out of 16
    "E 7, N 4, O 3, T 2": (7, 4, 3, 2),
    "4 for each letter": (4, 4, 4, 4),
    "E 2, N 3, O 4, T 7": (2, 3, 4, 7),
}
TOTAL = 16
STEPS = (0, 1, 2, 3, 4, 5)  # numbers of coded letters; 5 also shows the code

_LEFT, _WIDE, _TOP, _HIGH, _PITCH = 118, 480, 10, 30, 62  # positions and sizes of the bars in pixels
_TEXTS = _LEFT + _WIDE + 122
_KEPT, _CODE = COLORS[0], COLORS[1]


@dataclass(frozen=True)
class Interval:
    """The interval after some letters: [low, low + width) in units of 1/parts."""

    low: int
    width: int
    parts: int

    def __str__(self) -> str:
        if self.parts == 1:
            return "[0, 1)"
        return f"[{self.low:,}, {self.low + self.width:,}) / {self.parts:,}"


@dataclass(frozen=True, repr=False)
class CoderResult(Result):
    """A coded word.

    Attributes:
        surprises: −log₂ of the probability of each letter, in bits.
        intervals: The interval before the first letter and after each letter.
        digits: The code, as binary digits after the point.
    """

    surprises: tuple[float, ...]
    intervals: tuple[Interval, ...]
    digits: str

    def __str__(self) -> str:
        costs = " + ".join(f"{bits:.2f}" for bits in self.surprises)
        count = len(self.digits)
        return f"{self.settings['word']}: {costs} = {sum(self.surprises):.2f} bits; code {self.digits}, {count} digits"


@dataclass(frozen=True)
class _Frame:
    drawing: Drawing
    label: str
    text: str = ""
    progress: float = 1.0


class Sketch(FrameWidget):
    """Shows a drawing.

    Args:
        width: Width in page pixels.
    """

    _esm = HERE / "sketch.js"

    def __init__(self, *, width: int) -> None:
        super().__init__(width=width)
        self._drawing = Drawing(width, 1)

    def show(self, drawing: Drawing, label: str, run: int) -> None:
        """Show a drawing.

        Args:
            drawing: The drawing.
            label: Text alternative for readers who cannot see the drawing.
            run: Number of the run that the drawing belongs to.
        """
        self._drawing = drawing
        self.frame = {"svg": drawing.svg(label), "label": label, "run": run}

    def still(self) -> Image.Image:
        """Draw the frame for pages without a browser, on white."""
        return self._drawing.image()


class CoderPanel(Panel):
    """A range coder that codes a word of four letters. Every change of a control codes the word again.

    Each row of the drawing is the interval after some letters, stretched to the same width. Every letter has a part of
    it whose width is the model's probability. The part of the next letter is filled and becomes the next row. The last
    row shows the part in which all numbers begin with the digits of the code. A vertical line marks the code in every
    row.

    Args:
        step: Number of coded letters, one of STEPS.
        word: One of WORDS.
        model: Probabilities of the letters, one of MODELS.

    Raises:
        ValueError: If an argument is not one of the values above.
    """

    def __init__(self, *, step: int = 5, word: str = "NOTE", model: str = "E 7, N 4, O 3, T 2") -> None:
        self.sketch = Sketch(width=_TEXTS + 210)
        super().__init__(
            controls={
                "step": choice("step k", STEPS, step),
                "word": menu("word", WORDS, word),
                "model": menu("model P", tuple(MODELS), model),
            },
            screens=[self.sketch],
        )

    def job(self, settings: Settings) -> Generator[View, None, CoderResult]:
        """Code the word."""
        result = code_word(settings)
        yield lambda: _draw(result)
        return result

    def draw(self, frame: _Frame, run: LiveRun) -> None:
        """Show the drawing."""
        self.sketch.show(frame.drawing, frame.label, run.number)


def code_word(settings: Settings) -> CoderResult:
    """Code a word.

    Args:
        settings: Values of the controls.
    """
    frequencies = MODELS[settings["model"]]
    encoder, intervals, surprises = Encoder(), [Interval(0, 1, 1)], []
    for letter in settings["word"]:
        place = LETTERS.index(letter)
        encoder.narrow(sum(frequencies[:place]), frequencies[place], TOTAL)
        parts = TOTAL * intervals[-1].parts
        low, width = (number * parts >> encoder.places for number in (encoder.low, encoder.width))
        intervals.append(Interval(low, width, parts))
        surprises.append(math.log2(TOTAL / frequencies[place]))
    return CoderResult(
        settings=settings, surprises=tuple(surprises), intervals=tuple(intervals), digits=encoder.digits()
    )


def _draw(result: CoderResult) -> _Frame:
    step, word = result.settings["step"], result.settings["word"]
    frequencies = MODELS[result.settings["model"]]
    rows = min(step, 4) + 1
    drawing = Drawing(_TEXTS + 210, _TOP + _PITCH * rows)
    words = []
    for row in range(rows):
        interval, top = result.intervals[row], _TOP + _PITCH * row
        middle, right = top + _HIGH / 2, _LEFT + _WIDE
        drawing.text(_LEFT - 8, middle, _fraction(interval.low, interval.parts), "end")
        drawing.text(right + 8, middle, _fraction(interval.low + interval.width, interval.parts), "start")
        start = 0
        for letter, size in zip(LETTERS, frequencies, strict=True):
            x, width = _LEFT + _WIDE * start / TOTAL, _WIDE * size / TOTAL
            kept = row < min(step, 4) and letter == word[row]
            drawing.box(x, top, width, _HIGH, _KEPT if kept else "")
            drawing.text(x + width / 2, middle, letter)
            if kept:
                below = top + _PITCH
                drawing.line((x, top + _HIGH), (_LEFT, below), color=_KEPT)
                drawing.line((x + width, top + _HIGH), (right, below), color=_KEPT)
                cost = f"{size}/{TOTAL}, {result.surprises[row]:.2f} bits"
                drawing.text(_TEXTS, middle, f"{letter} keeps {cost}", "start")
                words.append(f"{letter} keeps {cost}: {result.intervals[row + 1]}.")
            start += size
    if step:
        bits = sum(result.surprises[: rows - 1])
        text = f"width {_fraction(result.intervals[rows - 1].width, TOTAL ** (rows - 1))}, {bits:.2f} bits"
        drawing.text(_TEXTS, _TOP + _PITCH * (rows - 1) + (7 if step == 5 else _HIGH / 2), text, "start")
    if step == 5:
        words.append(_draw_code(drawing, result))
    return _Frame(drawing, " ".join(words) or "The whole interval from 0 to 1, divided among E, N, O and T.")


def _draw_code(drawing: Drawing, result: CoderResult) -> str:
    """Draw the code in every row, and return its description."""
    number, count = int(result.digits, 2), len(result.digits)
    for row, interval in enumerate(result.intervals):
        start, end = (((number + more) * interval.parts / 2**count - interval.low) / interval.width for more in (0, 1))
        top = _TOP + _PITCH * row
        if row == len(result.intervals) - 1:
            drawing.box(_LEFT + _WIDE * start, top, _WIDE * (end - start), _HIGH, _CODE)
        else:
            x = _LEFT + _WIDE * (start + end) / 2
            drawing.line((x, top - 4), (x, top + _HIGH + 4), color=_CODE, width=2)
    drawing.text(_TEXTS, top + 25, f"code 0.{result.digits}…, {count} digits", "start")
    return f"The code is {result.digits}, {count} binary digits; it lies in the filled part of every row."


def _fraction(number: int, parts: int) -> str:
    return f"{number}" if parts == 1 else f"{number:,} / {parts:,}"

"""Predictions: the learner makes a guess before the lesson shows the answer."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Any

from labkit.course import first_edition, record
from labkit.course.cards import Card, number


class Prediction:
    """A question with a control that records the learner's guess immediately.

    Attributes:
        key: Key of the prediction, such as "mismatch.losses".
        question: The question.
        control: Widget that takes the guess: radio buttons for choices, or a slider for numbers.
        widget: Widget that shows the question, the control and the recorded guess.
    """

    def __init__(self, key: str, question: str, control: Any, choices: str) -> None:
        import ipywidgets

        self.key, self.question, self.control, self._choices = key, question, control, choices
        self._status = ipywidgets.HTML()
        self._show_status()
        control.observe(self._record_guess, "value")
        self.widget = ipywidgets.VBox([ipywidgets.HTML(f"<b>{escape(question)}</b>"), control, self._status])

    @property
    def guess(self) -> Any:
        """The guess from this session or an earlier one, or None."""
        return record.read()["guesses"].get(self.key)

    def _record_guess(self, change: dict[str, Any]) -> None:
        if change["new"] is not None:
            record.write("guesses", self.key, change["new"])
            self._show_status()

    def _show_status(self) -> None:
        self._status.value = f"<small>{escape(self._describe_guess())}</small>"

    def _describe_guess(self) -> str:
        guess = self.guess
        return "No guess yet." if guess is None else f"Your guess: {number(guess)} (recorded; you can still change it)."

    def __repr__(self) -> str:
        return f"{self.question} {self._choices}"

    def _repr_mimebundle_(self, **_: Any) -> dict[str, Any]:
        return {**self.widget._repr_mimebundle_(), "text/plain": repr(self)}


def predict(
    key: str,
    question: str,
    choices: Sequence[str] | None = None,
    *,
    low: float = 0,
    high: float = 1,
) -> Prediction:
    """Ask the learner for a guess.

    Args:
        key: Key of the prediction, such as "mismatch.losses".
        question: The question.
        choices: Possible answers. If None, the answer is a number.
        low: Smallest possible number. If both limits are integers, the answer is an integer, too.
        high: Largest possible number.
    """
    import ipywidgets

    key = first_edition.present_key("guesses", key)
    before = record.read()["guesses"].get(key)
    style = {"description": "", "layout": {"width": "max-content"}}
    if choices is not None:
        value = before if before in choices else None
        control: Any = ipywidgets.RadioButtons(options=list(choices), value=value, **style)
        return Prediction(key, question, control, f"({' / '.join(choices)})")
    integers = isinstance(low, int) and isinstance(high, int)
    slider, step = (ipywidgets.IntSlider, 1) if integers else (ipywidgets.FloatSlider, (high - low) / 100)
    start = before if isinstance(before, int | float) and low <= before <= high else low
    control = slider(value=start, min=low, max=high, step=step, continuous_update=False)
    return Prediction(key, question, control, f"({low:g} to {high:g})")


def reveal(key: str, truth: Any, note: str = "", unit: str = "") -> Card:
    """Show the recorded guess next to the truth.

    Args:
        key: Key of the prediction.
        truth: The right answer: a number, or one of the choices.
        note: Sentence to show after the answer.
        unit: Unit of a number.
    """
    unit = f" {unit}" if unit and unit != "%" else unit
    guess = record.read()["guesses"].get(first_edition.present_key("guesses", key))
    if guess is None:
        verdict, accent = "You made no guess.", "plain"
    elif isinstance(truth, str):
        verdict, accent = ("Your guess was right.", "good") if guess == truth else (f"You guessed: {guess}.", "bad")
    else:
        verdict, accent = f"You guessed {number(guess)}{unit}.", "note"
    answer = f"The answer: {number(truth)}{unit}."
    text = " ".join(filter(None, [verdict, answer, note]))
    return Card(f"{escape(verdict)} <b>{escape(answer)}</b> {escape(note)}", text, accent)

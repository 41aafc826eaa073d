"""Guesses: the learner commits to one before the lesson shows the answer."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Any

from labkit.course import record
from labkit.course.cards import Card, number


class Prediction:
    """A question and a control; the guess is recorded the moment it is made. Without one, nothing happens."""

    def __init__(self, key: str, question: str, control: Any, choices: str) -> None:
        import ipywidgets

        self.key, self.question, self._choices, self._control = key, question, choices, control
        self._said = ipywidgets.HTML()
        self._say()
        control.observe(self._guessed, "value")
        self.widget = ipywidgets.VBox([ipywidgets.HTML(f"<b>{escape(question)}</b>"), control, self._said])

    @property
    def guess(self) -> Any:
        """What was guessed, in this session or an earlier one; None before that."""
        return record.read()["guesses"].get(self.key)

    @property
    def control(self) -> Any:
        """The widget that takes the guess: radio buttons over choices, or a slider over numbers."""
        return self._control

    def _guessed(self, change: dict[str, Any]) -> None:
        if change["new"] is not None:
            record.write("guesses", self.key, change["new"])
            self._say()

    def _say(self) -> None:
        guess = self.guess
        said = "No guess yet."
        if guess is not None:
            said = f"Your guess: {escape(number(guess))} (recorded; you may still change it)."
        self._said.value = f"<small>{said}</small>"

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
    step: float | None = None,
) -> Prediction:
    """Ask for a guess: one of `choices`, or without them a number from `low` to `high`."""
    import ipywidgets

    before = record.read()["guesses"].get(key)
    wide = {"description": "", "layout": {"width": "max-content"}}
    if choices is not None:
        value = before if before in choices else None
        control: Any = ipywidgets.RadioButtons(options=list(choices), value=value, **wide)
        return Prediction(key, question, control, f"({' / '.join(choices)})")
    whole = all(isinstance(each, int) for each in (low, high, step or 1))
    kind = ipywidgets.IntSlider if whole else ipywidgets.FloatSlider
    start = before if isinstance(before, int | float) and low <= before <= high else low
    control = kind(
        value=start, min=low, max=high, step=step or (1 if whole else (high - low) / 100), continuous_update=False
    )
    return Prediction(key, question, control, f"({low:g} to {high:g})")


def reveal(key: str, truth: Any, note: str = "", unit: str = "") -> Card:
    """The guess beside the truth; a truth in words is one of the choices that `predict` gave."""
    unit = f" {unit}" if unit else ""
    guess = record.read()["guesses"].get(key)
    if guess is None:
        verdict, accent = "You made no guess.", "plain"
    elif isinstance(truth, str):
        verdict, accent = ("You guessed so.", "good") if guess == truth else (f"You guessed: {guess}.", "bad")
    else:
        verdict, accent = f"You guessed {number(guess)}{unit}.", "note"
    answer = f"The answer: {number(truth)}{unit}."
    text = " ".join(filter(None, [verdict, answer, note]))
    return Card(f"{escape(verdict)} <b>{escape(answer)}</b> {escape(note)}", text, accent)

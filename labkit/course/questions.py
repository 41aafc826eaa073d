"""Questions with feedback: the learner chooses an option and immediately reads why it is right or wrong."""

from __future__ import annotations

import ast
from collections.abc import Mapping
from html import escape
from typing import Any

from labkit.checks import check_name
from labkit.course import record
from labkit.course.cards import Card
from labkit.course.lessons import Lesson, lesson

RIGHT = "Right"  # first word of a line that confirms the right option
# Long options wrap instead of overlapping.
_STYLE = ".labkit-question .widget-radio-box label { height: auto; line-height: 1.5; white-space: normal }"


class Question:
    """A question with options. Each choice is recorded and shows its feedback; the learner may choose again.

    Attributes:
        key: Key of the question, such as "mismatch.law".
        text: The question.
        options: Each option with its feedback, in the order given.
        right: The right option.
        control: Radio buttons with the options.
        widget: Widget that shows the question, the control, the feedback and the recorded answers.
    """

    def __init__(self, key: str, text: str, options: Mapping[str, str | None]) -> None:
        import ipywidgets

        lesson(key.partition(".")[0])
        right = [option for option, line in options.items() if line is None or line.startswith(RIGHT)]
        if len(right) != 1 or len(options) < 2:
            raise ValueError(
                f"question {key} must have wrong options with feedback and one right option, with None or a line that "
                f'begins with "{RIGHT}", got {len(right)} right of {len(options)}'
            )
        self.key, self.text, self.options, self.right = key, text, dict(options), right[0]
        # Without an index, no option is selected at first.
        self.control = ipywidgets.RadioButtons(
            options=list(options), index=None, description="", layout={"width": "auto"}
        )
        self._feedback, self._status = ipywidgets.HTML(), ipywidgets.HTML()
        self._show_status()
        self.control.observe(self._choose, "value")
        head = ipywidgets.HTML(f"<style>{_STYLE}</style><b>{escape(text)}</b>")
        self.widget = ipywidgets.VBox([head, self.control, self._feedback, self._status])
        self.widget.add_class("labkit-question")

    def answer(self, option: str) -> Card:
        """Choose an option as a learner would, and return its feedback.

        Args:
            option: One of the options.

        Raises:
            ValueError: If the question has no such option. The message suggests similar ones.
        """
        check_name(f"option of question {self.key}", option, self.options)
        if option == self.control.value:
            self._record(option)
        else:
            self.control.value = option
        return self.feedback(option)

    def feedback(self, option: str) -> Card:
        """Return the feedback on an option.

        Args:
            option: One of the options.
        """
        line = self.options[option]
        if option != self.right:
            return Card(f"<b>Not this one.</b> {escape(line or '')}", f"Not this one. {line}", "bad")
        confirmed = (line or "").removeprefix(RIGHT).lstrip(".:, ")
        confirmed = confirmed[:1].upper() + confirmed[1:]
        return Card(f"<b>Right.</b> {escape(confirmed)}", f"Right. {confirmed}".strip(), "good")

    def _choose(self, change: dict[str, Any]) -> None:
        if change["new"] is not None:
            self._record(change["new"])

    def _record(self, option: str) -> None:
        before, right = record.read()["questions"].get(self.key, {}), option == self.right
        first, solved = before.get("first", right), before.get("solved", False) or right
        record.write("questions", self.key, {"first": first, "solved": solved, "tries": before.get("tries", 0) + 1})
        self._feedback.value = f'<div role="status">{self.feedback(option)._repr_html_()}</div>'
        self._show_status()

    def _show_status(self) -> None:
        entry = record.read()["questions"].get(self.key)
        status = "No answer yet."
        if entry:
            place = "on the first try" if entry.get("first") else "after more than one try"
            solved = entry.get("solved")
            status = f"Answered right {place} (recorded)." if solved else "Not answered right yet (recorded)."
        self._status.value = f"<small>{status}</small>"

    def __repr__(self) -> str:
        return f"{self.text} ({' / '.join(self.options)})"

    def _repr_mimebundle_(self, **_: Any) -> dict[str, Any]:
        return {**self.widget._repr_mimebundle_(), "text/plain": repr(self)}


def question(key: str, text: str, options: Mapping[str, str | None]) -> Question:
    """Ask a question and give feedback on each option. The record notes whether the first answer was right.

    Args:
        key: A word for the lesson and a word for the question, such as "mismatch.law".
        text: The question.
        options: Options in the order in which they are shown, each with its feedback. The right option has None, or a
            line that begins with "Right" and confirms it. The feedback on a wrong option says why it is tempting and
            what is wrong with it.

    Raises:
        ValueError: If the key names no lesson, or if not exactly one option is right.

    >>> import labkit as lk
    >>> lk.course.question("scalar.sum", "What is 1 + 1?", {"1": "That is the product.", "2": None})
    What is 1 + 1? (1 / 2)
    """
    return Question(key, text, options)


def questions_in(lesson: Lesson) -> dict[str, tuple[str, dict[str, str | None]]]:
    """Return the text and the options of each question in the notebook of a lesson, by key, without running it.

    Args:
        lesson: The lesson. If it has no notebook, it has no questions.
    """
    import nbformat

    notebook = lesson.notebook and nbformat.read(lesson.notebook, as_version=4)
    found = {}
    for cell in notebook.cells if notebook else []:
        if cell.cell_type == "code" and "course.question(" in cell.source:
            for node in ast.walk(ast.parse(cell.source)):
                if isinstance(node, ast.Call) and ast.unparse(node.func) == "lk.course.question":
                    key, text, options = map(ast.literal_eval, node.args)
                    found[key] = (text, options)
    return found

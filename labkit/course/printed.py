"""Static forms of the live objects in a notebook.

A panel becomes its images after a run, a prediction becomes its question, and a question becomes its options with their
feedback.

The export calls `show_printed()` in a kernel before the first cell of a lesson. The kernel then shows these forms
instead of widgets.
"""

from __future__ import annotations

import base64
from contextlib import suppress
from html import escape
from typing import TYPE_CHECKING

from labkit.course.cards import fold

if TYPE_CHECKING:
    from labkit.course.guesses import Prediction
    from labkit.course.questions import Question
    from labkit.live import Panel

_TIMEOUT = 600.0  # seconds for the run of a panel


def show_printed() -> None:
    """Show panels, predictions and questions in their static form from now on.

    Raises:
        RuntimeError: If it is not called in IPython.
    """
    from IPython import get_ipython

    shell = get_ipython()
    if shell is None:
        raise RuntimeError("show_printed must be called in IPython, such as in a notebook")
    bundles = shell.display_formatter.mimebundle_formatter
    bundles.for_type_by_name("labkit.live.panel", "Panel", panel)  # by name, because no module is loaded yet
    bundles.for_type_by_name("labkit.course.guesses", "Prediction", prediction)
    bundles.for_type_by_name("labkit.course.questions", "Question", question)


def panel(live: Panel) -> dict[str, str]:
    """Return a panel as HTML and as text: its images, settings and result at the end of its run.

    Args:
        live: The panel. If it has not run yet, it runs now.
    """
    from labkit.live.canvas import png
    from labkit.live.controls import format_value, value_of

    with suppress(Exception):  # the status line shows the error, and the cell that waits for the run raises it
        if live.state == "idle":
            live.run(_TIMEOUT)
        else:
            live.wait(_TIMEOUT)
    status = live.status.status
    images = ""
    for screen in live.screens:
        still = screen.still()
        source = f"data:image/png;base64,{base64.b64encode(png(still)).decode()}"
        size = f'width="{still.width}" height="{still.height}"'
        images += f'<img src="{source}" {size} alt="{escape(screen.label or status["result"])}">'
    values = {control.description: format_value(value_of(control)) for control in live.controls.values()}
    settings = ", ".join(f"{name}: {value}" for name, value in values.items())
    outcome = " ".join(filter(None, [status["state"], status["text"]]))
    lines = [f"Settings: {settings}.", f"Run {status['run']}: {outcome}.", status["result"]]
    text = " ".join(filter(None, lines))
    note = "<small>This panel is live in JupyterLab: move its controls, and it runs again.</small>"
    html = f'<figure class="panel"><div>{images}</div><figcaption>{escape(text)}<br>{note}</figcaption></figure>'
    return {"text/html": html, "text/plain": text}


def prediction(question: Prediction) -> dict[str, str]:
    """Return a prediction as HTML and as text: its question and the possible answers.

    Args:
        question: The prediction.
    """
    choices = getattr(question.control, "options", None)
    if choices is None:
        answers = f"<p>A number from {question.control.min:g} to {question.control.max:g}.</p>"
    else:
        answers = f"<ul>{''.join(f'<li>{escape(choice)}</li>' for choice in choices)}</ul>"
    html = f'<div class="prediction"><p><b>{escape(question.question)}</b></p>{answers}</div>'
    return {"text/html": html, "text/plain": repr(question)}


def question(asked: Question) -> dict[str, str]:
    """Return a question as HTML and as text. Each option unfolds its feedback.

    Args:
        asked: The question.
    """
    folds = "".join(fold(option, f"<p>{escape(str(asked.feedback(option)))}</p>") for option in asked.options)
    html = f'<div class="prediction question"><p><b>{escape(asked.text)}</b></p>{folds}</div>'
    return {"text/html": html, "text/plain": repr(asked)}

"""How what is live in a notebook looks on paper: a panel after its run, a prediction as its question and choices.

`show_printed()`, run in a kernel, makes it show these instead of widgets. The export runs it before a lesson's first
cell; nothing else does.
"""

from __future__ import annotations

import base64
from contextlib import suppress
from html import escape
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from labkit.course.guesses import Prediction
    from labkit.live import Panel

_PATIENCE = 600.0  # seconds for a panel's run


def show_printed() -> None:
    """From now on, show panels and predictions as they look on paper. Raises RuntimeError outside of IPython."""
    from IPython import get_ipython

    shell = get_ipython()
    if shell is None:
        raise RuntimeError("there is no IPython here to show anything")
    bundles = shell.display_formatter.mimebundle_formatter
    bundles.for_type_by_name("labkit.live.panel", "Panel", panel)  # by name: neither is loaded before it is used
    bundles.for_type_by_name("labkit.course.guesses", "Prediction", prediction)


def panel(live: Panel) -> dict[str, str]:
    """A panel's pictures at the end of its run (the first one starts here), its settings and result, as HTML."""
    from labkit.live.canvas import png

    with suppress(Exception):  # an error stands in the status line, and is raised by the cell that waits for the run
        if live.state == "idle":
            live.run(_PATIENCE)
        else:
            live.wait(_PATIENCE)
    status = live.status.status
    pictures = ""
    for screen in live.screens:
        still = screen.still()
        source = f"data:image/png;base64,{base64.b64encode(png(still)).decode()}"
        size = f'width="{still.width}" height="{still.height}"'
        pictures += f'<img src="{source}" {size} alt="{escape(screen.label or status["result"])}">'
    settings = ", ".join(f"{control.description}: {_value(control)}" for control in live.controls.values())
    outcome = " ".join(filter(None, [status["state"], status["text"]]))
    lines = [f"Settings: {settings}.", f"Run {status['run']}: {outcome}.", status["result"]]
    words = " ".join(escape(line) for line in lines if line)
    note = "<small>A live panel: in JupyterLab its controls can be moved, and it runs again.</small>"
    html = f'<figure class="panel"><div>{pictures}</div><figcaption>{words}<br>{note}</figcaption></figure>'
    return {"text/html": html, "text/plain": " ".join(filter(None, lines))}


def prediction(asked: Prediction) -> dict[str, str]:
    """A prediction's question and what one may answer, as HTML."""
    choices = getattr(asked.control, "options", None)
    if choices is None:
        answers = f"<p>A number from {asked.control.min:g} to {asked.control.max:g}.</p>"
    else:
        answers = f"<ul>{''.join(f'<li>{escape(choice)}</li>' for choice in choices)}</ul>"
    html = f'<div class="prediction"><p><b>{escape(asked.question)}</b></p>{answers}</div>'
    return {"text/html": html, "text/plain": repr(asked)}


def _value(control: Any) -> str:
    """What a control says, in the words on it."""
    if isinstance(control.value, bool):
        return "on" if control.value else "off"
    options = [each if isinstance(each, tuple) else (each, each) for each in control.options]
    return str(next(words for words, value in options if value == control.value))

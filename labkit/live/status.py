"""The status line of a panel."""

from __future__ import annotations

from pathlib import Path

import anywidget
import traitlets

_HERE = Path(__file__).parent


class Status(anywidget.AnyWidget):
    """State, progress, whether what is shown is out of date, and the results of this run and the one before."""

    _esm = _HERE / "status.js"
    _css = _HERE / "panel.css"

    status = traitlets.Dict().tag(sync=True)  # one message a change: the line never contradicts itself

    def show(self, *, run: int, state: str, text: str, progress: float, stale: str, result: str, before: str) -> None:
        self.status = {
            "run": run,
            "state": state,
            "text": text,
            "progress": progress,
            "stale": stale,
            "result": result,
            "before": before,
        }

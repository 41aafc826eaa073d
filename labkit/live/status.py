"""The status line of a panel."""

from __future__ import annotations

import anywidget
import traitlets

from labkit.live.canvas import HERE


class Status(anywidget.AnyWidget):
    """The status line. Its trait `status` is a dictionary that the panel always replaces as a whole.

    Keys: `run` (number of the newest run, 0 before the first), `state` (idle, queued, running, canceled, done or
    error), `text` (current work, duration or error), `progress` (completed fraction, from 0 to 1), `stale` (the reason
    why the screens do not show the current settings; empty if they do), `result` (of a run that is done), `before`
    (settings and result of the previous run).
    """

    _esm = HERE / "status.js"
    _css = HERE / "panel.css"

    status = traitlets.Dict().tag(sync=True)  # one message per change, so its parts never contradict each other

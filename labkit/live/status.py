"""The status line of a panel."""

from __future__ import annotations

import anywidget
import traitlets

from labkit.live.canvas import HERE


class Status(anywidget.AnyWidget):
    """The status line. Its trait `status` is a dictionary that the panel replaces as a whole.

    Keys: `run` (number of the newest run, 0 before the first), `state` (idle, queued, running, canceled, done or
    error), `text` (present work, duration or error), `progress` (completed share, from 0 to 1), `stale` (why the
    screens do not show the present settings; empty if they do), `result` (of a run that is done), `before` (settings
    and result of the previous run).
    """

    _esm = HERE / "status.js"
    _css = HERE / "panel.css"

    status = traitlets.Dict().tag(sync=True)  # one message per change, so that its parts never contradict each other

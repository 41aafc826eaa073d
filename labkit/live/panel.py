"""The base class of all live panels: controls, a status line and screens, on top of a run engine.

A panel is a view of its engine. Everything that it does in a browser is also possible from Python:

    panel = lk.live.ToyPanel()
    panel                             # a notebook shows the panel, and the first run starts
    result = panel.wait(60)           # result of the newest run; an error of the run is raised here
    result = panel.run(lmbda=20.0)    # set a control, train and wait; this needs no browser
    panel.cancel(); panel.history; panel.close()

A subclass defines `job(settings)`, a generator that yields a view after each training step (see `engine`) and returns a
Result. Each view returns a frame, which `draw` puts on the screens. A panel with a single plot is a `plot.PlotPanel`.
"""

from __future__ import annotations

import math
from collections.abc import Generator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import ipywidgets
import numpy as np
from PIL import Image, ImageDraw

from labkit.checks import check_name
from labkit.live.canvas import png
from labkit.live.controls import check_value, choice, format_value, menu, switch, symbol_of, value_of, values_of
from labkit.live.drawing import font
from labkit.live.engine import Canceled, Engine, LiveRun, View
from labkit.live.status import Status
from labkit.statistics import Array

Settings = dict[str, Any]

_WIDTH = 1100  # width of a row of a still, in pixels


class Frame(Protocol):
    """The content that a panel shows after a step."""

    @property
    def progress(self) -> float:
        """Completed fraction of the run, from 0 to 1."""

    @property
    def text(self) -> str:
        """Short description of the current work."""


class Screen(Protocol):
    """An output of a panel: a canvas or a plot."""

    @property
    def widget(self) -> ipywidgets.Widget:
        """Widget in the page."""

    @property
    def label(self) -> str:
        """Text alternative for readers who cannot see the screen."""

    def refresh(self) -> None:
        """Send the content again to a page that was still loading."""

    def still(self) -> Image.Image:
        """Draw the content for pages without a browser."""


@dataclass(frozen=True, repr=False, kw_only=True)
class Result:
    """Result of a run. `str(result)` is the line that the panel shows.

    Attributes:
        settings: Values of the controls.
        losses: Training losses, one per step; empty if nothing was trained.
        loss: Loss on test data with real rounding; NaN if no λ is chosen.
    """

    settings: Settings
    losses: Array = field(default_factory=lambda: np.zeros(0))
    loss: float = math.nan

    def __str__(self) -> str:
        return f"loss {self.loss:.3f}"

    def __repr__(self) -> str:
        return str(self)  # one line says more than all the fields, also in a notebook


class Panel:
    """Controls and a status line above screens, with one engine.

    Args:
        controls: Widgets, each under the name of its setting.
        screens: Screens from left to right.

    Attributes:
        controls: Widgets, each under the name of its setting.
        screens: Screens from left to right.
        engine: Engine that executes the runs.
        status: Status line.
        widget: The whole panel as a widget.
    """

    def __init__(self, controls: dict[str, ipywidgets.Widget], screens: Sequence[Screen]) -> None:
        self.controls, self.screens = controls, tuple(screens)
        self.engine = Engine(lambda settings: self.job(settings), listener=self._update)
        self._requested = self.settings  # settings of the newest run, or the initial settings, which need no run
        self._setting_controls = False  # True while `run` moves the controls
        self._drawn: LiveRun | None = None  # run whose frame is on the screens
        self._frame: Frame | None = None
        self._previous: LiveRun | None = None  # last completed run
        self.status = Status()
        self.status.on_msg(self._on_message)
        small = {"width": "max-content"}
        again = ipywidgets.Button(description="Run again", icon="refresh", layout=small)
        again.on_click(lambda _: self._submit())
        self._cancel_button = ipywidgets.Button(description="Cancel", icon="stop", layout=small, disabled=True)
        self._cancel_button.on_click(lambda _: self.cancel())
        for control in controls.values():
            control.observe(self._on_change, "value")
        wrap = ipywidgets.Layout(flex_flow="row wrap", grid_gap="4px 16px")
        self.widget = ipywidgets.VBox(
            [
                ipywidgets.HBox([*controls.values(), ipywidgets.HBox([again, self._cancel_button])], layout=wrap),
                self.status,
                ipywidgets.HBox([screen.widget for screen in self.screens], layout=wrap),
            ]
        )
        self.widget.add_class("labkit-panel")
        self._write_status(None)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._describe(self.settings)}; {self.state})"

    # A subclass overrides these methods. The engine calls the last three while it holds its lock.

    def job(self, settings: Settings) -> Generator[View, None, Result]:
        """Run with these settings: yield a view after each step, and return the result."""
        raise NotImplementedError

    def draw(self, frame: Any, run: LiveRun) -> None:
        """Put a frame, which a view returned, on the screens."""
        raise NotImplementedError

    def keep_as_ghost(self, run: LiveRun) -> None:
        """Move a completed run into the background, before the first frame of a new run is drawn."""

    def finish(self, run: LiveRun) -> None:
        """Display the result of a finished run."""

    # Interface for Python

    @property
    def settings(self) -> Settings:
        """Values of the controls."""
        return {name: value_of(control) for name, control in self.controls.items()}

    @property
    def state(self) -> str:
        """State of the newest run: idle, queued, running, canceled, done or error."""
        return self.engine.state

    @property
    def history(self) -> list[LiveRun]:
        """Runs that started and are finished, oldest first."""
        return self.engine.history

    def run(self, timeout: float | None = None, **settings: Any) -> Result:
        """Set controls, train, and wait for the result.

        Args:
            timeout: Longest time to wait, in seconds; None waits forever.
            **settings: New values of controls by name. The other controls keep their values.

        Raises:
            ValueError: If a setting is unknown or has a value that its control does not offer.
            Canceled: If the run was canceled or superseded.
            TimeoutError: If the run is not finished in time.
        """
        for name, value in settings.items():
            check_name("setting", name, self.controls)
            check_value(name, value, values_of(self.controls[name]))
        with self.engine.lock:  # every write to a widget holds this lock
            self._setting_controls = True
            for name, value in settings.items():
                self.controls[name].value = value
            self._setting_controls = False
            self._requested = self.settings
        result: Result = self.engine.run(self._requested, timeout)
        return result

    def wait(self, timeout: float | None = None) -> Result:
        """Wait for the newest run and return its result; see `Engine.wait` for arguments and errors."""
        result: Result = self.engine.wait(timeout)
        return result

    def cancel(self) -> None:
        """Cancel the newest run if it is not finished."""
        self.engine.cancel()

    def close(self) -> None:
        """Cancel the newest run and remove the panel from every page that shows it."""
        self.engine.cancel()
        _close(self.widget)

    # Callbacks of the browser. They run on any thread and only submit a request.

    def _on_change(self, _: Any) -> None:
        with self.engine.lock:
            # A slider also reports its value when it is first drawn, but only a new value is a request.
            if not self._setting_controls and self.settings != self._requested:
                self._submit()

    def _submit(self) -> None:
        with self.engine.lock:
            self._requested = self.settings
            self.engine.submit(self._requested)

    def _on_message(self, _: Any, message: dict[str, Any], __: Any) -> None:
        """Send the content of the screens again, because a page that has just drawn a plot may have missed it."""
        if message == {"kind": "drawn"}:
            with self.engine.lock:
                for screen in self.screens:
                    screen.refresh()

    # Output to the browser. Only the engine calls these methods, while it holds its lock.

    def _update(self, run: LiveRun, frame: Frame | None) -> None:
        if frame is not None:
            if self._drawn is not run and self._previous is not None:
                self.keep_as_ghost(self._previous)
            self._drawn, self._frame = run, frame
            self.draw(frame, run)
        if run.state == "done":
            self.finish(run)
        self._write_status(run)
        if run.state == "done":
            self._previous = run
        self._cancel_button.disabled = run.finished

    def _write_status(self, run: LiveRun | None) -> None:
        frame = self._frame if run is self._drawn else None
        state = run.state if run else "idle"
        if run is None:
            text = "move a slider, or press Run again"
        elif state == "done":
            text = f"in {run.seconds:.1f} s"
        elif state == "error":
            text = f"{type(run.error).__name__}: {run.error}".strip().split("\n")[0]
        else:
            text = frame.text if frame else ""
        previous = self._previous
        self.status.status = {
            "run": run.number if run else 0,
            "state": state,
            "text": text,
            "progress": 1.0 if state == "done" else frame.progress if frame else 0.0,
            "stale": self._stale(run),
            "result": str(run.result) if run and state == "done" else "",
            "before": f"previous run ({self._describe(previous.request)}): {previous.result}" if previous else "",
        }

    def _stale(self, run: LiveRun | None) -> str:
        """Say why the screens do not show the current settings; return an empty text if they do."""
        if self._drawn is None or run is None:
            return ""
        if self._drawn is not run:
            return f"still showing run {self._drawn.number} ({self._describe(self._drawn.request)})"
        return "the run shown here is unfinished" if run.state in ("canceled", "error") else ""

    def _describe(self, settings: Settings) -> str:
        """Format settings as τ = 0.5, λ = 5, zero-center = on."""
        return ", ".join(
            f"{symbol_of(self.controls[name])} = {format_value(value)}" for name, value in settings.items()
        )

    # Output without a browser

    def still(self) -> Image.Image:
        """Draw the panel as an image: its screens below the status line, in as many rows as the page needs."""
        stills = [screen.still() for screen in self.screens]
        status = self.status.status
        lines = [f"{self._describe(self.settings)}  ·  {status['state']}", status["result"], status["before"]]
        places, left, top, bottom = [], 10, 60, 0
        for still in stills:
            if left > 10 and left + still.width > _WIDTH:
                left, top = 10, bottom
            places.append((left, top))
            left, bottom = left + still.width + 10, max(bottom, top + still.height + 10)
        width = max(x + still.width + 10 for (x, _), still in zip(places, stills, strict=True))
        image = Image.new("RGB", (width, bottom), "white")
        for place, still in zip(places, stills, strict=True):
            image.paste(still, place)
        draw = ImageDraw.Draw(image)
        for row, line in enumerate(lines):
            draw.text((10, 4 + 18 * row), line, fill="#333333", font=font(12))
        return image

    def _repr_mimebundle_(self, **_: Any) -> dict[str, Any]:
        """Return the live widget, and a still for pages without a kernel. The first display starts the first run."""
        if self.state == "idle":
            self._submit()
        return {**self.widget._repr_mimebundle_(), "image/png": png(self.still())}


def _close(widget: ipywidgets.Widget) -> None:
    for child in getattr(widget, "children", ()):
        _close(child)
    widget.close()


__all__ = ["Canceled", "Frame", "Panel", "Result", "Screen", "choice", "menu", "switch"]

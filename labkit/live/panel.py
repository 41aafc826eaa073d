"""What all live panels share: controls, a status line, screens that show something, and a run engine under them.

A panel is a view on its engine. Everything it can do in a browser it can do from Python:

    panel = lk.live.toy_panel()
    panel                             # shown in a notebook, it starts its first run
    result = panel.wait(60)           # the newest run's result; raises its error if it had one
    result = panel.run(lmbda=16)      # set, train and wait; no browser needed
    panel.cancel();  panel.history;  panel.close()

A subclass gives `job(settings)`, a generator that yields after each training step, as described in `engine`; its views
return what its `draw` puts on the screens, and its result is a Result. There are two kinds: over a canvas and a loss
curve (`retraining`), and over a plot (`plot`).
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import ipywidgets
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from labkit.live.canvas import png
from labkit.live.engine import Canceled, Engine, Run, View
from labkit.live.status import Status

Settings = dict[str, Any]


class Frame(Protocol):
    """What there is to see after a step; `progress` from 0 to 1, `text` a few words on it."""

    @property
    def progress(self) -> float: ...
    @property
    def text(self) -> str: ...


class Screen(Protocol):
    """Something that shows: a canvas, a plot."""

    @property
    def widget(self) -> ipywidgets.Widget: ...
    @property
    def label(self) -> str:
        """What one would say to somebody who cannot see it."""

    def refresh(self) -> None:
        """Send again what a page that was still loading may have missed."""

    def still(self) -> Image.Image:
        """The same as a picture, for wherever there is no browser."""


@dataclass(frozen=True, repr=False)
class Result:
    """What every panel's run comes to. `str(result)` is the line that the panel shows."""

    settings: Settings
    losses: np.ndarray  # training loss, one a step; empty where nothing is trained
    loss: float  # with real rounding, on test data
    seconds: float

    def __str__(self) -> str:
        return f"loss {self.loss:.3f}"

    def __repr__(self) -> str:
        return str(self)  # in a notebook, too, one line says more than all the fields


def choice(label: str, values: Sequence[Any], value: Any) -> ipywidgets.SelectionSlider:
    """A slider over a few values, which tells Python only where it came to rest."""
    options = [(_short(each), each) for each in values]
    return ipywidgets.SelectionSlider(
        options=options,
        value=value,
        description=label,
        continuous_update=False,
        style={"description_width": "initial"},
        layout={"width": "280px"},
    )


def menu(label: str, values: Sequence[str], value: str) -> ipywidgets.Dropdown:
    """A list to choose from."""
    return ipywidgets.Dropdown(
        options=list(values),
        value=value,
        description=label,
        style={"description_width": "initial"},
        layout={"width": "max-content"},
    )


def switch(label: str, value: bool) -> ipywidgets.Checkbox:
    """A box to tick."""
    return ipywidgets.Checkbox(value=value, description=label, indent=False, layout={"width": "max-content"})


def takes(control: ipywidgets.Widget) -> list[Any]:
    """The values that a control can have."""
    if isinstance(control, ipywidgets.Checkbox):
        return [False, True]
    return [each[1] if isinstance(each, tuple) else each for each in control.options]


class Panel:
    """Controls and a status line over screens and one engine."""

    def __init__(self, controls: dict[str, ipywidgets.Widget], screens: Sequence[Screen]) -> None:
        self.controls, self.screens = controls, tuple(screens)
        self.engine = Engine(self._job, listener=self._show)
        self._asked = self.settings  # what the newest run was asked for; at first, what needs no run
        self._setting = False  # True while the panel itself moves its controls
        self._drawn: Run | None = None  # whose picture and curve are on show
        self._frame: Frame | None = None
        self._ghost: Run | None = None  # the last run that was done

        self.status = Status()
        self.status.on_msg(self._refresh)
        small = {"width": "max-content"}
        self._again = ipywidgets.Button(description="Run again", icon="refresh", layout=small)
        self._cancel = ipywidgets.Button(description="Cancel", icon="stop", layout=small, disabled=True)
        self._again.on_click(lambda _: self._ask())
        self._cancel.on_click(lambda _: self.cancel())
        for control in controls.values():
            control.observe(self._moved, "value")
        wrap = ipywidgets.Layout(flex_flow="row wrap", grid_gap="4px 16px")
        self.widget = ipywidgets.VBox(
            [
                ipywidgets.HBox([*controls.values(), ipywidgets.HBox([self._again, self._cancel])], layout=wrap),
                self.status,
                ipywidgets.HBox([screen.widget for screen in self.screens], layout=wrap),
            ]
        )
        self.widget.add_class("labkit-panel")
        self._say(None)

    # What a subclass gives; the engine calls the last three under its lock

    def job(self, settings: Settings) -> Generator[View, None, Result]:
        raise NotImplementedError

    def draw(self, frame: Any, run: Run) -> None:
        """Put what a view returned on the screens."""
        raise NotImplementedError

    def keep_as_ghost(self, run: Run) -> None:
        """Put a run that is done behind the one whose first frame is due."""

    def finish(self, run: Run) -> None:
        """Put the result of a run that is done on the screens."""

    # From Python

    @property
    def settings(self) -> Settings:
        """What the controls say."""
        return {name: _rounded(control.value) for name, control in self.controls.items()}

    @property
    def state(self) -> str:
        """idle, queued, running, canceled, done or error."""
        return self.engine.state

    @property
    def history(self) -> list[Run]:
        """The runs that began and are over, oldest first: request, state, result, error, seconds."""
        return self.engine.history

    def run(self, timeout: float | None = None, **settings: Any) -> Result:
        """Set the controls, train, wait: the result. What is not named stays as it is."""
        for name, value in settings.items():
            self._check(name, value)
        with self.engine.lock:  # all widgets are written under this one lock
            self._setting = True
            for name, value in settings.items():
                self.controls[name].value = value
            self._setting = False
            self._asked = self.settings
        return self.engine.run(self._asked, timeout)

    def wait(self, timeout: float | None = None) -> Result:
        """The newest run's result, once it is over; raises its error, Canceled, or TimeoutError."""
        return self.engine.wait(timeout)

    def cancel(self) -> None:
        """Stop the newest run, if it is not over."""
        self.engine.cancel()

    def close(self) -> None:
        """Stop, and take the panel off every page it is shown on."""
        self.engine.cancel()
        _close(self.widget)

    # From the browser: these run on any thread, and only post a request

    def _moved(self, _: Any) -> None:
        with self.engine.lock:
            # A slider reports its value when it is first drawn, too: only a new value is a request.
            if not self._setting and self.settings != self._asked:
                self._ask()

    def _ask(self) -> None:
        with self.engine.lock:
            self._asked = self.settings
            self.engine.submit(self._asked)

    def _refresh(self, _: Any, message: dict[str, Any], __: Any) -> None:
        """A page has drawn a plot for the first time, and may have missed what went out meanwhile."""
        if message == {"kind": "drawn"}:
            with self.engine.lock:
                for screen in self.screens:
                    screen.refresh()

    # To the browser: only the engine calls this, under its lock

    def _job(self, settings: Settings) -> Generator[View, None, Result]:
        return self.job(settings)

    def _show(self, run: Run, frame: Frame | None) -> None:
        if frame is not None:
            if self._drawn is not run and self._ghost is not None:
                self.keep_as_ghost(self._ghost)
            self._drawn, self._frame = run, frame
            self.draw(frame, run)
        if run.state == "done":
            self.finish(run)
        self._say(run)
        if run.state == "done":
            self._ghost = run
        self._cancel.disabled = run.over

    def _say(self, run: Run | None) -> None:
        """Write the status line."""
        frame = self._frame if run is self._drawn else None
        state = run.state if run else "idle"
        if run is None:
            text = "move a slider, or press Run again"
        elif state == "done":
            text = f"in {run.seconds:.1f} s"
        elif state == "error":
            text = _one_line(run.error)
        else:
            text = frame.text if frame else ""
        before = self._ghost
        self.status.show(
            run=run.number if run else 0,
            state=state,
            text=text,
            progress=1.0 if state == "done" else frame.progress if frame else 0.0,
            stale=self._stale(run),
            result=str(run.result) if run and state == "done" else "",
            before=f"run before ({self._words(before.request)}): {before.result}" if before else "",
        )

    def _stale(self, run: Run | None) -> str:
        """Why the picture and the curve are not what the controls say; empty if they are."""
        if self._drawn is None or run is None:
            return ""
        if self._drawn is not run:
            return f"what you see is still run {self._drawn.number} ({self._words(self._drawn.request)})"
        return "what you see is unfinished" if run.state in ("canceled", "error") else ""

    def _check(self, name: str, value: Any) -> None:
        if name not in self.controls:
            raise ValueError(f"{name}: not a setting of this panel, which takes {', '.join(self.controls)}")
        values = takes(self.controls[name])
        if value not in values:
            raise ValueError(f"{name}: got {value!r}, takes {', '.join(map(repr, values))}")

    def _words(self, settings: Settings) -> str:
        """τ = 0.5, λ = 5, zero-center = on: the last word of a control's label, all of a switch's, and the value."""
        symbols = {
            name: control.description if isinstance(control, ipywidgets.Checkbox) else control.description.split()[-1]
            for name, control in self.controls.items()
        }
        return ", ".join(f"{symbols[name]} = {_short(value)}" for name, value in settings.items())

    # Where there is no browser

    def still(self) -> Image.Image:
        """The panel as a picture: its screens, and the status line."""
        stills = [screen.still() for screen in self.screens]
        status = self.status.status
        lines = [f"{self._words(self.settings)}  ·  {status['state']}", status["result"], status["before"]]
        width = sum(still.width + 10 for still in stills) + 10
        image = Image.new("RGB", (width, max(still.height for still in stills) + 70), "white")
        left = 10
        for still in stills:
            image.paste(still, (left, 60))
            left += still.width + 10
        draw = ImageDraw.Draw(image)
        for row, line in enumerate(lines):
            draw.text((10, 4 + 18 * row), line, fill="#333333", font=_font())
        return image

    def _repr_mimebundle_(self, **_: Any) -> dict[str, Any]:
        """The live widget, and a still beside it, which shows where no kernel runs. Showing a panel starts it."""
        if self.state == "idle":
            self._ask()
        return {**self.widget._repr_mimebundle_(), "image/png": png(self.still())}


def _font() -> ImageFont.FreeTypeFont:
    """One with Greek letters and arrows, which Pillow's own lacks."""
    import matplotlib

    return ImageFont.truetype(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf", 12)


def _rounded(value: Any) -> Any:
    """0.010000000000000002 is 0.01: a slider may report a neighbor of the value it was given."""
    return float(f"{value:.6g}") if isinstance(value, float) else value


def _short(value: Any) -> str:
    if isinstance(value, bool):
        return "on" if value else "off"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _close(widget: ipywidgets.Widget) -> None:
    for child in getattr(widget, "children", ()):
        _close(child)
    widget.close()


def _one_line(error: BaseException | None) -> str:
    return f"{type(error).__name__}: {error}".strip().split("\n")[0]


__all__ = ["Canceled", "Frame", "Panel", "Result", "Screen", "choice", "menu", "switch", "takes"]

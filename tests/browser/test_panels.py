"""Live panels in JupyterLab, driven by the keyboard while another program keeps a core busy.

Every measured time has a target. The summary prints targets and medians, and marks a missed target. A test fails only
if a median exceeds twice its target (SLACK), because other programs slow down a shared machine.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path

import pytest

pytest.importorskip("playwright.sync_api", reason="Playwright is not installed: no browser tests")

from lab import Lab, execute, run_all, write_cell
from playwright.sync_api import Browser, Page

pytestmark = [pytest.mark.slow, pytest.mark.alone]

PROBE = (Path(__file__).parent / "probe.js").read_text()
TRIALS = 10
SLACK = 2  # a median fails beyond this multiple of its target
TOY = "import labkit as lk\npanel = lk.live.ToyPanel(steps=2000)\npanel"  # long enough to be interrupted


class PanelPage:
    """A panel in a notebook, driven by keyboard and read through the probe.

    Args:
        page: An open notebook, whose first cell shows the panel.
        name: Name of the panel in the summary.
        code: Code of the cell, which gives the panel the name `panel`.
    """

    def __init__(self, page: Page, name: str, code: str) -> None:
        self.page, self.name = page, name
        write_cell(page, code)
        self.run_cell()

    def run_cell(self) -> None:
        """Run the cell, and wait for a new panel in its output."""
        self.page.evaluate("window.panelBefore = document.querySelector('.labkit-panel')")
        run_all(self.page)
        self.page.wait_for_function("!document.contains(window.panelBefore)", timeout=60_000)
        self.page.wait_for_selector(".labkit-status", timeout=60_000)
        self.page.wait_for_selector(
            ".js-plotly-plot .scatterlayer, .labkit-sketch svg", state="attached", timeout=120_000
        )
        self.page.evaluate(PROBE)

    def close(self) -> None:
        """Close the panel, so that the notebook can show another one."""
        execute(self.page, "panel.close()")

    def press(self, key: str = "ArrowRight", slider: int = 0) -> dict:
        """Press a key on the handle of a slider and return this event; earlier events are forgotten."""
        self.page.locator(".labkit-panel .noUi-handle").nth(slider).focus()
        self.forget()
        self.page.keyboard.press(key)
        return self.first(what="key")

    def cancel(self) -> dict:
        """Cancel with the keyboard and return this event; earlier events are forgotten."""
        self.page.locator(".labkit-panel button", has_text="Cancel").focus()
        self.forget()
        self.page.keyboard.press("Enter")
        return self.first(what="click")

    def forget(self) -> None:
        self.page.evaluate("probe.events.length = 0")

    def events(self) -> list[dict]:
        """Return the events since the last key press, cancel or `forget`."""
        return self.page.evaluate("probe.events")

    def first(self, timeout: float = 20, **values) -> dict:
        """Wait for the first such event that has all these values."""
        event = self.page.wait_for_function(
            "(values) => probe.events.find((e) => Object.entries(values).every(([key, value]) => e[key] === value))",
            arg=values,
            polling=20,  # milliseconds; the default, animation frames, stops in background pages
            timeout=1000 * timeout,
        )
        return event.json_value()

    def state(self) -> str:
        return self.page.locator(".labkit-status").get_attribute("data-state")

    def text(self) -> str:
        return self.page.locator(".labkit-status").inner_text()

    def await_state(self, state: str, timeout: float = 60) -> None:
        self.page.wait_for_selector(f'.labkit-status[data-state="{state}"]', timeout=1000 * timeout)


@pytest.fixture(scope="module")
def toy(notebook: Page) -> PanelPage:
    return PanelPage(notebook, "toy", TOY)


class TooSlow(AssertionError):
    """A median beyond SLACK times its target."""


def twice_if_noisy(test: Callable[..., None]) -> Callable[..., None]:
    """Repeat a measurement once if it is too slow, since a shared machine may be busy; print both."""

    @functools.wraps(test)
    def measuring(**fixtures) -> None:
        try:
            test(**fixtures)
        except TooSlow:
            test(**fixtures)

    return measuring


@pytest.fixture
def panel(toy: PanelPage):
    toy.page.bring_to_front()  # browsers slow down background pages
    yield toy
    if toy.state() in ("queued", "running"):  # otherwise the run would disturb the next measurement
        toy.cancel()


@twice_if_noisy
def test_a_key_press_quickly_shows_its_effect(panel: PanelPage, busy_core, measured):
    running, picture, curve, canceled = [], [], [], []
    for trial in range(TRIALS):
        if panel.state() in ("queued", "running"):
            panel.cancel()
        panel.page.wait_for_timeout(300)
        key = panel.press("ArrowLeft" if trial % 2 else "ArrowRight")
        run = key["run"] + 1
        running.append(panel.first(what="state", state="running", run=run)["at"] - key["at"])
        picture.append(panel.first(what="picture", run=run)["at"] - key["at"])
        curve.append(panel.first(what="curve", run=run)["at"] - key["at"])
        click = panel.cancel()
        canceled.append(panel.first(what="state", state="canceled")["at"] - click["at"])
    targets = {"key to “running”": 250, "key to changed picture": 600, "key to changed curve": 600, "Cancel": 500}
    times = dict(zip(targets, (running, picture, curve, canceled), strict=True))
    medians = {what: measured(f"{panel.name}: {what}", times[what], targets[what]) for what in targets}
    if slow := {what: median for what, median in medians.items() if median > SLACK * targets[what]}:
        raise TooSlow(slow)


@twice_if_noisy
def test_a_second_move_supersedes_the_first(panel: PanelPage, busy_core, measured):
    milliseconds = []
    for trial in range(TRIALS):
        first = panel.press("ArrowLeft" if trial % 2 else "ArrowRight")
        panel.first(what="picture", run=first["run"] + 1)
        second = panel.press("ArrowRight" if trial % 2 else "ArrowLeft")
        run = first["run"] + 2
        milliseconds.append(panel.first(what="state", state="running", run=run)["at"] - second["at"])
        panel.first(what="picture", run=run)
        panel.page.wait_for_timeout(300)
        events = panel.events()
        superseded = next(i for i, e in enumerate(events) if e["what"] == "state" and e["run"] == run)
        assert {e["run"] for e in events[superseded:] if e["what"] == "drawn"} == {run}
    if (median := measured(f"{panel.name}: second key to the second run", milliseconds, 500)) > SLACK * 500:
        raise TooSlow(median)


def test_sliders_have_names_and_values_for_screen_readers(toy: PanelPage):
    handle = toy.page.locator(".labkit-panel .noUi-handle").first
    assert handle.get_attribute("aria-label") == "temperature τ"
    assert (
        handle.get_attribute("aria-valuetext") == toy.page.locator(".labkit-panel .widget-readout").first.inner_text()
    )


def test_cancel_stops_the_run_and_marks_it_as_unfinished(toy: PanelPage):
    key = toy.press("ArrowUp")
    toy.first(what="picture", run=key["run"] + 1)
    toy.cancel()
    toy.await_state("canceled", 5)
    toy.forget()
    toy.page.wait_for_timeout(500)
    assert "unfinished" in toy.text()
    assert toy.events() == []


def test_two_notebooks_do_not_disturb_each_other(toy: PanelPage, lab_server: Lab, browser: Browser):
    page = lab_server.open(browser, lab_server.write("other.ipynb", ""))
    other = PanelPage(page, "other", TOY.replace("2000", "150"))
    other.await_state("done")
    toy_run = toy.press("ArrowDown")["run"] + 1
    toy.first(what="picture", run=toy_run)
    other_run = other.press()["run"] + 1
    toy.cancel()
    toy.await_state("canceled", 5)
    other.await_state("done")
    assert toy.state() == "canceled"
    assert {e["run"] for e in other.events() if e["what"] in ("state", "drawn")} == {other_run}
    assert {e["run"] for e in toy.events() if e["what"] in ("state", "drawn")} <= {toy_run}
    other.page.close()


def test_the_panel_works_again_after_a_kernel_restart(toy: PanelPage):
    toy.page.bring_to_front()
    toy.page.evaluate("""async () => {
        await window.jupyterapp.shell.currentWidget.sessionContext.session.kernel.restart();
    }""")
    toy.run_cell()
    key = toy.press("ArrowRight")
    toy.first(what="change", run=key["run"] + 1)

"""Every panel of the course in JupyterLab: one move, five quick moves, cancel, and an error.

All panels run one after another in the same notebook. They share what happens at a kernel restart and beside a second
notebook, which test_panels.py shows with one panel.
"""

from __future__ import annotations

import json

import pytest

pytest.importorskip("playwright.sync_api", reason="Playwright is not installed: no browser tests")

from lab import execute
from playwright.sync_api import Page
from test_panels import SLACK, TRIALS, PanelPage, TooSlow, twice_if_noisy

pytestmark = [pytest.mark.slow, pytest.mark.alone]

PANELS = {
    "toy": "ToyPanel()",
    "coder": "CoderPanel(step=2)",
    "mismatch": "MismatchPanel()",
    "risk": "RiskPanel()",
    "annealing": "AnnealingPanel()",
    "bound": "BoundPanel()",
    "means": "MeansPanel()",
    "training": "TrainingPanel(seconds=3)",  # test_training_panel.py runs it to the end of its plan
}
TARGET = 250  # milliseconds from a key press to a new plot
FAILING = """
def _failing(settings):
    raise ArithmeticError("the loss went through the roof")
    yield
panel.job = _failing
"""


def code(panel: str) -> str:
    return f"import labkit as lk\nlk.course.start('codec')\npanel = lk.live.{panel}\npanel"


@pytest.fixture(scope="module", params=list(PANELS))
def panel(request: pytest.FixtureRequest, notebook: Page):
    panel = PanelPage(notebook, request.param, code(PANELS[request.param]))
    panel.await_state("done", 240)  # the first run loads and caches data
    yield panel
    panel.close()


def stop_run(panel: PanelPage) -> None:
    """Cancel the run, unless it has finished already."""
    panel.page.evaluate("""() => [...document.querySelectorAll(".labkit-panel button")]
        .find((button) => button.textContent.includes("Cancel")).click()""")
    panel.page.wait_for_function(
        "!['queued', 'running'].includes(document.querySelector('.labkit-status').dataset.state)", timeout=10_000
    )


def first_changes(panel: PanelPage, trials: int) -> list[float]:
    """Measure milliseconds from a key press to the first changed plot or image, starting from an idle panel."""
    milliseconds = []
    for trial in range(trials):
        stop_run(panel)
        panel.page.wait_for_timeout(400)
        key = panel.press("ArrowLeft" if trial % 2 else "ArrowRight")
        panel.first(what="state", run=key["run"] + 1)
        milliseconds.append(panel.first(what="change", run=key["run"] + 1)["at"] - key["at"])
    return milliseconds


@twice_if_noisy
def test_a_key_press_quickly_changes_the_plot(panel: PanelPage, busy_core, measured):
    if panel.name == "training":
        pytest.skip("test_training_panel.py measures it")
    if (
        median := measured(f"{panel.name}: key to first new plot", first_changes(panel, TRIALS), TARGET)
    ) > SLACK * TARGET:
        raise TooSlow(median)


def test_the_last_of_five_quick_moves_counts(panel: PanelPage):
    handle = panel.page.locator(".labkit-panel .noUi-handle").first
    assert handle.get_attribute("data-lm-suppress-shortcuts") == "true"  # or Notebook 7 takes the arrow keys
    handle.focus()
    for key in ("ArrowRight", "ArrowLeft", "ArrowRight", "ArrowRight", "ArrowRight"):  # a value not shown before
        panel.page.keyboard.press(key)
    panel.page.wait_for_timeout(1000)
    run = int(panel.page.locator(".labkit-status").get_attribute("data-run"))
    values = execute(panel.page, "import json; print(json.dumps([panel.settings, panel._requested]))")
    shown, requested = json.loads(values)
    assert shown == requested
    panel.first(what="change", run=run)
    panel.page.wait_for_timeout(500)
    last_drawn = [event for event in panel.events() if event["what"] == "drawn"][-1:]
    assert all(event["run"] == run for event in last_drawn)
    readout = panel.page.locator(".labkit-panel .widget-readout").first.inner_text()
    first_value = next(value for value in shown.values() if isinstance(value, int | float))
    assert float(readout) == pytest.approx(first_value)


def test_cancel_ends_a_run(panel: PanelPage):
    stop_run(panel)
    key = panel.press("ArrowLeft")
    panel.first(what="state", run=key["run"] + 1)
    stop_run(panel)
    assert panel.state() in ("canceled", "done")  # short runs may finish before the cancel
    panel.forget()
    panel.page.wait_for_timeout(500)
    assert [event for event in panel.events() if event["what"] in ("change", "state")] == []


def test_an_error_is_shown_and_the_next_run_works(panel: PanelPage):
    execute(panel.page, FAILING)
    panel.press("ArrowLeft")
    panel.await_state("error", 20)
    assert "ArithmeticError: the loss went through the roof" in panel.text()
    execute(panel.page, "del panel.job")
    key = panel.press("ArrowRight")
    panel.first(what="state", run=key["run"] + 1, state="running")
    assert "the loss went through" not in panel.text()
    stop_run(panel)


def test_every_control_has_a_name_and_can_be_focused_with_the_keyboard(panel: PanelPage):
    unnamed = panel.page.evaluate("""() => {
        const controls = document.querySelectorAll(".labkit-panel :is(select, input, button, .noUi-handle)");
        const named = (each) => each.getAttribute("aria-label") || each.title || each.textContent.trim()
            || each.labels?.[0]?.textContent.trim();
        return [...controls].filter((each) => !named(each) || each.tabIndex < 0).map((each) => each.outerHTML);
    }""")
    assert unnamed == []

"""Every panel of the course in JupyterLab: one move, five quick moves, cancel, and an error.

Panels share what happens at a kernel restart and beside a second notebook, so one panel shows it.
"""

from __future__ import annotations

import json

import pytest

pytest.importorskip("playwright.sync_api", reason="Playwright is not installed: no browser tests")

from lab import Lab, run_all
from playwright.sync_api import Browser
from test_panels import PROBE, SLACK, TRIALS, PanelPage, TooSlow, twice_if_noisy

pytestmark = [pytest.mark.slow, pytest.mark.alone]

PANELS = {
    "toy": "ToyPanel()",
    "coder": "CoderPanel(step=2)",
    "mismatch": "MismatchPanel()",
    "risk": "RiskPanel()",
    "annealing": "AnnealingPanel()",
    "bound": "BoundPanel()",
    "means": "MeansPanel()",
    "training": "TrainingPanel()",
}
TARGET = 250  # milliseconds from a key press to a new plot
FAILING = """
def _failing(settings):
    raise ArithmeticError("the loss went through the roof")
    yield
panel.job = _failing
"""


ONE_PANEL = pytest.mark.parametrize("panel", ["training"], indirect=True, scope="module")


def code(panel: str) -> str:
    return f"import labkit as lk\nlk.course.start('codec')\npanel = lk.live.{panel}\npanel"


@pytest.fixture(scope="module", params=list(PANELS))
def panel(request: pytest.FixtureRequest, lab_server: Lab, browser: Browser):
    name = request.param
    panel = PanelPage(lab_server, browser, f"all_{name}.ipynb", code(PANELS[name]))
    panel.name = name
    panel.await_state("done", 240)  # the first run loads and caches data
    yield panel
    panel.page.close()


def execute(panel: PanelPage, source: str) -> str:
    """Run code in the kernel of the notebook and return what it prints."""
    return panel.page.evaluate(
        """async (code) => {
            const kernel = window.jupyterapp.shell.currentWidget.sessionContext.session.kernel;
            const future = kernel.requestExecute({ code });
            let output = "";
            future.onIOPub = ({ content }) => { output += content.text ?? (content.evalue ?? ""); };
            await future.done;
            return output;
        }""",
        source,
    )


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
    shown, requested = json.loads(execute(panel, "import json; print(json.dumps([panel.settings, panel._requested]))"))
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
    execute(panel, FAILING)
    panel.press("ArrowLeft")
    panel.await_state("error", 20)
    assert "the loss went through the roof" in panel.text()
    execute(panel, "del panel.job")
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


@ONE_PANEL
def test_the_panel_works_again_after_a_kernel_restart(panel: PanelPage, lab_server: Lab, browser: Browser):
    panel.page.evaluate("""async () => {
        await window.jupyterapp.shell.currentWidget.sessionContext.session.kernel.restart();
    }""")
    run_all(panel.page)
    panel.page.wait_for_function("document.querySelector('.labkit-status')?.dataset.state === 'done'", timeout=240_000)
    panel.page.evaluate(PROBE)
    key = panel.press("ArrowRight")
    panel.first(what="change", run=key["run"] + 1)


@ONE_PANEL
def test_a_second_notebook_does_not_disturb_the_panel(panel: PanelPage, lab_server: Lab, browser: Browser):
    other = PanelPage(lab_server, browser, f"second_{panel.name}.ipynb", code(PANELS[panel.name]))
    other.await_state("done", 240)
    panel.page.bring_to_front()
    panel.forget()
    other.page.bring_to_front()
    run = other.press("ArrowRight")["run"] + 1
    other.first(what="change", run=run)
    other.page.close()
    assert [event for event in panel.events() if event["what"] in ("change", "state")] == []

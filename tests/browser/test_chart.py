"""A plot keeps its curves when the page is reloaded while the kernel keeps running."""

from __future__ import annotations

import pytest

pytest.importorskip("playwright.sync_api", reason="Playwright is not installed: no browser tests")

from lab import run_all

PLOT = """
import ipywidgets, numpy as np
from labkit.live.plot import Axes, Line, Plot
plot = Plot([Axes(lines=[Line("training", ghost=True), Line("test", mode="markers", ghost=True)])], width=500)
box = ipywidgets.Box([plot.figure])
plot.show({"training": (np.arange(40), np.linspace(3, 2, 40)), "test": ([40], [1.9])})
plot.keep_as_ghost()
plot.show({"training": (np.arange(50), np.linspace(2, 1, 50)), "test": ([50], [0.9])})
plot.settle()
box"""
LENGTHS = """() => {
    const plot = document.querySelector(".js-plotly-plot");
    return plot?.data?.length === 4 && plot.data.map((trace) => trace.y?.length ?? 0);
}"""


@pytest.mark.slow
def test_curves_survive_a_reload_of_the_page(lab_server, browser):
    page = lab_server.open(browser, lab_server.write("reloaded.ipynb", PLOT))
    run_all(page)
    page.wait_for_selector(".js-plotly-plot .scatterlayer", state="attached", timeout=60_000)
    before = page.wait_for_function(LENGTHS, timeout=20_000).json_value()
    page.evaluate("window.jupyterapp.commands.execute('docmanager:save')")
    page.wait_for_timeout(1_000)
    page.goto(page.url.replace("?reset", "?again"))
    page.wait_for_selector(".js-plotly-plot .scatterlayer", state="attached", timeout=60_000)
    after = page.wait_for_function(LENGTHS, timeout=20_000).json_value()
    page.close()
    assert before == after == [40, 50, 1, 1]

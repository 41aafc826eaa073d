"""Fixtures: a browser, a server and a notebook per module, and a busy core. The output ends with all measured times.

A browser for the whole session would keep Playwright's event loop running during all later tests.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
from collections.abc import Callable, Iterator

import pytest

from tests.browser.chromium import chromium

_MEASURED: list[str] = []


@pytest.fixture(scope="module")
def browser() -> Iterator:
    with chromium() as browser:
        yield browser


@pytest.fixture(scope="module")
def lab_server(browser, tmp_path_factory: pytest.TempPathFactory) -> Iterator:
    import lab

    with lab.serve(tmp_path_factory.mktemp("lab")) as server:
        yield server


@pytest.fixture(scope="module")
def notebook(lab_server, browser) -> Iterator:
    """Open an empty notebook, whose kernel loads torch only once for all panels that the module shows in it."""
    page = lab_server.open(browser, lab_server.write("notebook.ipynb", ""))
    yield page
    page.close()


@pytest.fixture
def busy_core() -> Iterator[None]:
    """Run another program that keeps a core busy, at normal priority, as on a usual desktop."""
    other = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    yield
    other.kill()
    other.wait()


@pytest.fixture
def measured() -> Callable[[str, list[float], float], float]:
    """Return a function that records milliseconds and their target for the summary, and returns the median."""

    def record(name: str, milliseconds: list[float], target: float) -> float:
        median = statistics.median(milliseconds)
        missed = "  missed" if median > target else ""
        _MEASURED.append(
            f"{name:52} {median:7.0f} {max(milliseconds):7.0f} {target:7.0f} {len(milliseconds):5}{missed}"
        )
        return median

    return record


def pytest_terminal_summary(terminalreporter) -> None:
    if _MEASURED:
        terminalreporter.section("live panels in the browser, another program busy (ms)")
        terminalreporter.write_line(f"{'':52} {'median':>7} {'max':>7} {'target':>7} {'n':>5}")
        for line in _MEASURED:
            terminalreporter.write_line(line)

"""All lessons run without a network, within limits of time and memory, retrain on request, and can be exported."""

import os
import re
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

from labkit import course, paths
from labkit.course import export
from tests.browser import accessibility
from tests.browser.chromium import chromium
from tests.course.lesson_runs import FOLDER, ROOT, Run, offline
from tests.course.test_export import check_links, check_sources

LESSONS = list(course.LESSONS.values())
MAX_SECONDS, MAX_MIB = 75, 2048  # a lesson on its own; beside other tests on a shared core, it may take twice as long


@pytest.mark.parametrize(
    "attempt",
    [
        "import socket; socket.create_connection(('192.0.2.1', 80), timeout=1)",
        "import socket; socket.socket().connect_ex(('192.0.2.1', 80))",
        "import socket; socket.socket(type=socket.SOCK_DGRAM).sendto(b'x', ('192.0.2.1', 53))",
        "import urllib.request; urllib.request.urlopen('http://example.org', timeout=1)",
    ],
)
def test_the_guard_refuses_and_records_connections(tmp_path, attempt):
    environment, log = offline(tmp_path)
    process = subprocess.run(
        [sys.executable, "-c", attempt], env=os.environ | environment, capture_output=True, text=True
    )
    assert process.returncode != 0 and "no network in this test" in process.stderr
    assert re.search(r"192\.0\.2\.1|example\.org", log.read_text())


def test_the_guard_allows_connections_to_this_machine(tmp_path):
    environment, log = offline(tmp_path)
    attempt = (
        "import socket; server = socket.create_server(('127.0.0.1', 0)); "
        "socket.create_connection(('localhost', server.getsockname()[1])).close()"
    )
    subprocess.run([sys.executable, "-c", attempt], env=os.environ | environment, check=True)
    assert log.read_text() == ""


@pytest.fixture(scope="module")
def executed(tmp_path_factory):
    """Return the notebooks with their outputs: of the run of `pytest lessons` in .ci/run, or else of a run now."""
    folder = os.environ.get(FOLDER)
    if folder is None:
        folder = str(tmp_path_factory.mktemp("runs"))
        command = [sys.executable, "-m", "pytest", "-q", "lessons", "-p", "tests.course.lesson_runs"]
        process = subprocess.run(command, cwd=ROOT, env=os.environ | {FOLDER: folder}, capture_output=True, text=True)
        assert process.returncode == 0, process.stdout
    return {file.name: nbformat.read(file, as_version=4) for file in Path(folder).glob("*.ipynb")}


@pytest.fixture(scope="module")
def runs(executed):
    """Return the run of each notebook by the name of its file."""
    return {name: Run(**notebook.metadata["run"]) for name, notebook in executed.items()}


@pytest.fixture(scope="module")
def exported(executed, tmp_path_factory):
    """Export the course from the executed notebooks, and return its folder and its pages."""

    def load(notebook, name, scratch):
        notebook.cells = executed[name].cells

    folder = tmp_path_factory.mktemp("exported") / "site"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(export, "_execute", load)
        return folder, export.export(folder, progress=False)


@pytest.mark.slow
@pytest.mark.parametrize("lesson", LESSONS, ids=str)
def test_a_lesson_runs_without_a_network_within_the_limits_of_time_and_memory(lesson, runs, capsys):
    run = runs[lesson.notebook.name]
    with capsys.disabled():
        print(f"\nlesson {lesson.key}: {run.seconds:.0f} s (target {MAX_SECONDS} on its own), {run.mebibytes} MiB")
    assert run.attempts == ""  # the guard was active, and nothing tried to connect
    assert list(run.record["lessons"]) == [lesson.key] and run.record["exercises"] == {}  # stubs are not attempts
    assert run.seconds < 2 * MAX_SECONDS and run.mebibytes < MAX_MIB


@pytest.mark.slow
@pytest.mark.parametrize("lesson", LESSONS, ids=str)
def test_a_lesson_retrains_on_request(lesson, runs):
    errors = runs[lesson.notebook.name].errors
    if errors is None:
        pytest.skip("its panel retrains")
    assert errors == []


@pytest.mark.slow
def test_a_browser_shows_the_exported_course_without_a_network(exported):
    site, pages = exported
    assert len(pages) == 1 + len(list(paths.lessons().glob("*.ipynb")))
    check_sources(site)
    check_links(site)
    problems = []
    with chromium() as browser:
        page = browser.new_page(viewport={"width": 1280, "height": 800})
        page.set_default_navigation_timeout(120_000)  # a page counts as loaded only after its plots are drawn
        page.on("console", lambda message: problems.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.route(lambda url: not url.startswith(("file:", "data:")), lambda route: problems.append(route.request.url))
        for file in pages:
            page.goto(file.as_uri())
            plots = page.locator(".plot")
            drawn = [plots.nth(i).locator(".main-svg").count() > 0 for i in range(plots.count())]
            assert all(drawn), file.name
            images = page.locator("img")
            assert bool(drawn or images.count()) == file.stem[:2].isdigit()  # only lessons have plots and images
            assert images.evaluate_all("all => all.every(each => each.complete && each.naturalWidth > 0)")
            assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), file.name
            assert accessibility.problems(page) == [], file.name
    assert problems == []

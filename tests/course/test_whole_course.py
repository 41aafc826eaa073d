"""All lessons run without a network, within limits of time and memory, retrain on request, and can be exported."""

import copy
import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

import nbformat
import pytest

from labkit import course, paths
from labkit.course import export
from tests.browser.chromium import chromium
from tests.course.test_export import check_links, check_sources

LESSONS = list(course.LESSONS.values())
MAX_SECONDS, MAX_MIB = 75, 2048  # a lesson on its own; beside other tests on a shared core, it may take twice as long
USAGE = """
import json, re, resource, time

usage = resource.getrusage(resource.RUSAGE_SELF)
peak = re.search(r"VmHWM:\\s+(\\d+) kB", open("/proc/self/status").read())  # ru_maxrss would include the parent's
print(json.dumps([time.time(), usage.ru_utime + usage.ru_stime, int(peak[1]) // 1024]))"""
GUARD = '''
"""Refuse and record every connection to another machine. Python loads this at its start, as sitecustomize."""
import os, socket

def _is_local(address):
    host = address[0] if isinstance(address, tuple) else None
    return host in (None, "", "localhost", "::1", "0.0.0.0") or str(host).startswith("127.")

def _guard(owner, name, address_of):
    original = getattr(owner, name)
    def guarded(*args, **kwargs):
        address = address_of(args)
        if not _is_local(address):
            with open(os.environ["LABKIT_GUARD"], "a") as log:
                log.write(f"{name} {address}\\n")
            raise OSError(f"no network in this test: {name} {address}")
        return original(*args, **kwargs)
    setattr(owner, name, guarded)

_guard(socket.socket, "connect", lambda args: args[1])
_guard(socket.socket, "connect_ex", lambda args: args[1])
_guard(socket.socket, "sendto", lambda args: args[-1])
_guard(socket, "getaddrinfo", lambda args: (args[0],))
open(os.environ["LABKIT_GUARD"], "a").close()
'''


def offline(folder: Path) -> tuple[dict[str, str], Path]:
    """Return variables that make Python refuse the network, and the file that records attempts to use it."""
    (folder / "guard").mkdir()
    (folder / "guard" / "sitecustomize.py").write_text(GUARD)
    log = folder / "attempts"
    inherited = [str(folder / "guard"), str(Path(__file__).resolve().parents[2]), os.environ.get("PYTHONPATH")]
    environment = {
        "PYTHONPATH": os.pathsep.join(filter(None, inherited)),
        "LABKIT_GUARD": str(log),
        "LABKIT_HOME": str(folder / "home"),
        "IPYTHONDIR": str(folder / "ipython"),
    }
    return environment, log


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


# All lessons run once, for the export. A cell at the end measures the lesson, and retraining follows in the same kernel


class Run(NamedTuple):
    """The execution of a lesson and what is left behind.

    Seconds include the start of the kernel. They are elapsed seconds or CPU seconds of the kernel, whichever are fewer,
    since other programs delay a lesson.
    """

    seconds: float
    mebibytes: int  # at the peak
    record: dict
    attempts: str | None  # to use the network; None without the guard
    errors: list[str] | None  # of the cells that retrain on request; None without such cells


def execute_and_measure(execute, notebook, name, scratch, log):
    """Execute a notebook for the export, then retrain, and return the run."""
    follows = dict(zip((cell.id for cell in notebook.cells), notebook.cells[1:], strict=False))
    again = [copy.deepcopy(cell) for cell in notebook.cells if "retrain = False" in cell.source]
    checks = [follows[cell.id] for cell in again if export.CHECK in follows[cell.id].metadata.get("tags", ())]
    again += map(copy.deepcopy, checks)
    for cell in again:
        cell.source = cell.source.replace("retrain = False", "retrain = True")
        cell.metadata["tags"] = ["raises-exception"]  # a test reports the error
    added = [nbformat.v4.new_code_cell(USAGE), *again]
    notebook.cells += added
    start = time.time()
    execute(notebook, name, scratch)
    del notebook.cells[-len(added) :]
    end, cpu, mebibytes = json.loads(added[0].outputs[0].text)
    outputs = [output for cell in again for output in cell.outputs]
    errors = [f"{each.ename}: {each.evalue}" for each in outputs if each.output_type == "error"] if again else None
    record = json.loads((scratch / "home" / "progress.json").read_text())
    attempts = log.read_text() if log.exists() else None
    log.unlink(missing_ok=True)
    return Run(min(end - start, cpu), mebibytes, record, attempts, errors)


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """Export the course without a network, and return its folder, its pages and the run of each notebook."""
    folder = tmp_path_factory.mktemp("exported")
    environment, log = offline(folder)
    execute, runs = export._execute, {}

    def measured(notebook, name, scratch):
        runs[name] = execute_and_measure(execute, notebook, name, scratch, log)

    with pytest.MonkeyPatch.context() as patch:
        for name, value in environment.items():
            patch.setenv(name, value)
        patch.setattr(export, "_execute", measured)
        pages = export.export(folder / "site", progress=False)
    return folder / "site", pages, runs


@pytest.mark.slow
@pytest.mark.parametrize("lesson", LESSONS, ids=str)
def test_a_lesson_runs_without_a_network_within_the_limits_of_time_and_memory(lesson, exported, capsys):
    run = exported[2][lesson.notebook.name]
    with capsys.disabled():
        print(f"\nlesson {lesson.key}: {run.seconds:.0f} s (target {MAX_SECONDS} on its own), {run.mebibytes} MiB")
    assert run.attempts == ""  # the guard was active, and nothing tried to connect
    assert list(run.record["lessons"]) == [lesson.key] and run.record["exercises"] == {}  # stubs are not attempts
    assert run.seconds < 2 * MAX_SECONDS and run.mebibytes < MAX_MIB


@pytest.mark.slow
@pytest.mark.parametrize("lesson", LESSONS, ids=str)
def test_a_lesson_retrains_on_request(lesson, exported):
    errors = exported[2][lesson.notebook.name].errors
    if errors is None:
        pytest.skip("its panel retrains")
    assert errors == []


@pytest.mark.slow
def test_a_browser_shows_the_exported_course_without_a_network(exported):
    site, pages, _ = exported
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
            assert bool(drawn) == file.stem[:2].isdigit()  # every lesson has plots, the other pages have none
            assert page.locator("img").evaluate_all("all => all.every(each => each.complete && each.naturalWidth > 0)")
            assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), file.name
    assert problems == []

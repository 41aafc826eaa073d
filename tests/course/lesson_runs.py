"""A plugin that lets nbval's run of the lessons serve the tests of the whole course, too.

LABKIT_LESSON_RUNS=runs python -m pytest lessons -p tests.course.lesson_runs

Each notebook gets a learner's record of its own and a guard that refuses the network. Panels are shown as in the
export. After the last cell, the plugin measures the kernel, and the cells that retrain on request do so in the same
kernel. It writes the notebook with its outputs and a `Run` to the new folder $LABKIT_LESSON_RUNS.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import nbformat
import pytest
from nbval.plugin import IPyNbCell, IPyNbFile

FOLDER = "LABKIT_LESSON_RUNS"
CHECK = "check"  # as in labkit.course.export, which loads torch
ROOT = Path(__file__).resolve().parents[2]
SHOW_PRINTED = "from labkit.course import printed\nprinted.show_printed()\ndel printed"
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


class Run(NamedTuple):
    """What is known of the execution of a lesson.

    Seconds include the start of the kernel. They are elapsed seconds or CPU seconds of the kernel, whichever are fewer,
    since other programs delay a lesson.
    """

    seconds: float
    mebibytes: int  # at the peak
    record: dict[str, Any]
    attempts: str | None  # to use the network; None without the guard
    errors: list[str] | None  # of the cells that retrain on request; None without such cells


class _Started(NamedTuple):
    patch: pytest.MonkeyPatch
    home: Path
    log: Path
    at: float


_STARTED = pytest.StashKey[_Started]()


def offline(folder: Path) -> tuple[dict[str, str], Path]:
    """Return variables that make Python refuse the network, and the file that records attempts to use it."""
    (folder / "guard").mkdir(parents=True)
    (folder / "guard" / "sitecustomize.py").write_text(GUARD)
    log = folder / "attempts"
    environment = {
        "PYTHONPATH": os.pathsep.join(filter(None, [str(folder / "guard"), str(ROOT), os.environ.get("PYTHONPATH")])),
        "LABKIT_GUARD": str(log),
        "LABKIT_HOME": str(folder / "home"),
        "IPYTHONDIR": str(folder / "ipython"),
    }
    return environment, log


@pytest.hookimpl(wrapper=True)
def pytest_runtest_setup(item: pytest.Item) -> Iterator[None]:
    """Prepare the kernel of a notebook, which the setup of its first cell starts."""
    if not isinstance(item, IPyNbCell) or item.parent.kernel is not None:
        return (yield)
    folder = Path(os.environ[FOLDER]).resolve() / item.path.stem
    environment, log = offline(folder)
    patch = pytest.MonkeyPatch()
    for name, value in environment.items():
        patch.setenv(name, value)
    item.parent.stash[_STARTED] = _Started(patch, folder / "home", log, time.time())
    result = yield
    _execute(item.parent.kernel, SHOW_PRINTED)
    return result


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> Iterator[None]:
    """Keep the outputs of a cell, and finish the run of a notebook after its last cell."""
    if isinstance(item, IPyNbCell):
        item.cell.outputs = item.test_outputs or []
        if nextitem is None or nextitem.parent is not item.parent:
            _finish(item.parent)
    return (yield)


def _finish(file: IPyNbFile) -> None:
    started = file.stash[_STARTED]
    started.patch.undo()
    if not file.kernel.is_alive():
        return
    printed = [each["content"]["text"] for each in _execute(file.kernel, USAGE) if each["msg_type"] == "stream"]
    end, cpu, mebibytes = json.loads("".join(printed))
    again = _retraining(file.nb.cells)
    shown = [message for source in again for message in _execute(file.kernel, source)]
    errors = [message["content"] for message in shown if message["msg_type"] == "error"]
    run = Run(
        seconds=min(end - started.at, cpu),
        mebibytes=mebibytes,
        record=json.loads((started.home / "progress.json").read_text()),
        attempts=started.log.read_text() if started.log.exists() else None,
        errors=[f"{each['ename']}: {each['evalue']}" for each in errors] if again else None,
    )
    file.nb.metadata["run"] = run._asdict()
    nbformat.write(file.nb, Path(os.environ[FOLDER]) / file.path.name)


def _retraining(cells: list[nbformat.NotebookNode]) -> list[str]:
    """Return the sources of the cells that retrain, with retraining switched on, and of the check cells after them."""
    places = [place for place, cell in enumerate(cells) if "retrain = False" in cell.source]
    checks = [cells[place + 1] for place in places if CHECK in cells[place + 1].metadata.get("tags", ())]
    sources = [cells[place].source.replace("retrain = False", "retrain = True") for place in places]
    return [*sources, *(cell.source for cell in checks)]


def _execute(kernel: Any, source: str) -> list[dict[str, Any]]:
    """Execute code in a kernel, and return what it shows: its outputs and its error."""
    messages: list[dict[str, Any]] = []
    kernel.kc.execute_interactive(
        source, store_history=False, allow_stdin=False, timeout=600, output_hook=messages.append
    )
    return [message for message in messages if message["msg_type"] in ("stream", "display_data", "error")]

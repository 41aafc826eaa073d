"""The engine of live runs, tested without panels."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Callable

import pytest
import torch

from labkit.live.engine import Canceled, Engine

PATIENCE = 20  # seconds after which a waiting test fails


class Steps:
    """A job that waits for permission before each step, publishes its request and the step, and returns the request."""

    def __init__(self) -> None:
        self._allowed = threading.Semaphore(0)
        self.started: list[str] = []

    def allow(self, steps: int) -> None:
        for _ in range(steps):
            self._allowed.release()

    def __call__(self, request: str):
        self.started.append(request)
        for step in range(3):
            assert self._allowed.acquire(timeout=PATIENCE)
            yield lambda step=step: (request, step)
        return request


class Recorder:
    """A listener that records all events and lets a test wait for one of them."""

    def __init__(self) -> None:
        self.events: list[tuple[int, str, object]] = []
        self._changed = threading.Condition()

    def __call__(self, run, shown) -> None:
        with self._changed:
            self.events.append((run.number, run.state, shown))
            self._changed.notify_all()

    def wait_for(self, wanted: Callable[[tuple[int, str, object]], bool]) -> None:
        with self._changed:
            assert self._changed.wait_for(lambda: any(map(wanted, self.events)), PATIENCE)


def test_a_run_is_queued_then_running_then_done():
    job, recorder = Steps(), Recorder()
    engine = Engine(job, recorder, rate=1e9)
    assert engine.state == "idle"
    job.allow(3)
    assert engine.run("a", PATIENCE) == "a"
    views = [(1, "running", ("a", step)) for step in range(3)]
    assert recorder.events == [(1, "queued", None), (1, "running", None), *views, (1, "done", None)]
    assert [(run.request, run.state, run.result) for run in engine.history] == [("a", "done", "a")]
    assert engine.state == "done" and engine.history[0].seconds > 0


def test_a_newer_request_cancels_the_old_run_which_publishes_nothing_more():
    job, recorder = Steps(), Recorder()
    engine = Engine(job, recorder, rate=1e9)
    first = engine.submit("a")
    job.allow(1)
    recorder.wait_for(lambda event: event[2] == ("a", 0))
    engine.submit("b")
    superseded = len(recorder.events)
    assert first.state == "canceled"  # immediately, before the worker notices
    job.allow(6)
    assert engine.wait(PATIENCE) == "b"
    assert {number for number, _, _ in recorder.events[superseded:]} == {2}
    assert [run.state for run in engine.history] == ["canceled", "done"]
    with pytest.raises(Canceled, match="run 1 was canceled"):
        first.outcome()


def test_only_the_first_and_the_newest_of_many_rapid_requests_start():
    job, recorder = Steps(), Recorder()
    engine = Engine(job, recorder)
    engine.submit("first")
    recorder.wait_for(lambda event: event[1] == "running")
    for number in range(100):
        engine.submit(str(number))
    job.allow(100)
    assert engine.wait(PATIENCE) == "99"
    assert job.started == ["first", "99"]
    assert [run.request for run in engine.history] == ["first", "99"]


def test_run_raises_canceled_if_another_request_supersedes_it():
    job, recorder = Steps(), Recorder()
    engine = Engine(job, recorder)

    def interfere() -> None:
        recorder.wait_for(lambda event: event[1] == "running")
        engine.submit("b")
        job.allow(10)

    other = threading.Thread(target=interfere)
    other.start()
    with pytest.raises(Canceled):
        engine.run("a", PATIENCE)
    other.join()
    assert engine.wait(PATIENCE) == "b"


@pytest.mark.parametrize("started", [True, False])
def test_cancel_ends_a_run_at_once(started: bool):
    job, recorder = Steps(), Recorder()
    engine = Engine(job, recorder, rate=1e9)
    if not started:  # keep the worker busy with another run
        engine.submit("before")
        recorder.wait_for(lambda event: event[1] == "running")
    engine.submit("a")
    if started:
        recorder.wait_for(lambda event: event[1] == "running")
    engine.cancel()
    assert engine.state == "canceled"
    canceled = len(recorder.events)
    job.allow(10)
    assert engine.join(PATIENCE)
    assert len(recorder.events) == canceled
    assert job.started == ["a"] if started else ["before"]
    with pytest.raises(Canceled):
        engine.wait(PATIENCE)
    engine.cancel()  # has no effect, because the run is canceled already
    assert len(recorder.events) == canceled


def test_a_job_is_closed_when_it_is_canceled():
    closed = threading.Event()
    started = threading.Event()

    def job(_):
        try:
            while True:
                started.set()
                yield lambda: None
        finally:
            closed.set()

    engine = Engine(job)
    engine.submit(None)
    assert started.wait(PATIENCE)
    engine.cancel()
    assert closed.wait(PATIENCE)


def test_an_error_is_published_and_raised_by_wait():
    def job(request):
        yield lambda: None
        raise ArithmeticError("too large")

    recorder = Recorder()
    engine = Engine(job, recorder)
    with pytest.raises(ArithmeticError, match="too large"):
        engine.run("a", PATIENCE)
    assert recorder.events[-1] == (1, "error", None)
    with pytest.raises(ArithmeticError):
        engine.wait(PATIENCE)
    assert isinstance(engine.history[0].error, ArithmeticError)


@pytest.mark.parametrize("when", ["running", "done"])
def test_an_error_of_the_listener_becomes_the_error_of_the_run(when: str):
    def listener(run, shown):
        if run.state == when:
            raise LookupError("no such color")

    engine = Engine(_counting(3), listener)
    with pytest.raises(LookupError, match="no such color"):
        engine.run("a", PATIENCE)
    assert [run.state for run in engine.history] == ["error"]
    assert engine.join(PATIENCE)  # the worker survives


def test_the_errors_of_wait_explain_their_cause():
    job = Steps()
    engine = Engine(job)
    with pytest.raises(RuntimeError, match="no run to wait for"):
        engine.wait(1)
    engine.submit("a")
    with pytest.raises(TimeoutError, match=r"run 1 is still (queued|running) after 0\.01 s"):
        engine.wait(0.01)
    engine.cancel()
    job.allow(1)


def test_the_first_view_and_the_last_view_are_always_published():
    rendered, recorder = [], Recorder()

    def job(_):
        for step in range(600):
            time.sleep(0.001)
            yield lambda step=step: rendered.append(step) or step

    engine = Engine(job, recorder, rate=8)
    engine.run(None, PATIENCE)
    shown = [event[2] for event in recorder.events if event[2] is not None]
    assert shown == rendered  # the engine renders only the views that it publishes
    assert shown[0] == 0 and shown[-1] == 599
    assert 3 <= len(shown) <= 2 + 8 * engine.history[0].seconds


def test_slow_views_take_at_most_a_quarter_of_the_time():
    recorder = Recorder()

    def job(_):
        for _ in range(300):
            time.sleep(0.001)
            yield lambda: time.sleep(0.03)

    engine = Engine(job, recorder, rate=30)
    engine.run(None, PATIENCE)
    between = len(recorder.events) - 4  # without the states, and without the first and the last view
    assert between >= 1 and between * 0.03 < 0.3 * engine.history[0].seconds


def test_two_engines_do_not_disturb_each_other():
    job = Steps()
    first, second = Engine(job), Engine(_counting(3))
    first.submit("a")
    assert second.run("b", PATIENCE) == "b"
    second.cancel()
    assert first.state in ("queued", "running")
    job.allow(3)
    assert first.wait(PATIENCE) == "a"


def test_no_thread_remains_after_a_run():
    engine = Engine(_counting(3))
    engine.run("a", PATIENCE)
    assert engine.join(PATIENCE)
    assert not [thread for thread in threading.enumerate() if thread.name == "labkit-live"]


def test_only_the_worker_is_limited_to_one_torch_thread():
    seen = []

    def job(_):
        yield lambda: None
        return torch.get_num_threads(), torch.is_grad_enabled()

    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        with torch.no_grad():
            assert Engine(job).run(None, PATIENCE) == (1, True)
        new = threading.Thread(target=lambda: seen.append(torch.get_num_threads()))
        new.start()
        new.join()
        assert (torch.get_num_threads(), seen) == (2, [2])
    finally:
        torch.set_num_threads(before)


def test_a_program_can_end_during_a_run():
    code = """
import time, torch
from labkit.live.engine import Engine
def job(_):
    while True:
        torch.randn(300, 300) @ torch.randn(300, 300)
        yield lambda: None
Engine(job).submit(None)
time.sleep(0.2)
"""
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert (ended.returncode, ended.stderr) == (0, "")


def test_the_engine_imports_no_jupyter_and_labkit_imports_no_engine():
    code = """
import sys, labkit
assert "labkit.live" not in sys.modules
import labkit.live.engine
assert not {"ipywidgets", "anywidget", "plotly", "IPython"} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def _counting(steps: int):
    def job(request):
        for step in range(steps):
            yield lambda step=step: step
        return request

    return job

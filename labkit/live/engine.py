"""The live-run engine: train in the background, always for the newest request, and stop at once.

A *job* is a generator function: it takes a request, yields after each training step, and returns its result. What it
yields is a *view*, a function of no arguments that renders what there is to see. The engine calls a view only when it
is due to be published, so that a fast loop does not pay for pictures nobody has time to look at.

    def job(request):
        for step in training.stream(...):
            yield lambda: step.loss
        return "trained"

    engine = Engine(job, listener=lambda run, shown: ...)
    engine.submit(request)        # returns at once; whatever was running is over
    engine.wait(timeout=60)       # the newest run's result, or its error

Threads and one lock, no asyncio: a widget's callback may run on any thread, and must return at once.
"""

from __future__ import annotations

import atexit
import threading
import time
import weakref
from collections.abc import Callable, Generator
from contextlib import closing
from dataclasses import dataclass
from typing import Any

View = Callable[[], Any]
Job = Callable[[Any], Generator[View, None, Any]]


class Canceled(RuntimeError):
    """Raised to whoever waits for a run that was canceled, or superseded by a newer one."""


@dataclass(eq=False)
class Run:
    """One request and what became of it; `state` is queued, running, canceled, done or error.

    A run is over the moment somebody cancels or supersedes it: from then on it publishes nothing. The worker polls
    `over` at every step, and so finds out a little later.
    """

    number: int
    request: Any
    state: str = "queued"
    result: Any = None
    error: BaseException | None = None
    started: float | None = None
    seconds: float = 0.0

    @property
    def over(self) -> bool:
        return self.state in ("canceled", "done", "error")

    def outcome(self) -> Any:
        """The result of a run that is over; raises the run's own error, or Canceled."""
        if self.error is not None:
            raise self.error
        if self.state == "canceled":
            raise Canceled(f"run {self.number} was canceled after {self.seconds:.1f} s")
        return self.result


Listener = Callable[[Run, Any], None]


class Engine:
    """Runs one job at a time on one worker thread; a newer request supersedes whatever came before.

    `listener(run, shown)` is told of every change of state (`shown` is None) and of at most `rate` views a second: the
    first at once, the last always. It is called under the engine's lock, so there is never more than one writer, and a
    run that is over is never heard of again. `threads` is the number of torch threads that the worker uses: one, since
    a second one waits for whatever else uses its core (a browser always does) at every operation.

    The worker lives only while there is work, so an engine that nobody uses costs nothing and needs no closing.
    """

    def __init__(self, job: Job, listener: Listener | None = None, *, rate: float = 8.0, threads: int = 1) -> None:
        self._job = job
        self._listener = listener
        self._interval = 1.0 / rate
        self._threads = threads
        self.lock = threading.Condition(threading.RLock())  # guards all below, and is held while the listener is told
        self._count = 0
        self._mailbox: Run | None = None
        self._newest: Run | None = None
        self._worker: threading.Thread | None = None
        self.history: list[Run] = []  # the runs that began and are over, oldest first
        _engines.add(self)

    @property
    def state(self) -> str:
        """idle before the first request, then the newest run's state."""
        return self._newest.state if self._newest else "idle"

    def submit(self, request: Any) -> Run:
        """Ask for a run. Returns at once; an older run, queued or running, is over when this returns."""
        with self.lock:
            self._retire()
            self._count += 1
            run = self._newest = self._mailbox = Run(self._count, request)
            self._tell(run)
            if self._worker is None:
                self._worker = threading.Thread(
                    target=self._work, args=(_torch_threads(),), name="labkit-live", daemon=True
                )
                self._worker.start()
            return run

    def cancel(self) -> None:
        """End the newest run if it is queued or running. The worker finds out at its next step."""
        with self.lock:
            if run := self._retire():
                self._tell(run)

    def wait(self, timeout: float | None = None) -> Any:
        """The newest run's result, once it is over; raises its error, Canceled, or TimeoutError."""
        return self._outcome(self._latest, timeout)

    def run(self, request: Any, timeout: float | None = None) -> Any:
        """Submit and wait: the result of this very request, or Canceled if another one came between."""
        run = self.submit(request)
        try:
            return self._outcome(lambda: run, timeout)
        except KeyboardInterrupt:  # interrupting the cell means: stop this
            self.cancel()
            raise

    def join(self, timeout: float | None = None) -> bool:
        """Wait until the worker has gone; False if it has not within `timeout` seconds."""
        with self.lock:
            return self.lock.wait_for(lambda: self._worker is None, timeout)

    def _latest(self) -> Run:
        if self._newest is None:
            raise RuntimeError("there is nothing to wait for: no run was asked for yet")
        return self._newest

    def _outcome(self, which: Callable[[], Run], timeout: float | None) -> Any:
        with self.lock:
            if not self.lock.wait_for(lambda: which().over, timeout):
                raise TimeoutError(f"run {which().number} is still {which().state} after {timeout:g} s")
            return which().outcome()

    # The next three are called with the lock held.

    def _tell(self, run: Run, shown: Any = None) -> None:
        if self._listener is not None:
            self._listener(run, shown)

    def _retire(self) -> Run | None:
        """Make the newest run a canceled one and return it, unless it is over already."""
        run = self._newest
        if run is None or run.over:
            return None
        self._mailbox = None
        self._finish(run, "canceled")
        return run

    def _finish(self, run: Run, state: str, result: Any = None, error: BaseException | None = None) -> None:
        run.state, run.result, run.error = state, result, error
        if run.started is not None and run not in self.history:
            run.seconds = time.perf_counter() - run.started
            self.history.append(run)
        self.lock.notify_all()

    # The rest is the worker's.

    def _work(self, threads_elsewhere: int) -> None:
        """The worker: take the newest request until there is none."""
        try:
            _use_torch_threads(self._threads, threads_elsewhere)
            while (run := self._take()) is not None:
                self._drive(run)
        finally:
            with self.lock:  # only if the listener itself fails does a worker end otherwise than through _take
                if self._worker is threading.current_thread():
                    self._worker = None

    def _take(self) -> Run | None:
        """Empty the mailbox; the worker that finds nothing in it resigns under the same lock."""
        with self.lock:
            run, self._mailbox = self._mailbox, None
            if run is None:
                self._worker = None
                self.lock.notify_all()
            return run

    def _drive(self, run: Run) -> None:
        """One run, from its first step to its end, or until it is no longer wanted."""
        try:
            with self.lock:
                if run.over:
                    return
                run.state, run.started = "running", time.perf_counter()
                self._tell(run)
            with closing(self._job(run.request)) as steps:
                finished, result = self._step_through(run, steps)
            with self.lock:
                if finished and not run.over:
                    self._finish(run, "done", result)
                    self._tell(run)
        except BaseException as error:  # whatever it was, somebody may be waiting to hear of it
            with self.lock:
                if run.state != "canceled":
                    self._finish(run, "error", error=error)
                    self._tell(run)

    def _step_through(self, run: Run, steps: Generator[View, None, Any]) -> tuple[bool, Any]:
        """Whether the job came to its end, and its result."""
        view, due = None, 0.0
        while not run.over:
            try:
                view = next(steps)
            except StopIteration as end:
                if view is not None:
                    self._publish(run, view)
                return True, end.value
            if time.perf_counter() >= due:
                self._publish(run, view)
                view, due = None, time.perf_counter() + self._interval
        return False, None

    def _publish(self, run: Run, view: View) -> None:
        shown = view()  # rendering may take a while: not under the lock
        with self.lock:
            if not run.over:
                self._tell(run, shown)


def _torch_threads() -> int:
    """The calling thread's number of torch threads; asking also fixes it, see below."""
    import torch

    return torch.get_num_threads()


def _use_torch_threads(here: int, elsewhere: int) -> None:
    """Use `here` torch threads on this thread only, and leave other threads what they had.

    The number belongs to a thread, but setting it also sets what a thread takes that asks for the first time. So each
    thread asks first, and the default is put back from a thread that exists for nothing else.
    """
    import torch

    _torch_threads()
    torch.set_num_threads(here)
    restore = threading.Thread(target=torch.set_num_threads, args=(elsewhere,))
    restore.start()
    restore.join()
    torch.set_grad_enabled(True)  # the grad mode, too, belongs to a thread


_engines: weakref.WeakSet[Engine] = weakref.WeakSet()


@atexit.register
def _stop_all() -> None:
    """A thread that dies inside torch takes the interpreter down with a crash: let it finish its step first."""
    for engine in list(_engines):
        engine._listener = None  # the front end is gone
        engine.cancel()
    for engine in list(_engines):
        engine.join(timeout=2.0)

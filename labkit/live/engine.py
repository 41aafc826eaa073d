"""The live-run engine: it trains in the background, always for the newest request, and stops at once.

A *job* is a generator function. It takes a request, yields a *view* after each training step, and returns its result. A
view is a function without arguments that renders one frame. The engine calls a view only if it will publish the frame,
so a fast loop spends no time on frames that nobody sees.

    def job(request):
        for step in training.stream(...):
            yield lambda: step.loss
        return "trained"

    engine = Engine(job, listener=lambda run, shown: ...)
    engine.submit(request)        # returns at once and cancels the previous run
    engine.wait(timeout=60)       # returns the result of the newest run, or raises its error

The engine uses threads and a single lock, but no asyncio, because a widget's callback may run on any thread and must
return at once.
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

_PAUSE, _LONGEST = 3.0, 8.0  # work after a slow view: this many times its duration, but at most this many intervals


class Canceled(RuntimeError):
    """Raised by `wait` and `run` if the run was canceled, or superseded by a newer one."""


@dataclass(eq=False)
class LiveRun:
    """One request and its outcome.

    A run is finished as soon as it is canceled or superseded. From then on, the engine publishes nothing from it. The
    worker checks `finished` after every step.

    Attributes:
        number: Number of the run, from 1.
        request: Request that was submitted.
        state: queued, running, canceled, done or error.
        result: Return value of the job, if the run is done.
        error: Exception of the job, if its state is error.
        started: Start time from `time.perf_counter()`; None if the run never started.
        seconds: Duration of a finished run.
    """

    number: int
    request: Any
    state: str = "queued"
    result: Any = None
    error: BaseException | None = None
    started: float | None = None
    seconds: float = 0.0

    @property
    def finished(self) -> bool:
        """True if the run was canceled, is done, or ended with an error."""
        return self.state in ("canceled", "done", "error")

    def outcome(self) -> Any:
        """Return the result of a finished run.

        Raises:
            Canceled: If the run was canceled. If the job raised an error, that error is raised instead.
        """
        if self.error is not None:
            raise self.error
        if self.state == "canceled":
            raise Canceled(f"run {self.number} was canceled after {self.seconds:.1f} s")
        return self.result


Listener = Callable[[LiveRun, Any], None]


class Engine:
    """Runs one job at a time on one worker thread. A newer request supersedes the current run.

    The worker thread exists only while there is work, so an idle engine costs nothing and does not have to be closed.

    Args:
        job: Generator function that does the work; see the module's description.
        listener: Function that is called with the run and None after every change of state, and with the run and the
            rendered view for at most `rate` views per second. On a busy machine there are fewer views, so that slow
            views take at most a quarter of the time. The first view of a run is published at once, and the last view is
            always published. The engine holds its lock during the call, so there is never more than one writer, and the
            listener is never called for a finished run.
        rate: Largest number of views per second.

    Attributes:
        lock: Guards the whole state of the engine.
        history: Runs that started and are finished, oldest first.
    """

    def __init__(self, job: Job, listener: Listener | None = None, *, rate: float = 8.0) -> None:
        self._job = job
        self._listener = listener
        self._interval = 1.0 / rate
        self.lock = threading.Condition(threading.RLock())
        self._count = 0
        self._mailbox: LiveRun | None = None
        self._newest: LiveRun | None = None
        self._worker: threading.Thread | None = None
        self.history: list[LiveRun] = []
        _engines.add(self)

    def __repr__(self) -> str:
        return f"Engine({self.state}, {len(self.history)} finished runs)"

    @property
    def state(self) -> str:
        """State of the newest run; idle before the first request."""
        return self._newest.state if self._newest else "idle"

    def submit(self, request: Any) -> LiveRun:
        """Request a run and return at once. An older run that is queued or running is canceled."""
        with self.lock:
            self._cancel_newest()
            self._count += 1
            run = self._newest = self._mailbox = LiveRun(self._count, request)
            self._notify(run)
            if self._worker is None:
                self._worker = threading.Thread(
                    target=self._work, args=(_torch_threads(),), name="labkit-live", daemon=True
                )
                self._worker.start()
            return run

    def cancel(self) -> None:
        """Cancel the newest run if it is queued or running. The worker stops at its next step."""
        with self.lock:
            if run := self._cancel_newest():
                self._notify(run)

    def wait(self, timeout: float | None = None) -> Any:
        """Wait for the newest run and return its result.

        Args:
            timeout: Longest time to wait, in seconds; None waits forever.

        Raises:
            Canceled: If the run was canceled. If the job raised an error, that error is raised instead.
            TimeoutError: If the run is not finished in time.
            RuntimeError: If there is no run.
        """
        return self._outcome(self._latest, timeout)

    def run(self, request: Any, timeout: float | None = None) -> Any:
        """Submit a request, wait for exactly this run and return its result.

        Args:
            request: Request for the job.
            timeout: Longest time to wait, in seconds; None waits forever.

        Raises:
            Canceled: If the run was canceled or superseded. If the job raised an error, that error is raised instead.
            TimeoutError: If the run is not finished in time.
        """
        run = self.submit(request)
        try:
            return self._outcome(lambda: run, timeout)
        except KeyboardInterrupt:  # interrupting the cell also stops the training
            self.cancel()
            raise

    def join(self, timeout: float | None = None) -> bool:
        """Wait until the worker thread has ended; return False if it has not ended within `timeout` seconds."""
        with self.lock:
            return self.lock.wait_for(lambda: self._worker is None, timeout)

    def _latest(self) -> LiveRun:
        if self._newest is None:
            raise RuntimeError("there is no run to wait for: submit a request first")
        return self._newest

    def _outcome(self, which: Callable[[], LiveRun], timeout: float | None) -> Any:
        with self.lock:
            if not self.lock.wait_for(lambda: which().finished, timeout):
                raise TimeoutError(f"run {which().number} is still {which().state} after {timeout:g} s")
            return which().outcome()

    # The caller of the next three methods holds the lock.

    def _notify(self, run: LiveRun, shown: Any = None) -> None:
        if self._listener is not None:
            self._listener(run, shown)

    def _cancel_newest(self) -> LiveRun | None:
        """Mark the newest run as canceled and return it, unless it is finished."""
        run = self._newest
        if run is None or run.finished:
            return None
        self._mailbox = None
        self._finish(run, "canceled")
        return run

    def _finish(self, run: LiveRun, state: str, result: Any = None, error: BaseException | None = None) -> None:
        run.state, run.result, run.error = state, result, error
        if run.started is not None and run not in self.history:
            run.seconds = time.perf_counter() - run.started
            self.history.append(run)
        self.lock.notify_all()

    # The methods below run on the worker thread.

    def _work(self, default_threads: int) -> None:
        """Execute the newest request until there is none."""
        try:
            _use_one_torch_thread(default_threads)
            while (run := self._take()) is not None:
                self._execute(run)
        finally:
            with self.lock:  # if the listener raised an error, the worker ends without calling _take
                if self._worker is threading.current_thread():
                    self._worker = None
                    self.lock.notify_all()

    def _take(self) -> LiveRun | None:
        """Empty the mailbox. If it is already empty, the worker resigns under the same lock."""
        with self.lock:
            run, self._mailbox = self._mailbox, None
            if run is None:
                self._worker = None
                self.lock.notify_all()
            return run

    def _execute(self, run: LiveRun) -> None:
        """Execute a run until it ends or is canceled."""
        try:
            with self.lock:
                if run.finished:
                    return
                run.state, run.started = "running", time.perf_counter()
                self._notify(run)
            with closing(self._job(run.request)) as steps:
                completed, result = self._step_through(run, steps)
            with self.lock:
                if completed and not run.finished:
                    self._finish(run, "done", result)
                    self._notify(run)
        except BaseException as error:  # every error goes to the thread that waits for the run
            with self.lock:
                if run.state != "canceled":
                    self._finish(run, "error", error=error)
                    self._notify(run)

    def _step_through(self, run: LiveRun, steps: Generator[View, None, Any]) -> tuple[bool, Any]:
        """Return True and the result if the job completes, or False and None if the run is canceled first."""
        view, due = None, 0.0
        while not run.finished:
            try:
                view = next(steps)
            except StopIteration as stop:
                if view is not None:
                    self._publish(run, view)
                return True, stop.value
            begin = time.perf_counter()
            if begin >= due:
                self._publish(run, view)
                end = time.perf_counter()
                pause = min(_PAUSE * (end - begin), _LONGEST * self._interval)
                view, due = None, end + max(self._interval, pause)
        return False, None

    def _publish(self, run: LiveRun, view: View) -> None:
        shown = view()  # without the lock, because rendering may take a while
        with self.lock:
            if not run.finished:
                self._notify(run, shown)


def _torch_threads() -> int:
    """Return the calling thread's number of torch threads, and fix it (see `_use_one_torch_thread`)."""
    import torch

    return torch.get_num_threads()


def _use_one_torch_thread(default: int) -> None:
    """Use one torch thread on this thread only, and `default` on threads that start later.

    In every operation, a second torch thread would have to wait for other programs on its core, and there is always one
    such program: the browser. The number belongs to a thread, but `set_num_threads` also sets the default for threads
    that have not read their number yet. This thread therefore reads its number first, and a temporary thread restores
    the default.
    """
    import torch

    _torch_threads()
    torch.set_num_threads(1)
    restore = threading.Thread(target=torch.set_num_threads, args=(default,))
    restore.start()
    restore.join()
    torch.set_grad_enabled(True)  # the gradient mode also belongs to a thread


_engines: weakref.WeakSet[Engine] = weakref.WeakSet()


@atexit.register
def _stop_all() -> None:
    """Let every worker finish its step, because a thread that ends inside torch would crash the interpreter."""
    for engine in list(_engines):
        engine._listener = None  # the front end is already closed
        engine.cancel()
    for engine in list(_engines):
        engine.join(timeout=2.0)

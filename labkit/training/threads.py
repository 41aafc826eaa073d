"""How torch works on a CPU while it trains: threads, which are found out by timing steps, and memory, which is kept."""

from __future__ import annotations

import ctypes
import os
import statistics
import sys

import torch

TRIAL = 4  # steps that each number of threads is tried for; the first is not counted
SLOW = 1.25  # all are tried again where steps take so many times what they did
WATCH = 8  # steps whose median that is decided by
FIRST_LOOK, LAST_LOOK = (
    200,
    3200,
)  # steps until all are tried again anyway; twice as many after each that changed nothing


def cores() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def keep_memory() -> None:
    """Let this process keep the memory that it frees, under glibc; elsewhere nothing is done.

    By default glibc gives every large block back to the system and takes it anew, a page fault for each 4 KiB: tens of
    thousands in a training step, whose tensors are of the same sizes in every step.
    """
    if sys.platform != "linux":
        return
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):  # another C library
        return
    trim_threshold, mmap_threshold = -1, -3
    mallopt(trim_threshold, 2**31 - 1)
    if not mallopt(mmap_threshold, 2**30):
        mallopt(mmap_threshold, 2**25)  # the most that older versions take


class Threads:
    """Torch's number of threads while this is entered, chosen anew whenever steps become slow, and now and then.

    More than one thread wait for the slowest at every operation, so that another process on one of the cores costs far
    more than its share. fixed: this many threads, and nothing is tried. Tell `timed` the seconds of each step.
    """

    def __init__(self, fixed: int | None = None):
        most = torch.get_num_threads()
        powers = [2**k for k in range(most.bit_length()) if 2**k < most]
        self.candidates = [fixed] if fixed else [*powers, most]
        self.number = self.candidates[0]  # in use
        self._look, self._usual = FIRST_LOOK, 0.0
        self._try_all()

    def __enter__(self) -> Threads:
        self._before = torch.get_num_threads()
        torch.set_num_threads(self.number)
        return self

    def __exit__(self, *_: object) -> None:
        torch.set_num_threads(self._before)

    def timed(self, seconds: float) -> None:
        """A step took so long with `number` threads. The next may be made with another number."""
        if len(self.candidates) == 1:
            return
        self._recent.append(seconds)
        if self._untried:
            self._try()
        elif len(self._recent) >= self._look:
            self._try_all()
        elif len(self._recent) >= WATCH and statistics.median(self._recent[-WATCH:]) > SLOW * self._usual:
            self._look = FIRST_LOOK
            self._try_all()
        if self.number != torch.get_num_threads():
            torch.set_num_threads(self.number)

    def _try_all(self) -> None:
        """The number in use comes first, so that one that is much slower is left early."""
        self._untried = sorted(self.candidates, key=lambda number: number != self.number)
        self._found: dict[int, float] = {}
        self._recent: list[float] = []

    def _try(self) -> None:
        counted = self._recent[1:]
        hopeless = counted and min(self._recent) > 2 * min(self._found.values(), default=min(self._recent))
        if len(self._recent) < TRIAL and not hopeless:
            return
        self._found[self._untried.pop(0)] = statistics.median(counted)
        self._recent = []
        if self._untried:
            self.number = self._untried[0]
            return
        before, self.number = next(iter(self._found)), min(self._found, key=self._found.__getitem__)
        self._look = FIRST_LOOK if self.number != before else min(2 * self._look, LAST_LOOK)
        self._usual = self._found[self.number]

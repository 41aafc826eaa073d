"""Torch's use of the CPU during training: the number of threads, chosen by timing, and memory, which is kept."""

from __future__ import annotations

import ctypes
import os
import statistics
import sys

import torch

TRIAL = 4  # number of steps for which each number of threads is tried; the first step is ignored
SLOW = 1.25  # all numbers are tried again if steps become slower by this factor
WATCH = 8  # number of steps whose median is compared
FIRST_LOOK, LAST_LOOK = 200, 3200  # steps until the next routine trial; doubled after each trial without a change


def cores() -> int:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def keep_memory() -> None:
    """Make this process keep the memory that it frees. This works only with glibc.

    By default, glibc returns every large block to the system and requests it again, with a page fault for each 4 KiB.
    A training step has tens of thousands of page faults, although its tensors have the same sizes in every step.
    """
    if sys.platform != "linux":
        return
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):  # this is another C library
        return
    trim_threshold, mmap_threshold = -1, -3
    mallopt(trim_threshold, 2**31 - 1)
    if not mallopt(mmap_threshold, 2**30):
        mallopt(mmap_threshold, 2**25)  # the largest value that older versions accept


class Threads:
    """Chooses torch's number of threads by timing steps, and tries again at intervals and when steps become slow.

    In every operation, all threads wait for the slowest one. Another process on one of the cores therefore costs much
    more than its share of the time. Use this class as a context manager.

    Args:
        fixed: Number of threads to use without trying others. None tries them.

    Attributes:
        number: Number of threads in use.
        candidates: Numbers of threads to try.
    """

    def __init__(self, fixed: int | None = None):
        most = torch.get_num_threads()
        powers = [2**k for k in range(most.bit_length()) if 2**k < most]
        self.candidates = [fixed] if fixed else [*powers, most]
        self.number = self.candidates[0]
        self._look, self._usual = FIRST_LOOK, 0.0
        self._try_all()

    def __repr__(self) -> str:
        return f"Threads({self.number} of {self.candidates})"

    def __enter__(self) -> Threads:
        self._before = torch.get_num_threads()
        torch.set_num_threads(self.number)
        return self

    def __exit__(self, *_: object) -> None:
        torch.set_num_threads(self._before)

    def timed(self, seconds: float) -> None:
        """Record the duration of a step with `number` threads, and set the number for the next step."""
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
        """Start a trial with the current number, so that a much slower number can be abandoned early."""
        self._untried = sorted(self.candidates, key=lambda number: number != self.number)
        self._medians: dict[int, float] = {}
        self._recent: list[float] = []

    def _try(self) -> None:
        counted = self._recent[1:]
        hopeless = counted and min(self._recent) > 2 * min(self._medians.values(), default=min(self._recent))
        if len(self._recent) < TRIAL and not hopeless:
            return
        self._medians[self._untried.pop(0)] = statistics.median(counted)
        self._recent = []
        if self._untried:
            self.number = self._untried[0]
            return
        before, self.number = next(iter(self._medians)), min(self._medians, key=self._medians.__getitem__)
        self._look = FIRST_LOOK if self.number != before else min(2 * self._look, LAST_LOOK)
        self._usual = self._medians[self.number]

"""Training from scratch fits its steps into the given time, and otherwise trains like any other run."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

import labkit as lk
from labkit.networks import patch_start
from labkit.training import from_scratch


class Clock:
    """A clock that stands still except when `tick` moves it."""

    def __init__(self) -> None:
        self.now = 0.0

    def perf_counter(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch):
    """Replace the clock, and the training by a loop in which the reader of a step moves the clock."""

    class Loop:
        def __init__(self, net, images, settings) -> None:
            self.settings, self.step = settings, 0

        def interruptible(self):
            yield None
            while self.step < self.settings.steps:
                self.step += 1
                yield SimpleNamespace(step=self.step, steps=self.settings.steps)

    clock = Clock()
    monkeypatch.setattr(from_scratch, "time", clock)
    monkeypatch.setattr(from_scratch, "Training", Loop)
    return clock


def steps_of(clock: Clock, durations, **settings) -> list[tuple[int, int]]:
    """Take all steps; the duration of a step is that of its number, or else the last one."""
    taken = []
    for step in lk.training.train_from_scratch(None, None, lmbda=0.01, seed=0, **settings):
        if step is None:  # a part of the start
            continue
        taken.append((step.step, step.steps))
        clock.now += durations[min(step.step, len(durations)) - 1]
    return taken


def test_a_fast_machine_takes_all_steps(clock):
    taken = steps_of(clock, [0.1], steps=100, seconds=20.0)
    assert taken == [(i, 100) for i in range(1, 101)]


def test_a_slow_machine_takes_as_many_steps_as_fit_and_its_schedules_end_with_them(clock):
    taken = steps_of(clock, [0.5], steps=1000, seconds=20.0)
    assert len(taken) == taken[-1][1] == 38  # 95% of 20 seconds
    assert clock.now <= 20


def test_a_slow_first_step_does_not_count_as_pace(clock):
    taken = steps_of(clock, [5.0, 0.25], steps=1000, seconds=20.0)
    assert len(taken) == taken[-1][1] and 18.5 <= clock.now <= 19.5


def test_training_ends_in_time_even_if_later_steps_are_slower(clock):
    taken = steps_of(clock, [0.1] * 30 + [3.0], steps=1000, seconds=20.0)
    assert taken[-1][0] < taken[-1][1] and 20 < clock.now <= 23


def test_a_run_shorter_than_its_pilot_is_complete(clock):
    assert len(steps_of(clock, [9.0], steps=3, seconds=100.0)) == 3


def test_the_numbers_are_those_of_a_plain_run(monkeypatch):
    monkeypatch.setattr(from_scratch, "PILOT", 2)
    monkeypatch.setattr(patch_start, "FIT_STEPS", 2)
    photos = lk.datasets.photos("train")[:2]
    settings = {"lmbda": 0.01, "steps": 4, "seed": 3}
    scheme = lk.schemes.annealed(temperature=lk.schedules.linear(0.5, 0.1))
    nets = [lk.networks.patch_linear(scheme=scheme) for _ in range(2)]
    parts = lk.training.train_from_scratch(nets[0], photos, seconds=1000.0, **settings)
    live = [step.loss for step in parts if step is not None]
    plain = lk.training.stream(
        nets[1], photos, batch_size=8, crop=128, permute_colors=True, device="cpu", precision="float32", **settings
    )
    assert live == [step.loss for step in plain]
    for ours, theirs in zip(nets[0].parameters(), nets[1].parameters(), strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize(("setting", "value"), [("seconds", 0.0), ("steps", 0), ("lmbda", -1.0)])
def test_a_setting_out_of_range_is_rejected(setting, value):
    settings = {"lmbda": 0.01, "steps": 3, "seconds": 1.0, "seed": 0} | {setting: value}
    with pytest.raises(ValueError, match=f"{setting} must be"):
        list(lk.training.train_from_scratch(lk.networks.patch_linear(), lk.datasets.photos("train"), **settings))

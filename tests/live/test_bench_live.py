"""`labkit bench live`: every figure is there, positive, and the same in the table and in the JSON."""

from __future__ import annotations

import json
import math
import time

import pytest
import torch

from labkit import live
from labkit.live import bench
from labkit.live.canvas import Picture
from labkit.live.retraining import RetrainingPanel, TrainingFrame

LATE = 400  # milliseconds that a sleeper may wake too late on a busy machine


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """What one round printed, and its JSON."""
    out = tmp_path_factory.mktemp("bench") / "live.json"
    with pytest.MonkeyPatch.context() as patch:
        printed: list[str] = []
        patch.setattr(bench, "FRAMES", 4)
        patch.setattr(bench, "BARE", 3)
        patch.setattr("builtins.print", lambda *words, sep=" ": printed.append(sep.join(map(str, words))))
        bench.print_table(rounds=1, threads=1, out=out)
    return printed, json.loads(out.read_text())


def test_both_panels_have_every_row(measured):
    _, figures = measured
    assert [(row["panel"], row["what"]) for row in figures["rows"]] == [
        (panel, what) for panel in ("toy", "codec") for what in (*bench.TIMES, *bench.RATES)
    ]


def test_all_figures_are_positive(measured):
    _, figures = measured
    for row in figures["rows"]:
        assert all(0 < row[key] < math.inf for key in ("median", "worst", "bare", "ratio")), row
        assert row["worst"] == row["median"]  # of one round
        assert row["ratio"] == pytest.approx(row["median"] / row["bare"])


def test_what_is_printed_is_what_is_written(measured):
    (versions, machine, _, *lines), figures = measured
    assert versions.startswith(f"python {figures['python']}, torch {torch.__version__}")
    assert machine.startswith("1 thread(s) of") and f"load {figures['load'] or 0:.2f}; rounds: 1" in machine
    assert (figures["threads"], figures["rounds"]) == (1, 1)
    for line, row in zip(lines, figures["rows"], strict=True):
        assert line.startswith(f"{row['panel']:<6} {row['what']}")
        *_, median, worst, bare, ratio = line.split()
        assert (median, worst, bare) == tuple(f"{row[key]:.1f}" for key in ("median", "worst", "bare"))
        assert ratio == f"{row['ratio']:.2f}"


class Clockwork(RetrainingPanel):
    """A panel whose steps, start and drawing take a known time."""

    def __init__(self, start: float, step: float, draw: float) -> None:
        self._start, self._step, self._draw = start, step, draw
        toy = live.toy_panel()
        super().__init__({"lmbda": toy.controls["lmbda"]}, toy.canvas, toy.chart)

    def job(self, settings):
        time.sleep(self._start)
        picture, losses = Picture(torch.zeros(2, 2, 3, dtype=torch.uint8).numpy(), "black"), []

        def view() -> TrainingFrame:
            time.sleep(self._draw)
            return TrainingFrame(torch.ones(len(losses)).numpy(), 0.0, f"step {len(losses)}", picture)

        while True:
            time.sleep(self._step)
            losses.append(1.0)
            yield view


@pytest.mark.parametrize("start, step, draw", [(0.3, 0.02, 0.0), (0.0, 0.02, 0.06)])
def test_figures_are_those_of_a_panel_whose_times_are_known(start, step, draw, monkeypatch):
    """A sleeper wakes late, never early: one side of each figure is exact."""
    monkeypatch.setattr(bench, "FRAMES", 5)
    panel = Clockwork(start, step, draw)
    rows = {row["what"]: row for row in bench.measure(panel, 1)}
    panel.close()
    first, superseded, idle, frames, trained = (rows[what]["median"] for what in (*bench.TIMES, *bench.RATES))
    answer = 1000 * (start + step + draw)
    assert answer <= first <= answer + LATE
    assert answer <= superseded <= answer + 1000 * (step + draw) + LATE
    assert idle <= 1000 * (step + draw) + LATE
    assert all(1000 * step <= rows[what]["bare"] <= 1000 * step + LATE for what in bench.TIMES)
    assert 1 < frames <= rows["frames, per s"]["bare"] == bench.MOST_FRAMES
    assert frames < trained <= 1 / step and rows["training steps, per s"]["bare"] <= 1 / step


def test_a_panel_that_fails_says_so():
    panel = Clockwork(0.0, 0.02, 0.0)

    def job(settings):
        raise ArithmeticError("too large")
        yield

    panel.job = job
    with pytest.raises(ArithmeticError, match="too large"):
        bench.measure(panel, 1)
    panel.close()

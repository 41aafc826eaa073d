"""`labkit bench live` reports every quantity as a positive number, and its table equals its JSON file."""

from __future__ import annotations

import json
import math
import time

import pytest
import torch

from labkit import live
from labkit.live import bench
from labkit.live.canvas import Picture
from labkit.live.toy import ToyFrame

LATE = 400  # milliseconds by which `time.sleep` may wake late on a busy machine


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """Return the printed lines and the JSON figures of one round; the training panel would take too long."""
    out = tmp_path_factory.mktemp("bench") / "live.json"
    with pytest.MonkeyPatch.context() as patch:
        printed: list[str] = []
        patch.setattr(bench, "FRAMES", 4)
        patch.delitem(bench.PANELS, "training")
        patch.setattr(bench, "PLAIN_STEPS", 3)
        patch.setattr("builtins.print", lambda *texts, sep=" ": printed.append(sep.join(map(str, texts))))
        bench.print_table(rounds=1, threads=1, out=out)
    return printed, json.loads(out.read_text())


@pytest.mark.slow
def test_every_quantity_is_reported(measured):
    _, figures = measured
    assert [(row["panel"], row["quantity"]) for row in figures["rows"]] == [
        ("toy", quantity) for quantity in (*bench.TIMES, *bench.RATES)
    ]


@pytest.mark.slow
def test_all_figures_are_positive(measured):
    _, figures = measured
    for row in figures["rows"]:
        assert all(0 < row[key] < math.inf for key in ("median", "worst", "plain", "ratio")), row
        assert row["worst"] == row["median"]  # there is only one round
        assert row["ratio"] == pytest.approx(row["median"] / row["plain"])


@pytest.mark.slow
def test_the_table_equals_the_json_file(measured):
    (versions, machine, _, *lines), figures = measured
    assert versions.startswith(f"python {figures['python']}, torch {torch.__version__}")
    assert machine.startswith("1 thread(s) of") and f"load {figures['load'] or 0:.2f}; rounds: 1" in machine
    assert (figures["threads"], figures["rounds"]) == (1, 1)
    for line, row in zip(lines, figures["rows"], strict=True):
        assert line.startswith(f"{row['panel']:<8} {row['quantity']}")
        *_, median, worst, plain, ratio = line.split()
        assert (median, worst, plain) == tuple(f"{row[key]:.1f}" for key in ("median", "worst", "plain"))
        assert ratio == f"{row['ratio']:.2f}"


class Clockwork(live.ToyPanel):
    """A panel whose start, steps and drawing take known times."""

    def __init__(self, start: float, step: float, draw: float) -> None:
        super().__init__()
        self._pauses = start, step, draw

    def job(self, settings):
        start, step, draw = self._pauses
        time.sleep(start)
        picture, losses = Picture(torch.zeros(2, 2, 3, dtype=torch.uint8).numpy(), "black"), []

        def view() -> ToyFrame:
            time.sleep(draw)
            return ToyFrame(torch.ones(len(losses)).numpy(), 0.0, f"step {len(losses)}", picture)

        while True:
            time.sleep(step)
            losses.append(1.0)
            yield view


@pytest.mark.parametrize("start, step, draw", [(0.3, 0.02, 0.0), (0.0, 0.02, 0.06)])
def test_a_panel_with_known_times_is_measured_correctly(start, step, draw, monkeypatch):
    """`time.sleep` may wake late but never early, so one bound of each quantity is exact."""
    monkeypatch.setattr(bench, "FRAMES", 5)
    panel = Clockwork(start, step, draw)
    rows = {row["quantity"]: row for row in bench.measure(panel, 1)}
    panel.close()
    first, superseded, idle, frames, trained = (rows[quantity]["median"] for quantity in (*bench.TIMES, *bench.RATES))
    answer = 1000 * (start + step + draw)
    assert answer <= first <= answer + LATE
    assert answer <= superseded <= answer + 1000 * (step + draw) + LATE
    assert idle <= 1000 * (step + draw) + LATE
    assert all(1000 * step <= rows[quantity]["plain"] <= 1000 * step + LATE for quantity in bench.TIMES)
    assert 1 < frames <= rows["frames, per s"]["plain"] == bench.MAX_FRAME_RATE
    assert frames < trained <= 1 / step and rows["training steps, per s"]["plain"] <= 1 / step


def test_measuring_raises_the_error_of_a_panel():
    panel = Clockwork(0.0, 0.02, 0.0)

    def job(settings):
        raise ArithmeticError("too large")
        yield

    panel.job = job
    with pytest.raises(ArithmeticError, match="too large"):
        bench.measure(panel, 1)
    panel.close()

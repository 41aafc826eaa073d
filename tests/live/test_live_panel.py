"""Features that all panels share, tested with the toy panel and without a browser."""

from __future__ import annotations

import threading
import time
from types import SimpleNamespace

import numpy as np
import pytest

import labkit as lk
from labkit.live.controls import value_of
from labkit.live.engine import Canceled
from labkit.live.toy import _paint

PATIENCE = 20  # seconds after which a waiting test fails


@pytest.fixture
def toy():
    panel = lk.live.ToyPanel(steps=20)
    yield panel
    panel.close()


def test_a_panel_trains_without_a_browser(toy):
    result = toy.run(PATIENCE, temperature=0.25, lmbda=2.0)
    assert toy.settings == result.settings == {"temperature": 0.25, "lmbda": 2.0, "scheme": "stochastic_rounding"}
    assert len(result.losses) == 20 and result.losses[-1] < result.losses[0]
    assert result.loss == pytest.approx(result.rate + 2.0 * result.distortion, rel=1e-5)
    assert result.codewords > 1
    assert [run.result for run in toy.history] == [result]
    assert toy.wait() is result


def test_a_panel_prints_its_settings_and_state_in_one_line(toy):
    assert repr(toy) == "ToyPanel(τ = 0.5, λ = 5, scheme = stochastic_rounding; idle)"


def test_an_invalid_initial_value_raises_an_error_of_one_line():
    with pytest.raises(ValueError, match=r"^tradeoff λ must be one of 0\.3, .*, got 3$"):
        lk.live.ToyPanel(lmbda=3)


def test_equal_settings_give_equal_numbers(toy):
    first, second = toy.run(PATIENCE), toy.run(PATIENCE)
    assert first is not second
    assert np.array_equal(first.losses, second.losses) and first.loss == second.loss


def test_a_slider_that_reports_its_old_value_starts_no_run(toy):
    slider = toy.controls["lmbda"]
    echo = {"name": "value", "old": 5.0, "new": 5.0, "owner": slider, "type": "change"}
    slider.notify_change(echo)
    assert toy.state == "idle"
    toy.run(PATIENCE)
    slider.notify_change(echo)
    assert len(toy.history) == 1 and toy.state == "done"
    slider.value = 10.0
    assert toy.wait(PATIENCE).settings["lmbda"] == 10.0
    assert len(toy.history) == 2


@pytest.mark.parametrize(("reported", "value"), [(0.010000000000000002, 0.01), ("sua", "sua"), (3, 3)])
def test_values_of_controls_are_rounded(reported, value):
    assert value_of(SimpleNamespace(value=reported)) == value


def test_the_status_line_shows_state_result_and_previous_run(toy):
    line = toy.status.status
    assert (line["state"], line["run"]) == ("idle", 0)
    first = toy.run(PATIENCE)
    line = toy.status.status
    assert (line["state"], line["run"], line["progress"], line["stale"]) == ("done", 1, 1.0, "")
    assert line["result"] == str(first) and line["before"] == ""
    second = toy.run(PATIENCE, lmbda=10.0)
    line = toy.status.status
    assert line["result"] == str(second)
    assert line["before"] == f"previous run (τ = 0.5, λ = 5, scheme = stochastic_rounding): {first}"
    assert np.allclose(toy.plot.points("training", ghost=True)[1], first.losses)


def test_the_status_line_says_if_the_screens_are_out_of_date(toy):
    toy.run(PATIENCE)
    toy.job = stuck = Stuck(toy.job)
    toy.controls["lmbda"].value = 10.0
    assert toy.status.status["stale"] == "still showing run 1 (τ = 0.5, λ = 5, scheme = stochastic_rounding)"
    assert not toy._cancel_button.disabled
    stuck.go.set()
    assert stuck.shown.wait(PATIENCE)
    toy.cancel()
    assert toy.status.status["state"] == "canceled"
    assert toy.status.status["stale"] == "the run shown here is unfinished"
    assert toy._cancel_button.disabled
    with pytest.raises(Canceled):
        toy.wait()


class Stuck:
    """A job that waits before its first step and then repeats its first view until it is canceled."""

    def __init__(self, job) -> None:
        self._job = job
        self.go, self.shown = threading.Event(), threading.Event()

    def __call__(self, settings):
        assert self.go.wait(PATIENCE)
        for view in self._job(settings):
            yield view
            self.shown.set()
            while True:
                time.sleep(0.005)
                yield view


def test_the_panel_shows_an_error_and_raises_it(toy):
    def job(settings):
        raise ArithmeticError("the loss went through the roof\nat step 3")
        yield

    toy.job = job
    with pytest.raises(ArithmeticError):
        toy.run(PATIENCE)
    assert toy.status.status["state"] == "error"
    assert toy.status.status["text"] == "ArithmeticError: the loss went through the roof"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"lmbda": 3.0}, r"lmbda must be one of 0\.3, 0\.5, 1\.0, .*, got 3\.0"),
        ({"lamda": 5.0}, "unknown setting 'lamda'; did you mean lmbda"),
        ({"scheme": "anealed"}, "scheme must be one of noise, .*, got 'anealed'"),
    ],
)
def test_an_invalid_setting_raises_an_error_of_one_line(toy, settings, message):
    with pytest.raises(ValueError, match=message):
        toy.run(PATIENCE, **settings)
    assert toy.history == []


def test_the_first_display_starts_a_run_and_contains_a_still_image(toy):
    bundle = toy._repr_mimebundle_()
    assert bundle["image/png"].startswith(b"\x89PNG") and "application/vnd.jupyter.widget-view+json" in bundle
    toy.wait(PATIENCE)
    toy._repr_mimebundle_()
    assert len(toy.history) == 1 and toy.state == "done"  # a second display starts no run


def test_each_cell_has_one_tint_and_visible_edges():
    symbols = np.array([[[0, 0], [0, 0], [1, 0]], [[0, 0], [0, 0], [1, 0]], [[0, -1], [0, -1], [1, -1]]])
    pixels = _paint(symbols)
    assert pixels.shape == (3, 3, 4) and pixels.dtype == np.uint8
    assert (pixels[:2, :2] == pixels[0, 0]).all()  # one cell has one tint
    assert (pixels[2, :, 3] != pixels[0, 0, 3]).all() and (pixels[:, 2, 3] != pixels[0, 0, 3]).all()  # edges

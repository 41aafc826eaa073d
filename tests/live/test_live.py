"""The live engine and its panels, without a browser."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Callable

import numpy as np
import pytest
import torch

import labkit as lk
from labkit.live import plot as live_plot
from labkit.live import retraining
from labkit.live.engine import Canceled, Engine
from labkit.live.panel import Result, choice, switch

PATIENCE = 20  # seconds after which something that waits has failed


class Steps:
    """A job whose steps a test takes one by one: it publishes its request's name and step, and returns the name."""

    def __init__(self) -> None:
        self._allowed = threading.Semaphore(0)
        self.begun: list[str] = []

    def allow(self, steps: int) -> None:
        for _ in range(steps):
            self._allowed.release()

    def __call__(self, request: str):
        self.begun.append(request)
        for step in range(3):
            assert self._allowed.acquire(timeout=PATIENCE)
            yield lambda step=step: (request, step)
        return request


class Heard:
    """A listener that remembers, and can be waited for."""

    def __init__(self) -> None:
        self.all: list[tuple[int, str, object]] = []
        self._changed = threading.Condition()

    def __call__(self, run, shown) -> None:
        with self._changed:
            self.all.append((run.number, run.state, shown))
            self._changed.notify_all()

    def until(self, wanted: Callable[[tuple[int, str, object]], bool]) -> None:
        with self._changed:
            assert self._changed.wait_for(lambda: any(map(wanted, self.all)), PATIENCE)


def test_a_run_is_queued_runs_and_is_done():
    job, heard = Steps(), Heard()
    engine = Engine(job, heard, rate=1e9)
    assert engine.state == "idle"
    job.allow(3)
    assert engine.run("a", PATIENCE) == "a"
    views = [(1, "running", ("a", step)) for step in range(3)]
    assert heard.all == [(1, "queued", None), (1, "running", None), *views, (1, "done", None)]
    assert [(run.request, run.state, run.result) for run in engine.history] == [("a", "done", "a")]
    assert engine.state == "done" and engine.history[0].seconds > 0


def test_a_newer_request_supersedes_and_the_old_one_is_never_heard_of_again():
    job, heard = Steps(), Heard()
    engine = Engine(job, heard, rate=1e9)
    first = engine.submit("a")
    job.allow(1)
    heard.until(lambda event: event[2] == ("a", 0))
    engine.submit("b")
    superseded = len(heard.all)
    assert first.state == "canceled"  # at once, before the worker has found out
    job.allow(6)
    assert engine.wait(PATIENCE) == "b"
    assert {number for number, _, _ in heard.all[superseded:]} == {2}
    assert [run.state for run in engine.history] == ["canceled", "done"]
    with pytest.raises(Canceled, match="run 1 was canceled"):
        first.outcome()


def test_of_many_rapid_requests_only_the_running_and_the_newest_begin():
    job, heard = Steps(), Heard()
    engine = Engine(job, heard)
    engine.submit("first")
    heard.until(lambda event: event[1] == "running")
    for number in range(100):
        engine.submit(str(number))
    job.allow(100)
    assert engine.wait(PATIENCE) == "99"
    assert job.begun == ["first", "99"]
    assert [run.request for run in engine.history] == ["first", "99"]


def test_run_tells_when_another_request_came_between():
    job, heard = Steps(), Heard()
    engine = Engine(job, heard)

    def interfere() -> None:
        heard.until(lambda event: event[1] == "running")
        engine.submit("b")
        job.allow(10)

    other = threading.Thread(target=interfere)
    other.start()
    with pytest.raises(Canceled):
        engine.run("a", PATIENCE)
    other.join()
    assert engine.wait(PATIENCE) == "b"


@pytest.mark.parametrize("began", [True, False])
def test_cancel_ends_a_run_at_once(began: bool):
    job, heard = Steps(), Heard()
    engine = Engine(job, heard, rate=1e9)
    if not began:  # keep the worker busy with another run
        engine.submit("before")
        heard.until(lambda event: event[1] == "running")
    engine.submit("a")
    if began:
        heard.until(lambda event: event[1] == "running")
    engine.cancel()
    assert engine.state == "canceled"
    canceled = len(heard.all)
    job.allow(10)
    assert engine.join(PATIENCE)
    assert len(heard.all) == canceled
    assert job.begun == ["a"] if began else ["before"]
    with pytest.raises(Canceled):
        engine.wait(PATIENCE)
    engine.cancel()  # nothing to cancel: nothing happens
    assert len(heard.all) == canceled


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


def test_an_error_is_told_and_raised_to_whoever_waits():
    def job(request):
        yield lambda: None
        raise ArithmeticError("too large")

    heard = Heard()
    engine = Engine(job, heard)
    with pytest.raises(ArithmeticError, match="too large"):
        engine.run("a", PATIENCE)
    assert heard.all[-1] == (1, "error", None)
    with pytest.raises(ArithmeticError):
        engine.wait(PATIENCE)
    assert isinstance(engine.history[0].error, ArithmeticError)


@pytest.mark.parametrize("when", ["running", "done"])
def test_an_error_in_drawing_is_the_runs_error(when: str):
    def listener(run, shown):
        if run.state == when:
            raise LookupError("no such color")

    engine = Engine(_counting(3), listener)
    with pytest.raises(LookupError, match="no such color"):
        engine.run("a", PATIENCE)
    assert [run.state for run in engine.history] == ["error"]
    assert engine.join(PATIENCE)  # and the worker is not lost


def test_wait_says_what_is_wrong():
    job = Steps()
    engine = Engine(job)
    with pytest.raises(RuntimeError, match="nothing to wait for"):
        engine.wait(1)
    engine.submit("a")
    with pytest.raises(TimeoutError, match=r"run 1 is still (queued|running) after 0\.01 s"):
        engine.wait(0.01)
    engine.cancel()
    job.allow(1)


def test_views_are_coalesced_the_first_at_once_the_last_always():
    rendered, heard = [], Heard()

    def job(_):
        for step in range(600):
            time.sleep(0.001)
            yield lambda step=step: rendered.append(step) or step

    engine = Engine(job, heard, rate=8)
    engine.run(None, PATIENCE)
    shown = [event[2] for event in heard.all if event[2] is not None]
    assert shown == rendered  # a view that is not due is not rendered
    assert shown[0] == 0 and shown[-1] == 599
    assert 3 <= len(shown) <= 2 + 8 * engine.history[0].seconds


def test_two_engines_do_not_disturb_each_other():
    job = Steps()
    one, other = Engine(job), Engine(_counting(3))
    one.submit("a")
    assert other.run("b", PATIENCE) == "b"
    other.cancel()
    assert one.state in ("queued", "running")
    job.allow(3)
    assert one.wait(PATIENCE) == "a"


def test_no_thread_outlives_its_work():
    engine = Engine(_counting(3))
    engine.run("a", PATIENCE)
    assert engine.join(PATIENCE)
    assert not [thread for thread in threading.enumerate() if thread.name == "labkit-live"]


def test_the_worker_uses_one_torch_thread_and_leaves_other_threads_theirs():
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


def test_a_program_can_end_while_a_run_goes_on():
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


def test_the_engine_needs_no_jupyter_and_labkit_no_engine():
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


# Panels


@pytest.fixture
def toy():
    panel = lk.live.toy_panel(steps=20)
    yield panel
    panel.close()


def test_a_panel_trains_without_a_browser(toy):
    result = toy.run(PATIENCE, temperature=0.25, lmbda=2.0)
    assert toy.settings == result.settings == {"temperature": 0.25, "lmbda": 2.0, "scheme": "annealed"}
    assert len(result.losses) == 20 and result.losses[-1] < result.losses[0]
    assert result.loss == pytest.approx(result.rate + 2.0 * result.distortion, rel=1e-5)
    assert result.codewords > 1
    assert [run.result for run in toy.history] == [result]
    assert toy.wait() is result


def test_the_same_settings_give_the_same_numbers(toy):
    first, second = toy.run(PATIENCE), toy.run(PATIENCE)
    assert first is not second
    assert np.array_equal(first.losses, second.losses) and first.loss == second.loss


def test_a_slider_that_only_echoes_starts_nothing(toy):
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


def test_a_neighboring_float_is_the_same_setting():
    from labkit.live.panel import _rounded

    assert _rounded(0.010000000000000002) == 0.01 and _rounded("sua") == "sua" and _rounded(3) == 3


def test_the_status_line_tells_state_result_and_the_run_before(toy):
    line = lambda: toy.status.status  # noqa: E731
    assert (line()["state"], line()["run"]) == ("idle", 0)
    first = toy.run(PATIENCE)
    assert (line()["state"], line()["run"], line()["progress"], line()["stale"]) == ("done", 1, 1.0, "")
    assert line()["result"] == str(first) and line()["before"] == ""
    second = toy.run(PATIENCE, lmbda=10.0)
    assert line()["result"] == str(second)
    assert line()["before"] == f"run before (τ = 0.5, λ = 5, scheme = annealed): {first}"
    assert np.allclose(toy.chart.ghost, first.losses)


def test_what_is_shown_is_marked_when_it_is_stale(toy):
    toy.run(PATIENCE)
    toy.job = _stuck = Stuck(toy.job)
    toy.controls["lmbda"].value = 10.0
    assert toy.status.status["stale"] == "what you see is still run 1 (τ = 0.5, λ = 5, scheme = annealed)"
    assert not toy._cancel.disabled
    _stuck.go.set()
    assert _stuck.shown.wait(PATIENCE)
    toy.cancel()
    assert toy.status.status["state"] == "canceled"
    assert toy.status.status["stale"] == "what you see is unfinished"
    assert toy._cancel.disabled
    with pytest.raises(Canceled):
        toy.wait()


class Stuck:
    """A job that waits before its first step, and again after it has been shown."""

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


def test_an_error_is_shown_in_the_panel_and_raised(toy):
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
        ({"lmbda": 3.0}, "lmbda: got 3.0, takes 0.3, 0.5, 1.0"),
        ({"lamda": 5.0}, "lamda: not a setting of this panel, which takes temperature, lmbda, scheme"),
        ({"scheme": "anealed"}, "scheme: got 'anealed', takes 'noise'"),
    ],
)
def test_a_setting_that_is_not_taken_gets_one_clear_line(toy, settings, message):
    with pytest.raises(ValueError, match=message):
        toy.run(PATIENCE, **settings)
    assert toy.history == []


def test_a_panel_that_is_shown_starts_and_carries_a_still(toy):
    bundle = toy._repr_mimebundle_()
    assert bundle["image/png"].startswith(b"\x89PNG") and "application/vnd.jupyter.widget-view+json" in bundle
    toy.wait(PATIENCE)
    toy._repr_mimebundle_()
    assert len(toy.history) == 1 and toy.state == "done"  # showing it again starts nothing


def test_a_chart_can_show_the_mean_of_the_last_steps():
    from labkit.live.chart import _trailing_mean

    assert _trailing_mean(np.array([4.0, 2.0, 0.0, 1.0]), 2).tolist() == [4.0, 3.0, 1.0, 0.5]
    assert len(_trailing_mean(np.array([]), 2)) == 0


def _plot():
    first = live_plot.Axes("a", lines=[live_plot.Line("one", ghost=True), live_plot.Line("two", mode="markers")])
    second = live_plot.Axes("b", log_x=True, range_x=(0.1, 10), lines=[live_plot.Line("bars", mode="bars")])
    return live_plot.Plot([first, second], width=500, height=300)


def test_a_plot_changes_the_lines_named_and_no_others():
    plot = _plot()
    plot.show({"one": ([0, 1], [2, 3]), "bars": (["rate", "loss"], [1, 2])}, label="a < b")
    plot.show({"two": ([5], [6], [0.5])})
    assert [each.tolist() for each in plot.points("one")] == [[0, 1], [2, 3]]
    assert [each.tolist() for each in plot.points("two")] == [[5], [6]]
    assert plot.points("bars")[0].tolist() == ["rate", "loss"]
    assert plot.label == "a < b" and "a &lt; b" in plot.widget.children[1].value
    with pytest.raises(KeyError, match="three"):
        plot.show({"three": ([0], [0])})


def test_every_change_of_a_line_goes_out_with_its_x():
    plot, sent = _plot(), []
    plot.figure.observe(lambda change: sent.append(change.new), "_py2js_update")
    for height in (2, 3, 4):
        plot.show({"one": ([0, 1], [height, 5])})
        assert [each.tolist() for each in plot.points("one")] == [[0, 1], [height, 5]]
    changes = [message["style_data"] for message in sent if message]
    assert len(changes) == 3 and all({"x", "y"} <= set(change) for change in changes)


def test_a_refresh_sends_every_line_once_and_never_an_empty_one():
    plot, sent = _plot(), []
    plot.show({"one": ([0, 1], [4, 5]), "bars": (["rate", "loss"], [1, 2])})
    plot.keep_as_ghost()
    plot.figure.observe(lambda change: sent.append(change.new), "_py2js_update")
    for _ in range(3):
        plot.refresh()
        assert [each.tolist() for each in plot.points("one")] == [[0, 1], [4, 5]]
        assert [each.tolist() for each in plot.points("bars")] == [["rate", "loss"], [1, 2]]
        assert plot.still().width == 500
    messages = [message for message in sent if message]
    assert len(messages) == 3
    for message in messages:
        assert message["style_traces"] == [0, 1, 3]  # the ghost, the line, the bars; the other line is empty
        assert all(len(each) >= 2 for name in ("x", "y") for each in message["style_data"][name])


def test_a_page_that_has_just_drawn_a_plot_gets_it_again(monkeypatch):
    panel, refreshed = Wave(), []
    monkeypatch.setattr(panel.plot, "refresh", lambda: refreshed.append(True))
    panel.status._handle_custom_msg({"kind": "drawn"}, [])
    panel.status._handle_custom_msg({"kind": "else"}, [])
    assert refreshed == [True]
    panel.close()


def test_a_plot_keeps_the_run_before_behind_it():
    plot = _plot()
    plot.show({"one": ([0, 1], [2, 3])})
    plot.keep_as_ghost()
    plot.show({"one": ([0, 1], [4, 5])})
    ghosts = [trace for trace in plot.figure.data if trace.name == "one, run before"]
    assert len(ghosts) == 1 and list(ghosts[0].y) == [2, 3] and not ghosts[0].showlegend
    assert plot.points("one")[1].tolist() == [4, 5]


def test_a_plot_draws_a_still_of_what_it_shows():
    plot = _plot()
    empty = np.asarray(plot.still())
    plot.show({"one": ([0, 1], [2, 3]), "two": ([5], [6]), "bars": ([0.1, 1.0], [1, 2])})
    assert empty.shape == (300, 500, 3) and not np.array_equal(empty, np.asarray(plot.still()))


def test_a_plot_refuses_what_it_cannot_draw():
    with pytest.raises(ValueError, match="two lines have the name 'one'"):
        live_plot.Plot([live_plot.Axes(lines=[live_plot.Line("one"), live_plot.Line("one")])])
    with pytest.raises(ValueError, match=r"mode: takes lines, markers.*got 'dots'"):
        live_plot.Line("one", mode="dots")
    with pytest.raises(ValueError, match="ghost: bars have none"):
        live_plot.Line("one", mode="bars", ghost=True)


class Wave(live_plot.PlotPanel):
    def __init__(self):
        axes = live_plot.Axes(lines=[live_plot.Line("sine", ghost=True)])
        controls = {"pitch": choice("pitch f", (1.0, 2.0), 1.0), "loud": switch("loud", True)}
        super().__init__(controls=controls, plot=live_plot.Plot([axes]))

    def job(self, settings):
        t = np.linspace(0, 1, 50)
        wave = np.sin(6 * settings["pitch"] * t)
        for n in range(1, 51):
            yield lambda n=n: live_plot.PlotFrame({"sine": (t[:n], wave[:n])}, n / 50, f"point {n}", "A sine wave.")
        return Result(settings, np.zeros(0), loss=float(wave[-1]), seconds=0.0)


def test_a_plot_panel_shows_the_last_frame_and_keeps_the_run_before():
    panel = Wave()
    first = panel.run(PATIENCE, loud=False)
    panel.run(PATIENCE, pitch=2.0)
    assert np.allclose(panel.plot.points("sine")[1], np.sin(12 * np.linspace(0, 1, 50)), atol=1e-6)
    assert np.allclose(panel.plot.figure.data[0].y, np.sin(6 * np.linspace(0, 1, 50)), atol=1e-6)
    assert panel.status.status["before"] == f"run before (f = 1, loud = off): {first}"
    with pytest.raises(ValueError, match="loud: got 3, takes False, True"):
        panel.run(PATIENCE, loud=3)
    assert panel._repr_mimebundle_()["image/png"].startswith(b"\x89PNG")
    panel.close()


def test_cells_are_painted_apart():
    from labkit.live.toy import _paint

    symbols = np.array([[[0, 0], [0, 0], [1, 0]], [[0, 0], [0, 0], [1, 0]], [[0, -1], [0, -1], [1, -1]]])
    pixels = _paint(symbols)
    assert pixels.shape == (3, 3, 4) and pixels.dtype == np.uint8
    assert (pixels[:2, :2] == pixels[0, 0]).all()  # one cell, one tint
    assert (pixels[2, :, 3] != pixels[0, 0, 3]).all() and (pixels[:, 2, 3] != pixels[0, 0, 3]).all()  # edges


# The codec panel: on noise and with untrained weights, up to the last test


@pytest.fixture(scope="module")
def pictures():
    generator = torch.Generator().manual_seed(0)
    images = [torch.randint(256, (3, 256, 320), dtype=torch.uint8, generator=generator) for _ in range(3)]
    return lk.datasets.PhotoSet(images, ["one", "two", "three"])


@pytest.fixture
def codec(pictures):
    weights = lk.networks.mean_scale_hyperprior("tiny")
    panel = lk.live.codec_panel(weights=weights.eval(), photos=pictures, test=pictures, steps=2)
    yield panel
    panel.close()


def test_the_codec_panel_trains_a_copy_and_measures_both(codec, pictures):
    weights = codec._weights
    untouched = {name: tensor.clone() for name, tensor in weights.state_dict().items()}
    result = codec.run(PATIENCE, lmbda=0.013, photo="two")
    assert all(torch.equal(tensor, untouched[name]) for name, tensor in weights.state_dict().items())
    assert not torch.equal(next(result.net.parameters()), next(weights.parameters()))
    assert result.before.shape == result.after.shape == (3, 2) and len(result.losses) == 2
    assert np.allclose(result.before, lk.evaluation.rounded_losses(weights, pictures))
    assert np.allclose(result.after, lk.evaluation.rounded_losses(result.net, pictures))
    assert result.loss == pytest.approx(np.mean(result.after @ [1, 0.013]))
    assert result.fall == pytest.approx(np.mean(result.before @ [1, 0.013]) - result.loss)
    assert result.standard_error >= 0
    assert codec.canvas.picture.pixels.shape == (256, 2 * 256 + 8, 4)
    assert codec.canvas.picture.label.startswith("A crop of two")


def test_the_codec_panel_measures_what_training_sees(pictures):
    panel = lk.live.codec_panel(
        weights=lk.networks.mean_scale_hyperprior("tiny").eval(),
        photos=pictures,
        test=pictures,
        steps=1,
        schemes={"rounding": lambda t, b: lk.schemes.straight_through(scale_lower_bound=b), "noisy": _noisy},
        controls=("scheme", "scale_lower_bound", "temperature", "end", "shape"),
    )
    still = panel.run(PATIENCE, scheme="rounding", scale_lower_bound=0.3)
    assert np.allclose(still.seen, still.after) and still.mismatch == pytest.approx((0, 0), abs=1e-6)
    assert still.net.scheme.scale_lower_bound == 0.3
    noisy = panel.run(PATIENCE, scheme="noisy", shape="exponential", temperature=0.5, end=0.1)
    assert not np.allclose(noisy.seen, noisy.after)
    rates = [lk.evaluation.surrogate_losses(noisy.net, pictures[i : i + 1])[0] for i in range(3)]
    assert np.allclose(rates, noisy.seen)
    gap = np.array(rates) - lk.evaluation.rounded_losses(noisy.net, pictures)
    assert noisy.mismatch == pytest.approx((gap[:, 0].mean(), (gap @ [1, 0.0067]).mean()))
    schedule = noisy.net.scheme.temperature
    assert (schedule(0, 10), schedule(9, 10)) == pytest.approx((0.5, 0.1))
    panel.close()


def _noisy(temperature, scale_lower_bound):
    return lk.schemes.annealed(temperature=temperature, scale_lower_bound=scale_lower_bound)


def test_the_codec_panel_refuses_what_it_has_not(pictures):
    given = {"weights": lk.networks.mean_scale_hyperprior("tiny").eval(), "photos": pictures, "test": pictures}
    with pytest.raises(ValueError, match="unknown control 'lambda'; did you mean lmbda"):
        lk.live.codec_panel(controls=("lambda",), **given)
    with pytest.raises(ValueError, match="unknown scheme 'anealed'; did you mean annealed"):
        lk.live.codec_panel(schemes=("anealed",), **given)


@pytest.mark.parametrize(("kind", "gain"), [("factorized_prior", 2.0), ("elic", 1.0)])
def test_fine_tuning_scales_the_latents_where_the_network_can(kind, gain, pictures, monkeypatch):
    asked = []
    monkeypatch.setattr(retraining.training, "stream", lambda *_, **named: asked.append(named) or iter(()))
    net = lk.networks.get(kind, "tiny")
    before = next(net.g_s.parameters()).clone()
    for lmbda, known in ((0.01, {}), (0.04, {"lmbda": 0.01})):  # of weights that do not say their λ, and that do
        net.info = known
        assert list(retraining.fine_tuning(net, pictures, lmbda=lmbda, steps=3, seed=5)) == []
    assert torch.allclose(next(net.g_s.parameters()), before / gain)
    assert [(each["lmbda"], each["steps"], each["seed"]) for each in asked] == [(0.01, 3, 5), (0.04, 3, 5)]


def test_the_codec_panel_stops_in_time(pictures):
    panel = lk.live.codec_panel(
        weights=lk.networks.mean_scale_hyperprior("tiny"), photos=pictures, test=pictures, steps=1000, seconds=0.1
    )
    assert len(panel.run(PATIENCE).losses) < 10
    panel.close()


def test_the_codec_panel_says_what_is_missing(pictures, monkeypatch, tmp_path):
    monkeypatch.setattr(lk.paths, "data", lambda: tmp_path)
    with pytest.raises(ValueError, match="no pretrained weights of 'mean_scale_hyperprior' are bundled"):
        lk.live.codec_panel(photos=pictures, test=pictures)
    small = lk.datasets.PhotoSet([torch.zeros(3, 200, 300, dtype=torch.uint8)], ["small"])
    with pytest.raises(ValueError, match="small is 300×200, too small"):
        lk.live.codec_panel(weights=lk.networks.mean_scale_hyperprior("tiny"), photos=pictures, test=small)


@pytest.mark.skipif(not lk.networks.pretrained_lmbdas(), reason="no pretrained weights are bundled yet")
@pytest.mark.parametrize("lmbda", [pytest.param(0.0067, marks=pytest.mark.slow), 0.013])
def test_a_slider_move_improves_on_the_shipped_weights(lmbda):
    panel = lk.live.codec_panel(lmbda=lmbda)
    result = panel.run(60)
    panel.close()
    assert result.fall > 2 * result.standard_error


@pytest.mark.skipif(not lk.networks.pretrained_lmbdas(), reason="no pretrained weights are bundled yet")
@pytest.mark.slow
@pytest.mark.alone
def test_a_slider_move_takes_15_seconds_at_most():
    panel = lk.live.codec_panel(lmbda=0.013)
    assert any(panel.run(60).seconds < 15 for _ in range(2))  # the machine may have been busy
    panel.close()


def test_a_soak_counts_what_happened(monkeypatch):
    from tests.bench import soak

    monkeypatch.setattr(soak, "PAUSES", (0.01, 0.05))
    found = soak.soak(Wave(), 1.5, seed=1)
    assert found["moves"] > 10 and found["done"] > 0 and found["errors"] == 0 and found["threads_left"] == 0
    assert found["growth"] == pytest.approx(found["memory_after"] - found["memory_before"])

    class Fails(Wave):
        def job(self, settings):
            raise ArithmeticError("the loss went through the roof")
            yield

    found = soak.soak(Fails(), 0.5, seed=1)
    assert found["errors"] > 0 and found["error"] == "the loss went through the roof"
    with pytest.raises(ValueError, match="unknown panel 'ton'; did you mean toy"):
        soak.print_table("ton", 1, 0)

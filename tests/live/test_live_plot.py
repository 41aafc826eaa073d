"""Plots and plot panels, tested without a browser."""

from __future__ import annotations

import numpy as np
import pytest

from labkit.live import plot as live_plot
from labkit.live import still
from labkit.live.panel import Result, choice, switch
from labkit.live.training_plot import trailing_mean

PATIENCE = 20  # seconds after which a waiting test fails


def test_a_plot_can_show_the_mean_of_the_last_steps():
    assert trailing_mean(np.array([4.0, 2.0, 0.0, 1.0]), 2).tolist() == [4.0, 3.0, 1.0, 0.5]
    assert len(trailing_mean(np.array([]), 2)) == 0


def _plot():
    first = live_plot.Axes("a", lines=[live_plot.Line("one", ghost=True), live_plot.Line("two", mode="markers")])
    second = live_plot.Axes("b", log_x=True, range_x=(0.1, 10), lines=[live_plot.Line("bars", mode="bars")])
    return live_plot.Plot([first, second], width=500, height=300)


def test_show_changes_only_the_lines_that_it_is_given():
    plot = _plot()
    plot.show({"one": ([0, 1], [2, 3]), "bars": (["rate", "loss"], [1, 2])}, label="a < b")
    plot.show({"two": ([5], [6], [0.5])})
    assert [values.tolist() for values in plot.points("one")] == [[0, 1], [2, 3]]
    assert [values.tolist() for values in plot.points("two")] == [[5], [6]]
    assert plot.points("bars")[0].tolist() == ["rate", "loss"]
    assert plot.label == "a < b" and "a &lt; b" in plot.widget.children[1].value
    with pytest.raises(KeyError, match="three"):
        plot.show({"three": ([0], [0])})


def test_every_change_of_a_line_sends_both_x_and_y():
    plot, sent = _plot(), []
    plot.figure.observe(lambda change: sent.append(change.new), "_py2js_update")
    for height in (2, 3, 4):
        plot.show({"one": ([0, 1], [height, 5])})
        assert [values.tolist() for values in plot.points("one")] == [[0, 1], [height, 5]]
    changes = [message["style_data"] for message in sent if message]
    assert len(changes) == 3 and all({"x", "y"} <= set(change) for change in changes)


def test_a_refresh_sends_every_line_that_is_not_empty_once():
    plot, sent = _plot(), []
    plot.show({"one": ([0, 1], [4, 5]), "bars": (["rate", "loss"], [1, 2])})
    plot.keep_as_ghost()
    plot.figure.observe(lambda change: sent.append(change.new), "_py2js_update")
    for _ in range(3):
        plot.refresh()
        assert [values.tolist() for values in plot.points("one")] == [[0, 1], [4, 5]]
        assert [values.tolist() for values in plot.points("bars")] == [["rate", "loss"], [1, 2]]
        assert plot.still().width == 500
    messages = [message for message in sent if message]
    assert len(messages) == 3
    for message in messages:
        assert message["style_traces"] == [0, 1, 3]  # the ghost, the line and the bars; the other line is empty
        assert all(len(values) >= 2 for name in ("x", "y") for values in message["style_data"][name])


def test_a_page_that_has_just_drawn_a_plot_receives_its_lines_again(monkeypatch):
    panel, refreshed = Wave(), []
    monkeypatch.setattr(panel.plot, "refresh", lambda: refreshed.append(True))
    panel.status._handle_custom_msg({"kind": "drawn"}, [])
    panel.status._handle_custom_msg({"kind": "else"}, [])
    assert refreshed == [True]
    panel.close()


def test_a_plot_keeps_the_previous_run_as_a_ghost():
    plot = _plot()
    plot.show({"one": ([0, 1], [2, 3])})
    plot.keep_as_ghost()
    plot.show({"one": ([0, 1], [4, 5])})
    ghosts = [trace for trace in plot.figure.data if trace.name == "one, previous run"]
    assert len(ghosts) == 1 and list(ghosts[0].y) == [2, 3] and not ghosts[0].showlegend
    assert plot.points("one")[1].tolist() == [4, 5]


def test_a_still_shows_the_lines_of_the_plot():
    plot = _plot()
    empty = np.asarray(plot.still())
    plot.show({"one": ([0, 1], [2, 3]), "two": ([5], [6]), "bars": ([0.1, 1.0], [1, 2])})
    assert empty.shape == (300, 500, 3) and not np.array_equal(empty, np.asarray(plot.still()))


def test_a_still_shows_the_error_bars_of_bars():
    plot = _plot()
    plot.show({"bars": (["rate", "loss"], [1, 2])})
    without = np.asarray(plot.still())
    plot.show({"bars": (["rate", "loss"], [1, 2], [0.1, 0.1])})
    assert not np.array_equal(without, np.asarray(plot.still()))


def test_a_still_has_plain_numbers_at_logarithmic_axes():
    from matplotlib.figure import Figure

    page = Figure()
    plot = page.add_subplot()
    plot.set_yscale("log")
    plot.set_ylim(5, 70)
    still._write_plain_ticks(plot.yaxis)
    page.draw_without_rendering()
    texts = {label.get_text() for label in plot.get_yticklabels(which="both")} - {""}
    assert {"10", "20"} <= texts and all(text.isdecimal() for text in texts)


def test_invalid_lines_are_rejected():
    with pytest.raises(ValueError, match="lines must have different names, got 'one' twice"):
        live_plot.Plot([live_plot.Axes(lines=[live_plot.Line("one"), live_plot.Line("one")])])
    with pytest.raises(ValueError, match=r"mode must be one of lines, markers, .*, got 'dots'"):
        live_plot.Line("one", mode="dots")
    with pytest.raises(ValueError, match="ghost must be False for bars"):
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
        return Result(settings=settings, loss=float(wave[-1]))


def test_a_plot_panel_shows_the_last_frame_and_the_previous_run():
    panel = Wave()
    first = panel.run(PATIENCE, loud=False)
    panel.run(PATIENCE, pitch=2.0)
    assert np.allclose(panel.plot.points("sine")[1], np.sin(12 * np.linspace(0, 1, 50)), atol=1e-6)
    assert np.allclose(panel.plot.figure.data[0].y, np.sin(6 * np.linspace(0, 1, 50)), atol=1e-6)
    assert panel.status.status["before"] == f"previous run (f = 1, loud = off): {first}"
    with pytest.raises(ValueError, match="loud must be one of False, True, got 3"):
        panel.run(PATIENCE, loud=3)
    assert panel._repr_mimebundle_()["image/png"].startswith(b"\x89PNG")
    panel.close()

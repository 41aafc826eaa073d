"""The mismatch panel plots losses over σ, checks its settings, and can be canceled."""

import math
import time

import numpy as np
import pytest
import torch

from labkit.analysis.latent_laws import BinLaw
from labkit.live import MismatchPanel
from labkit.live.engine import Canceled

PATIENCE = 60  # seconds after which a waiting test fails


@pytest.fixture(scope="module")
def panel():
    panel = MismatchPanel()
    yield panel
    panel.close()


def test_the_curves_show_the_losses_over_sigma(panel):
    result = panel.run(PATIENCE, surrogate="sua", scale=0.5, temperature=0.5)
    sigma, law = result.curve[:, 0], BinLaw.on_lattice("sua", 0.5)
    assert len(sigma) == 28 and sigma[0] == pytest.approx(0.04) and sigma[-1] == pytest.approx(3)
    for row in result.curve[[5, 14, 25]]:
        losses = law.losses(float(row[0]))
        assert row[1] == losses.rate_training and row[2] == losses.rate_test
        assert row[3] == losses.distortion_training and row[4] == losses.distortion_test
    for name, column, factor in (
        ("rate, training", 1, 1),
        ("rate, test", 2, 1),
        ("distortion, training", 3, 12),
        ("distortion, test", 4, 12),
    ):
        x, y = panel.plot.points(name)
        assert np.allclose(x, sigma) and np.allclose(y, factor * result.curve[:, column], atol=1e-6)


def test_the_lines_show_the_losses_at_the_chosen_sigma(panel):
    result = panel.run(PATIENCE, surrogate="aun", scale=0.5, temperature=0.5)
    losses = result.here
    assert np.allclose(panel.plot.points("in training")[1], [losses.rate_training, 12 * losses.distortion_training])
    assert np.allclose(panel.plot.points("at test")[1], [losses.rate_test, 12 * losses.distortion_test])
    assert np.allclose(panel.plot.points("rate, chosen σ")[1], [losses.rate_training, losses.rate_test])
    assert result.rate == losses.rate_training - losses.rate_test
    x, density = panel.plot.points("ỹ in training")
    phi = torch.special.ndtr(torch.tensor(np.array([x + 0.5, x - 0.5]) / 0.5)).numpy()
    assert np.abs(density - (phi[0] - phi[1])).max() < 5e-3  # y + u has the density of the model
    k, masses = panel.plot.points("ŷ at test, masses")
    assert masses[k == 0] == pytest.approx(math.erf(1 / math.sqrt(2)), abs=1e-6) and masses.sum() == pytest.approx(1)
    assert not len(panel.plot.points("ỹ in training, masses")[0])
    assert f"{losses.rate_training:.2f} bits in training" in panel.plot.label
    assert f"mismatch {result.rate:+.3f}" in str(result)


@pytest.mark.parametrize("scale", [0.5, 1.5, 2.0])
def test_the_density_is_accurate_at_every_scale(panel, scale):
    panel.run(PATIENCE, surrogate="aun", scale=scale)
    x, density = panel.plot.points("ỹ in training")
    phi = torch.special.ndtr(torch.tensor(np.array([x + 0.5, x - 0.5]) / scale)).numpy()
    assert np.abs(density - (phi[0] - phi[1])).max() < 5e-3


def test_integers_are_drawn_as_bars_and_real_numbers_as_a_line(panel):
    for name, integers in (("sr", True), ("ste", True), ("sua", True), ("aun", False), ("soft", False), ("sga", False)):
        panel.run(PATIENCE, surrogate=name, scale=0.5, temperature=0.5)
        k, masses = panel.plot.points("ỹ in training, masses")
        x, density = panel.plot.points("ỹ in training")
        assert bool(len(k)) == integers and bool(len(x)) != integers
        assert (masses.sum() if integers else density.sum() / 128) == pytest.approx(1, abs=1e-4)
    panel.run(PATIENCE, surrogate="sr", scale=0.2)
    k, masses = panel.plot.points("ỹ in training, masses")
    assert masses[np.abs(k) == 1].sum() == pytest.approx(0.2 * math.sqrt(2 / math.pi), rel=5e-3)  # E|y|


def test_the_temperature_affects_only_annealed_surrogates(panel):
    curves = {
        (name, tau): panel.run(PATIENCE, surrogate=name, scale=0.2, temperature=tau).curve
        for name in ("aun", "sua")
        for tau in (0.1, 1.0)
    }
    assert np.array_equal(curves["aun", 0.1], curves["aun", 1.0])
    assert np.abs(curves["sua", 0.1] - curves["sua", 1.0]).max() > 0.1
    panel.run(PATIENCE, surrogate="aun", temperature=0.1)
    assert "does not depend on τ" in panel.plot.label


def test_the_previous_run_stays_visible_in_gray(panel):
    panel.run(PATIENCE, surrogate="sr", scale=0.2)
    before = panel.plot.points("rate, training")[1]
    panel.run(PATIENCE, surrogate="aun")
    ghost = next(trace for trace in panel.plot.figure.data if trace.name == "rate, training, previous run")
    assert np.array_equal(ghost.y, before)


def test_unknown_settings_and_values_are_rejected(panel):
    for wrong in ({"surrogate": "round"}, {"scale": 0.21}, {"temperature": 2.0}, {"lmbda": 1.0}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            panel.run(PATIENCE, **wrong)


def test_a_canceled_run_stops_between_two_points_and_the_next_run_resumes_there(monkeypatch):
    panel = MismatchPanel(surrogate="ste")
    calls, losses = [], BinLaw.losses

    def slow_losses(law, scale):
        calls.append(scale)
        time.sleep(0.05)
        return losses(law, scale)

    monkeypatch.setattr(BinLaw, "losses", slow_losses)
    panel.engine.submit(panel.settings)
    while len(calls) < 4:
        time.sleep(0.01)
    panel.cancel()
    with pytest.raises(Canceled):
        panel.wait(PATIENCE)
    assert panel.engine.join(PATIENCE) and len(calls) < 12
    computed = len(calls)
    assert len(panel.run(PATIENCE).curve) == 28
    assert computed < len(calls) <= 28 + 3  # the chosen σ was computed again, but no point of the curve
    assert len(set(calls)) == 29
    panel.close()


def test_the_first_frame_shows_the_lines_at_the_chosen_sigma():
    panel = MismatchPanel(surrogate="sr", scale=0.5)
    job = panel.job(panel.settings)
    first = next(job)()
    assert {"y", "ŷ at test, masses", "in training", "at test", "rate, chosen σ"} <= set(first.lines)
    assert not len(first.lines["rate, training"][0]) and first.progress == 0
    second = next(job)()
    assert len(second.lines["rate, training"][0]) == 1 and second.progress == pytest.approx(1 / 28)
    job.close()
    panel.close()

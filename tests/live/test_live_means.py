"""The means panel plots its result, switches the gradient without training, and checks its arguments."""

import numpy as np
import pytest

from labkit import surrogates
from labkit.live import MeansPanel
from labkit.live.means import SURROGATES, WAYS, mean_training

RATE, DISTORTION, BOTH = range(3)
Y, CENTERED, STOPPED = range(3)


@pytest.fixture
def panel():
    panel = MeansPanel(steps=12, seeds=2)
    yield panel
    panel.close()


def test_plot_and_text_show_the_result(panel):
    result = panel.run(60)
    assert result.test.shape == result.mismatch.shape == (3, 2) and result.gradient.shape == (3, 3, 2)
    assert result.loss == pytest.approx(result.test[CENTERED].mean())
    assert np.array_equal(result.exact, mean_training.exact_gradients())
    x, y = panel.plot.points("y − μ, stop")
    assert list(x) == [1, 10, 12] and y[-1] == pytest.approx(result.test[STOPPED].mean(), rel=1e-5)
    assert panel.plot.points("training")[1] == pytest.approx(result.gradient[CENTERED, :, 0], rel=1e-5)
    assert panel.plot.points("exact")[1] == pytest.approx(result.exact, rel=1e-5)
    assert f"{result.test[Y].mean():.3f}" in str(result) and f"{result.exact[0]:.2f}" in panel.plot.label
    differences = result.test[CENTERED] - result.test[STOPPED]
    saved, error = result.saves("y − μ, stop", "y − μ")
    assert saved == pytest.approx(differences.mean())
    assert error == pytest.approx(abs(differences[0] - differences[1]) / 2)
    with pytest.raises(ValueError, match="way 'x'"):
        result.saves("x", "y")


def test_a_switch_shows_another_gradient_and_trains_nothing(panel, monkeypatch):
    first = panel.run(60)
    monkeypatch.setattr(mean_training, "train_codes", lambda *_: pytest.fail("a switch trains nothing"))
    stopped = panel.run(60, stop_gradient=True)
    assert stopped.test is not None and np.array_equal(stopped.test, first.test)
    assert panel.plot.points("training")[1][DISTORTION] == 0 != first.gradient[CENTERED, DISTORTION, 0]
    assert stopped.loss == pytest.approx(first.test[STOPPED].mean())


def test_the_panel_says_that_a_stop_without_zero_center_has_no_effect(panel):
    result = panel.run(60, zero_center=False, stop_gradient=True)
    for text in (str(result), panel.plot.label):
        assert "without zero-center μ is not on the distortion path" in text
    assert result.loss == pytest.approx(result.test[Y].mean())
    assert "does nothing" not in str(panel.run(60, zero_center=True))


def test_the_gradient_is_shown_before_anything_is_trained(panel, monkeypatch):
    monkeypatch.setattr(mean_training, "train_codes", lambda *_: pytest.fail("too early"))
    frame = next(panel.job(panel.settings))()
    assert set(frame.lines) >= {"training", "exact", *(f"{way}: variance" for way in WAYS)}


def test_invalid_arguments_are_rejected_and_five_surrogates_are_offered():
    for wrong in ({"surrogate": "stee"}, {"lmbda": 0.0}, {"steps": 0}, {"seeds": 1}, {"seed": -1}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            MeansPanel(**wrong)
    assert MeansPanel(surrogate="sga").settings["surrogate"] == "sga"
    assert {"ste", "aun", "sua", "soft", "sga"} == {surrogate.name for surrogate in SURROGATES.values()}
    assert surrogates.get("soft", noise=True) in SURROGATES.values()

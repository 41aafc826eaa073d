"""The risk panel has the numbers of the worked example, plots them, and checks its settings."""

import time

import numpy as np
import pytest

from labkit.analysis import worked_example
from labkit.live import RiskPanel, risk
from labkit.live.engine import Canceled

# from surrogates.md at λ = 6: the exact gradient by gain; at g = 0.5, (bias, std) of one sample by surrogate and τ
EXACT = {0.5: 2.4151, 1.7: 0.8249}
TABLE = {
    ("ste", 0.5): (-0.606, 16.4),
    ("aun", 0.5): (-0.249, 15.5),
    ("sr", 0.5): (-0.219, 22.1),  # has the law of sua at τ = 1
    ("sua, identity slope", 1.0): (-0.219, 22.1),
    ("sua, identity slope", 0.5): (-0.467, 18.1),
    ("sua, identity slope", 0.25): (-0.568, 16.9),
    ("sua, identity slope", 0.1): (-0.600, 16.5),
    ("sua, expected slope", 1.0): (-0.219, 22.1),
    ("sua, expected slope", 0.5): (-0.284, 34.1),
    ("sua, expected slope", 0.25): (-0.188, 51.9),
    ("sua, expected slope", 0.1): (-0.055, 86.0),
}


@pytest.fixture
def panel():
    panel = RiskPanel()
    yield panel
    panel.close()


def test_a_run_can_stop_after_every_thousand_nodes_of_the_quadrature(panel, monkeypatch):
    sizes = []

    def constant_moments(code, scheme, x, parameter, temperature):
        sizes.append(len(x))
        return np.zeros_like(x), np.ones_like(x)

    monkeypatch.setattr(worked_example, "gradient_given", constant_moments)
    settings = {**panel.settings, "surrogate": "sga", "gain": 1.7, "temperature": 0.5}
    views = sum(1 for _ in panel.job(settings))
    assert max(sizes) <= 1000 and len(sizes) > 14
    code = worked_example.code(1.7)
    clouds = len(list(worked_example.batch_gradients(code, risk.SURROGATES["sga"], 0.5, settings["batch_size"])))
    assert views == clouds + len(sizes) + len(risk.TEMPERATURES)


def test_the_numbers_agree_with_the_worked_example(panel):
    for (surrogate, temperature), (bias, std) in TABLE.items():
        result = panel.run(60, surrogate=surrogate, temperature=temperature)
        assert result.exact == pytest.approx(EXACT[0.5], abs=5e-5)
        assert result.bias == pytest.approx(bias, abs=5e-4)
        assert result.std == pytest.approx(std, abs=0.05)
        assert result.loss == pytest.approx(bias**2 + std**2 / 64, rel=0.01)


def test_there_is_no_bias_at_high_rate(panel):
    result = panel.run(60, surrogate="aun", gain=1.7)
    assert result.exact == pytest.approx(EXACT[1.7], abs=5e-5)
    assert np.abs(result.biases).max() < 1e-4 and result.stds == pytest.approx(np.full(7, 1.776), abs=1e-3)
    assert "below the plot" not in panel.plot.label and "does not depend on τ" in panel.plot.label
    assert np.abs(panel.run(60, surrogate="sua, identity slope").biases).max() < 1e-4
    assert "bias² lies below the plot" in panel.plot.label


def test_the_batch_size_determines_which_temperature_is_best(panel):
    best = {n: panel.run(60, batch_size=n).best_temperature for n in (64, 4096)}
    assert best == {64: 0.1, 4096: 1.0}
    break_even = (22.08**2 - 16.49**2) / (0.600**2 - 0.219**2)  # batch size of equal risk at τ = 1 and τ = 0.1
    assert 64 < break_even < 4096


def test_the_plot_shows_the_result(panel):
    result = panel.run(60, batch_size=256, temperature=0.25)
    taus, bias = panel.plot.points("bias²")
    assert taus == pytest.approx(risk.TEMPERATURES) and bias == pytest.approx(result.biases**2, rel=1e-5)
    assert panel.plot.points("variance/n")[1] == pytest.approx(result.stds**2 / 256, rel=1e-5)
    assert panel.plot.points("risk")[1].min() == pytest.approx(result.loss, rel=0.2)
    assert panel.plot.points("at τ")[1][2] == pytest.approx(result.loss, rel=1e-5)
    assert panel.plot.points("exact")[0] == pytest.approx([2.4151] * 2, abs=1e-4)
    assert panel.plot.points("one batch")[0] == pytest.approx(result.estimates, rel=1e-5)
    low, middle, high = panel.plot.points("their mean ± std")[0]
    assert middle == pytest.approx(result.estimates.mean(), rel=1e-5)
    assert high - low == pytest.approx(2 * result.estimates.std(), rel=1e-4)
    assert "2.415" in panel.plot.label and "2.415" in str(result) and "/256" in str(result)
    assert panel.still().width > 800


def test_every_run_uses_the_same_samples(panel):
    first = panel.run(60, batch_size=16)
    assert np.array_equal(first.estimates, panel.run(60, batch_size=16).estimates)
    assert not np.array_equal(first.estimates, panel.run(60, temperature=0.1).estimates)


def test_lambda_weights_the_distortion(panel):
    """The exact gradient agrees with the finite difference of a loss in closed form."""
    from scipy.stats import norm

    def loss(gain, lmbda, step=2.0, scale=0.5):
        k = np.arange(-12, 13)
        edges = (np.arange(-12, 14) - 0.5) / gain
        p = np.diff(norm.cdf(edges))
        first = -np.diff(norm.pdf(edges))
        second = p - np.diff(edges * norm.pdf(edges))
        q = norm.cdf((k + 0.5) / scale) - norm.cdf((k - 0.5) / scale)
        bits = np.where(p > 0, -np.log2(np.maximum(q, 1e-300)), 0)
        return float((p * bits + lmbda * (second - 2 * step * k * first + (step * k) ** 2 * p)).sum())

    h = 1e-4
    for lmbda in (2.0, 6.0, 20.0):
        slope = (loss(0.5 + h, lmbda) - loss(0.5 - h, lmbda)) / (2 * h)
        assert panel.run(60, surrogate="ste", lmbda=lmbda).exact == pytest.approx(slope, abs=2e-3)


def test_unknown_settings_and_values_are_rejected(panel):
    with pytest.raises(ValueError, match=r"surrogate must be one of aun, ste, sr, .*, got 'sua'"):
        panel.run(60, surrogate="sua")
    with pytest.raises(ValueError, match=r"batch_size must be one of 1, 4, .*, got 5"):
        panel.run(60, batch_size=5)
    with pytest.raises(ValueError, match="unknown setting"):
        panel.run(60, step=1.0)


def test_a_run_can_be_canceled_and_followed_by_another(panel):
    panel.controls["batch_size"].value = 4096
    panel.controls["surrogate"].value = "sga"
    panel.cancel()
    with pytest.raises(Canceled):
        panel.wait(60)
    assert panel.state == "canceled"
    assert panel.run(60, surrogate="aun", batch_size=64).bias == pytest.approx(-0.249, abs=5e-4)
    deadline = time.monotonic() + 30
    while panel.engine._worker is not None and time.monotonic() < deadline:
        time.sleep(0.01)
    assert panel.state == "done" and panel.settings["surrogate"] == "aun"

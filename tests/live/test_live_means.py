"""The means panel: the gradient of μ against quadrature and differences, the codes that learn μ, the switches."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import stats

from labkit import schemes, surrogates
from labkit.analysis import ScalarCode, gradient_risk, sources
from labkit.live import means
from labkit.schemes import QuantizationScheme

RATE, DISTORTION, BOTH = range(3)
Y, CENTERED, STOPPED = range(3)
FLAT = ["ste", "aun", "sua, slope 1"]
STEEP = ["sua, expected slope", "soft with noise", "sga"]


def moments(name, temperature):
    return means.gradients(means._schemes(means.SURROGATES[name]), temperature)


def last(name, temperature=0.5, steps=20, **how):
    *_, curves = means.train(means._schemes(means.SURROGATES[name]), temperature, 3.0, steps, 2, **how)
    return curves


# The gradient of μ


def test_exact_gradient_is_a_difference_of_the_test_loss():
    panel = means.means_panel()
    x = stats.norm.ppf((np.arange(400_000) + 0.5) / 400_000)

    def loss(mean):
        k = np.round(0.5 * x - mean)
        mass = stats.norm.cdf((np.abs(k) + 0.5) / 0.5) - stats.norm.cdf((np.abs(k) - 0.5) / 0.5)
        return np.array([-np.log2(mass).mean(), 6 * (((k + mean) / 0.5 - x) ** 2).mean()])

    rate, distortion = (loss(0.255) - loss(0.245)) / 0.01
    assert panel._exact == pytest.approx([rate, distortion, rate + distortion], abs=2e-3)
    assert abs(distortion) > 0.1


@pytest.mark.parametrize("name", FLAT)
def test_slope_one_sends_nothing_by_the_distortion(name):
    found = moments(name, 0.3)
    assert (found[:, DISTORTION] == 0).all()  # to the last digit, with and without the stop
    assert np.array_equal(found[CENTERED], found[STOPPED])
    assert (found[:, RATE, 1] > 1).all()


@pytest.mark.parametrize("name", STEEP)
def test_stop_takes_the_distortion_away_and_nothing_else(name):
    found = moments(name, 0.5)
    assert (found[[Y, STOPPED], DISTORTION] == 0).all()
    assert found[CENTERED, DISTORTION, 1] > 1
    assert np.array_equal(found[CENTERED, RATE], found[STOPPED, RATE])
    assert np.array_equal(found[STOPPED, BOTH], found[STOPPED, RATE])


@pytest.mark.parametrize(("name", "temperature"), [("soft with noise", 0.5), ("sua, expected slope", 0.5)])
def test_moments_agree_with_quadrature(name, temperature):
    code = ScalarCode(sources.gaussian(), gain=0.5, mean=0.25)
    parts = {RATE: replace(code, lmbda=0.0), DISTORTION: replace(code, rate=lambda y, mean, scale: 0 * y)}
    found = moments(name, temperature)[CENTERED]
    for path, part in parts.items():
        what = {"rate": "aun", "distortion": means.SURROGATES[name]}
        row = gradient_risk(part, {"it": QuantizationScheme(**what)}, "mean", temperature, 1).iloc[0]
        assert found[path, 0] == pytest.approx(row["mean"], abs=5 * row["std"] / math.sqrt(means._DRAWS))
        assert found[path, 1] == pytest.approx(row["std"] ** 2, rel=0.05)


# The codes that learn μ


def test_rounded_losses_are_those_of_the_coder():
    generator = torch.Generator().manual_seed(3)
    weights = means._start(1, 2, generator)
    for value in weights.values():
        value.data += 0.1 * torch.randn(value.shape, generator=generator)
    weights["log_gain"].data -= 2.0
    weights["out_bias"].data[..., 1] -= 2.2  # σ on both sides of its bound
    c, x = means._samples(2, 50, generator)
    with torch.no_grad():
        rate, error = means._losses(weights, means.LowerBound(0.11), c, x)
    plain = {name: value[0].detach().double().numpy() for name, value in weights.items()}
    for seed in range(2):
        w = {name: value[seed] for name, value in plain.items()}
        out = np.tanh(c[seed].double().numpy() @ w["in"] + w["in_bias"]) @ w["out"] + w["out_bias"]
        mean, scale = out[:, :1], np.maximum(np.exp(out[:, 1:]), 0.11)
        data = x[seed].double().numpy()
        k = np.round(np.exp(w["log_gain"]) * data - mean)
        mass = stats.norm.cdf((0.5 - np.abs(k)) / scale) - stats.norm.cdf((-0.5 - np.abs(k)) / scale)
        assert float(rate[0, seed]) == pytest.approx(-np.log2(mass).mean(), rel=1e-4)
        assert float(error[0, seed]) == pytest.approx(
            ((np.exp(w["log_step"]) * (k + mean) - data) ** 2).mean(), rel=1e-4
        )


def test_side_information_tells_of_the_samples():
    c, x = means._samples(3, 20_000, torch.Generator().manual_seed(0))
    off = x[..., 0] - 2 * torch.sin(1.5 * c[..., 0]) - c[..., 1]
    for told, scale, share in ((-1.0, 0.1, 0.7), (1.0, 1.0, 0.3)):
        mine = c[..., 2] == told
        assert float(off[mine].std()) == pytest.approx(scale, rel=0.02)
        assert float(mine.float().mean()) == pytest.approx(share, abs=0.01)


def test_straight_through_needs_zero_center_and_no_stop():
    curves = last("ste", steps=60)
    assert np.array_equal(curves.test[CENTERED], curves.test[STOPPED])
    assert np.abs(curves.mismatch[CENTERED]).max() < 1e-6  # training rounds as the coder does
    assert (np.abs(curves.mismatch[Y, :, -1]) > 0.02).all()
    assert (curves.test[..., -1] < curves.test[..., 0] - 1).all()  # and all of them learn


def test_noise_needs_neither():
    curves = last("aun")
    assert np.allclose(curves.test[Y], curves.test[CENTERED], atol=1e-4)
    assert np.array_equal(curves.test[CENTERED], curves.test[STOPPED])


def test_every_way_has_the_same_start_and_samples():
    curves = last("soft with noise", steps=1)
    assert np.ptp(curves.test[:, :, 0], axis=0).max() < 0.05 < np.ptp(curves.test[0, :, 0])
    again, other = last("soft with noise", steps=1), last("soft with noise", steps=1, seed=1)
    assert np.array_equal(curves.test, again.test) and not np.array_equal(curves.test, other.test)


def test_the_stop_pays_where_the_slope_is_not_one():
    curves = last("sua, expected slope", temperature=0.15, steps=150)
    assert (curves.test[STOPPED, :, -1] < curves.test[CENTERED, :, -1] - 0.05).all()


# The panel


@pytest.fixture
def panel():
    made = means.means_panel(steps=12, seeds=2)
    yield made
    made.close()


def test_result_and_curves(panel):
    result = panel.run(60)
    assert result.test.shape == result.mismatch.shape == (3, 2) and result.gradient.shape == (3, 3, 2)
    assert result.loss == pytest.approx(result.test[CENTERED].mean())
    x, y = panel.plot.points("y − μ, stop")
    assert list(x) == [1, 10, 12] and y[-1] == pytest.approx(result.test[STOPPED].mean(), rel=1e-5)
    assert panel.plot.points("training")[1] == pytest.approx(result.gradient[CENTERED, :, 0], rel=1e-5)
    assert panel.plot.points("exact")[1] == pytest.approx(result.exact, rel=1e-5)
    assert f"{result.test[Y].mean():.3f}" in str(result) and f"{result.exact[0]:.2f}" in panel.plot.label
    falls = result.test[CENTERED] - result.test[STOPPED]
    saved, error = result.saves("y − μ, stop", "y − μ")
    assert saved == pytest.approx(falls.mean()) and error == pytest.approx(abs(falls[0] - falls[1]) / 2)
    with pytest.raises(ValueError, match="unknown way 'x'"):
        result.saves("x", "y")


def test_switches_show_another_gradient_and_train_nothing(panel, monkeypatch):
    first = panel.run(60)
    monkeypatch.setattr(means, "train", lambda *_: pytest.fail("a switch trains nothing"))
    stopped = panel.run(60, stop_gradient=True)
    assert stopped.test is not None and np.array_equal(stopped.test, first.test)
    assert panel.plot.points("training")[1][DISTORTION] == 0 != first.gradient[CENTERED, DISTORTION, 0]
    assert stopped.loss == pytest.approx(first.test[STOPPED].mean())


def test_a_stop_without_zero_center_is_refused_by_schemes_and_said_by_the_panel(panel):
    with pytest.raises(ValueError, match="needs zero_center=True"):
        QuantizationScheme(zero_center=False, stop_gradient=True)
    result = panel.run(60, zero_center=False, stop_gradient=True)
    for words in (str(result), panel.plot.label):
        assert "without zero-center μ is not on the distortion path" in words
    assert result.loss == pytest.approx(result.test[Y].mean())
    assert "does nothing" not in str(panel.run(60, zero_center=True))


def test_gradient_is_shown_before_anything_is_trained(panel, monkeypatch):
    monkeypatch.setattr(means, "train", lambda *_: pytest.fail("too early"))
    frame = next(panel.job(panel.settings))()
    assert set(frame.lines) >= {"training", "exact", *(f"{way}: variance" for way in means.WAYS)}


def test_arguments():
    for wrong in ({"surrogate": "stee"}, {"lmbda": 0.0}, {"steps": 0}, {"seeds": 1}, {"seed": -1}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            means.means_panel(**wrong)
    assert means.means_panel(surrogate="sga").settings["surrogate"] == "sga"
    assert {"ste", "aun", "sua", "soft", "sga"} == {each.name for each in means.SURROGATES.values()}
    assert surrogates.get("soft", noise=True) in means.SURROGATES.values()
    assert schemes.QuantizationScheme(rate="aun").rate == means._schemes(surrogates.get("ste"))[0].rate

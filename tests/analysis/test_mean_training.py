"""For codes that learn μ, gradients agree with quadrature and finite differences, and losses with NumPy."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from compressai.ops import LowerBound
from scipy import stats

from labkit import surrogates
from labkit.analysis import ScalarCode, gradient_risk, mean_training, sources
from labkit.analysis.mean_training import exact_gradients, gradient_moments, schemes_of_ways, train_codes
from labkit.schemes import QuantizationScheme
from tests.analysis.oracles import bits

RATE, DISTORTION, BOTH = range(3)
Y, CENTERED, STOPPED = range(3)
FLAT = [surrogates.get("ste"), surrogates.get("aun"), surrogates.get("sua")]
EXPECTED, SOFT = surrogates.get("sua", gradient="expected"), surrogates.get("soft", noise=True)
STEEP = [EXPECTED, SOFT, surrogates.get("sga")]


def moments(surrogate, temperature):
    return gradient_moments(schemes_of_ways(surrogate), temperature)


def final_curves(surrogate, temperature=0.5, steps=20, **options):
    *_, curves = train_codes(schemes_of_ways(surrogate), temperature, 3.0, steps, 2, **options)
    return curves


def test_the_exact_gradient_agrees_with_finite_differences_of_the_test_loss():
    x = stats.norm.ppf((np.arange(400_000) + 0.5) / 400_000)

    def loss(mean):
        k = np.round(0.5 * x - mean)
        return np.array([bits(k, 0.5).mean(), 6 * (((k + mean) / 0.5 - x) ** 2).mean()])

    rate, distortion = (loss(0.255) - loss(0.245)) / 0.01
    assert exact_gradients() == pytest.approx([rate, distortion, rate + distortion], abs=2e-3)
    assert abs(distortion) > 0.1


@pytest.mark.parametrize("surrogate", FLAT, ids=str)
def test_a_slope_of_one_sends_no_gradient_through_the_distortion(surrogate):
    result = moments(surrogate, 0.3)
    assert (result[:, DISTORTION] == 0).all()  # exactly zero, with and without the stop
    assert np.array_equal(result[CENTERED], result[STOPPED])
    assert (result[:, RATE, 1] > 1).all()


@pytest.mark.parametrize("surrogate", STEEP, ids=str)
def test_the_stop_removes_only_the_gradient_of_the_distortion(surrogate):
    result = moments(surrogate, 0.5)
    assert (result[[Y, STOPPED], DISTORTION] == 0).all()
    assert result[CENTERED, DISTORTION, 1] > 1
    assert np.array_equal(result[CENTERED, RATE], result[STOPPED, RATE])
    assert np.array_equal(result[STOPPED, BOTH], result[STOPPED, RATE])


@pytest.mark.parametrize("surrogate", [SOFT, EXPECTED], ids=str)
def test_moments_agree_with_quadrature(surrogate):
    code = ScalarCode(sources.gaussian(), gain=0.5, mean=0.25)
    parts = {RATE: replace(code, lmbda=0.0), DISTORTION: replace(code, rate=lambda y, mean, scale: 0 * y)}
    result = moments(surrogate, 0.5)[CENTERED]
    for path, part in parts.items():
        scheme = QuantizationScheme(rate="aun", distortion=surrogate)
        row = gradient_risk(part, {"scheme": scheme}, "mean", 0.5, 1).iloc[0]
        assert result[path, 0] == pytest.approx(row["mean"], abs=5 * row["std"] / math.sqrt(mean_training._DRAWS))
        assert result[path, 1] == pytest.approx(row["std"] ** 2, rel=0.05)


def test_rounded_losses_agree_with_numpy():
    generator = torch.Generator().manual_seed(3)
    weights = mean_training._initial_weights(1, 2, generator)
    for value in weights.values():
        value.data += 0.1 * torch.randn(value.shape, generator=generator)
    weights["log_gain"].data -= 2.0
    weights["out_bias"].data[..., 1] -= 2.2  # gives σ on both sides of its bound
    c, x = mean_training._samples(2, 50, generator)
    with torch.no_grad():
        rate, error = mean_training._losses(weights, LowerBound(0.11), c, x)
    plain = {name: value[0].detach().double().numpy() for name, value in weights.items()}
    for seed in range(2):
        w = {name: value[seed] for name, value in plain.items()}
        out = np.tanh(c[seed].double().numpy() @ w["in"] + w["in_bias"]) @ w["out"] + w["out_bias"]
        mean, scale = out[:, :1], np.maximum(np.exp(out[:, 1:]), 0.11)
        data = x[seed].double().numpy()
        k = np.round(np.exp(w["log_gain"]) * data - mean)
        x_hat = np.exp(w["log_step"]) * (k + mean)
        assert float(rate[0, seed]) == pytest.approx(bits(k, scale).mean(), rel=1e-4)
        assert float(error[0, seed]) == pytest.approx(((x_hat - data) ** 2).mean(), rel=1e-4)


def test_the_side_information_determines_the_spread_of_the_samples():
    c, x = mean_training._samples(3, 20_000, torch.Generator().manual_seed(0))
    deviation = x[..., 0] - 2 * torch.sin(1.5 * c[..., 0]) - c[..., 1]
    for side, scale, share in ((-1.0, 0.1, 0.7), (1.0, 1.0, 0.3)):
        chosen = c[..., 2] == side
        assert float(deviation[chosen].std()) == pytest.approx(scale, rel=0.02)
        assert float(chosen.float().mean()) == pytest.approx(share, abs=0.01)


def test_straight_through_needs_zero_center_but_no_stop():
    curves = final_curves(surrogates.get("ste"), steps=60)
    assert np.array_equal(curves.test[CENTERED], curves.test[STOPPED])
    assert np.abs(curves.mismatch[CENTERED]).max() < 1e-6  # training rounds like the coder
    assert (np.abs(curves.mismatch[Y, :, -1]) > 0.02).all()
    assert (curves.test[..., -1] < curves.test[..., 0] - 1).all()  # every code learns


def test_additive_noise_needs_neither_zero_center_nor_stop():
    curves = final_curves(surrogates.get("aun"))
    assert np.allclose(curves.test[Y], curves.test[CENTERED], atol=1e-4)
    assert np.array_equal(curves.test[CENTERED], curves.test[STOPPED])


def test_all_ways_start_with_the_same_weights_and_see_the_same_samples():
    curves = final_curves(SOFT, steps=1)
    assert np.ptp(curves.test[:, :, 0], axis=0).max() < 0.05 < np.ptp(curves.test[0, :, 0])
    again, other = final_curves(SOFT, steps=1), final_curves(SOFT, steps=1, seed=1)
    assert np.array_equal(curves.test, again.test) and not np.array_equal(curves.test, other.test)


def test_the_stop_lowers_the_loss_if_the_slope_is_not_one():
    curves = final_curves(EXPECTED, temperature=0.15, steps=150)
    assert (curves.test[STOPPED, :, -1] < curves.test[CENTERED, :, -1] - 0.05).all()


def test_the_curves_print_their_size():
    assert repr(final_curves(SOFT, steps=1)) == "Curves(3 schemes × 2 seeds at step 1)"
    assert schemes_of_ways(SOFT)[0].rate == surrogates.get("aun")

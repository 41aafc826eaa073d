"""Surrogates and schemes agree with an independent implementation of their formulas in NumPy float64.

No expectation is estimated from random samples. A law is a function of the latent y and a uniform draw v on [0, 1), so
an expectation is a mean over the midpoints of a grid of v. Its error is at most the step of the grid times the range of
the law. A comment next to each such tolerance derives it. The laws and their stated derivatives are in `oracles.py`.
"""

from __future__ import annotations

import dataclasses
import json
import math
import shutil
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, assume, example, given, settings
from hypothesis import strategies as st

import labkit as lk
from labkit import entropy, schedules, schemes, surrogates
from labkit.surrogates.soft import soft_round, soft_round_inverse, soft_round_mean
from tests.surrogates.oracles import (
    ORACLES,
    SLOPES,
    SPECS,
    SURROGATES,
    Array,
    Law,
    kumaraswamy,
    soft,
    soft_inverse,
    sra_up_probability,
    sua_mean,
    tied_a,
)


def examples(count: int) -> settings:
    """Return settings that repeat the same examples on every run and allow slow machines and parametrized tests."""
    return settings(
        max_examples=count,
        derandomize=True,
        deadline=None,
        database=None,
        suppress_health_check=[HealthCheck.differing_executors, HealthCheck.too_slow],
    )


EXACT = [key for key in SPECS if key not in SLOPES]
ANNEALED = ["ds", "sra", "soft", "soft-noise", "ksr", "ksr-1", "ksr-1.6", "sga", "ssl2", "ssl3"]
ANNEALED += ["dither", "sua", "sua-expected", "sua-relaxed"]
DETERMINISTIC = ["round", "ste", "ds", "soft"]
INTEGER = ["round", "ste", "sr", "ds", "sra", "sua", "sua-expected"]
UNBIASED = ["aun", "uq", "uq-shared", *EXACT]
RANDOM = [key for key in SPECS if key not in DETERMINISTIC]

# For the draw v: how far y is from the nearest point at which the law jumps or has an infinite slope.
JUMPS: dict[str, Law] = {
    "sr": lambda y, v, tau: np.abs(v - (y - np.floor(y))),
    "uq": lambda y, v, tau: to_half(y - v + 0.5),
    "uq-shared": lambda y, v, tau: to_half(y - v + 0.5),
    "sra": lambda y, v, tau: np.abs(v - sra_up_probability(y, tau)),
    "soft-noise": lambda y, v, tau: to_half(soft(y, tau) + v - 0.5),
    "ksr-1": lambda y, v, tau: to_half(soft(y, tau) + v - 0.5),
    "ksr": lambda y, v, tau: to_half(soft(y, tau) + kumaraswamy(v, tied_a(tau))),
    "ksr-1.6": lambda y, v, tau: to_half(soft(y, tau) + kumaraswamy(v, 1.6)),
    **dict.fromkeys(("dither", "sua", "sua-expected"), lambda y, v, tau: to_half(y + tau * (v - 0.5))),
}


def to_half(x: Array) -> Array:
    """Return the distance to the nearest half-integer."""
    return np.abs(x - np.floor(x) - 0.5)


def evaluate(
    key: str, y: Array, v: Array | None, tau: float | torch.Tensor, dtype=torch.float64
) -> tuple[Array, Array]:
    """Return labkit's value and slope at latents y for the draw v, as NumPy float64.

    The temperature is passed as a tensor with the precision of the latents. Other tests pass a plain number.
    """
    tau = torch.as_tensor(tau, dtype=dtype)
    latent = torch.tensor(np.asarray(y), dtype=dtype, requires_grad=True)
    noise = None if key in DETERMINISTIC else torch.tensor(np.asarray(v), dtype=dtype)
    out = SURROGATES[key](latent, tau, noise=noise)
    (slope,) = torch.autograd.grad(out, latent, torch.ones_like(out))
    return out.detach().double().numpy(), slope.double().numpy()


def draws(key: str, y: Array, v: Array) -> Array:
    """Return the draw for y in the surrogate's shape: three classes get v, v + 0.37 and v + 0.74 modulo one."""
    return np.stack([(v + shift) % 1.0 for shift in (0, 0.37, 0.74)]) if key == "ssl3" else v


def midpoints(count: int, low: float = 0.0, high: float = 1.0) -> Array:
    return low + (np.arange(count) + 0.5) * (high - low) / count


def over_draws(key: str, y: Array, tau: float, count: int) -> tuple[Array, Array]:
    """Return values and slopes of shape (draws, latents) on a grid of draws; ssl3 has a grid over its three draws."""
    y = np.asarray(y, dtype=np.float64)
    if key == "ssl3":
        side = round(count ** (1 / 3))
        v = np.stack([axis.ravel() for axis in np.meshgrid(*[midpoints(side)] * 3)])[..., None]
        v = np.broadcast_to(v, (3, side**3, y.size))
    else:
        v = np.broadcast_to(midpoints(count)[:, None], (count, y.size))
    return evaluate_each(key, np.broadcast_to(y, v.shape[-2:]), v, tau)


def evaluate_each(key: str, y: Array, v: Array, tau: float, dtype=torch.float64) -> tuple[Array, Array]:
    """Call `evaluate` with one latent per image, so that a shared dither also has one draw per latent."""
    flat = v.reshape(3, -1) if key == "ssl3" else v.reshape(-1)
    value, slope = evaluate(key, y.reshape(-1), flat, tau, dtype)
    return value.reshape(y.shape), slope.reshape(y.shape)


latents = st.one_of(
    st.floats(-8, 8, width=32),
    st.integers(-6, 6).map(float),
    st.integers(-6, 6).map(lambda k: k + 0.5),
    st.tuples(st.integers(-1000, 1000), st.floats(-1e-4, 1e-4)).map(sum),
)
uniforms = st.one_of(st.integers(1, 2**24 - 1).map(lambda n: n / 2**24), st.floats(1e-6, 1 - 1e-6))
temperatures = st.floats(-2.5, 0).map(lambda e: 10**e)


# ---------------------------------------------------------------------------------------------------------------------
# Forward laws and slopes
# ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("key", SPECS)
@examples(100)
@given(y=latents, v=st.tuples(uniforms, uniforms, uniforms), tau=temperatures)
@example(y=0.0, v=(0.7, 0.2, 0.4), tau=1.0)
@example(y=-3.0, v=(0.999, 0.2, 0.4), tau=0.5)
@example(y=2.5, v=(0.25, 0.2, 0.4), tau=0.1)
@example(y=-1e-30, v=(0.75, 0.5, 0.25), tau=0.3)
def test_forward_law_is_the_formula(key: str, y: float, v: tuple[float, float, float], tau: float):
    y64 = np.array([y])
    v64 = np.array(v)[:, None] if key == "ssl3" else np.array(v[:1])
    # At a jump the last bit decides. Near one, the error of an inverse hyperbolic tangent grows like 1/distance.
    assume(key not in JUMPS or JUMPS[key](y64, v64, tau)[0] > 1e-6)
    expected = ORACLES[key](y64, v64, tau)
    got, _ = evaluate(key, y64, v64, tau)
    np.testing.assert_allclose(got, expected, rtol=1e-12, atol=1e-8)


@examples(60)
@given(y=st.lists(latents, min_size=1, max_size=5), v=uniforms, tau=temperatures)
def test_a_shared_dither_serves_a_whole_image(y: list[float], v: float, tau: float):
    images = np.array([y, [latent + 0.25 for latent in y]])
    v64 = np.array([[v], [1 - v]])
    assume((to_half(images - v64 + 0.5) > 1e-9).all())
    got, _ = evaluate("uq-shared", images, v64, tau)
    np.testing.assert_allclose(got, np.rint(images - v64 + 0.5) + v64 - 0.5, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("tau", [1.2, 4.0, 30.0])
@pytest.mark.parametrize("key", ["sra", "soft", "soft-noise", "ksr", "ksr-1.6", "sga", "ssl2", "ssl3", "dither"])
def test_the_forward_law_is_the_formula_above_temperature_one(key: str, tau: float):
    y, v = np.meshgrid(midpoints(23, -1.7, 2.1), midpoints(19))
    got, _ = evaluate(key, y, draws(key, y, v), tau)
    np.testing.assert_allclose(got, ORACLES[key](y, draws(key, y, v), tau), rtol=1e-10, atol=1e-9)


@pytest.mark.parametrize("key", SLOPES)
@examples(50)
@given(y=latents, v=uniforms, tau=temperatures)
def test_stated_slopes(key: str, y: float, v: float, tau: float):
    y64, v64 = np.array([y]), np.array([v])
    if key == "sua-expected":
        assume(abs(to_half(y) - tau / 2) > 1e-9)
    _, slope = evaluate(key, y64, v64, tau)
    np.testing.assert_allclose(slope, SLOPES[key](y64, v64, tau), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("key", EXACT)
@examples(100)
@example(y=0.75, v=(0.75, 0.5, 0.5), tau=1.0)  # a kink of the relaxed form
@given(y=st.floats(-4, 4), v=st.tuples(*[st.floats(0.001, 0.999)] * 3), tau=st.floats(-1.3, 0.3).map(lambda e: 10**e))
def test_exact_derivatives_are_those_of_the_formula(key: str, y: float, v: tuple[float, float, float], tau: float):
    assume(abs(y - round(y)) > 1e-3)  # clipped distances and changing candidates have kinks there
    v64 = np.array(v)[:, None] if key == "ssl3" else np.array(v[:1])
    assume(key not in JUMPS or JUMPS[key](np.array([y]), v64, tau)[0] > 1e-6)  # another test covers the edges of bins

    def difference(h: float) -> tuple[float, float]:
        ahead, here, behind = (ORACLES[key](np.array([y + step]), v64, tau)[0] for step in (h, 0, -h))
        return (ahead - behind) / (2 * h), (ahead - 2 * here + behind) / h

    (fine, bend), (coarse, _) = difference(1e-5), difference(2e-5)
    # If two step lengths or two sides disagree, a kink or a jump is near, and there is no derivative to compare with.
    assume(abs(fine - coarse) < 1e-4 * (1 + abs(fine)) and abs(bend) < 0.1)
    _, slope = evaluate(key, np.array([y]), v64, tau)
    assert slope[0] == pytest.approx((4 * fine - coarse) / 3, rel=1e-5, abs=1e-6)


def test_the_slope_of_derivative_substitution_is_that_of_soft_rounding():
    y = np.concatenate([midpoints(200, -2, 2), np.arange(-2, 2.25, 0.25)])
    for tau in (0.05, 0.3, 1.0, 2e3):
        np.testing.assert_allclose(evaluate("ds", y, None, tau)[1], evaluate("soft", y, None, tau)[1], rtol=1e-12)


@pytest.mark.parametrize("key", SPECS)
@pytest.mark.parametrize("tau", [0.1, 0.35, 1.0])
def test_single_precision_stays_close_to_the_formula(key: str, tau: float):
    """The oracle gets the same float32 inputs, so the error is labkit's own rounding, amplified by at most 1/τ²."""
    generator = torch.Generator().manual_seed(17)
    y = (torch.rand(4000, generator=generator) * 20 - 10).double().numpy()
    v = torch.rand(4000, generator=generator).clamp(0.001, 0.999)
    v = draws(key, y, v.double().numpy()).astype(np.float32).astype(np.float64)
    keep = np.abs(y - np.rint(y)) > 1e-3
    if key in JUMPS:
        keep &= JUMPS[key](y, v, tau) > 1e-2
    assert keep.mean() > 0.9
    got, _ = evaluate_each(key, y[keep], v[..., keep], tau, torch.float32)
    np.testing.assert_allclose(got, ORACLES[key](y[keep], v[..., keep], np.float64(np.float32(tau))), atol=3e-5 / tau)


@pytest.mark.parametrize("key", ANNEALED)
def test_a_temperature_given_as_a_number_keeps_double_precision(key: str):
    y = torch.linspace(-2.1, 2.3, 101, dtype=torch.float64, requires_grad=True)
    noise = SURROGATES[key].draw(y, torch.Generator().manual_seed(7))
    number, tensor = (SURROGATES[key](y, t, noise=noise) for t in (0.3, torch.tensor(0.3, dtype=torch.float64)))
    torch.testing.assert_close(number, tensor, rtol=0, atol=1e-12)
    slopes = [torch.autograd.grad(out.sum(), y)[0] for out in (number, tensor)]
    torch.testing.assert_close(*slopes, rtol=1e-11, atol=1e-11)


# ---------------------------------------------------------------------------------------------------------------------
# Exact facts
# ---------------------------------------------------------------------------------------------------------------------

DRAWS, LATENTS = 1021, 257  # coprime, so that no latent of the grid lies on a draw's threshold
BIN_ERROR = 1 / (2 * DRAWS) + 1 / LATENTS**2  # half a step of the draws, and the square of a step of the latents

MEAN_SQUARES: dict[str, Callable[[float], float]] = {
    "round": lambda tau: 1 / 12,
    "ste": lambda tau: 1 / 12,
    "ds": lambda tau: 1 / 12,
    "aun": lambda tau: 1 / 12,
    "uq": lambda tau: 1 / 12,
    "uq-shared": lambda tau: 1 / 12,
    "dither": lambda tau: 1 / 12,
    "sr": lambda tau: 1 / 6,
    "sua": lambda tau: (1 + tau**2) / 12,
    "sua-expected": lambda tau: (1 + tau**2) / 12,
}


@pytest.mark.parametrize("key", MEAN_SQUARES)
@examples(5)
@given(k=st.integers(-300, 300), tau=st.floats(0.001, 1))
@example(k=0, tau=1.0)
def test_mean_square_over_a_bin(key: str, k: int, tau: float):
    y = midpoints(LATENTS, k - 0.5, k + 0.5)
    value, _ = over_draws(key, y, tau, DRAWS)
    assert ((value - y) ** 2).mean() == pytest.approx(MEAN_SQUARES[key](tau), abs=BIN_ERROR)


@pytest.mark.parametrize("tau", [1.7, 5.0])
def test_the_mean_squared_error_of_dither_stays_the_same_above_temperature_one(tau: float):
    y = midpoints(LATENTS, -0.5, 0.5)
    value, _ = over_draws("dither", y, tau, DRAWS)
    assert ((value - y) ** 2).mean() == pytest.approx(1 / 12, abs=BIN_ERROR)


@pytest.mark.parametrize("key", ["sua", "sua-expected"])
@examples(8)
@given(k=st.integers(-300, 300), tau=st.floats(0.01, 1))
@example(k=0, tau=1.0)
def test_sua_differs_from_rounding_with_probability_a_quarter_tau(key: str, k: int, tau: float):
    y = midpoints(LATENTS, k - 0.5, k + 0.5)
    value, _ = over_draws(key, y, tau, DRAWS)
    assert (value != np.rint(y)).mean() == pytest.approx(tau / 4, abs=BIN_ERROR)
    assert np.abs(value - np.rint(y)).max() <= 1


def test_sua_at_temperature_one_has_the_law_of_stochastic_rounding():
    y = midpoints(LATENTS, -2.0, 3.0)
    sua, sr = (np.sort(over_draws(key, y, 1.0, DRAWS)[0], axis=0) for key in ("sua", "sr"))
    # Sorted values are quantile functions. The one draw at the threshold may fall on either side.
    assert (sua != sr).sum(axis=0).max() <= 1
    np.testing.assert_allclose((sr == np.floor(y) + 1).mean(axis=0), y - np.floor(y), atol=1 / DRAWS)


def test_the_dither_at_temperature_one_and_universal_quantization_have_the_law_of_additive_noise():
    y = midpoints(LATENTS, -2.0, 3.0)
    aun = np.sort(over_draws("aun", y, 1.0, DRAWS)[0], axis=0)
    for key in ("dither", "uq"):
        # Both are grids of step 1/DRAWS modulo one, cut at y ± ½, so quantiles differ by at most one step.
        np.testing.assert_allclose(np.sort(over_draws(key, y, 1.0, DRAWS)[0], axis=0), aun, atol=1.001 / DRAWS)
    half = np.sort(over_draws("dither", y, 0.5, DRAWS)[0], axis=0)
    assert np.abs(half - aun).max() > 0.1


@pytest.mark.parametrize("key", ["aun", "sr", "uq", "uq-shared", "sua", "sua-expected"])
@examples(10)
@given(k=st.integers(-300, 300), tau=st.floats(0.01, 1))
def test_conditional_mean(key: str, k: int, tau: float):
    y = midpoints(101, k - 1.0, k + 1.0)
    expected = sua_mean(y, tau) if key.startswith("sua") else y
    np.testing.assert_allclose(over_draws(key, y, tau, DRAWS)[0].mean(axis=0), expected, atol=1.001 / DRAWS)


@examples(25)
@given(tau=st.floats(0.05, 1), a=st.floats(0, 0.9), width=st.floats(0.05, 0.9))
def test_the_expected_slope_is_that_of_the_mean(tau: float, a: float, width: float):
    """Integrated, since the grid's mean is a staircase: ∫ slope dy = E[ỹ | b] − E[ỹ | a], whatever the draw."""
    b = min(a + width, 1 - 1e-6)
    assume(b > a)
    y = midpoints(400, a, b)
    _, slopes = over_draws("sua-expected", y, tau, 3)
    np.testing.assert_array_equal(slopes[0], slopes[-1])
    ends = over_draws("sua-expected", np.array([a, b]), tau, DRAWS)[0].mean(axis=0)
    # The tolerance allows half a draw at each end, and one cell of the grid of latents at which the slope jumps.
    assert slopes[0].mean() * (b - a) == pytest.approx(ends[1] - ends[0], abs=2 / DRAWS + 2 * (b - a) / 400 / tau)


@examples(40)
@given(y=st.floats(-3, 3), tau=st.floats(0.02, 1))
def test_the_relaxed_form_has_the_ramp_of_the_mean(y: float, tau: float):
    """At v = ½ the relaxed form is the hard form's conditional mean."""
    np.testing.assert_allclose(evaluate("sua-relaxed", np.array([y]), np.array([0.5]), tau)[0], sua_mean(y, tau))


@pytest.mark.parametrize("a", [1.2, 1.6, 2.0, 5.0, 10.0])
def test_kumaraswamy_noise_has_the_kumaraswamy_distribution_with_its_mode_at_zero(a: float):
    surrogate = surrogates.get("ksr", a=a)
    v = torch.tensor(midpoints(4001))
    n = surrogate(torch.zeros_like(v), 1e4, noise=v).numpy()  # at this temperature soft rounding is the identity
    b = (2**a * (a - 1) + 1) / a
    np.testing.assert_allclose(1 - (1 - (n + 0.5) ** a) ** b, v.numpy(), atol=1e-10)
    assert (np.abs(n) <= 0.5).all()
    # The density is highest where the quantile function is flattest.
    flattest = np.argmin(np.diff(n))
    assert abs(n[flattest]) < 0.02
    np.testing.assert_allclose(((a - 1) / (a * b - 1)) ** (1 / a) - 0.5, 0, atol=1e-12)


@pytest.mark.parametrize("tau", [0.02, 0.1, 0.17, 0.25, 0.3, 0.7, 4.0, 1e4])
def test_the_shape_of_kumaraswamy_noise_follows_the_temperature(tau: float):
    y, v = (torch.tensor(grid) for grid in np.meshgrid(midpoints(31, -1, 1), midpoints(29)))
    fixed = surrogates.get("ksr", a=tied_a(tau))
    torch.testing.assert_close(SURROGATES["ksr"](y, tau, noise=v), fixed(y, tau, noise=v), rtol=0, atol=1e-9)
    if tau <= 0.1:
        torch.testing.assert_close(
            SURROGATES["ksr"](y, tau, noise=v), SURROGATES["soft-noise"](y, tau, noise=v), rtol=0, atol=1e-9
        )


# ---------------------------------------------------------------------------------------------------------------------
# Limits
# ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("key", ANNEALED)
@examples(40)
@given(
    k=st.integers(-1000, 1000),
    offset=st.one_of(st.floats(-0.49, 0.49), st.just(0.0)),
    v=st.tuples(*[st.floats(0.001, 0.999)] * 3),
    tau=st.sampled_from([1e-3, 1e-4, 1e-6]),
)
def test_every_annealed_surrogate_tends_to_rounding(key: str, k: int, offset: float, v: tuple, tau: float):
    y64, v64 = np.array([k + offset]), np.array(v)[:, None] if key == "ssl3" else np.array(v[:1])
    got, _ = evaluate(key, y64, v64, tau)
    # Dither leaves an error of τu. The outer soft rounding leaves τ·atanh(2n), which is at most 3.8 τ here; Kumaraswamy
    # noise reaches further into its corners, with n + ½ down to about 10⁻⁴. The other surrogates leave no error.
    np.testing.assert_allclose(got, k, atol=8 * tau)


def test_annealed_surrogates_differ_from_rounding_at_temperature_one():
    for key in ANNEALED:
        if key == "ds":
            continue  # rounds at every temperature; the temperature changes only its slope
        y, v = np.meshgrid(midpoints(40, -0.5, 0.5), midpoints(40))
        assert np.abs(evaluate(key, y, draws(key, y, v), 1.0)[0]).max() > 0.3, key


@pytest.mark.parametrize("tau", [1e4, 1e6])
def test_annealed_surrogates_have_their_limits_at_high_temperature(tau: float):
    y, v = np.meshgrid(midpoints(40, -2, 2), midpoints(36))
    half = np.floor(y) + 0.5
    expected = {
        "soft": y,
        "soft-noise": y + v - 0.5,
        "ksr": y + kumaraswamy(v, 2.0),
        "ksr-1": y + v - 0.5,
        "ksr-1.6": y + kumaraswamy(v, 1.6),
        "sga": half,  # equal weights
        "ssl2": half,
        "ssl3": np.rint(y),  # the mean of its three candidates
        "sra": np.floor(y) + (v < 0.5),  # a fair coin
    }
    for key, limit in expected.items():
        got, _ = evaluate(key, y, draws(key, y, v), tau)
        np.testing.assert_allclose(got, limit, atol=1e-12 if key in ("soft", "soft-noise", "sra") else 12 / tau)
    for key in ("ds", "soft", "soft-noise", "ksr"):
        np.testing.assert_allclose(evaluate(key, y, v, tau)[1], 1, atol=1e-12)
    for key in ("sga", "ssl2", "ssl3"):
        assert np.abs(evaluate(key, y, draws(key, y, v), tau)[1]).max() < 1e3 / tau


@examples(60)
@given(y=st.floats(-50, 50), tau=st.floats(0.1, 2000))
def test_soft_rounding_is_inverted(y: float, tau: float):
    latent = torch.tensor([y], dtype=torch.float64)
    rounded = soft_round(latent, tau)
    np.testing.assert_allclose(rounded.numpy(), soft(np.array([y]), tau), atol=1e-10)
    assume(abs(y - round(y)) > 1e-9)
    np.testing.assert_allclose(soft_round_inverse(rounded, tau).numpy(), [y], atol=1e-8)
    np.testing.assert_allclose(soft_round(soft_round_inverse(latent, tau), tau).numpy(), [y], atol=1e-8)


def test_the_inverse_of_soft_rounding_is_smooth_at_the_edge_of_a_bin():
    """The slope is sinh(α)/α on both sides of an integer. The clip to ±½ only guards against rounding errors."""
    z = torch.arange(-3, 4, dtype=torch.float64).requires_grad_()
    for tau in (0.2, 0.25, 0.3, 0.4, 0.5, 0.7, 1.0, 2.0, 5.0):
        (slope,) = torch.autograd.grad(soft_round_inverse(z, torch.tensor(tau, dtype=torch.float64)).sum(), z)
        np.testing.assert_allclose(slope.numpy(), math.sinh(1 / tau) * tau, rtol=1e-9, err_msg=f"{tau}")


@examples(40)
@given(z=st.floats(-5, 5), tau=st.floats(0.1, 2000))
def test_soft_rounding_mean_is_the_mean_of_a_flat_density(z: float, tau: float):
    """Given z = s(y) + u, y lies between s⁻¹(z − ½) and s⁻¹(z + ½), evenly for a flat density."""
    assume(to_half(z) > 1e-6)
    got = soft_round_mean(torch.tensor([z], dtype=torch.float64), tau).item()
    assert got == pytest.approx((soft_inverse(z - 0.5, tau) + soft_inverse(z + 0.5, tau)) / 2, abs=1e-9)
    if tau <= 1:
        y = midpoints(200_001, z - 2, z + 2)
        assert got == pytest.approx(y[np.abs(soft(y, tau) - z) < 0.5].mean(), abs=1e-4)


# ---------------------------------------------------------------------------------------------------------------------
# Metadata
# ---------------------------------------------------------------------------------------------------------------------


def loss(x: Array) -> Array:
    return np.sin(1.3 * x) + 0.2 * x**2 + 0.1 * x


def loss_slope(x: Array) -> Array:
    return 1.3 * np.cos(1.3 * x) + 0.4 * x + 0.1


def test_metadata_of_every_surrogate_matches_the_lists():
    for key, surrogate in SURROGATES.items():
        assert surrogate.integer is (key in INTEGER), key
        assert surrogate.annealed is (key in ANNEALED), key
        assert surrogate.random is (key not in DETERMINISTIC), key
        assert surrogate.unbiased is (key in UNBIASED), key


@pytest.mark.parametrize("key", SPECS)
def test_integer_annealed_and_random_describe_the_behavior(key: str):
    surrogate = SURROGATES[key]
    y, v = np.meshgrid(midpoints(61, -3.1, 2.9), midpoints(53))
    results = {tau: evaluate(key, y, draws(key, y, v), tau) for tau in (0.2, 0.6, 1.0)}
    assert all((value == np.rint(value)).all() for value, _ in results.values()) == surrogate.integer
    changes = any(not np.array_equal(results[tau][part], results[1.0][part]) for tau in (0.2, 0.6) for part in (0, 1))
    assert changes == surrogate.annealed
    torch.manual_seed(3)
    first, second = (surrogate(torch.tensor(y), 0.6) for _ in range(2))
    assert (not torch.equal(first, second)) == surrogate.random
    assert (surrogate.draw(torch.tensor(y)) is not None) == surrogate.random


@pytest.mark.parametrize("key", UNBIASED)
@pytest.mark.parametrize("tau", [0.3, 0.5, 1.0])
def test_unbiased_gradients_are_those_of_the_expected_loss(key: str, tau: float):
    """Latents avoid multiples of ½, at which sga, ssl and relaxed sua change candidates and their mean may jump."""
    assert SURROGATES[key].unbiased
    count = 24**3 if key == "ssl3" else 4096
    y = np.array([-1.41, -0.77, -0.27, 0.23, 0.37, 0.63, 0.84, 1.27])  # they avoid kinks of the relaxed mean, too
    value, slope = over_draws(key, y, tau, count)
    gradient = (loss_slope(value) * slope).mean(axis=0)

    def difference(h: float) -> Array:
        ahead, behind = (loss(over_draws(key, y + step, tau, count)[0]).mean(axis=0) for step in (h, -h))
        return (ahead - behind) / (2 * h)

    h = 1 / 64  # a multiple of the step between draws, so that the grid of a dither stays in phase
    expected = (4 * difference(h / 2) - difference(h)) / 3
    np.testing.assert_allclose(gradient, expected, atol=6e-3)


@pytest.mark.parametrize("key", [key for key in SPECS if key not in UNBIASED])
def test_biased_gradients_differ_from_those_of_the_expected_loss(key: str):
    """Compare ∫ E[G] dy with J(b) − J(a). This integrated form also detects the jump of hard rounding."""
    assert not SURROGATES[key].unbiased
    y = midpoints(300, 0.1, 0.9)
    worst = 0.0
    for tau in (0.25, 0.5, 1.0):
        value, slope = over_draws(key, y, tau, 301)
        ends = loss(over_draws(key, np.array([0.1, 0.9]), tau, 301)[0]).mean(axis=0)
        worst = max(worst, abs((loss_slope(value) * slope).mean() * 0.8 - (ends[1] - ends[0])))
    assert worst > 0.02  # a hundred times the integration error, which the next test bounds


def test_unbiased_gradients_satisfy_the_integrated_form():
    y = midpoints(300, 0.1, 0.9)
    for key in ("aun", "uq", "soft", "soft-noise", "ksr", "sga", "ssl2", "sua-relaxed"):
        value, slope = over_draws(key, y, 0.5, 301)
        ends = loss(over_draws(key, np.array([0.1, 0.9]), 0.5, 301)[0]).mean(axis=0)
        assert (loss_slope(value) * slope).mean() * 0.8 == pytest.approx(ends[1] - ends[0], abs=3e-3), key


def test_relaxed_sua_is_continuous_at_integers_up_to_temperature_one_half():
    """Above ½ the edge of the bin cuts the ramp off, and the mean jumps there: at τ = 1 from k − ⅛ to k + ⅛."""
    ends = np.array([-1e-9, 1e-9])
    for tau in (0.1, 0.5):
        below, above = over_draws("sua-relaxed", ends, tau, 1000)[0].T
        np.testing.assert_allclose(below, above, atol=1e-7)
    below, above = over_draws("sua-relaxed", ends, 1.0, 1000)[0].mean(axis=0)
    assert (below, above) == (pytest.approx(-1 / 8, abs=1e-6), pytest.approx(1 / 8, abs=1e-6))


def test_the_table_has_a_row_for_each_name_and_agrees_with_the_classes():
    table = surrogates.table()
    assert tuple(table.index) == surrogates.names() and table.index.is_unique
    assert set(surrogates.names()) == {name for name, _ in SPECS.values()}
    assert {"forward", "derivative", "integer", "annealed", "random", "unbiased", "year", "paper"} <= set(table.columns)
    for name in surrogates.names():
        surrogate = surrogates.get(name)
        assert surrogate.name == name
        for column in set(table.columns) - {"options"}:
            assert table.loc[name, column] == getattr(surrogate, column), (name, column)
        options = ", ".join(f"{field.name}={field.default!r}" for field in dataclasses.fields(surrogate))
        assert table.loc[name, "options"] == options


# ---------------------------------------------------------------------------------------------------------------------
# Finite values, types, shapes and seeds
# ---------------------------------------------------------------------------------------------------------------------

MAX_DRAW = 1 - 2.0**-24


def edge_cases(dtype: torch.dtype) -> torch.Tensor:
    """Return integers, half-integers, their nearest neighbors in the dtype, tiny numbers and the largest magnitudes."""
    lattice = torch.arange(-3, 3.5, 0.5).to(dtype)
    neighbors = [torch.nextafter(lattice, torch.full_like(lattice, end)) for end in (-math.inf, math.inf)]
    big = 2.0**15 if dtype == torch.float16 else 2.0**20
    tiny = torch.finfo(dtype).tiny
    rest = [0.0, -0.0, tiny, -tiny, 1e-5, -1e-5, big, -big, big - 0.5, 0.5 - big, big + 0.5, -big - 0.5]
    return torch.cat([lattice, *neighbors, torch.tensor(rest, dtype=dtype)])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64], ids=str)
@pytest.mark.parametrize("key", SPECS)
def test_values_and_slopes_are_finite(key: str, dtype: torch.dtype):
    y = edge_cases(dtype)
    # float16 cannot represent a slope of 1/τ² at low temperatures.
    for tau in (0.02, 0.1, 0.5, 1.0) if dtype == torch.float16 else (1e-6, 1e-4, 0.01, 0.1, 0.5, 1.0, 50.0):
        for v in (0.0, MAX_DRAW, 0.5, 2.0**-24, "mixed"):
            latent = y.clone().requires_grad_()
            shape = SURROGATES[key].noise_shape(y)
            noise = torch.full(shape, v) if v != "mixed" else torch.linspace(0, 1, math.prod(shape)).clamp(max=MAX_DRAW)
            noise = noise.reshape(shape).to(torch.float64 if dtype == torch.float64 else torch.float32)
            out = SURROGATES[key](latent, tau, noise=None if key in DETERMINISTIC else noise)
            (slope,) = torch.autograd.grad(out.float().sum(), latent)
            assert out.isfinite().all(), (tau, v, y[~out.isfinite()])
            assert slope.isfinite().all(), (tau, v, y[~slope.isfinite()])
            bound = {"sua": tau / 2 + 0.5, "sua-expected": tau / 2 + 0.5, "ssl3": 1.5}.get(key, 1.0)
            allowed = bound + 2 * torch.finfo(dtype).eps * (1 + y.double().abs())
            assert ((out.double() - y.double()).abs() <= allowed).all(), (tau, v)


@pytest.mark.parametrize("key", ["round", "ste", "ds", "sr", "sra", "sga", "ssl2"])
def test_integers_stay_unchanged(key: str):
    y = torch.tensor([-(2.0**20), -7.0, -1.0, 0.0, 1.0, 7.0, 2.0**20])
    for tau in (1e-6, 0.1, 1.0):
        for v in (2.0**-24, 0.5, MAX_DRAW):
            noise = None if key in DETERMINISTIC else torch.full(y.shape, v)
            assert torch.equal(SURROGATES[key](y, tau, noise=noise), y), (tau, v)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("key", SPECS)
def test_half_precision_is_computed_in_float32(key: str, dtype: torch.dtype):
    y = torch.linspace(-4.3, 4.1, 60).to(dtype).requires_grad_()
    single = y.detach().float().requires_grad_()
    noise = SURROGATES[key].draw(single.detach(), torch.Generator().manual_seed(1))
    half, full = (SURROGATES[key](x, 0.4, noise=noise) for x in (y, single))
    assert half.dtype == dtype and torch.equal(half, full.to(dtype))
    half.sum().backward()
    full.sum().backward()
    assert y.grad.dtype == dtype and torch.equal(y.grad, single.grad.to(dtype))


@pytest.mark.parametrize("key", SPECS)
def test_autocast_does_not_change_results(key: str):
    generator = torch.Generator().manual_seed(2)
    y = torch.randn(2, 3, 4, 5, generator=generator, requires_grad=True)
    noise = SURROGATES[key].draw(y, generator)
    outside = SURROGATES[key](y, torch.tensor(0.3), noise=noise)
    with torch.autocast("cpu", torch.bfloat16):
        inside = SURROGATES[key](y, torch.tensor(0.3), noise=noise)
    assert inside.dtype == torch.float32 and torch.equal(inside, outside)
    slopes = [torch.autograd.grad(out.sum(), y)[0] for out in (inside, outside)]
    assert torch.equal(*slopes)


LAYOUTS: dict[str, Callable[[], torch.Tensor]] = {
    "0-d": lambda: torch.tensor(1.3),
    "empty": lambda: torch.zeros(0),
    "empty inside": lambda: torch.zeros(2, 0, 3),
    "1-d": lambda: torch.linspace(-2, 2, 7),
    "5-d": lambda: torch.linspace(-2, 2, 32).reshape(2, 2, 2, 2, 2),
    "transposed": lambda: torch.linspace(-2, 2, 12).reshape(3, 4).t(),
    "strided": lambda: torch.linspace(-2, 2, 24).reshape(2, 12)[:, ::3],
    "channels_last": lambda: torch.linspace(-2, 2, 60).reshape(2, 3, 2, 5).to(memory_format=torch.channels_last),
    "expanded": lambda: torch.tensor([[0.3], [1.6]]).expand(2, 4),
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("key", SPECS)
def test_every_shape_and_layout_is_supported(key: str, layout: str):
    y = LAYOUTS[layout]()
    generator = torch.Generator().manual_seed(4)
    noise = SURROGATES[key].draw(y, generator)
    if noise is not None:
        assert tuple(noise.shape) == tuple(SURROGATES[key].noise_shape(y))
        assert ((noise >= 0) & (noise < 1)).all()
    before = y.clone()
    latent = y.detach().requires_grad_()
    out = SURROGATES[key](latent, 0.4, noise=noise)
    assert out.shape == y.shape and out.dtype == y.dtype and out.requires_grad
    # The last bits may differ, because vectorized and strided loops may call different logarithms.
    torch.testing.assert_close(out, SURROGATES[key](y.contiguous(), 0.4, noise=noise), rtol=1e-5, atol=2e-5)
    (slope,) = torch.autograd.grad(out.sum(), latent)
    assert slope.shape == y.shape
    # In-place changes to the result affect neither the input nor the derivative.
    out = SURROGATES[key](latent, 0.4, noise=noise)
    with torch.no_grad():
        plain = SURROGATES[key](y, 0.4, noise=noise)
        plain.add_(1)
    out.mul_(3)
    assert torch.equal(y, before)
    torch.testing.assert_close(torch.autograd.grad(out.sum(), latent)[0], 3 * slope)


@pytest.mark.parametrize("key", SPECS)
def test_a_result_can_be_overwritten_before_back_propagation(key: str):
    """The latent is not a leaf, and an operation in place changes the result."""
    source = torch.linspace(-1.9, 2.2, 11, requires_grad=True)
    noise = SURROGATES[key].draw(source, torch.Generator().manual_seed(1))
    expected = torch.autograd.grad(SURROGATES[key](source * 2, 0.5, noise=noise).sum(), source)[0]
    out = SURROGATES[key](source * 2, 0.5, noise=noise)
    out += 1
    torch.testing.assert_close(torch.autograd.grad(out.sum(), source)[0], expected)


@pytest.mark.parametrize("key", SPECS)
def test_a_number_and_a_tensor_as_temperature_give_the_same_result(key: str):
    y = torch.linspace(-2.2, 2.4, 33, dtype=torch.float64, requires_grad=True)
    noise = SURROGATES[key].draw(y, torch.Generator().manual_seed(7))
    for tau in (0.25, 1.0):
        number, tensor = (SURROGATES[key](y, t, noise=noise) for t in (tau, torch.tensor(tau)))
        torch.testing.assert_close(number, tensor, rtol=0, atol=1e-12)
        slopes = [torch.autograd.grad(out.sum(), y)[0] for out in (number, tensor)]
        torch.testing.assert_close(*slopes, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("key", SPECS)
def test_seeds_and_given_noise_reproduce_results(key: str):
    y = torch.linspace(-3, 3, 48).reshape(2, 4, 6)
    surrogate = SURROGATES[key]

    def seeded(seed: int) -> torch.Tensor:
        return surrogate(y, 0.6, generator=torch.Generator().manual_seed(seed))

    assert torch.equal(seeded(5), seeded(5))
    if key not in DETERMINISTIC:
        assert not torch.equal(seeded(5), seeded(6))
    noise = surrogate.draw(y, torch.Generator().manual_seed(5))
    for _ in range(2):
        assert torch.equal(surrogate(y, 0.6, noise=noise), seeded(5))
    from_global_seed = []
    for _ in range(2):
        torch.manual_seed(9)
        from_global_seed.append(surrogate(y, 0.6))
    assert torch.equal(*from_global_seed)


# ---------------------------------------------------------------------------------------------------------------------
# torch.compile and torch.func
# ---------------------------------------------------------------------------------------------------------------------


def check_compiled_against_eager(key: str, backend: str) -> None:
    surrogate = SURROGATES[key]
    y = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(1)) * 2
    noise = surrogate.draw(y, torch.Generator().manual_seed(2))

    def run(function: Callable, tau: float) -> tuple[torch.Tensor, torch.Tensor]:
        latent = y.clone().requires_grad_()
        out = function(latent, torch.tensor(tau), noise)
        return out.detach(), torch.autograd.grad((out * out).sum(), latent)[0]

    def call(latent: torch.Tensor, tau: torch.Tensor, drawn: torch.Tensor | None) -> torch.Tensor:
        return surrogate(latent, tau, noise=drawn)

    torch._dynamo.reset()
    compiled = torch.compile(call, fullgraph=True, backend=backend)
    with torch._dynamo.config.patch(error_on_recompile=True):
        for tau in (0.3, 0.8, 0.05):
            for got, expected in zip(run(compiled, tau), run(call, tau), strict=True):
                torch.testing.assert_close(got, expected, rtol=2e-4, atol=2e-5)


@pytest.mark.parametrize("key", [key for key in SPECS if key != "ksr-1"])
def test_a_surrogate_compiles_to_one_graph_for_all_temperatures(key: str):
    check_compiled_against_eager(key, "aot_eager")


@pytest.mark.parametrize("key", [key for key in RANDOM if not key.startswith("ksr-")])
def test_a_random_surrogate_compiles_with_its_own_draw(key: str):
    surrogate = SURROGATES[key]
    y = torch.linspace(-2.3, 2.1, 24).reshape(2, 3, 4)
    torch._dynamo.reset()
    compiled = torch.compile(lambda latent, tau: surrogate(latent, tau), fullgraph=True, backend="aot_eager")
    with torch._dynamo.config.patch(error_on_recompile=True):
        torch.manual_seed(0)
        first, second = compiled(y, torch.tensor(0.5)), compiled(y, torch.tensor(0.4))
    torch.manual_seed(0)
    torch.testing.assert_close(first, surrogate(y, torch.tensor(0.5)))
    torch.testing.assert_close(second, surrogate(y, torch.tensor(0.4)))


@pytest.mark.slow
@pytest.mark.skipif(not any(map(shutil.which, ("g++", "clang++"))), reason="the default backend needs a C++ compiler")
@pytest.mark.parametrize("key", ["soft-noise", "ssl2", "sua-expected"])
def test_a_surrogate_compiles_with_the_default_backend(key: str):
    check_compiled_against_eager(key, "inductor")


# The stacked dimension of the latent, the draw and the temperature. A stack of models stacks all three. One draw for
# many latents means common random numbers. Many draws for one latent estimate the variance of a gradient.
STACKS = {
    "all": (0, 0, 0),
    "latents and draws": (0, 0, None),
    "latents": (0, None, None),
    "draws": (None, 0, None),
    "temperatures": (None, None, 0),
    "latents and temperatures": (0, None, 0),
}


@pytest.mark.filterwarnings("ignore:There is a performance drop:UserWarning")
@pytest.mark.parametrize("stack", STACKS)
@pytest.mark.parametrize("key", SPECS)
def test_gradients_under_vmap_are_those_of_a_loop(key: str, stack: str):
    surrogate = SURROGATES[key]
    count, generator = 5, torch.Generator().manual_seed(3)
    y = torch.linspace(-2.2, 2.3, 2 * count, dtype=torch.float64).reshape(count, 2)
    v = torch.rand(count, *surrogate.noise_shape(y[0]), generator=generator, dtype=torch.float64)
    tau = torch.linspace(0.2, 1, count, dtype=torch.float64)

    def objective(latent: torch.Tensor, draw: torch.Tensor, temperature: torch.Tensor) -> torch.Tensor:
        return torch.sin(surrogate(latent, temperature, noise=draw if surrogate.random else None)).sum()

    axes = STACKS[stack]
    arguments = [full if axis == 0 else full[2] for full, axis in zip((y, v, tau), axes, strict=True)]
    mapped = torch.func.vmap(torch.func.grad(objective), in_dims=axes)(*arguments)
    loop = []
    for i in range(count):
        latent, draw, temperature = (
            full if axis is None else full[i] for full, axis in zip(arguments, axes, strict=True)
        )
        leaf = latent.clone().requires_grad_()
        loop.append(torch.autograd.grad(objective(leaf, draw, temperature), leaf)[0])
    torch.testing.assert_close(mapped, torch.stack(loop))


@pytest.mark.filterwarnings("ignore:There is a performance drop:UserWarning")
@pytest.mark.parametrize("randomness", ["same", "different"])
@pytest.mark.parametrize("key", RANDOM)
def test_the_randomness_of_vmap_decides_whether_draws_are_the_same(key: str, randomness: str):
    tau = torch.tensor(0.8)
    out = torch.func.vmap(lambda y: SURROGATES[key](y, tau), randomness=randomness)(torch.full((4, 50), 0.4))
    same = all(torch.allclose(out[0], other, atol=1e-5) for other in out[1:])
    assert same == (randomness == "same")


# ---------------------------------------------------------------------------------------------------------------------
# Schemes
# ---------------------------------------------------------------------------------------------------------------------

surrogate_of = st.sampled_from(sorted(SPECS)).map(SURROGATES.__getitem__) | st.builds(
    lambda a: surrogates.get("ksr", a=a), st.floats(1, 10)
)
positive = st.floats(1e-4, 10)
schedule_of = st.one_of(
    positive.map(schedules.constant),
    st.builds(schedules.linear, positive, positive),
    st.builds(schedules.exponential, positive, positive),
    st.builds(schedules.cosine, positive, positive),
    st.builds(schedules.delayed_exponential, positive, positive, st.floats(0, 0.9)),
    st.builds(
        lambda shares, values: schedules.piecewise(*zip([0.0, *sorted(shares), 1.0], values, strict=True)),
        st.tuples(st.floats(0, 1), st.floats(0, 1)),
        st.tuples(positive, positive, positive, positive),
    ),
)


@st.composite
def scheme_of(draw: st.DrawFn, **fixed: Any) -> schemes.QuantizationScheme:
    zero_center = draw(st.booleans())
    fields = {
        **{path: draw(surrogate_of) for path in schemes.PATHS},
        "zero_center": zero_center,
        "stop_gradient": zero_center and draw(st.booleans()),
        "scale_lower_bound": draw(st.floats(1e-3, 255)),
        "shared_noise": draw(st.booleans()),
        "temperature": draw(schedule_of | positive),
    }
    return schemes.QuantizationScheme(**{**fields, **fixed})


@examples(120)
@given(scheme=scheme_of())
def test_a_scheme_survives_json(scheme: schemes.QuantizationScheme):
    again = schemes.from_dict(json.loads(json.dumps(scheme.to_dict())))
    assert again == scheme and again.to_dict() == scheme.to_dict()
    assert schemes.QuantizationScheme.from_dict(scheme.to_dict()) == scheme
    assert [again.temperature(i, 7) for i in range(7)] == [scheme.temperature(i, 7) for i in range(7)]


@examples(25)
@given(first=scheme_of(scale_lower_bound=0.2), second=scheme_of(scale_lower_bound=0.2), share=st.floats(0.01, 0.99))
def test_two_stages_survive_json(first, second, share: float):
    stages = schemes.TwoStages(first, second, share)
    assert schemes.from_dict(json.loads(json.dumps(stages.to_dict()))) == stages


MEANS = {"full": (2, 3, 4), "per channel": (1, 3, 1), "scalar": ()}


@pytest.mark.parametrize("hyper", [False, True])
@pytest.mark.parametrize("mean", MEANS)
@pytest.mark.parametrize("key", SPECS)
def test_the_gradient_for_the_mean_is_one_minus_the_slope_or_zero(key: str, mean: str, hyper: bool):
    generator = torch.Generator().manual_seed(11)
    y = torch.randn(2, 3, 4, generator=generator, dtype=torch.float64) * 2
    mu = torch.randn(MEANS[mean], generator=generator, dtype=torch.float64).requires_grad_()
    weight = torch.randn(2, 3, 4, generator=generator, dtype=torch.float64)
    surrogate = SURROGATES[key]
    tau = torch.tensor(0.35, dtype=torch.float64)
    for stop in (False, True):
        paths = dict.fromkeys(schemes.PATHS, surrogate)
        scheme = schemes.QuantizationScheme(**paths, zero_center=True, stop_gradient=stop)
        noise = scheme.draw(y, generator, hyper)
        y_rate, y_distortion = scheme.quantize(y, mu, tau, noise=noise, hyper=hyper)
        centered = (y - mu.detach()).requires_grad_()
        alone = surrogate(centered, tau, noise=noise[1])
        (slope,) = torch.autograd.grad(alone.sum(), centered)
        torch.testing.assert_close(y_distortion.detach(), alone.detach() + mu.detach())
        torch.testing.assert_close(y_rate.detach(), y_distortion.detach())
        expected = (weight * (1 - slope)).sum_to_size(mu.shape)

        def gradient(path: torch.Tensor, mu: torch.Tensor = mu) -> torch.Tensor:
            if not path.requires_grad:
                return torch.zeros_like(mu)
            (result,) = torch.autograd.grad((weight * path).sum(), mu, allow_unused=True, retain_graph=True)
            return torch.zeros_like(mu) if result is None else result

        torch.testing.assert_close(gradient(y_rate), expected, rtol=1e-9, atol=1e-9)
        if stop:
            assert torch.equal(gradient(y_distortion), torch.zeros_like(mu))
        else:
            torch.testing.assert_close(gradient(y_distortion), expected, rtol=1e-9, atol=1e-9)
            if key in SLOPES and key not in ("round", "ds", "sua-expected"):
                assert gradient(y_distortion).abs().max() < 1e-12  # the slope is one: no gradient to stop


@pytest.mark.parametrize("key", SPECS)
def test_stop_gradient_does_not_change_the_gradient_of_the_latent(key: str):
    y = torch.linspace(-2, 2, 9, dtype=torch.float64, requires_grad=True)
    mu = torch.full_like(y, 0.3, requires_grad=True)
    grads = []
    for stop in (False, True):
        scheme = schemes.QuantizationScheme(rate=SURROGATES[key], distortion=SURROGATES[key], stop_gradient=stop)
        noise = scheme.draw(y, torch.Generator().manual_seed(0))
        grads.append(torch.autograd.grad(scheme.quantize(y, mu, 0.4, noise=noise)[1].sum(), y)[0])
    assert torch.equal(*grads)


@pytest.mark.parametrize("key", SPECS)
def test_the_mean_has_no_effect_without_zero_center(key: str):
    y = torch.linspace(-2.2, 2.1, 9, requires_grad=True)
    mu = torch.full((9,), 0.3, requires_grad=True)
    scheme = schemes.QuantizationScheme(rate=SURROGATES[key], distortion=SURROGATES[key], zero_center=False)
    noise = scheme.draw(y, torch.Generator().manual_seed(0))
    for path in scheme.quantize(y, mu, 0.4, noise=noise):
        assert torch.equal(path, SURROGATES[key](y, 0.4, noise=noise[0]))
        assert torch.autograd.grad(path.sum(), mu, allow_unused=True, retain_graph=True)[0] is None


@pytest.mark.parametrize("hyper", [False, True])
@examples(60)
@given(scheme=scheme_of(), seed=st.integers(0, 2**31))
def test_shared_noise_is_one_draw_for_both_paths_where_it_fits(hyper: bool, scheme, seed: int):
    y = torch.zeros(2, 3, 5)
    paths = (scheme.hyper_rate, scheme.hyper_distortion) if hyper else (scheme.rate, scheme.distortion)
    noise = scheme.draw(y, torch.Generator().manual_seed(seed), hyper)
    for surrogate, draw in zip(paths, noise, strict=True):
        assert (draw is None) == (not surrogate.random)
        if draw is not None:
            assert tuple(draw.shape) == tuple(surrogate.noise_shape(y))
    if None in noise:
        return
    fits = noise[0].shape == noise[1].shape
    assert (fits and torch.equal(*noise)) == (scheme.shared_noise and fits)
    if not fits:
        assert not torch.isin(noise[0], noise[1]).any()
    y_rate, y_distortion = scheme.quantize(
        y + 0.3, None, 0.5, generator=torch.Generator().manual_seed(seed), hyper=hyper
    )
    assert torch.equal(y_rate, paths[0](y + 0.3, 0.5, noise=noise[0]))
    assert torch.equal(y_distortion, paths[1](y + 0.3, 0.5, noise=noise[1]))


def bits(residual: float, scale: float) -> float:
    """Return −log₂ of the Gaussian's mass on a unit interval around the residual."""
    residual = abs(residual)
    upper, lower = (math.erfc((edge + residual) / scale / math.sqrt(2)) / 2 for edge in (-0.5, 0.5))
    return -math.log2(upper - lower)


@examples(60)
@given(
    bound=st.floats(0.12, 2),
    share=st.floats(0.05, 3),
    residual=st.sampled_from([0, 1]),
    sign=st.sampled_from([1.0, -1.0]),
)
def test_the_gradient_passes_the_scale_bound_only_upwards(bound: float, share: float, residual: int, sign: float):
    assume(abs(share - 1) > 1e-3)
    scheme = lk.schemes.straight_through(scale_lower_bound=bound)
    model = entropy.GaussianConditional(None, scheme=scheme).train()
    assume(bits(residual, max(bound, share * bound)) < 25)  # the likelihood stays above its lower bound, 10⁻⁹
    scale = torch.tensor([[[[share * bound]]]], dtype=torch.float64, requires_grad=True)
    mean = torch.full_like(scale, 0.3)
    _, likelihood = model(mean + residual, scale, mean)
    effective = max(share * bound, float(torch.tensor(bound)))
    assert -math.log2(likelihood.item()) == pytest.approx(bits(residual, effective), rel=1e-6, abs=1e-9)
    (gradient,) = torch.autograd.grad(sign * -likelihood.log2().sum(), scale)
    h = 1e-6
    slope = sign * (bits(residual, effective + h) - bits(residual, effective - h)) / (2 * h)
    if share > 1 or slope < 0:
        assert gradient.item() == pytest.approx(slope, rel=1e-4, abs=1e-6)
    else:
        assert gradient.item() == 0

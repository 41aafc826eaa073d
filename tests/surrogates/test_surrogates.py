"""Surrogates agree with the papers' formulas in NumPy float64, and with facts in closed form."""

import math

import numpy as np
import pytest
import torch

from labkit import surrogates
from tests.surrogates.oracles import ORACLES, SLOPES, SURROGATES

ALL = [
    surrogates.get("round"),
    surrogates.get("aun"),
    surrogates.get("ste"),
    surrogates.get("sr"),
    surrogates.get("uq"),
    surrogates.get("uq", shared=True),
    surrogates.get("ds"),
    surrogates.get("soft"),
    surrogates.get("soft", noise=True),
    surrogates.get("sga"),
    surrogates.get("sua"),
    surrogates.get("sua", gradient="expected"),
    surrogates.get("sua", relaxed=True),
]
HARD = [s for s in ALL if s.annealed and not (s.name == "soft" and s.noise)]
IDS = [repr(s) for s in ALL]


def expected_value_and_slope(surrogate, y, v, tau):
    """Return ỹ and its derivative in back-propagation: the stated slope, or else the central difference of the law."""
    key = next(key for key, other in SURROGATES.items() if other == surrogate)
    law, h = ORACLES[key], 1e-6
    slope = SLOPES[key](y, v, tau) if key in SLOPES else (law(y + h, v, tau) - law(y - h, v, tau)) / (2 * h)
    return law(y, v, tau), slope


@pytest.mark.parametrize("surrogate", ALL, ids=IDS)
@pytest.mark.parametrize("tau", [1.0, 0.4, 0.1])
def test_values_and_slopes_follow_the_papers(surrogate, tau):
    rng = np.random.default_rng(7)
    y = rng.uniform(-4, 4, 2000)
    y = y[(np.abs(y * 2 - np.round(y * 2)) > 1e-3)]  # avoid the kinks, which other tests cover
    v = rng.uniform(0.001, 0.999, y.size)
    x = torch.from_numpy(y).requires_grad_()
    out = surrogate(x, tau, noise=torch.from_numpy(v))
    (slope,) = torch.autograd.grad(out.sum(), x)
    expected_value, expected_slope = expected_value_and_slope(surrogate, y, v, tau)
    np.testing.assert_allclose(out.detach().numpy(), expected_value, rtol=1e-9, atol=1e-9)
    close = np.isclose(slope.numpy(), expected_slope, rtol=1e-4, atol=1e-5)
    assert close.mean() > 0.995  # a central difference may straddle the kink of a ramp, or the clip of an inverse
    if surrogate.name not in ("soft", "sga") and not getattr(surrogate, "relaxed", False):
        assert close.all()


@pytest.mark.parametrize(
    "surrogate", [s for s in ALL if s.name not in ("soft", "sga") and "relaxed=True" not in repr(s)], ids=repr
)
def test_the_mean_squared_error_over_a_bin_has_its_closed_form(surrogate):
    """E(ỹ − y)² for y uniform over a bin is 1/12 for round, ste, ds, aun and uq, 1/6 for sr, (1 + τ²)/12 for sua.

    The seed is fixed. The tolerance is five standard errors, so a correct surrogate fails for under one seed in 10⁶.
    """
    tau, n = 0.6, 400_000
    expected = {
        "round": 1 / 12,
        "ste": 1 / 12,
        "ds": 1 / 12,
        "aun": 1 / 12,
        "uq": 1 / 12,
        "sr": 1 / 6,
        "sua": (1 + tau**2) / 12,
    }
    g = torch.Generator().manual_seed(3)
    y = torch.rand(n, generator=g, dtype=torch.float64) + 2
    error = (surrogate(y, tau, generator=g) - y) ** 2
    assert abs(error.mean().item() - expected[surrogate.name]) < 5 * error.std().item() / math.sqrt(n)


def test_sua_differs_from_rounding_with_a_probability_of_a_quarter_of_the_temperature():
    g, n, tau = torch.Generator().manual_seed(5), 400_000, 0.4
    y = torch.rand(n, generator=g, dtype=torch.float64)
    share = (surrogates.get("sua")(y, tau, generator=g) != torch.round(y)).double().mean().item()
    assert abs(share - tau / 4) < 5 * math.sqrt(tau / 4 * (1 - tau / 4) / n)


@pytest.mark.parametrize("name, tau", [("aun", 1.0), ("sr", 1.0), ("uq", 1.0), ("sua", 1.0), ("sua", 0.3)])
def test_the_conditional_mean_has_its_closed_form(name, tau):
    """Within five standard errors, E[ỹ | y] is y for aun, sr and uq, and ⌊y⌋ + clip((r − ½)/τ + ½, 0, 1) for sua."""
    n = 100_000
    for y in (0.1, 0.45, 0.5, 0.62, -1.3):
        g = torch.Generator().manual_seed(11)
        out = surrogates.get(name)(torch.full((n,), y, dtype=torch.float64), tau, generator=g)
        r = y - math.floor(y)
        mean = math.floor(y) + min(max((r - 0.5) / tau + 0.5, 0), 1) if name == "sua" else y
        assert abs(out.mean().item() - mean) <= 5 * out.std().item() / math.sqrt(n) + 1e-12


def test_the_mean_slope_of_relaxed_sua_is_the_expected_slope():
    tau, v = 0.5, torch.linspace(0.0005, 0.9995, 1000, dtype=torch.float64)
    for r in (0.2, 0.3, 0.5, 0.6):
        y = torch.full_like(v, r, requires_grad=True)
        (slope,) = torch.autograd.grad(surrogates.get("sua", relaxed=True)(y, tau, noise=v).mean(), y)
        # the mean slope over u is the probability of being on the ramp, divided by τ
        probability = np.mean(np.abs((r - 0.5) / tau + v.numpy() - 0.5) < 0.5)
        assert slope.sum().item() == pytest.approx(probability / tau, abs=2e-3 / tau)


@pytest.mark.parametrize("surrogate", HARD, ids=repr)
def test_annealed_surrogates_tend_to_rounding(surrogate):
    y = torch.linspace(-3, 3, 997, dtype=torch.float64)
    y = y[(y - torch.floor(y) - 0.5).abs() > 0.02]
    out = surrogate(y, 1e-3, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(out, torch.round(y), rtol=0, atol=1e-6)


@pytest.mark.parametrize("surrogate", ALL, ids=IDS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("tau", [1.0, 1e-2, 1e-6])
def test_outputs_keep_shape_and_dtype_and_are_finite_with_their_gradients(surrogate, dtype, tau):
    tau = max(tau, 1e-4) if dtype == torch.float16 else tau  # float16 cannot represent 1/(2τ) at 1e-6
    big = 2.0**20 if dtype != torch.float16 else 2.0**14
    y = torch.tensor([[0.0, 1.0, -2.0], [0.5, -0.5, 2.5], [big, -big, 0.3]], dtype=dtype, requires_grad=True)
    out = surrogate(y, tau, generator=torch.Generator().manual_seed(0))
    out.float().sum().backward()
    assert out.shape == y.shape and out.dtype == dtype and out.requires_grad
    assert torch.isfinite(out).all() and torch.isfinite(y.grad).all()


@pytest.mark.parametrize("surrogate", ALL, ids=IDS)
def test_metadata_describes_the_behavior(surrogate):
    g = torch.Generator().manual_seed(2)
    y = torch.rand(4096, generator=g) * 6 - 3
    first, second = (surrogate(y, 0.5, generator=torch.Generator().manual_seed(s)) for s in (1, 2))
    assert surrogate.random == (not torch.equal(first, second))
    assert torch.equal(first, surrogate(y, 0.5, generator=torch.Generator().manual_seed(1)))  # the same seed
    assert surrogate.integer == torch.equal(first, torch.round(first))
    noise = surrogate.draw(y, g)
    x = y.clone().requires_grad_()
    curves = []
    for tau in (0.5, 0.25):
        value = surrogate(x, tau, noise=noise)
        curves.append((value, *torch.autograd.grad(value.sum(), x)))
    same = all(torch.equal(a, b) for a, b in zip(*curves, strict=True))
    assert surrogate.annealed == (not same)


def test_soft_rounding_has_an_inverse():
    from labkit.surrogates import soft

    y = torch.linspace(-2.99, 2.99, 301, dtype=torch.float64)
    for tau in (10.0, 1.0, 0.2):
        torch.testing.assert_close(soft.soft_round_inverse(soft.soft_round(y, tau), tau), y, rtol=0, atol=1e-9)
    assert torch.equal(soft.soft_round(y, 1e4), y)  # soft rounding is the identity for α below 10⁻³


def test_the_temperature_can_be_a_tensor():
    y = torch.linspace(-2, 2, 101)
    for surrogate in ALL:
        noise = surrogate.draw(y, torch.Generator().manual_seed(0))
        torch.testing.assert_close(surrogate(y, torch.tensor(0.3), noise=noise), surrogate(y, 0.3, noise=noise))


def test_invalid_input_raises_a_clear_error():
    with pytest.raises(ValueError, match=r"unknown surrogate 'suaa'; did you mean sua"):
        surrogates.get("suaa")
    with pytest.raises(ValueError, match="unexpected keyword"):
        surrogates.get("ste", alpha=1)
    with pytest.raises(ValueError, match="unknown gradient 'exact'; did you mean expected"):
        surrogates.get("sua", gradient="exact")
    for tau in (0, -1.0, math.nan, math.inf):
        with pytest.raises(ValueError, match="temperature must be positive"):
            surrogates.get("sua")(torch.zeros(2), tau)
    with pytest.raises(TypeError, match="floating-point"):
        surrogates.get("ste")(torch.zeros(2, dtype=torch.int64))

"""Scalar codes that train together: their losses agree with quadrature, and each row trains as if it were alone."""

import math

import pytest
import torch

from labkit import analysis, schedules, surrogates
from labkit.analysis import scalar_training
from labkit.analysis.scalar_training import BATCH_SIZE, Codes, best_code, mismatch_and_risk, rounded_loss, train_codes

SOFT, GUMBEL = surrogates.get("soft", noise=True), surrogates.get("sga")
UNIFORM, EXPECTED = surrogates.get("sua"), surrogates.get("sua", gradient="expected")
ANNEALED = {"soft rounding": SOFT, "Gumbel": GUMBEL, "slope 1": UNIFORM, "expected slope": EXPECTED}


def scalar_code(codes, lmbda):
    gain, step, scale = (float(parameter) for parameter in codes)
    return analysis.ScalarCode(analysis.sources.laplace(), gain, lmbda, scale=scale, step=step)


def final_codes(rows, **options):
    *_, codes = train_codes(rows, 1.5, **{"steps": 25, "seeds": 3, "batch_size": 32, **options})
    return torch.stack(codes)


def test_rounded_loss_agrees_with_quadrature():
    codes = Codes(*torch.tensor([[0.26, 0.7, 2.0, 0.1], [2.6, 1.2, 0.5, 5.0], [0.27, 0.5, 2.5, 0.2]]))
    for i, loss in enumerate(rounded_loss(codes, 1.7)):
        code = scalar_code([parameter[i] for parameter in codes], 1.7)
        assert math.isclose(loss, analysis.test_loss(code).total, rel_tol=1e-6)


@pytest.mark.parametrize("lmbda", [1.5, 3.0, 6.0, 12.0])
def test_no_code_has_a_lower_loss_than_the_best_code(lmbda):
    best, loss = best_code(lmbda)
    for parameter in ("gain", "step", "scale"):  # the gradient is zero at the best code
        assert abs(analysis.exact_gradient(scalar_code(best, lmbda), parameter)) < 2e-2
    near_and_far = torch.exp(torch.randn(3, 4000, generator=torch.Generator().manual_seed(0)) * torch.rand(4000))
    others = Codes(*(parameter * factor for parameter, factor in zip(best, near_and_far, strict=True)))
    assert rounded_loss(others, lmbda).min() > loss


def test_training_bits_agree_with_gaussian_bits():
    y, scale = torch.linspace(-3, 3, 61), torch.tensor([[0.3], [1.0], [3.0]])
    exact = analysis.gaussian_bits(y.double(), torch.zeros(1), scale.double())
    close = exact < 60
    assert close.float().mean() > 0.8
    assert torch.allclose(scalar_training._training_bits(y, scale).double()[close], exact[close], rtol=1e-4, atol=1e-5)


def test_samples_have_the_mean_the_standard_deviation_and_the_cdf_of_the_source():
    x = scalar_training._laplace((torch.arange(1_000_000).double() + 0.5) / 1_000_000)
    assert abs(x.mean()) < 1e-6 and abs(x.std() - 1) < 1e-4
    assert abs((x < -0.4).double().mean() - analysis.sources.laplace().cdf(-0.4)) < 1e-5


def test_every_row_trains_as_if_it_were_alone():
    cooling, warm = schedules.exponential(1.0, 0.1), schedules.constant(0.4)
    rows = [(SOFT, warm), (UNIFORM, cooling), (GUMBEL, warm), (SOFT, cooling), (EXPECTED, warm), (UNIFORM, warm)]
    together = final_codes(rows)
    assert together.shape == (3, 6, 3)
    for i, row in enumerate(rows):
        assert torch.allclose(final_codes([row])[:, 0], together[:, i], rtol=2e-3, atol=1e-4), row
    assert len({round(float(gain), 5) for gain in together[0, :, 0]}) == 6  # all rows differ


def test_the_first_step_follows_the_gradient_of_backpropagation():
    """Adam's first step is the learning rate times the gradient's sign. A mirrored law would have the other sign."""
    (codes,) = train_codes([(surrogates.get("ste"), schedules.constant(1.0))], 1.5, steps=1, seeds=1, batch_size=4096)
    code = analysis.ScalarCode(analysis.sources.laplace(), 1.0, 1.5, scale=1.0, step=1.0)
    for name, value in (("gain", codes.gain), ("step", codes.step)):
        downhill = -analysis.gradient_risk(code, "ste", name, batch_sizes=1)["mean"][0]
        assert math.isclose(float(value), math.exp(math.copysign(0.02, downhill)), rel_tol=1e-4), name


def test_equal_seeds_give_equal_codes_and_different_seeds_differ():
    row = [(GUMBEL, schedules.constant(0.3))]
    assert torch.equal(final_codes(row, seed=5), final_codes(row, seed=5))
    assert not torch.equal(final_codes(row, seed=5), final_codes(row, seed=6))
    first, second, third = final_codes(row)[0, 0]
    assert len({float(first), float(second), float(third)}) == 3


@pytest.mark.parametrize("name", ANNEALED)
def test_mismatch_and_risk_agree_with_quadrature(name):
    best, _ = best_code(1.5)
    mismatch, risk = mismatch_and_risk(ANNEALED[name], 0.45, best, 1.5)
    code = scalar_code(best, 1.5)
    row = analysis.gradient_risk(code, {name: ANNEALED[name]}, "gain", 0.45, BATCH_SIZE).iloc[0]
    assert math.isclose(mismatch, row["mismatch"], rel_tol=0.01)
    # the slope of Gumbel annealing is singular
    assert math.isclose(risk, row["risk"], rel_tol=0.25 if name == "Gumbel" else 0.03)


def test_the_risk_of_soft_rounding_is_unknown_at_a_low_temperature():
    best, _ = best_code(1.5)
    mismatch, risk = mismatch_and_risk(SOFT, 0.07, best, 1.5)
    assert math.isfinite(mismatch) and math.isnan(risk)


def test_soft_rounding_has_a_lower_loss_than_noise_at_low_rate():
    best = best_code(1.5)[1]
    rows = [(SOFT, schedules.constant(0.14)), (surrogates.get("aun"), schedules.constant(1.0))]
    *_, codes = train_codes(rows, 1.5, steps=400, seeds=16)  # occasionally, a code ends in another minimum
    soft, noise = rounded_loss(codes, 1.5).mean(1) - best
    assert 0 < soft < 0.03 < 0.06 < noise < 0.1

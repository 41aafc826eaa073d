"""Reference codes agree with closed forms, with the rate–distortion bound, and with each other."""

import math

import numpy as np
import pytest
import torch
from scipy import optimize, stats

from labkit import datasets
from labkit.analysis import reference_codes, scalar_training, sources
from labkit.live import toy

SPACE_FILLING = math.log2(math.pi * math.e / 6) / 2  # 0.2546 bits: scalar quantization above the bound at high rate


def uniform_reference(width, lmbda):
    """Return the least loss of equal cells and one that may be shorter (György & Linder, 2000)."""

    cells = np.arange(1, 20)[:, None]
    short = np.linspace(1e-9, 1, 4001) * width / (cells + 1)
    lengths = (width - short) / cells, short
    shares = [count * length / width for count, length in zip((cells, 1), lengths, strict=True)]
    return min(sum(p * (lmbda * x**2 / 12 - np.log2(x / width)) for p, x in zip(shares, lengths, strict=True)).min(1))


def equal_steps_loss(lmbda):
    """Return the least loss of equal cells around 0 with ideal bits and the mean of each cell, for N(0, 1)."""

    def loss(step):
        edges = np.append((np.arange(-math.ceil(9 / step), math.ceil(9 / step)) + 0.5) * step, np.inf)
        low, high = np.append(-np.inf, edges[:-1]), edges
        slope_low, slope_high = stats.norm.pdf(low), stats.norm.pdf(high)
        upper = low > 0  # differences of probabilities keep their digits in the lower tail
        p = np.where(upper, stats.norm.sf(low) - stats.norm.sf(high), stats.norm.cdf(high) - stats.norm.cdf(low))
        finite_low, finite_high = np.nan_to_num(low, neginf=0), np.nan_to_num(high, posinf=0)
        second = p + finite_low * slope_low - finite_high * slope_high
        distortion = (second - (slope_low - slope_high) ** 2 / p).sum()
        return -(p @ np.log2(p)) + lmbda * distortion

    step = math.sqrt(6 / (math.log(2) * lmbda))  # the best one at high rate
    return optimize.minimize_scalar(loss, bounds=(step / 2, 2 * step), method="bounded").fun


@pytest.mark.parametrize("lmbda", [0.3, 2.0, 4.5, 30.0])
def test_a_uniform_source_has_equal_cells_and_at_most_one_shorter_cell(lmbda):
    reference = reference_codes.scalar_quantizer(sources.uniform(), lmbda)
    assert reference.loss.total == pytest.approx(uniform_reference(math.sqrt(12), lmbda), abs=2e-5)
    assert reference.probabilities.sum() == pytest.approx(1)


def test_the_excess_of_equal_steps_vanishes_at_high_rate_and_a_quarter_bit_remains_to_the_bound():
    references = [reference_codes.scalar_quantizer(sources.gaussian(), lmbda) for lmbda in (1.5, 6.0, 200.0)]
    excess = [equal_steps_loss(each.lmbda) - each.loss.total for each in references]
    assert min(excess) > -1e-5 and 1e-4 < excess[1] < 1e-3 and excess[2] < 2e-5
    gaps = [each.loss.rate - math.log2(1 / each.loss.distortion) / 2 for each in references]
    assert 0 < gaps[0] < gaps[1] < gaps[2] and gaps[2] == pytest.approx(SPACE_FILLING, abs=1e-3)


def test_no_scalar_code_of_the_annealing_panel_is_better_than_the_reference():
    for lmbda in (0.5, 6.0):
        excess = scalar_training.best_code(lmbda)[1] - scalar_training.best_quantizer(lmbda).loss.total
        assert 0 < excess < 0.2


def test_vector_quantization_of_numbers_agrees_with_dynamic_programming():
    """The standard error of the difference of the mean losses is below 0.001."""
    design, test = np.random.default_rng(0).laplace(0, math.sqrt(0.5), (2, 20_000, 1))
    best = reference_codes.scalar_quantizer(sources.laplace(), 6.0)
    found = reference_codes.vector_quantizer(design, 6.0, codewords=48, starts=6)
    excess = found.loss_on(test).total - best.loss_on(test).total
    assert -0.003 < excess < 0.01
    assert best.loss_on(test).total == pytest.approx(best.loss.total, abs=0.05)


def test_a_vector_quantizer_meets_the_conditions_of_a_local_optimum():
    points = datasets.Ring().draw(4000, torch.Generator().manual_seed(0)).numpy().astype(float)
    found = reference_codes.vector_quantizer(points, 2.0, codewords=32, starts=4)
    index = found.encode(points)
    losses = -np.log2(found.probabilities) + 2.0 * ((points[:, None] - found.codewords) ** 2).sum(2)
    np.testing.assert_array_equal(index, losses.argmin(1))
    means = np.stack([points[index == k].mean(0) for k in range(len(found.codewords))])
    np.testing.assert_allclose(means, found.codewords, atol=0.02)
    np.testing.assert_allclose(np.bincount(index) / len(points), found.probabilities, atol=0.002)
    assert found.loss_on(points).total <= found.loss.total + 1e-9
    assert repr(found) == f"Quantizer({len(means)} codewords, λ=2, loss={found.loss.total:.4g})"


@pytest.mark.parametrize("name, source", [("banana", datasets.Banana()), ("ring", datasets.Ring())])
def test_the_stored_losses_are_those_of_such_a_quantizer(name, source):
    assert all(reference_codes.toy_reference(name, lmbda) for lmbda in toy.LMBDAS)
    with pytest.raises(ValueError, match=r"lmbda must be one of 0\.3, .*, got 3\.14"):
        reference_codes.toy_reference(name, 3.14)
    design, test = (source.draw(n, torch.Generator().manual_seed(n)).numpy() for n in (8192, 30_000))
    found = reference_codes.vector_quantizer(design, 1.0, codewords=24, starts=8).loss_on(test).total
    stored = reference_codes.toy_reference(name, 1.0)
    assert -0.03 < found - stored.loss_on(test).total < 0.05  # found from few points and few starts
    assert stored.loss_on(test).total == pytest.approx(stored.loss.total, abs=0.04)


def test_invalid_arguments_are_named():
    with pytest.raises(ValueError, match="lmbda must be"):
        reference_codes.scalar_quantizer(sources.gaussian(), 0)
    with pytest.raises(ValueError, match="codewords must be"):
        reference_codes.vector_quantizer(np.zeros((3, 2)), 1.0, codewords=0)


def test_an_empirical_source_with_a_gap_is_accepted():
    samples = np.random.default_rng(0).choice([-1.0, 1.0], 4000) + stats.uniform(-0.1, 0.2).rvs(4000, random_state=1)
    found = reference_codes.scalar_quantizer(sources.empirical(samples, bins=60), 20.0)
    assert len(found.codewords) == 2 and found.loss.rate == pytest.approx(1, abs=0.01)

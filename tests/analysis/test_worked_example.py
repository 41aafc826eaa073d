"""The worked example of the course has the digits of its design page."""

import numpy as np
import pytest

from labkit import analysis, surrogates
from labkit.analysis import worked_example

SAMPLES = 200_000
SIGMAS = 5  # standard errors

PAGE = {  # (label, τ): (mismatch, bias, standard deviation) at g = 0.5
    ("ste", 1): (0, -0.606, 16.4),
    ("aun", 1): (None, -0.249, 15.5),
    ("sua, identity slope", 1): (2.195, -0.219, 22.1),
    ("sua, identity slope", 0.5): (0.545, -0.467, 18.1),
    ("sua, identity slope", 0.25): (0.136, -0.568, 16.9),
    ("sua, identity slope", 0.1): (0.022, -0.600, 16.5),
    ("sua, expected slope", 1): (2.195, -0.219, 22.1),
    ("sua, expected slope", 0.5): (0.545, -0.284, 34.1),
    ("sua, expected slope", 0.25): (0.136, -0.188, 51.9),
    ("sua, expected slope", 0.1): (0.022, -0.055, 86.0),
}


@pytest.fixture(scope="module")
def example():
    return worked_example.tables(samples=SAMPLES, seed=0)


def test_the_example_has_the_digits_of_the_design_page(example):
    test_losses = example.test.set_index("gain").round(4)
    # a sum over bins by SciPy agrees with the total of 3.006147
    assert test_losses.loc[1.7, ["total", "exact_gradient"]].tolist() == [3.0061, 0.8249]
    assert test_losses.loc[0.5, ["total", "exact_gradient"]].tolist() == [3.2237, 2.4151]
    exact = example.training[example.training["method"] == "quadrature"]
    assert (exact.loc[exact["gain"] == 1.7, "bias"].abs() < 1e-4).all()
    rows = exact[exact["gain"] == 0.5].set_index(["label", "temperature"])
    assert set(rows.index) == set(PAGE)
    for key, (gap, bias, std) in PAGE.items():
        assert gap is None or round(rows.loc[key, "mismatch"], 3) == gap
        assert round(rows.loc[key, "bias"], 3) == bias
        assert round(rows.loc[key, "std"], 1) == std


def test_monte_carlo_agrees_with_quadrature(example):
    exact, sampled = (
        example.training[example.training["method"] == method].set_index(["gain", "label", "temperature"])
        for method in ("quadrature", "monte_carlo")
    )
    for name in ("mismatch", "bias", "std"):
        assert ((exact[name] - sampled[name]).abs() <= SIGMAS * sampled[f"{name}_se"] + 1e-9).all()


@pytest.mark.slow
def test_the_example_prints_its_tables(capsys):
    worked_example.print_tables(samples=500, seed=1)
    printed = capsys.readouterr().out
    assert "g = 0.5: test loss 3.2237, exact gradient 2.4151" in printed
    assert "-0.6064" in printed and "86.05" in printed and "Monte Carlo" in printed and "±" in printed
    worked_example.print_tables(samples=0)
    assert "Monte Carlo" not in capsys.readouterr().out


# simulated batches and partial moments

SURROGATES = {
    "aun": surrogates.get("aun"),
    "sr": surrogates.get("sr"),
    "identity slope": surrogates.get("sua"),
    "expected slope": surrogates.get("sua", gradient="expected"),
    "soft": surrogates.get("soft", noise=True),
    "sga": surrogates.get("sga"),
}


def moments(name, temperature=0.5):
    *_, (mean, square) = worked_example.partial_moments(worked_example.code(0.5), SURROGATES[name], temperature)
    return mean, (square - mean**2) ** 0.5


@pytest.mark.parametrize("name", ["soft", "sga"])
def test_moments_over_half_of_the_source_equal_those_over_all_of_it(name):
    """These surrogates have the most complicated laws."""
    mean, std = moments(name)
    row = analysis.gradient_risk(worked_example.code(0.5), SURROGATES[name], "gain", 0.5, 1).iloc[0]
    assert mean == pytest.approx(row["mean"], abs=3e-5) and std == pytest.approx(row["std"], rel=1e-4)


@pytest.mark.parametrize("name", ["aun", "sr", "identity slope", "expected slope", "soft"])
def test_simulated_batches_agree_with_the_moments(name):
    """Batches of n have a standard deviation of std/√n, and the mean of 200 batches has one of std/√(200 n)."""
    mean, std = moments(name)
    for n in (64, 1024):
        *_, estimates = worked_example.batch_gradients(worked_example.code(0.5), SURROGATES[name], 0.5, n)
        assert estimates.shape == (200,)
        assert abs(estimates.mean() - mean) < 4 * std / (200 * n) ** 0.5
        assert estimates.std() / (std / n**0.5) == pytest.approx(1, abs=0.2)


def test_a_repeated_simulation_gives_the_same_numbers():
    code = worked_example.code(0.5)
    first, again = (list(worked_example.batch_gradients(code, SURROGATES["sr"], 0.5, 16))[-1] for _ in range(2))
    assert np.array_equal(first, again)

"""The form of the method is the one that the bundled comparison chooses, and its docstring states the figures."""

import pytest

from labkit import evaluation, paths, schedules, schemes
from labkit.disk import read_toml

RESULTS = paths.data() / "results"


@pytest.fixture(scope="module")
def losses():
    table = evaluation.read_table(RESULTS / "form.parquet")
    table["loss"] = table["estimated_bpp"] + table["lmbda"] * table["mse255"]
    assert table.groupby(["scheme", "lmbda"])["name"].nunique().eq(50).all()
    return table.pivot_table(index="scheme", columns="lmbda", values="loss")


def test_the_table_has_the_declared_forms(losses):
    declared = read_toml(RESULTS / "form.toml")["grid"]
    assert set(losses.index) == set(declared["scheme"]) and list(losses) == declared["lmbda"]


def test_the_defaults_of_the_method_are_the_form_with_the_lowest_loss(losses):
    fields = read_toml(RESULTS / "form.toml")["schemes"][losses.dropna().mean(axis=1).idxmin()]
    fields["temperature"] = schedules.parse(fields["temperature"])
    assert schemes.get(fields.pop("preset"), **fields) == schemes.annealed()
    assert losses[0.0018].idxmin() == "relaxed stop"  # forms that were trained at this λ only are worse


def test_the_docstring_states_the_figures_of_the_table(losses):
    best = losses.loc["relaxed stop"]
    below = {name: 100 * (1 - (best / losses.loc[name]).mean()) for name in ("mixed", "noise")}
    text = " ".join(schemes.annealed.__doc__.split())
    assert (
        f"is {below['mixed']:.1f}% lower than that of `mixed`, and {below['noise']:.1f}% lower than that of `noise`"
        in text
    )
    lost = 100 * (losses.loc["relaxed"] / best - 1)
    assert (
        f"its loss is {lost[0.0018]:.1f}% higher at the lower λ and the same at the higher one" in text
        and abs(lost[0.0067]) < 0.1
    )
    assert (abs(losses.loc["identity stop"] / losses.loc["mixed"] - 1) < 1e-3).all()

"""What lessons read from tables of trained networks, on tables whose answers are known beforehand."""

import math
import warnings
from itertools import product

import numpy as np
import pandas as pd
import pytest

from labkit import paths
from labkit.course import results
from labkit.research.study import Grid

LMBDAS = (0.0035, 0.0093, 0.025)
FACTORS = {0: 0.88, 1: 0.90, 2: 0.95}  # of the rates of "fewer", by seed


def _table(networks=("one", "two"), seeds=(0, 1, 2)) -> pd.DataFrame:
    """Two photographs a run. "fewer" takes so many of the anchor's bits at the same PSNR, by seed; "noise" varies."""
    rows = []
    for network, scheme, lmbda, seed in product(networks, ("noise", "fewer"), reversed(LMBDAS), reversed(seeds)):
        for name, share in (("a", 0.5), ("b", 1.5)):
            point = LMBDAS.index(lmbda) + 1
            bpp = 0.1 * 2**point * share * (1 + 0.1 * seed) * (FACTORS[seed] if scheme == "fewer" else 1.0)
            mse255, estimated = 200 / point, bpp - 0.001
            gap = {"rate": 0.01 * point + 0.003 * seed * share, "distortion": -2.0 - seed}
            row = {"network": network, "scheme": scheme, "lmbda": lmbda, "seed": seed, "name": name, "bpp": bpp}
            row |= {"psnr": 26.0 + 3 * point + 2 * share, "estimated_bpp": estimated, "mse255": mse255}
            row |= {"train_bpp": estimated + gap["rate"], "train_mse255": mse255 + gap["distortion"]}
            row |= {"loss": estimated + lmbda * mse255}
            rows.append(row | {"train_loss": row["train_bpp"] + lmbda * row["train_mse255"]})
    return pd.DataFrame(rows)


def test_curves_are_means_over_photographs_by_rising_lambda():
    found = results.curves(_table(), "one")
    assert list(found.columns) == ["scheme", "seed", "lmbda", "bpp", "psnr"]
    assert len(found) == 2 * 3 * 3
    one = found[(found["scheme"] == "fewer") & (found["seed"] == 1)]
    assert list(one["lmbda"]) == list(LMBDAS)
    assert list(one["bpp"]) == pytest.approx([0.1 * 2**k * 1.1 * 0.9 for k in (1, 2, 3)])  # shares ½ and 1½
    assert list(one["psnr"]) == pytest.approx([26 + 3 * k + 2 for k in (1, 2, 3)])
    with pytest.raises(ValueError, match="unknown network 'tow'; did you mean two"):
        results.curves(_table(), "tow")


def test_mismatch_has_the_mean_and_the_error_over_seeds_not_over_photographs():
    found = results.mismatch(_table())
    assert len(found) == 2 * 2 * 3 and (found["seeds"] == 3).all()
    for _, row in found.iterrows():
        point = LMBDAS.index(row["lmbda"]) + 1
        # seeds 0, 1, 2: their standard deviation is 1, times what a seed adds; the photographs' shares have mean 1
        assert row["rate"] == pytest.approx(0.01 * point + 0.003)
        assert row["rate_se"] == pytest.approx(0.003 / math.sqrt(3))
        assert row["distortion"] == pytest.approx(-3) and row["distortion_se"] == pytest.approx(1 / math.sqrt(3))
        assert row["loss"] == pytest.approx(row["rate"] - 3 * row["lmbda"])
        assert row["loss_se"] == pytest.approx(abs(0.003 - row["lmbda"]) / math.sqrt(3))
    single = results.mismatch(_table(seeds=(0,)))
    assert single["rate"].notna().all() and single["rate_se"].isna().all()


def test_bd_rates_pair_the_seeds_and_have_students_interval():
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # the curves share all of their qualities
        found = results.bd_rates(_table())
    assert list(found["network"]) == ["one", "two"] and set(found["scheme"]) == {"fewer"}
    wanted = [-12.0, -10.0, -5.0]  # 100 · (factor − 1); unpaired, the seeds' own 10% a seed would show
    half = 4.30265273 * np.std(wanted, ddof=1) / math.sqrt(3)  # t at 0.975 with 2 degrees of freedom, from any table
    for _, row in found.iterrows():
        assert [row[f"seed {seed}"] for seed in range(3)] == pytest.approx(wanted)
        assert row["seeds"] == 3 and row["bd_rate"] == pytest.approx(-9)
        assert (row["low"], row["high"]) == pytest.approx((-9 - half, -9 + half), rel=1e-5)
    back = results.bd_rates(_table(seeds=(1,)), anchor="fewer")
    assert list(back["bd_rate"]) == pytest.approx([100 * (1 / 0.9 - 1)] * 2)
    assert back["low"].isna().all() and back["high"].isna().all()


def test_bd_rates_name_what_is_missing():
    table = _table()
    with pytest.raises(ValueError, match=r"^unknown scheme 'noice'; did you mean noise"):
        results.bd_rates(table, anchor="noice")
    lacking = table[(table["scheme"] != "noise") | (table["seed"] != 2) | (table["network"] != "two")]
    with pytest.raises(ValueError, match=r"^anchor: two has fewer with seed 2, but no noise$"):
        results.bd_rates(lacking)


def test_a_curve_that_does_not_rise_has_no_bd_rate_and_hides_no_other():
    table = _table()
    one = (table["scheme"] == "fewer") & (table["network"] == "one") & (table["seed"] == 2)
    with pytest.warns(UserWarning, match="^one, fewer, seed 2 has no BD-rate: test: takes a quality that rises"):
        found = results.bd_rates(table.assign(psnr=table["psnr"].where(~one, -table["psnr"]))).set_index("network")
    assert list(found.loc["one", ["seed 0", "seed 1"]]) == pytest.approx([-12, -10])
    assert found.loc["one", ["seed 2", "bd_rate", "low", "high"]].isna().all()
    assert found.loc["two", "bd_rate"] == pytest.approx(-9)


def test_a_missing_table_is_told_in_one_line(tmp_path, monkeypatch):
    monkeypatch.setattr(paths, "data", lambda: tmp_path)
    with pytest.raises(ValueError, match="there is no such table, `labkit study pilot") as error:
        results.pilot()
    assert "\n" not in str(error.value)


def test_the_shipped_pilot_is_whole_and_can_be_read():
    table, grid = results.pilot(), Grid()
    runs = table.groupby(["network", "lmbda", "scheme", "seed"])
    assert set(runs.groups) == {(run.network, run.lmbda, run.scheme, run.seed) for run in grid.runs()}
    assert (runs["name"].nunique() == 13).all() and (runs.size() == 13).all()
    assert (table.groupby(["network", "lmbda"])["start"].nunique() == 1).all()
    assert set(table["steps"]) == {grid.steps} and table["command"].nunique() == table["torch"].nunique() == 1
    numbers = table.select_dtypes("number")
    assert np.isfinite(numbers.to_numpy()).all() and (numbers[["bpp", "train_bpp", "mse255"]] > 0).all(axis=None)
    assert table["loss"].to_numpy() == pytest.approx(
        (table["estimated_bpp"] + table["lmbda"] * table["mse255"]).to_numpy()
    )
    gain = table["psnr"] - 10 * np.log10(255**2 / table["mse255"])
    assert gain.min() > -0.1 and 0 < gain.mean() < 0.2 and gain.max() < 1  # the clamp gains most where all is dark
    mixed = table[table["scheme"] == "mixed"]  # its decoder is trained on what it will read
    assert mixed["train_mse255"].to_numpy() == pytest.approx(mixed["mse255"].to_numpy(), rel=1e-5)
    rates = results.bd_rates(table)
    assert len(rates) == 2 * 4 and rates.notna().all(axis=None) and len(results.mismatch(table)) == 2 * 5 * 3


def test_the_shipped_comparison_of_the_method_is_whole_and_says_what_its_findings_say():
    table = results.method()
    runs = table.groupby(["network", "lmbda", "scheme", "seed"])
    assert len(runs) == 3 * 3 * 8 * 3 and (runs["name"].nunique() == 24).all() and (runs.size() == 24).all()
    assert table.groupby(["network", "lmbda", "seed"])["start"].nunique().eq(1).all()
    assert set(results.method("test")["name"]) == set(results.pilot()["name"])
    with pytest.raises(ValueError, match="unknown image set 'kodac'; did you mean kodak"):
        results.method("kodac")
    against, told = results.method_against(), results.findings("method")
    assert len(against) == 3 * 7 and not against.duplicated(["network", "other"]).any()
    for row in against.itertuples():
        one = told[f"{row.network}, kodak, BD-rate against {row.other}"]
        assert [row.bd_rate, row.low, row.high] == pytest.approx(
            [100 * x for x in (one.value, one.low, one.high)], nan_ok=True
        )
        words = {"held": "fewer bits", "not held": "more bits", "undecided": "undecided"}
        assert row.verdict == ("none" if math.isnan(row.bd_rate) else words[one.verdict])

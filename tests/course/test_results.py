"""The numbers that lessons compute from tables, tested on tables with known answers and on the bundled tables."""

import math
from itertools import product

import numpy as np
import pandas as pd
import pytest

from labkit import paths
from labkit.course import results

LMBDAS = (0.0035, 0.0093, 0.025)
FACTORS = {0: 0.88, 1: 0.90, 2: 0.95}  # rate of "fewer" relative to "noise", by seed


def _table(networks=("one", "two"), seeds=(0, 1, 2)) -> pd.DataFrame:
    """Return a table with two photographs per run. The scheme "fewer" needs FACTORS[seed] times the bits of "noise"."""
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


def test_curves_are_means_over_photographs_in_order_of_lambda():
    curves = results.curves(_table(), "one")
    assert list(curves.columns) == ["scheme", "seed", "lmbda", "bpp", "psnr"]
    assert len(curves) == 2 * 3 * 3
    curve = curves[(curves["scheme"] == "fewer") & (curves["seed"] == 1)]
    assert list(curve["lmbda"]) == list(LMBDAS)
    assert list(curve["bpp"]) == pytest.approx([0.1 * 2**k * 1.1 * 0.9 for k in (1, 2, 3)])  # the mean share is 1
    assert list(curve["psnr"]) == pytest.approx([26 + 3 * k + 2 for k in (1, 2, 3)])
    with pytest.raises(ValueError, match="unknown network 'tow'; did you mean two"):
        results.curves(_table(), "tow")


def test_mismatch_has_standard_errors_over_seeds_rather_than_photographs():
    gaps = results.mismatch(_table())
    assert len(gaps) == 2 * 2 * 3 and (gaps["seeds"] == 3).all()
    for _, row in gaps.iterrows():
        point = LMBDAS.index(row["lmbda"]) + 1
        # The seeds 0, 1, 2 have standard deviation 1, which scales the effect of a seed; the shares have mean 1
        assert row["rate"] == pytest.approx(0.01 * point + 0.003)
        assert row["rate_se"] == pytest.approx(0.003 / math.sqrt(3))
        assert row["distortion"] == pytest.approx(-3) and row["distortion_se"] == pytest.approx(1 / math.sqrt(3))
        assert row["loss"] == pytest.approx(row["rate"] - 3 * row["lmbda"])
        assert row["loss_se"] == pytest.approx(abs(0.003 - row["lmbda"]) / math.sqrt(3))
    single = results.mismatch(_table(seeds=(0,)))
    assert single["rate"].notna().all() and single["rate_se"].isna().all()


def test_the_error_for_a_missing_table_has_one_line(tmp_path, monkeypatch):
    monkeypatch.setattr(paths, "data", lambda: tmp_path)
    with pytest.raises(ValueError, match=r"does not exist\. `labkit study mismatch` makes it") as error:
        results.forks("mismatch")
    assert "\n" not in str(error.value)


def test_the_bundled_forks_of_the_mismatch_claim_are_complete():
    table = results.forks("mismatch")
    runs = table.groupby(["network", "scheme", "seed"])
    assert len(runs) == 2 * 7 * 3 and (runs["name"].nunique() == 13).all() and (runs.size() == 13).all()
    assert (table.groupby(["network", "seed"])["start"].nunique() == 1).all()
    numbers = table[["bpp", "estimated_bpp", "train_bpp", "mse255", "train_mse255", "loss", "train_loss"]]
    assert np.isfinite(numbers.to_numpy()).all() and (numbers > 0).all(axis=None)
    assert table["loss"].to_numpy() == pytest.approx(
        (table["estimated_bpp"] + table["lmbda"] * table["mse255"]).to_numpy()
    )
    difference = table["psnr"] - 10 * np.log10(255**2 / table["mse255"])  # psnr is measured after rounding to 8 bits
    assert difference.min() > -0.1 and difference.max() < 0.1
    mixed = table[table["scheme"] == "mixed"]  # this scheme trains its decoder on rounded latents
    assert mixed["train_mse255"].to_numpy() == pytest.approx(mixed["mse255"].to_numpy(), rel=1e-4)


def test_the_bundled_forks_of_the_tradeoff_claim_are_complete():
    table = results.forks("tradeoff")
    runs = table.groupby(["scheme", "temperature", "seed"])
    assert len(runs) == 4 * 8 * 3 and (runs.size() == 13).all()
    assert (table.groupby("seed")["start"].nunique() == 1).all()


@pytest.mark.slow
def test_the_bundled_comparison_of_the_method_agrees_with_its_findings():
    table = results.forks("method", "kodak")
    runs = table.groupby(["network", "lmbda", "scheme", "seed"])
    assert len(runs) == 3 * 3 * 8 * 3 and (runs["name"].nunique() == 24).all() and (runs.size() == 24).all()
    assert table.groupby(["network", "lmbda", "seed"])["start"].nunique().eq(1).all()
    assert set(results.forks("method")["name"]) == set(results.forks("mismatch")["name"])
    with pytest.raises(ValueError, match="unknown image set 'kodac'; did you mean kodak"):
        results.forks("method", "kodac")
    against, findings = results.method_against(), results.findings("method")
    assert len(against) == 3 * 7 + 4 and not against.duplicated(["network", "other"]).any()
    for row in against.itertuples():
        finding = findings[f"{row.network}, kodak: BD-rate against {row.other}"]
        assert [row.bd_rate, row.low, row.high] == pytest.approx(
            [100 * x for x in (finding.value, finding.low, finding.high)], nan_ok=True
        )
        labels = {"supported": "fewer bits", "not supported": "more bits", "inconclusive": "inconclusive"}
        assert row.verdict == ("none" if math.isnan(row.bd_rate) else labels[finding.verdict])


def test_comparisons_are_the_findings_in_percent_and_empty_without_a_table(tmp_path, monkeypatch):
    table, findings = results.comparisons("bound", "noise", "loss"), results.findings("bound")
    assert len(table) == 2 and table["comparison"].str.startswith("noise: loss").all()
    for row in table.itertuples():
        finding = findings[row.comparison]
        expected = [100 * finding.value, 100 * finding.low, 100 * finding.high]
        assert [row.change, row.low, row.high] == expected and row.verdict == finding.verdict
    monkeypatch.setattr(paths, "data", lambda: tmp_path)
    assert results.comparisons("bound").empty
    with pytest.raises(ValueError, match="unknown claim 'bounds'; did you mean bound"):
        results.comparisons("bounds")

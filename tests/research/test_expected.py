"""The text about expected gradients states what the bundled table says."""

import json

import numpy as np

from labkit import evaluation, paths
from labkit.disk import read_toml
from labkit.research.study.findings import finding
from labkit.statistics import estimate

RESULTS = paths.data() / "results"


def test_the_text_states_the_change_of_the_loss_by_expected_gradients():
    table = evaluation.read_table(RESULTS / "expected.parquet")
    declared = read_toml(RESULTS / "expected.toml")
    table["loss"] = np.log(table["loss"])
    text = " ".join((RESULTS / "README.md").read_text(encoding="utf-8").split())
    assert set(table["network"]) == set(declared["grid"]["network"])
    for network, runs in table.groupby("network"):
        losses = runs.pivot_table(index="seed", columns=["scheme", "name"], values="loss")
        assert list(losses.index) == declared["grid"]["seed"] and losses.notna().all(axis=None)
        changes = finding("", estimate(np.mean, (losses["mixed expected"] - losses["mixed"]).to_numpy())).numbers
        assert f"{changes} for `{network}`" in text
    sampled, *_, expected = json.loads((RESULTS / "rate-gradient.json").read_text())["rows"]
    removed = 1 - expected["encoder_variance"] / sampled["encoder_variance"]
    longer = expected["seconds"] / sampled["seconds"] - 1
    assert f"remove {removed:.0%} of the variance" in text and f"a step takes {longer:.0%} longer" in text

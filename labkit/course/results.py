"""The bundled tables of trained networks, and the figures that lessons compute from them.

The study (`labkit study`) made these tables, which have one row per run and photograph (see data/results/README.md).
"""

from __future__ import annotations

import math
from functools import cache
from typing import TYPE_CHECKING

from labkit.checks import check_name
from labkit.research import study

if TYPE_CHECKING:
    import pandas as pd

GAPS = {  # columns of the value in training and of the value with rounding
    "rate": ("train_bpp", "estimated_bpp"),
    "distortion": ("train_mse255", "mse255"),
    "loss": ("train_loss", "loss"),
}


def forks(claim: str, images: str = "test") -> pd.DataFrame:
    """Return the rows of a claim's runs that start from common checkpoints.

    Args:
        claim: Name of the claim, such as "method".
        images: Set of images: "test" for the bundled photographs, or "kodak" if the table contains it.

    Returns:
        One row per run and image, with the columns loss and train_loss.

    Raises:
        ValueError: If there is no such claim, table or set of images.
    """
    table = study.read(claim)
    check_name("image set", images, sorted(table["set"].dropna().unique()))
    return table[(table["part"] == "forks") & (table["set"] == images)]


def over_temperature() -> pd.DataFrame:
    """Return the loss of patch codecs that trained from scratch at a constant temperature (claim "temperature").

    Returns:
        One row per structure, seed and temperature. The columns are network, seed, temperature, and loss: the mean log
        loss over the images, in percent above the lowest one of this structure and seed.
    """
    import numpy as np

    table = study.read("temperature")
    runs = table[(table["part"] == "scratch") & table["error"].isna()]
    runs = runs.assign(temperature=runs["temperature"].astype(float), loss=100 * np.log(runs["loss"]))
    curves = runs.groupby(["network", "seed", "temperature"], as_index=False)["loss"].mean()
    curves["loss"] -= curves.groupby(["network", "seed"])["loss"].transform("min")
    return curves


def findings(claim: str) -> dict[str, study.Finding]:
    """Return the findings of a claim, each under the text of its comparison.

    Raises:
        ValueError: If there is no such claim, or its table is missing.
    """
    return {finding.comparison: finding for finding in report(claim).findings}


@cache  # some reports take seconds, and lessons ask for them more than once
def report(claim: str) -> study.ClaimReport:
    """Return the report on a claim from its bundled table.

    Raises:
        ValueError: If there is no such claim, or its table is missing.
    """
    return study.claim_report(claim)


def comparisons(claim: str, *words: str) -> pd.DataFrame:
    """Return the findings of a claim that are measured in percent, as a table.

    Args:
        claim: Name of the claim.
        words: Words that a comparison must all contain. By default, every comparison is returned.

    Returns:
        One row per finding, with the columns comparison, change, low, high (the estimate and its 95% interval in
        percent) and verdict. The table is empty if labkit does not include the table of the claim yet.

    Raises:
        ValueError: If there is no such claim.
    """
    import pandas as pd

    columns = ["comparison", "change", "low", "high", "verdict"]
    check_name("claim", claim, sorted(study.CLAIMS))
    if not study.table_path(claim).is_file():
        return pd.DataFrame(columns=columns)
    rows = [
        (text, *(100 * number for number in (found.value, found.low, found.high)), found.verdict)
        for text, found in findings(claim).items()
        if found.percent and all(word in text for word in words)
    ]
    return pd.DataFrame(rows, columns=columns)


def method_against(images: str = "kodak") -> pd.DataFrame:
    """Return the BD-rate of the method against each other scheme.

    Args:
        images: "kodak", or "test" for the bundled photographs.

    Returns:
        One row per network and other scheme, where networks trained from scratch are listed separately. The columns are
        network, other, bd_rate (percent), low and high (95% interval over seeds and images) and verdict: "fewer bits",
        "more bits", "inconclusive", or "none" if a curve does not rise and therefore has no BD-rate.
    """
    import pandas as pd

    rows = []
    for finding in report("method").findings:
        network, _, other = finding.comparison.partition(f", {images}: BD-rate against ")
        if other:
            value, low, high = (100 * number for number in (finding.value, finding.low, finding.high))
            verdict = "none" if math.isnan(value) else "inconclusive"
            verdict = "fewer bits" if high < 0 else "more bits" if low > 0 else verdict
            row = {"network": network, "other": other, "bd_rate": value, "low": low, "high": high}
            rows.append({**row, "verdict": verdict})
    return pd.DataFrame(rows)


def curves(table: pd.DataFrame, network: str) -> pd.DataFrame:
    """Return the rate–distortion curves of a network.

    Args:
        table: One row per run and image.
        network: Name of the network.

    Returns:
        One row per scheme, seed and λ, in this order. The columns are scheme, seed, lmbda, and the means over the
        images of bpp (of real bitstreams) and psnr (dB).

    Raises:
        ValueError: If the table lacks the network.
    """
    check_name("network", network, sorted(table["network"].unique()))
    keys = ["scheme", "seed", "lmbda"]
    return table[table["network"] == network].groupby(keys, as_index=False, sort=True)[["bpp", "psnr"]].mean()


def mismatch(table: pd.DataFrame) -> pd.DataFrame:
    """Return the train–test mismatch: the value in training minus the value with rounding.

    Args:
        table: One row per run and image.

    Returns:
        One row per network, scheme and λ. The columns are network, scheme, lmbda, seeds, and the means over seeds and
        images of rate (bits per pixel), distortion (255² · MSE) and loss. Each mean is followed by its standard error
        over the seeds, in a column that ends in _se; it is NaN for one seed.
    """
    keys = ["network", "scheme", "lmbda"]
    gaps = table[[*keys, "seed"]].assign(**{name: table[train] - table[test] for name, (train, test) in GAPS.items()})
    groups = gaps.groupby([*keys, "seed"])[list(GAPS)].mean().groupby(level=keys)
    means = groups.mean().join(groups.sem(), rsuffix="_se")
    means.insert(0, "seeds", groups.size())
    return means[["seeds", *(name + end for name in GAPS for end in ("", "_se"))]].reset_index()

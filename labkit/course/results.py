"""The tables of trained networks that come with labkit, and what lessons read from them.

A table has one row a run and photograph, as `labkit study` writes it (see data/results/README.md). Intervals and
standard errors of `mismatch` and `bd_rates` are over training seeds: each seed's mean over the photographs is one
observation. Those of `method_against` are over seeds and photographs.
"""

from __future__ import annotations

import math
import warnings
from typing import TYPE_CHECKING

from labkit import paths
from labkit.checks import check_name
from labkit.statistics import t_interval

if TYPE_CHECKING:
    import pandas as pd

    from labkit.research.study.findings import Finding

# what training saw, and what it came to
GAPS = {
    "rate": ("train_bpp", "estimated_bpp"),
    "distortion": ("train_mse255", "mse255"),
    "loss": ("train_loss", "loss"),
}


def pilot() -> pd.DataFrame:
    """The shipped table of the pilot, made by `labkit study pilot`. Raises ValueError where it is missing."""
    from labkit import evaluation

    file = paths.data() / "results" / "pilot.parquet"
    if not file.is_file():
        raise ValueError(f"{file}: there is no such table, `labkit study pilot --out {file}` makes it in about an hour")
    return evaluation.read_table(file)


def method(images: str = "kodak") -> pd.DataFrame:
    """The shipped table of `labkit study method`: its runs that fork from common checkpoints, on one set of images.

    images: "kodak", or "test", the bundled photographs. Raises ValueError for another, and where the table is missing.
    """
    from labkit.research.study import engine

    table = engine.read("method")
    check_name("image set", images, sorted(table["set"].dropna().unique()))
    return table[(table["part"] == "forks") & (table["set"] == images)]


def findings(claim: str) -> dict[str, Finding]:
    """What the shipped table of a claim of the study says: each finding by what it compares.

    Raises ValueError for a claim that there is not, and where its table is missing.
    """
    from labkit.research.study import engine, report

    return {one.what: one for one in report.of(claim, engine.read(claim)).findings}


def method_against(images: str = "kodak") -> pd.DataFrame:
    """BD-rate of the method against each other scheme, in percent: a row for each network and other scheme.

    images: "kodak", or "test", the bundled photographs. Columns: network, other, bd_rate, low and high (its 95%
    interval, over seeds and images), verdict (fewer bits, more bits, undecided, or none, where a curve does not rise).
    """
    import pandas as pd

    from labkit.research.study import report

    rows = []
    for one in report.of("method", method(images)).findings:  # of these runs alone: the others' take longer
        network, _, other = one.what.partition(f", {images}, BD-rate against ")
        if other:
            value, low, high = (100 * number for number in (one.value, one.low, one.high))
            verdict = "none" if math.isnan(value) else "undecided"
            verdict = "fewer bits" if high < 0 else "more bits" if low > 0 else verdict
            rows.append(
                {"network": network, "other": other, "bd_rate": value, "low": low, "high": high, "verdict": verdict}
            )
    return pd.DataFrame(rows)


def curves(table: pd.DataFrame, network: str) -> pd.DataFrame:
    """Rate–distortion curves of a network: a row for each scheme, seed and λ, by rising λ.

    Columns: scheme, seed, lmbda, then means over the photographs, bpp (of the real bitstreams) and psnr (dB).
    Raises ValueError for a network that the table lacks.
    """
    check_name("network", network, sorted(table["network"].unique()))
    keys = ["scheme", "seed", "lmbda"]
    return table[table["network"] == network].groupby(keys, as_index=False, sort=True)[["bpp", "psnr"]].mean()


def mismatch(table: pd.DataFrame) -> pd.DataFrame:
    """Train–test mismatch: what training saw minus what rounding gave, a row for each network, scheme and λ.

    Columns: network, scheme, lmbda, seeds, then rate (bits per pixel), distortion (255² · MSE) and loss, each the mean
    over seeds and photographs, and with _se its standard error over the seeds (NaN for one seed).
    """
    keys = ["network", "scheme", "lmbda"]
    gaps = table[[*keys, "seed"]].assign(**{name: table[train] - table[test] for name, (train, test) in GAPS.items()})
    groups = gaps.groupby([*keys, "seed"])[list(GAPS)].mean().groupby(level=keys)
    found = groups.mean().join(groups.sem(), rsuffix="_se")
    found.insert(0, "seeds", groups.size())
    return found[["seeds", *(name + end for name in GAPS for end in ("", "_se"))]].reset_index()


def bd_rates(table: pd.DataFrame, anchor: str = "noise") -> pd.DataFrame:
    """BD-rate over PSNR against one scheme, in percent, a row for each network and other scheme.

    Columns: network, scheme, seeds, bd_rate (mean over seeds), low and high (its 95% t-interval over seeds, NaN for one
    seed), then the seeds' own as "seed 0" and so on. A seed's curve, of mean rates and mean PSNRs over the photographs,
    is compared with the anchor's of the same seed, which was trained on the same batches. The interval says how far
    another choice of seeds would move the mean on these photographs, and nothing of other photographs.

    Where a curve does not rise, or the two share too few qualities, there is no BD-rate: NaN, for the mean too, and a
    warning that says why. Raises ValueError for an anchor that the table lacks, and for a seed that it lacks.
    """
    import pandas as pd

    from labkit import evaluation

    check_name("scheme", anchor, sorted(table["scheme"].unique()))
    rows = []
    for network in table["network"].unique():
        points = {
            key: (list(one["bpp"]), list(one["psnr"]))
            for key, one in curves(table, network).groupby(["scheme", "seed"])
        }
        for scheme in [name for name in table["scheme"].unique() if name != anchor]:
            found = {}
            for seed in sorted(seed for name, seed in points if name == scheme):
                if (anchor, seed) not in points:
                    raise ValueError(f"anchor: {network} has {scheme} with seed {seed}, but no {anchor}")
                try:
                    rate = evaluation.bd_rate(points[anchor, seed], points[scheme, seed])
                except ValueError as error:  # one curve that is none must not hide the others
                    warnings.warn(f"{network}, {scheme}, seed {seed} has no BD-rate: {error}", stacklevel=2)
                    rate = math.nan
                found[f"seed {seed}"] = rate
            if found:
                mean, low, high = t_interval(list(found.values()))
                about = {"network": network, "scheme": scheme, "seeds": len(found)}
                rows.append({**about, "bd_rate": mean, "low": low, "high": high, **found})
    return pd.DataFrame(rows)

"""The tables of the study: one row per run and image, and one per measured value. See data/results/README.md."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from labkit import paths
from labkit.disk import whole

if TYPE_CHECKING:
    import pandas as pd

# Values of the column "part". LABORATORY marks predictions of a scalar code.
FORKS, SCRATCH, TRUNK, MEASURED, LABORATORY, TOYS = "forks", "scratch", "trunk", "measured", "laboratory", "toys"
DOUBLED = "doubled"  # runs from scratch with twice the steps
REPLICATED = "replicated"  # runs from scratch with other seeds on other images
SETTINGS = ("network", "size", "scheme", "lmbda", "temperature", "scale_lower_bound", "lr", "steps", "seed")
RESULTS = {  # columns of a sweep's table, with their names in a study's table
    **{name: name for name in ("set", "name", "height", "width", "bpp", "psnr", "ms_ssim")},
    **{"rate": "estimated_bpp", "distortion": "mse255", "train_rate": "train_bpp", "train_distortion": "train_mse255"},
    **{name: name for name in ("train_spread", "seconds", "weights", "labkit", "torch", "threads", "device", "error")},
}
COLUMNS = ("part", "run", *SETTINGS, "start", *RESULTS.values(), "label", "quantity", "value", "command")
DIGITS = 16  # binary digits of the measured numbers; the relative error is at most 1.5e-5


def digest(value: Any) -> str:
    """Return a hash of a value that JSON can hold, as long as the hashes in the names of runs."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:12]


def short_name(run: str | None) -> str:
    """Return the hash at the end of a run's name, which identifies the run in tables; empty for None."""
    return run.rpartition("-")[2] if run else ""


def short_hash(weights: str) -> str:
    """Return the part of a hash of weights that tables contain."""
    return weights[:12]


def table_path(name: str, folder: str | Path | None = None) -> Path:
    """Return the path of a claim's table, in a folder or among the bundled results."""
    return Path(folder or paths.data() / "results") / f"study-{name}.parquet"


def save(frame: pd.DataFrame, path: Path) -> None:
    """Write a table to a small file: every text is stored once, and measured numbers have 16 binary digits."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq

    frame = frame.copy()
    numbers = [name for name in (*RESULTS.values(), "value") if name in frame and frame[name].dtype.kind == "f"]
    for name in numbers:
        bits = frame[name].to_numpy(np.float32, copy=True).view(np.uint32)
        half = np.uint32(1 << (23 - DIGITS))
        rounded = np.where(frame[name].notna(), (bits + half) & ~np.uint32(2 * half - 1), bits)
        frame[name] = rounded.astype(np.uint32).view(np.float32)
    texts = [name for name in frame if name not in numbers]
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole(path) as temporary:
        pq.write_table(
            pa.Table.from_pandas(frame, preserve_index=False).replace_schema_metadata(), temporary,
            compression="zstd", compression_level=19, use_dictionary=texts,
            column_encoding=dict.fromkeys(numbers, "BYTE_STREAM_SPLIT"),
        )  # fmt: skip


def read(name: str, folder: str | Path | None = None) -> pd.DataFrame:
    """Read a claim's table, with the columns loss and train_loss.

    Args:
        name: Name of the claim.
        folder: Folder of the table, by default that of the bundled results.

    Raises:
        ValueError: If the table is missing.
    """
    path = table_path(name, folder)
    if not path.is_file():
        raise ValueError(f"{path} does not exist. `labkit study {name}` makes it")
    return with_losses(read_or_empty(name, folder))


def read_or_empty(name: str, folder: str | Path | None) -> pd.DataFrame:
    """Read a claim's table as it is on disk, or return an empty one."""
    import pandas as pd

    from labkit import evaluation

    path = table_path(name, folder)
    return evaluation.read_table(path) if path.is_file() else pd.DataFrame(columns=[*COLUMNS])


def with_losses(frame: pd.DataFrame) -> pd.DataFrame:
    """Return a table in float64 with all columns and the columns loss and train_loss.

    The losses are bits per pixel + λ · 255² · MSE, with rounding and as training computes them.
    """
    frame = frame.reindex(columns=[*frame, *(name for name in COLUMNS if name not in frame)])
    for name in [name for name in frame if frame[name].dtype.kind == "f"]:
        frame[name] = frame[name].astype(float)
    for prefix in ("", "train_"):
        rate = frame["train_bpp" if prefix else "estimated_bpp"]
        frame[f"{prefix}loss"] = rate + frame["lmbda"] * frame[f"{prefix}mse255"]
    return frame


def complete_seeds(frame: pd.DataFrame) -> list[int]:
    """Return the seeds with as many runs as most seeds have; the last seed of a stopped study has fewer."""
    counts = frame.groupby("seed")["run"].nunique()
    seeds: list[int] = counts.index[counts >= counts.mode().max()].tolist()
    return seeds


def hours_per_seed(frame: pd.DataFrame) -> float:
    """Return the core-hours that one further seed of a table takes, from the times of its runs."""
    seeds = complete_seeds(frame)
    runs = frame[frame["seed"].isin(seeds)].drop_duplicates("run")
    return float(runs["seconds"].sum() / 3600 / len(seeds)) if seeds else 0.0


def rows_of(table: pd.DataFrame, run: str) -> list[dict[str, Any]]:
    """Return the rows of a run, without the columns that they leave empty."""
    rows: list[dict[str, Any]] = table[table["run"] == run].dropna(axis=1, how="all").to_dict("records")
    return rows

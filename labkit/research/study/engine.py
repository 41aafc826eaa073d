"""The study's claims: declared grids, what is missing of them made, and one small table a claim.

    claims/protocol.toml ─┐                       ┌─► data/results/study-NAME.parquet ─► report
    claims/NAME.toml ─────┴─► sweeps, all in one ─┤
                              work folder         └─► a trunk's checkpoint ─► what claims/NAME.py measures on it

A claim's file has the form of a sweep's, with `claim`, a sentence, and [gpu], what `--scale gpu` changes. Its module
has `findings(table)`, and where it needs them `parts` (its sweeps, if there is more than one), `measure` (rows from a
trunk), `toys` (rows of toys), `curves` (of its figure) and ENOUGH ("any" where one finding of several makes the claim).
"""

from __future__ import annotations

import hashlib
import importlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tqdm.auto import tqdm

from labkit import first_edition, paths
from labkit.checks import check_name
from labkit.disk import read_toml, whole, write_whole
from labkit.research.sweeps import Several, Sweep
from labkit.research.sweeps.grid import Run
from labkit.research.sweeps.results import Results

if TYPE_CHECKING:
    import pandas as pd

CLAIMS = ("mismatch", "gradients", "tradeoff", "structure", "bound", "zero_center", "method", "variations", "elsewhere")
SCALES = ("laptop", "gpu")
OWN = ("claim", "gpu", "trunks", "parts", "tuning", "toys", "surrogates")  # keys that are no sweep's
TRUNK, MEASURED, LABORATORY, TOYS = "trunk", "measured", "laboratory", "toys"  # parts of a table, beside a claim's own
SETTINGS = ("network", "size", "scheme", "lmbda", "temperature", "scale_lower_bound", "lr", "steps", "seed")
RESULTS = {  # a sweep's columns, by the names that the pilot's table has
    **{name: name for name in ("set", "name", "height", "width", "bpp", "psnr", "ms_ssim")},
    **{"rate": "estimated_bpp", "distortion": "mse255", "train_rate": "train_bpp", "train_distortion": "train_mse255"},
    **{name: name for name in ("train_spread", "seconds", "weights", "labkit", "torch", "threads", "device", "error")},
}
DIGITS = 16  # binary, of a number in a table: at most fifteen millionths of it are lost

Drive = Callable[[Sweep | Several], "pd.DataFrame"]
Parts = list[tuple[str, Sweep]]


@dataclass(frozen=True)
class Study:
    """One claim, and where and on what it is tested.

    work: folder for the runs, which claims may share; out: for tables. seeds: how many, in place of the declared ones.
    data: folder of training images; tests: folders of images that are coded beside the bundled ones, where a claim
    takes them.
    """

    name: str
    work: Path
    out: Path
    scale: str = "laptop"
    seeds: int | None = None
    data: str | None = None
    tests: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check_name("claim", self.name, CLAIMS)
        check_name("scale", self.scale, SCALES)

    def sweep(self, changes: dict[str, Any] | None = None, test: list[str] | None = None) -> Sweep:
        """The declared sweep with changes merged in, whose grid names as many seeds as are asked for.

        test: folders to code, by default that of the bundled test photographs.
        """
        changes = changes or {}
        values = merged(declared(self.name, self.scale), changes)
        only_trunks = values.get("trunks", False)
        values = {name: value for name, value in values.items() if name not in OWN}
        grid, schemes, trunk = (values.pop(name, None) or {} for name in ("grid", "schemes", "trunk"))
        grid["seed"] = changes.get("grid", {}).get("seed", self.chosen)
        bundled = str(test_folder())
        values |= {"data": self.data, "test": test or [bundled]} | (trunk if only_trunks else {})
        trunk = {} if only_trunks or not trunk else {"test": [bundled], **trunk}  # claims with and without share it
        values = {name: value for name, value in values.items() if name not in grid}
        return Sweep(self.work, values, grid, schemes, trunk)

    @property
    def chosen(self) -> list[int]:
        """The seeds."""
        if self.seeds is None:
            return declared(self.name, self.scale)["grid"]["seed"]
        return list(range(self.seeds))

    @property
    def command(self) -> str:
        told = f"labkit study {self.name}" + f" --scale {self.scale}" * (self.scale != "laptop")
        told += f" --seeds {self.seeds}" * (self.seeds is not None) + " --data FOLDER" * bool(self.data)
        return told + "".join(f" --test {Path(folder).name}" for folder in self.tests)


def declared(name: str, scale: str = "laptop") -> dict[str, Any]:
    """What the claim's file says, over what all have in common."""
    folder, values = Path(__file__).parent / "claims", dict[str, Any]()
    files = [read_toml(folder / f"{file}.toml") for file in ("protocol", name)]
    for file in files:
        values = merged(values, {key: value for key, value in file.items() if key != "gpu"})
    for file in files if scale == "gpu" else []:
        values = merged(values, file.get("gpu", {}))
    return values


def merged(values: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """Changes over values, table by table; false takes a table away."""
    found = dict(values)
    for name, change in changes.items():
        table = isinstance(change, dict) and isinstance(found.get(name), dict)
        found[name] = merged(found[name], change) if table else change
    return found


def test_folder() -> Path:
    """The photographs that every claim is tested on."""
    return paths.data() / "photographs" / "test"


def claim(name: str) -> Any:
    """The module with a claim's statistics."""
    check_name("claim", name, CLAIMS)
    return importlib.import_module(f"labkit.research.study.claims.{name}")


def parts(study: Study, drive: Drive) -> Parts:
    """The sweeps of a claim, each with its part's name; what has to be known for them is made first."""
    module = claim(study.name)
    return module.parts(study, drive) if hasattr(module, "parts") else [("forks", study.sweep())]


def table(study: Study, drive: Drive) -> pd.DataFrame:
    """Make what is missing of a claim, and give its table: a row for each run and image, and what was measured.

    What the claims' tables in `study.out` have of these runs is not made again: a run's name stands for all that
    decides its result. Seeds that are not asked for stay in the table.
    """
    import pandas as pd

    made = parts(study, drive)
    asked, own = left(study, made), _table(study.name, study.out)
    frame = drive(asked) if asked.runs() else pd.DataFrame()
    frames = [own[~own["seed"].isin(study.chosen)], _runs(study, made, frame)]
    frames.append(pd.DataFrame(list(_measured(study, made, own))))
    found = pd.concat([frame for frame in frames if len(frame)], ignore_index=True)
    return found.reindex(columns=[name for name in COLUMNS if name in found])


def left(study: Study, made: Parts) -> Several:
    """What is missing of the claim's runs; a trunk is where something is still to be measured on it."""
    there = set(_known(study, made)["run"])
    measured = set(_table(study.name, study.out)["run"])
    there -= {short(run.name) for run, name in _to_measure(study, made) if name not in measured}
    names = frozenset(run.name for _, run in _named(made) if short(run.name) in there)
    return Several(tuple(sweep for _, sweep in made), names)


def _table(name: str, folder: Path) -> pd.DataFrame:
    """A claim's table as it lies in a folder, or an empty one."""
    import pandas as pd

    from labkit import evaluation

    there = file(name, folder)
    return evaluation.read_table(there) if there.is_file() else pd.DataFrame(columns=[*COLUMNS])


def _known(study: Study, made: Parts) -> pd.DataFrame:
    """What the claims' tables have of the claim's runs, its own table before the others.

    What forks from one trunk is compared, and another machine makes other weights of it: of a table that lacks some of
    its forks, or an own one, the others count only where its trunk has the weights of the one in the work folder.
    """
    import pandas as pd

    families: dict[str, set[str]] = {}  # a trunk and its forks, or a run by itself
    for _, run in _named(made):
        families.setdefault(run.trunk or run.name, set()).add(short(run.name))
    made_here = Results(study.work).frame([*families])
    at_hand = {row.run: _cut(row.weights) for row in made_here.itertuples() if isinstance(row.weights, str)}
    tables = [_table(name, study.out) for name in sorted(CLAIMS, key=lambda name: name != study.name)]
    taken = []
    for trunk, runs in families.items():
        there = [table[table["run"].isin(runs)] for table in tables]
        whole = [found for found in there if set(found["run"]) == runs]
        taken += whole[:1] or [found for found in there if _weights(found, trunk) == at_hand.get(trunk, "")]
    frame = pd.concat(taken, ignore_index=True) if taken else _table("", study.out)
    return frame.reindex(columns=["run", *RESULTS.values()]).drop_duplicates(["run", "set", "name"])


def _weights(found: pd.DataFrame, trunk: str) -> str | None:
    """Of a trunk, as a table's rows have them."""
    own = found["weights"][found["run"] == short(trunk)]
    return own.iloc[0] if len(own) else None


COLUMNS = ("part", "run", *SETTINGS, "start", *RESULTS.values(), "label", "quantity", "value", "command")


def _runs(study: Study, made: Parts, frame: pd.DataFrame) -> pd.DataFrame:
    """What was measured of the runs, under the names that this claim has for them."""
    import pandas as pd

    known, rows, labeled = _known(study, made), frame, []
    if len(rows):
        rows = rows.reindex(columns=["run", *RESULTS])  # where none is done yet, some are missing
        rows = rows.assign(run=rows["run"].map(short), weights=rows["weights"].map(_cut, na_action="ignore"))
        rows["error"] = rows["error"].map(lambda told: told.partition(";")[0], na_action="ignore")  # then come paths
        rows = rows.rename(columns=RESULTS)
        known = pd.concat([known, rows[~rows["run"].isin(known["run"])]]) if len(known) else rows
    for part, run in _named(made):
        about = {"part": part, "run": short(run.name), **{name: run.settings[name] for name in SETTINGS}}
        labeled.append({**about, "start": short(run.trunk), "command": study.command})
    found = pd.DataFrame(labeled).merge(known, on="run")
    if not found["bpp"].notna().any():
        raise ValueError(f"{study.work}: no run of {study.name} is done")
    return found


def _named(made: Parts) -> Iterator[tuple[str, Run]]:
    """Every run under the name of its part; trunks, once, under theirs."""
    trunks: set[str] = set()
    for part, sweep in made:
        for run in sweep.runs():
            if not sweep.trunk or run.trunk:
                yield part, run
            elif run.name not in trunks:
                trunks.add(run.name)
                yield TRUNK, run


def _to_measure(study: Study, made: Parts) -> Iterator[tuple[Run, str]]:
    """The runs on whose checkpoints something is measured, trunks, or all where nothing forks; and its hash."""
    if not hasattr(claim(study.name), "measure"):
        return
    named = list(_named(made))
    trunks = {run.trunk for _, run in named if run.trunk}
    forks = {run.settings["scheme"]: run.scheme for part, run in named if part != TRUNK}
    grid = {**declared(study.name, study.scale)["grid"], "seed": None}
    for part, run in named:
        if run.name in trunks or (part != TRUNK and not trunks):
            name = first_edition.original(study.name, first_edition.CLAIMS)
            labels = first_edition.original([grid, forks], first_edition.SCHEMES)
            yield run, digest([name, labels[0], run.name, labels[1]])


def digest(asked: Any) -> str:
    """A hash of what JSON can hold, as long as those in runs' names."""
    return hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()[:12]


def short(name: str | None) -> str:
    """Of a run's name the hash at its end, which names it in tables."""
    return name.rpartition("-")[2] if name else ""


def _cut(weights: str) -> str:
    """Of a hash of weights what tables have."""
    return weights[:12]


def _measured(study: Study, made: Parts, own: pd.DataFrame) -> Iterator[dict[str, Any]]:
    """What the claim's module measures on the checkpoints of trunks, and of toys, or the table's rows of that.

    `run` is a hash of what decides it, `start` the trunk.
    """
    module = claim(study.name)
    if hasattr(module, "toys"):
        yield from module.toys(study, own)
    asked = list(_to_measure(study, made))
    if not asked:
        return
    import torch

    from labkit import datasets, schemes, training

    torch.set_num_threads(1)
    device = "cuda" if study.scale == "gpu" and torch.cuda.is_available() else "cpu"
    forks = {run.settings["scheme"]: schemes.from_dict(run.scheme) for part, run in _named(made) if part != TRUNK}
    for run, name in tqdm(asked, unit="trunk", disable=None, leave=False):
        if rows := rows_of(own, name):
            yield from rows
            continue
        checkpoint = Results(study.work).file(run.name, "safetensors")
        if not checkpoint.exists():  # it failed, which the table of runs says
            continue
        kept = study.work / "measured" / f"{study.name}-{name}.json"
        if not kept.exists():
            net, _ = training.load_checkpoint(checkpoint)
            photos = datasets.folder(test_folder())
            rows = [{"part": MEASURED, **row} for row in module.measure(net.to(device), photos, run.settings, forks)]
            kept.parent.mkdir(parents=True, exist_ok=True)
            write_whole(kept, json.dumps(rows).encode())
        about = {setting: run.settings[setting] for setting in ("network", "lmbda", "seed")}
        about |= {"run": name, "start": short(run.name), "set": test_folder().name}
        for row in json.loads(kept.read_bytes()):
            yield about | row


def rows_of(own: pd.DataFrame, run: str) -> list[dict[str, Any]]:
    """The rows of a table that have this run, without what they leave empty."""
    return own[own["run"] == run].dropna(axis=1, how="all").to_dict("records")


# Tables on disk -------------------------------------------------------------------------------------------------------


def file(name: str, folder: str | Path | None = None) -> Path:
    """Where a claim's table lies: among the results that come with labkit unless a folder is given."""
    return Path(folder or paths.data() / "results") / f"study-{name}.parquet"


def save(frame: pd.DataFrame, path: Path) -> None:
    """Write a table small: text once each, numbers with 16 binary digits."""
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
    """A claim's table, with loss and train_loss. Raises ValueError where it is missing."""
    from labkit import evaluation

    check_name("claim", name, CLAIMS)
    path = file(name, folder)
    if not path.is_file():
        raise ValueError(f"{path}: there is no such table, `labkit study {name}` makes it")
    return with_losses(evaluation.read_table(path))


def with_losses(frame: pd.DataFrame) -> pd.DataFrame:
    """The table in float64, with the loss, rounded and as training sees it: bits per pixel + λ · 255² · MSE.

    Columns that no row has a value in are there too.
    """
    frame = frame.reindex(columns=[*frame, *(name for name in COLUMNS if name not in frame)])
    for name in [name for name in frame if frame[name].dtype.kind == "f"]:
        frame[name] = frame[name].astype(float)
    for before in ("", "train_"):
        rate = frame["train_bpp" if before else "estimated_bpp"]
        frame[f"{before}loss"] = rate + frame["lmbda"] * frame[f"{before}mse255"]
    return frame


def whole_seeds(frame: pd.DataFrame) -> list[int]:
    """The seeds with as many runs as most have, or more: of a study that was stopped, the last one has fewer."""
    counts = frame.groupby("seed")["run"].nunique()
    return counts.index[counts >= counts.mode().max()].tolist()


def cost(frame: pd.DataFrame) -> float:
    """Core-hours that one more seed of a table takes, as its own runs took."""
    seeds = whole_seeds(frame)
    runs = frame[frame["seed"].isin(seeds)].drop_duplicates("run")
    return float(runs["seconds"].sum() / 3600 / len(seeds)) if seeds else 0.0

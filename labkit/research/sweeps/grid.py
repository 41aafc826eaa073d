"""What a sweep runs: settings that all runs share, a grid of others, and every combination as one `Run`.

Runs may fork: each then starts from the checkpoint of a trunk, a run of the same sweep that is made before it.

Torch is loaded when runs are made, not before: the process that drives a sweep does without it, and stays small.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import itertools
import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from labkit import first_edition, paths
from labkit.checks import check_at_least, check_name, check_positive
from labkit.disk import read_toml

TOYS = {"toy_1d": ("gaussian", "laplacian"), "toy_2d": ("banana", "ring"), "toy_sawbridge": ("sawbridge",)}

# Settings, by their names in `labkit train` where it has them, and what they are where nothing is said; ... has to be
_EVERY: dict[str, Any] = {
    "network": "mean_scale_hyperprior",
    "scheme": "mixed",
    "temperature": None,
    "scale_lower_bound": None,
    "lmbda": ...,
    "steps": ...,
    "clip": 1.0,
    "ema": None,
    "seed": 0,
    "threads": 1,
    "device": None,
}
_TOY = _EVERY | {"source": None, "hidden": 64, "batch_size": 1024, "lr": "cosine:1e-2:5e-4"}
_CODEC = _EVERY | {
    "size": "tiny",
    "data": None,
    "test": None,
    "coded": True,
    "start": None,
    "batch_size": 4,
    "crop": 256,
    "permute_colors": False,
    "lr": "cosine:8e-4:1e-5",
    "precision": "float32",
    "compile": False,
    "workers": 0,
    "save_every": 60.0,
}
_FREE = ("device", "compile", "workers", "save_every")  # they say where and how, not what: see training.states
_NAMES = ("scheme", "temperature", "scale_lower_bound", "data", "test", "coded", "start")  # what they name decides
_DIGITS = 12  # hexadecimal, of the hash in a name: of 10,000 runs two share theirs once in five million sweeps


@dataclass(frozen=True)
class Run:
    """One training of a grid, and what is measured of it.

    name: readable, and at its end a hash of all that decides the result, so that the same run has the same name in
    every grid: settings, scheme, first weights, and the names and sizes of the images. A path, a scheme's name, and
    settings that say where and how (device, compile, workers, save_every) are not among them. settings: by their names,
    all of them. scheme: as its `to_dict` has it. trunk: the name of the run that this one starts from; it is part of
    the hash, in the place of weights that nobody knows yet.
    """

    name: str
    settings: dict[str, Any]
    scheme: dict[str, Any]
    trunk: str | None = None

    @property
    def toy(self) -> bool:
        return self.settings["network"] in TOYS

    def row(self, status: str, error: str | None = None, **results: Any) -> dict[str, Any]:
        """A row of the table; status: done, or failed with this error."""
        settings = {name: value for name, value in self.settings.items() if name != "device"}  # results have its name
        if isinstance(settings.get("test"), list):
            settings["test"] = os.pathsep.join(settings["test"])
        return {"run": self.name, "trunk": self.trunk, "status": status, "error": error, **settings, **results}

    @property
    def kind(self) -> str:
        """What runs of about the same cost have in common."""
        other = ("scheme", "temperature", "scale_lower_bound", "lmbda", "seed", "lr", "clip", "ema", "start")
        return json.dumps({name: value for name, value in self.settings.items() if name not in other})


@dataclass(frozen=True)
class Sweep:
    """A grid, and the folder that its results go to.

    settings: that all runs share. grid: for other settings, lists of values, of which every combination is a run.
    schemes: further schemes by name, each a preset with fields changed: {"slow": {"preset": "annealed", …}}.
    trunk: settings that the checkpoints have otherwise which runs fork from. For every combination of the grid, the
    axes left out that stand here, one trunk is trained, and the runs of that combination start from it. Empty: none.

    Settings are those of `labkit train`, by their names, but for five: threads is 1 unless stated, since results
    depend on it; precision is float32, whatever the machine; workers, that read images, is 0. test is a folder of
    images to code, or a list of folders; with coded = false only the losses of these images are measured. A toy takes
    source and hidden instead of what concerns images.

    Raises ValueError for a name that is no setting, and for one that is given twice.
    """

    out: Path
    settings: dict[str, Any]
    grid: dict[str, list[Any]] = field(default_factory=dict)
    schemes: dict[str, dict[str, Any]] = field(default_factory=dict)
    trunk: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in (*self.settings, *self.grid, *self.trunk):
            check_name("setting", name, {**_CODEC, **_TOY})
        for name, value in (*self.settings.items(), *self.trunk.items()):
            if isinstance(value, dict) or (isinstance(value, list) and name != "test"):
                raise ValueError(f"{name}: takes one value, got {value!r}; several go into the grid")
        for name, values in self.grid.items():
            if name in self.settings:
                raise ValueError(f"{name}: stands among the settings and in the grid too")
            if not isinstance(values, list) or not values:
                raise ValueError(f"grid.{name}: takes a list of values, got {values!r}")

    @classmethod
    def from_file(cls, path: str | Path) -> Sweep:
        """The sweep of a TOML file: out and settings, [grid], [trunk], [schemes.NAME].

        Raises ValueError naming the file.
        """
        values = _setting_names(read_toml(path))
        try:
            if not isinstance(out := values.pop("out", None), str):
                raise ValueError("out: takes the folder that results go to, as text")
            tables = {name: values.pop(name, {}) for name in ("grid", "schemes", "trunk")}
            for name, table in (*tables.items(), *(tables["schemes"] or {}).items()):
                if not isinstance(table, dict):
                    raise ValueError(f"{name}: takes a table, got {table!r}")
            tables |= {name: _setting_names(tables[name]) for name in ("grid", "trunk")}
            return cls(Path(out), values, **tables)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from None

    def runs(self) -> list[Run]:
        """Every run, once, and seed by seed: what is there when it is stopped compares all of the grid.

        A trunk comes before the first run that forks from it. Raises ValueError naming the setting that is wrong.
        """
        _listing.cache_clear()  # files may have changed since
        _weights.cache_clear()
        axes = sorted(self.grid.items(), key=lambda axis: axis[0] != "seed")
        combinations = itertools.product(*(values for _, values in axes))
        names = [name for name, _ in axes]
        runs: dict[str, Run] = {}
        for values in combinations:
            given, trunk = {**self.settings, **dict(zip(names, values, strict=True))}, None
            if self.trunk:
                first = self._run({**given, **self.trunk})
                if first.toy:
                    raise ValueError("trunk: a toy has no checkpoint to fork from")
                trunk = runs.setdefault(first.name, first).name
            run = self._run(given, trunk)
            for name in ("network", "size") if trunk else ():
                if first.settings[name] != run.settings[name]:
                    raise ValueError(f"trunk: has the {name} {first.settings[name]}, its forks {run.settings[name]}")
            runs.setdefault(run.name, run)
        return list(runs.values())

    def _run(self, given: dict[str, Any], trunk: str | None = None) -> Run:
        from labkit import networks, schedules, training

        network = networks.canonical_name(given.get("network", _EVERY["network"]))
        check_name("network", network, [*networks.names(), *TOYS])
        defaults = _TOY if network in TOYS else _CODEC
        for name in given:
            check_name(f"setting of {network}", name, defaults)
        settings = {**defaults, **given, "network": network}
        for name in ("lmbda", "steps"):
            if settings[name] is ...:
                raise ValueError(f"{name}: has to be among the settings or in the grid")
        check_at_least(1, threads=settings["threads"])
        lr = schedules.parse(str(settings["lr"]))
        scheme, settings["temperature"], settings["scale_lower_bound"] = self._scheme(settings)
        decides: dict[str, Any] = {"lr": dataclasses.asdict(lr), "scheme": scheme}
        if network in TOYS:
            settings["source"] = settings["source"] or TOYS[network][0]
            check_name(f"source of {network}", settings["source"], TOYS[network])
            check_at_least(1, hidden=settings["hidden"])
        else:
            decides |= _checked_codec(settings, given)
        checked = training.Settings(**trainer_settings(settings) | {"device": "cpu"}).to_dict()
        settings |= {name: float(checked[name]) for name in ("lmbda", "clip")}  # 1 and 1.0 are one λ
        settings["lr"] = str(settings["lr"])
        if trunk:
            if settings["start"] is not None:
                raise ValueError("start: a run that forks from a trunk has no other start; one may stand in [trunk]")
            decides["start"] = trunk
        values = {name: value for name, value in settings.items() if name not in (*_FREE, *_NAMES)}
        hashed = first_edition.original({**values, **decides})
        digest = hashlib.sha256(json.dumps(hashed, sort_keys=True).encode()).hexdigest()[:_DIGITS]
        preset = self.schemes.get(settings["scheme"], {}).get("preset", settings["scheme"])
        name = f"{network}-{preset}-{settings['lmbda']:g}-{settings['seed']}-{digest}"
        return Run(name, settings, scheme, trunk)

    def _scheme(self, settings: dict[str, Any]) -> tuple[dict[str, Any], str, float]:
        """The scheme of these settings, its temperature and its bound; a scheme's own fields go before the settings."""
        from labkit import schedules, schemes

        name = settings["scheme"]
        check_name("scheme", name, [*schemes.names(), *self.schemes])
        fields = {key: settings[key] for key in ("temperature", "scale_lower_bound") if settings[key] is not None}
        fields |= {"preset": name, **self.schemes.get(name, {})}
        if "temperature" in fields:
            fields["temperature"] = schedules.parse(str(fields["temperature"]))
        try:
            chosen = schemes.get(fields.pop("preset"), **fields)
        except ValueError as error:
            raise ValueError(f"scheme {name}: {error}") from None
        stage = schemes.first_stage(chosen)
        return chosen.to_dict(), str(stage.temperature), stage.scale_lower_bound


@dataclass(frozen=True)
class Several:
    """Sweeps into one folder, as one: a run that two of them have is made once. Raises ValueError for two folders.

    known: names of runs whose results lie elsewhere: they are left out, but for trunks of runs that are not.
    """

    sweeps: tuple[Sweep, ...]
    known: frozenset[str] = frozenset()

    def __post_init__(self) -> None:
        if len(folders := {str(sweep.out) for sweep in self.sweeps}) != 1:
            raise ValueError(f"sweeps: take one folder for results, got {', '.join(sorted(folders)) or 'none'}")

    @property
    def out(self) -> Path:
        return self.sweeps[0].out

    def runs(self) -> list[Run]:
        """Every run of every sweep, once, and seed by seed."""
        runs = {run.name: run for sweep in self.sweeps for run in sweep.runs()}
        trunks = {run.trunk for run in runs.values() if run.name not in self.known}
        left = [run for run in runs.values() if run.name not in self.known or run.name in trunks]
        return sorted(left, key=lambda run: run.settings["seed"])


def _setting_names(table: dict[str, Any]) -> dict[str, Any]:
    """Return a TOML table with underscores in its keys and the present names of settings."""
    return first_edition.modern({name.replace("-", "_"): value for name, value in table.items()})


def trainer_settings(settings: dict[str, Any]) -> dict[str, Any]:
    """Of a run's settings those that `training.Settings` takes."""
    from labkit import schedules, training

    names = {field.name for field in dataclasses.fields(training.Settings)}
    values = {name: value for name, value in settings.items() if name in names}
    return values | {"lr": schedules.parse(str(values["lr"]))}


def images(settings: dict[str, Any], split: str) -> list[Path]:
    """The folders of images to train on ("data", one folder) or to code ("test")."""
    bundled = {"data": "train", "test": "test"}[split]
    folders = settings[split] or str(paths.data() / "photographs" / bundled)
    return [Path(folder) for folder in ([folders] if isinstance(folders, str) else folders)]


def _checked_codec(settings: dict[str, Any], given: dict[str, Any]) -> dict[str, Any]:
    """What paths stand for in a hash. Raises ValueError for a setting that is wrong."""
    from labkit import networks

    for name in ("permute_colors", "compile", "coded"):
        if not isinstance(settings[name], bool):
            raise ValueError(f"{name}: takes true or false, got {settings[name]!r}")
    check_positive(save_every=settings["save_every"])
    for name in ("data", "test", "start"):
        if isinstance(settings[name], list):
            settings[name] = [str(Path(folder).resolve()) for folder in settings[name]]
        elif settings[name] is not None:
            settings[name] = str(Path(settings[name]).resolve())  # workers may have started elsewhere
    start = None
    if settings["start"] is not None:
        start, size = _weights(settings["start"], settings["network"])
        if given.get("size", size) != size:
            raise ValueError(f"size: {settings['start']} is {size}, not {given['size']}")
        settings["size"] = size
    elif settings["size"] not in networks.SIZES[settings["network"]]:
        sizes = ", ".join(networks.SIZES[settings["network"]])
        raise ValueError(f"size must be one of {sizes}, got {settings['size']!r}")
    folders = images(settings, "test")
    test = [_listing(folder) for folder in folders]
    if len({folder.name for folder in folders}) < len(folders):
        raise ValueError(f"test: takes folders of different names, got {', '.join(map(str, folders))}")
    (data,) = (_listing(folder) for folder in images(settings, "data"))
    uncoded = {} if settings["coded"] else {"coded": False}
    return {"data": data, "test": test if len(test) > 1 else test[0], "start": start, **uncoded}


@functools.cache
def _listing(folder: Path) -> str:
    """Hash of the names of a folder's images, and of their sizes in bytes."""
    from labkit import datasets

    if not folder.is_dir():
        raise ValueError(f"{folder}: there is no such folder")
    files = sorted(path for path in folder.iterdir() if path.suffix.lower() in datasets.SUFFIXES)
    if not files:
        raise ValueError(f"{folder} holds no image")
    return hashlib.sha256(json.dumps([(path.name, path.stat().st_size) for path in files]).encode()).hexdigest()


@functools.cache
def _weights(path: str, network: str) -> tuple[str, str]:
    """Hash of a checkpoint's weights, and the size of its network."""
    from labkit import training

    net, _ = training.load_checkpoint(path, network)
    return training.weights_hash(net), net.size

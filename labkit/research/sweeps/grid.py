"""The runs of a sweep: shared settings, a grid of further settings, and one `SweepRun` for every combination.

Runs may fork. A fork starts from the checkpoint of its trunk, a run of the same sweep that is trained first.

PyTorch is loaded only when runs are built: the process that drives a sweep works without it and stays small.
"""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
import math
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from labkit import first_edition
from labkit.checks import check_at_least, check_name
from labkit.disk import read_toml
from labkit.research.sweeps.settings import (
    CODEC_SETTINGS,
    REFERENCES,
    TOY_SETTINGS,
    TOYS,
    WITHOUT_EFFECT,
    clear_caches,
    resolve_codec_settings,
    trainer_settings,
)

_DIGITS = 12  # hexadecimal digits of the hash in a name; two of 10,000 runs collide in one of five million sweeps
_WITHOUT_COST = ("scheme", "temperature", "scale_lower_bound", "lmbda", "seed", "lr", "clip", "ema", "start")


@dataclass(frozen=True, repr=False)
class SweepRun:
    """One training run of a grid, and the measurements that follow it.

    Attributes:
        name: A readable prefix and a hash of everything that affects the result: settings, scheme, initial weights, and
            the names and sizes of the images. The same run therefore has the same name in every grid. Paths, the names
            of schemes, and the settings device, compile, workers and save_every do not affect the name.
        settings: All settings by name.
        scheme: The quantization scheme as returned by its `to_dict`.
        trunk: Name of the run that this run starts from, or None. The hash uses this name instead of the initial
            weights, which are unknown before the trunk is trained.
    """

    name: str
    settings: dict[str, Any]
    scheme: dict[str, Any]
    trunk: str | None = None

    def __repr__(self) -> str:
        return f"SweepRun({self.name})"

    @property
    def is_toy(self) -> bool:
        """True if the network is a toy, which trains on a source of points instead of images."""
        return self.settings["network"] in TOYS

    @property
    def cost_class(self) -> str:
        """Key that is the same for all runs of similar cost."""
        return json.dumps({name: value for name, value in self.settings.items() if name not in _WITHOUT_COST})

    def row(self, status: str, error: str | None = None, **results: Any) -> dict[str, Any]:
        """Return a row of the table.

        Args:
            status: "done" or "failed".
            error: Message of the error, for a failed run.
            results: Further columns.
        """
        settings = {name: value for name, value in self.settings.items() if name != "device"}  # the results state it
        if isinstance(settings.get("test"), list):
            settings["test"] = os.pathsep.join(settings["test"])
        return {"run": self.name, "trunk": self.trunk, "status": status, "error": error, **settings, **results}


@dataclass(frozen=True, repr=False)
class Sweep:
    """A grid of training runs and the folder for their results.

    The settings have the names of `labkit train`'s options, with five differences. `threads` defaults to 1 because
    results depend on it; `precision` defaults to float32 on every machine; `workers`, the number of processes that
    read images, defaults to 0. `test` is a folder of images to code, or a list of folders. With `coded = false`, images
    are not coded, and only their losses are measured. Toys take `source` and `hidden` instead of the settings that
    concern images.

    Attributes:
        out: Folder for the results.
        settings: Settings that all runs share.
        grid: Lists of values for further settings. Every combination is a run.
        schemes: Further schemes by name. Each is a preset with changed fields: {"slow": {"preset": "annealed", …}}.
        trunk: Overrides for the shared checkpoints that runs start from. One trunk is trained for every combination of
            the grid without the axes that are overridden here. If empty, there are no trunks.

    Raises:
        ValueError: If a name is not a setting, or a setting is given twice.

    >>> import labkit as lk
    >>> shared = {"network": "toy_2d", "lmbda": 2.0, "steps": 100}
    >>> sweep = lk.research.sweeps.Sweep("results", shared, {"scheme": ["noise", "mixed"], "seed": [0, 1, 2]})
    >>> sweep
    Sweep('results', scheme × seed: 6 combinations)
    >>> sweep.runs()[0]
    SweepRun(toy_2d-noise-2-0-c9dc2958c56c)
    """

    out: Path
    settings: dict[str, Any]
    grid: dict[str, list[Any]] = field(default_factory=dict)
    schemes: dict[str, dict[str, Any]] = field(default_factory=dict)
    trunk: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in (*self.settings, *self.grid, *self.trunk):
            check_name("setting", name, {**CODEC_SETTINGS, **TOY_SETTINGS})
        for name, value in (*self.settings.items(), *self.trunk.items()):
            if isinstance(value, dict) or (isinstance(value, list) and name != "test"):
                raise ValueError(f"{name} must be a single value, got {value!r}. Put lists of values into the grid")
        for name, values in self.grid.items():
            if name in self.settings:
                raise ValueError(f"{name} is both a shared setting and an axis of the grid. Remove one of them")
            if not isinstance(values, list) or not values:
                raise ValueError(f"grid.{name} must be a list of values, got {values!r}")

    def __repr__(self) -> str:
        axes = " × ".join(self.grid) or "no grid"
        count = math.prod(len(values) for values in self.grid.values())
        return f"Sweep({str(self.out)!r}, {axes}: {count} combination{'s' * (count != 1)})"

    @classmethod
    def from_file(cls, path: str | Path) -> Sweep:
        """Read a sweep from a TOML file with out, settings, [grid], [trunk] and [schemes.NAME].

        Raises:
            ValueError: If the file is missing or something in it is wrong. The message names the file.
        """
        values = _with_setting_names(read_toml(path))
        try:
            if not isinstance(out := values.pop("out", None), str):
                raise ValueError(f"out must be the folder for results, as text, got {out!r}")
            tables = {name: values.pop(name, {}) for name in ("grid", "schemes", "trunk")}
            for name, table in (*tables.items(), *(tables["schemes"] or {}).items()):
                if not isinstance(table, dict):
                    raise ValueError(f"{name} must be a table, got {table!r}")
            tables |= {name: _with_setting_names(tables[name]) for name in ("grid", "trunk")}
            return cls(Path(out), values, **tables)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from None

    def runs(self) -> list[SweepRun]:
        """Return every run once, ordered by seed, so that a sweep that is stopped early covers the whole grid.

        A trunk precedes the first run that forks from it.

        Raises:
            ValueError: If a setting is wrong. The message names the setting.
        """
        clear_caches()
        axes = sorted(self.grid.items(), key=lambda axis: axis[0] != "seed")
        names = [name for name, _ in axes]
        runs: dict[str, SweepRun] = {}
        for combination in itertools.product(*(values for _, values in axes)):
            given = {**self.settings, **dict(zip(names, combination, strict=True))}
            trunk = self._run({**given, **self.trunk}) if self.trunk else None
            if trunk and trunk.is_toy:
                raise ValueError("trunk is not available for toys, which have no checkpoints to fork from")
            run = self._run(given, trunk.name if trunk else None)
            if trunk:
                for name in ("network", "size"):
                    if trunk.settings[name] != run.settings[name]:
                        raise ValueError(
                            f"trunk must have the {name} of its forks, {run.settings[name]}, got {trunk.settings[name]}"
                        )
                runs.setdefault(trunk.name, trunk)
            runs.setdefault(run.name, run)
        return list(runs.values())

    def _run(self, given: dict[str, Any], trunk: str | None = None) -> SweepRun:
        from labkit import networks, schedules, training

        network = networks.canonical_name(given.get("network", CODEC_SETTINGS["network"]))
        check_name("network", network, [*networks.names(), *TOYS])
        defaults = TOY_SETTINGS if network in TOYS else CODEC_SETTINGS
        for name in given:
            check_name(f"setting of {network}", name, defaults)
        settings = {**defaults, **given, "network": network}
        for name in ("lmbda", "steps"):
            if settings[name] is ...:
                raise ValueError(f"{name} is missing. Add it to the settings or to the grid")
        check_at_least(1, threads=settings["threads"])
        scheme, settings["temperature"], settings["scale_lower_bound"] = self._scheme(settings)
        references: dict[str, Any] = {"lr": dataclasses.asdict(schedules.parse(str(settings["lr"]))), "scheme": scheme}
        if network in TOYS:
            settings["source"] = settings["source"] or TOYS[network][0]
            check_name(f"source of {network}", settings["source"], TOYS[network])
            check_at_least(1, hidden=settings["hidden"])
        else:
            references |= resolve_codec_settings(settings, given)
        checked = training.Settings(**trainer_settings(settings) | {"device": "cpu"}).to_dict()
        settings |= {name: float(checked[name]) for name in ("lmbda", "clip")}  # 1 and 1.0 are the same λ
        settings["lr"] = str(settings["lr"])
        if trunk:
            if settings["start"] is not None:
                raise ValueError("start must not be set for runs that fork from a trunk. Move it to [trunk]")
            references["start"] = trunk
        values = {name: value for name, value in settings.items() if name not in (*WITHOUT_EFFECT, *REFERENCES)}
        hashed = json.dumps(first_edition.original({**values, **references}), sort_keys=True)
        preset = self.schemes.get(settings["scheme"], {}).get("preset", settings["scheme"])
        prefix = f"{network}-{preset}-{settings['lmbda']:g}-{settings['seed']}"
        return SweepRun(f"{prefix}-{hashlib.sha256(hashed.encode()).hexdigest()[:_DIGITS]}", settings, scheme, trunk)

    def _scheme(self, settings: dict[str, Any]) -> tuple[dict[str, Any], str, float]:
        """Return the scheme, its temperature and its bound; fields of a named scheme override the settings."""
        from labkit import schedules, schemes

        name = settings["scheme"]
        check_name("scheme", name, [*schemes.names(), *self.schemes])
        fields = {key: settings[key] for key in ("temperature", "scale_lower_bound") if settings[key] is not None}
        fields |= {"preset": name, **self.schemes.get(name, {})}
        if "temperature" in fields:
            fields["temperature"] = schedules.parse(str(fields["temperature"]))
        try:
            scheme = schemes.get(fields.pop("preset"), **fields)
        except ValueError as error:
            raise ValueError(f"scheme {name}: {error}") from None
        stage = schemes.first_stage(scheme)
        return scheme.to_dict(), str(stage.temperature), stage.scale_lower_bound


@dataclass(frozen=True, repr=False)
class SweepGroup:
    """Several sweeps that share a results folder. A run that belongs to more than one of them is made once.

    Attributes:
        sweeps: The sweeps.
        known: Names of runs whose results exist elsewhere. They are left out unless a remaining run forks from them.

    Raises:
        ValueError: If the sweeps have different results folders.
    """

    sweeps: tuple[Sweep, ...]
    known: frozenset[str] = frozenset()

    def __post_init__(self) -> None:
        if len(folders := {str(sweep.out) for sweep in self.sweeps}) != 1:
            found = ", ".join(sorted(folders)) or "none"
            raise ValueError(f"sweeps must share one folder for results, got {found}")

    def __repr__(self) -> str:
        return f"SweepGroup({len(self.sweeps)} sweeps into {str(self.out)!r})"

    @property
    def out(self) -> Path:
        """Folder for the results."""
        return self.sweeps[0].out

    def runs(self) -> list[SweepRun]:
        """Return every run of every sweep once, seed by seed."""
        runs = {run.name: run for sweep in self.sweeps for run in sweep.runs()}
        trunks = {run.trunk for run in runs.values() if run.name not in self.known}
        missing = [run for run in runs.values() if run.name not in self.known or run.name in trunks]
        return sorted(missing, key=lambda run: run.settings["seed"])


def _with_setting_names(table: dict[str, Any]) -> dict[str, Any]:
    """Return a TOML table with underscores in its keys and the current names of settings."""
    return first_edition.modern({name.replace("-", "_"): value for name, value in table.items()})

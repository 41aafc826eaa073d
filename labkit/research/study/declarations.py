"""Declarations of the study's claims: what is trained, in TOML, and the sweeps that follow from it.

A declaration has the form of a sweep file, with `claim`, the sentence that is tested, and [gpu], the settings that
`--scale gpu` changes. Claims share the settings of a protocol: claims/protocol.toml, whose runs start from a trunk, or
another file of that folder that the declaration names as its `protocol`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from labkit import paths
from labkit.checks import check_name
from labkit.disk import read_toml
from labkit.research.sweeps import Sweep

SCALES = ("laptop", "gpu")
_CLAIMS = Path(__file__).parent / "claims"
_PROTOCOLS = ("protocol", "scratch")
_NOT_SETTINGS = ("claim", "protocol", "gpu", "trunks", "parts", "tuning", "toys")


def declaration(name: str, scale: str = "laptop") -> dict[str, Any]:
    """Return a claim's declaration, merged over its protocol.

    Args:
        name: Name of the claim.
        scale: "laptop", or "gpu" for larger networks and more steps and seeds.

    Raises:
        ValueError: If there is no such claim or scale.
    """
    check_name("claim", name, sorted(path.stem for path in _CLAIMS.glob("*.toml") if path.stem not in _PROTOCOLS))
    check_name("scale", scale, SCALES)
    values: dict[str, Any] = {}
    declared = read_toml(_CLAIMS / f"{name}.toml")
    files = [read_toml(_CLAIMS / f"{declared.get('protocol', 'protocol')}.toml"), declared]
    for file in files:
        values = merged(values, {key: value for key, value in file.items() if key != "gpu"})
    for file in files if scale == "gpu" else []:
        values = merged(values, file.get("gpu", {}))
    return values


def is_from_scratch(declared: dict[str, Any]) -> bool:
    """Return True if a declaration is about patch codecs that train from scratch, without a trunk."""
    return bool(declared.get("protocol") == "scratch")


def merged(values: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """Merge changes into values, table by table. A change to false removes a table."""
    result = dict(values)
    for name, change in changes.items():
        both_tables = isinstance(change, dict) and isinstance(result.get(name), dict)
        result[name] = merged(result[name], change) if both_tables else change
    return result


def test_folder() -> Path:
    """Return the folder of the bundled test photographs, on which every claim is tested."""
    return paths.data() / "photographs" / "test"


@dataclass(frozen=True, repr=False)
class Study:
    """A claim, and the folders and settings of its test.

    Attributes:
        name: Name of the claim.
        work: Folder for the runs. Claims may share it, and then share runs.
        out: Folder for tables and figures.
        scale: "laptop" or "gpu".
        seeds: Number of seeds, in place of the declared ones.
        data: Folder of training images, in place of the bundled photographs.
        tests: Folders of images to code in addition to the bundled test photographs, for claims that use them.

    Raises:
        ValueError: If there is no such claim or scale.

    >>> import labkit as lk
    >>> study = lk.research.study.Study("bound", "study-runs", "results", seeds=2)
    >>> study
    Study('bound', seeds 0 to 1)
    """

    name: str
    work: Path
    out: Path
    scale: str = "laptop"
    seeds: int | None = None
    data: str | None = None
    tests: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        declaration(self.name, self.scale)
        for name in ("work", "out"):
            object.__setattr__(self, name, Path(getattr(self, name)))

    def __repr__(self) -> str:
        seeds = self.seed_list
        return f"Study({self.name!r}, seeds {seeds[0]} to {seeds[-1]}" + f", {self.scale}" * (self.scale == "gpu") + ")"

    @property
    def declaration(self) -> dict[str, Any]:
        """The claim's declaration at this scale."""
        return declaration(self.name, self.scale)

    @property
    def seed_list(self) -> list[int]:
        """The seeds."""
        seeds: list[int] = self.declaration["grid"]["seed"] if self.seeds is None else list(range(self.seeds))
        return seeds

    @property
    def command(self) -> str:
        """The command of this study, without folder names that differ between machines."""
        text = f"labkit study {self.name}" + f" --scale {self.scale}" * (self.scale != "laptop")
        text += f" --seeds {self.seeds}" * (self.seeds is not None) + " --data FOLDER" * bool(self.data)
        return text + "".join(f" --test {Path(folder).name}" for folder in self.tests)

    def sweep(self, changes: dict[str, Any] | None = None, test: list[str] | None = None) -> Sweep:
        """Return the declared sweep with the chosen seeds.

        Args:
            changes: Changes to merge into the declaration.
            test: Folders of images to code, by default that of the bundled test photographs.
        """
        changes = changes or {}
        declared = merged(self.declaration, changes)
        only_trunks = declared.get("trunks", False)
        values = {name: value for name, value in declared.items() if name not in _NOT_SETTINGS}
        grid, schemes, trunk = (values.pop(name, None) or {} for name in ("grid", "schemes", "trunk"))
        grid = {**grid, "seed": changes.get("grid", {}).get("seed", self.seed_list)}
        bundled = str(test_folder())
        values |= {"data": self.data, "test": test or [bundled]} | (trunk if only_trunks else {})
        # trunks code the bundled photographs only, so that claims with further images share them
        trunk = {} if only_trunks or not trunk else {"test": [bundled], **trunk}
        values = {name: value for name, value in values.items() if name not in grid}
        return Sweep(self.work, values, grid, schemes, trunk)

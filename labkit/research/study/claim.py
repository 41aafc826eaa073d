"""The base class of the study's claims."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from labkit.research.study.declarations import is_from_scratch
from labkit.research.study.findings import Finding, Rule
from labkit.research.study.tables import FORKS, SCRATCH
from labkit.research.sweeps import Sweep, SweepGroup

if TYPE_CHECKING:
    import pandas as pd

    from labkit.datasets import PhotoSet
    from labkit.networks import Codec
    from labkit.research.study.declarations import Study
    from labkit.schemes import Scheme

Row = dict[str, Any]
Parts = list[tuple[str, Sweep]]
RunSweep = Callable[[Sweep | SweepGroup], "pd.DataFrame"]
Lines = dict[str, tuple[list[float], list[float]]]


@dataclass(frozen=True, repr=False)
class Trunk:
    """A trained checkpoint on which a claim is measured: a trunk, or a run from scratch.

    Attributes:
        net: The network.
        photos: Images to measure on.
        settings: Settings of the run that trained it.
        schemes: Schemes of the runs that fork from it, by name.
        declaration: The claim's declaration.
    """

    net: Codec
    photos: PhotoSet
    settings: dict[str, Any]
    schemes: dict[str, Scheme]
    declaration: dict[str, Any]


class Claim(ABC):
    """One claim of the study. The runs are declared in claims/NAME.toml, over claims/protocol.toml.

    Attributes:
        name: Name of the claim, of its declaration and of its table.
        summary: Short description for the list of commands.
        rule: "all" if all findings must be supported, "any" if one is enough.
        measures_trunks: True if the claim implements `measure`.
        measured_scheme: Scheme of the runs from scratch that are measured, or None for all of them.
    """

    name: ClassVar[str]
    summary: ClassVar[str]
    rule: ClassVar[Rule] = "all"
    measures_trunks: ClassVar[bool] = False
    measured_scheme: ClassVar[str | None] = None

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"

    def parts(self, study: Study, run_sweep: RunSweep) -> Parts:
        """Return the sweeps of the claim, each with the name of its part of the table.

        Args:
            study: The study.
            run_sweep: Function that trains the missing runs of a sweep on which the parts depend.
        """
        return [(SCRATCH if is_from_scratch(study.declaration) else FORKS, study.sweep())]

    def measure(self, trunk: Trunk) -> Iterable[Row]:
        """Measure a checkpoint and return rows of the table."""
        return ()

    def toy_rows(self, study: Study, table: pd.DataFrame) -> Iterable[Row]:
        """Return the rows of toy codes; those that the table lacks are trained."""
        return ()

    @abstractmethod
    def findings(self, table: pd.DataFrame) -> list[Finding]:
        """Return the findings of a complete table."""

    def curves(self, table: pd.DataFrame) -> tuple[str, Lines] | None:
        """Return the label of the horizontal axis and the curves of the figure, or None for a figure without curves."""
        return None

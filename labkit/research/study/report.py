"""What the study's tables decide: a report per claim."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from labkit.research.study import claims, declarations, tables
from labkit.research.study.findings import INCONCLUSIVE, Finding, Rule, verdict

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, repr=False)
class ClaimReport:
    """The verdict on a claim.

    Attributes:
        name: Name of the claim.
        text: The claim.
        findings: The findings; empty without a table.
        verdict: "supported", "not supported" or "inconclusive", or the reason why there is no verdict.
        seeds: Number of complete seeds in the table.
        hours: Core-hours that one further seed takes.
        rule: "all" if all findings must be supported, "any" if one is enough.
    """

    name: str
    text: str
    findings: tuple[Finding, ...] = ()
    verdict: str = "no table yet"
    seeds: int = 0
    hours: float = 0.0
    rule: Rule = "all"

    @property
    def trained(self) -> bool:
        """True if the claim is about codecs that were trained from scratch, not about the beginning of training."""
        return declarations.is_from_scratch(declarations.declaration(self.name))

    @property
    def conclusion(self) -> str:
        """The verdict, and for an inconclusive claim the number of seeds that would decide it."""
        if self.verdict != INCONCLUSIVE:
            return self.verdict
        needed = [one.further_seeds or math.inf for one in self.findings if one.verdict == INCONCLUSIVE]
        seeds = (min if self.rule == "any" else max)(needed, default=math.inf)
        if seeds == math.inf:
            return f"{INCONCLUSIVE}: 1,000 further seeds would not decide it; larger effects or more images might"
        cost = _core_hours(seeds * self.hours)
        plural = "s" * (seeds > 1)
        return f"{INCONCLUSIVE}: {seeds} further seed{plural} ({cost}) would decide it if nothing else changed"

    def __str__(self) -> str:
        lines = [f"{self.name}: {self.text}", f"  {self.conclusion}" + f" ({self.seeds} seeds)" * bool(self.seeds)]
        return "\n".join([*lines, *(f"    {finding}" for finding in self.findings)])

    def __repr__(self) -> str:
        return f"ClaimReport({self.name}: {self.verdict}, {len(self.findings)} findings)"


def _core_hours(hours: float) -> str:
    return f"{hours:.2g} core-hours" if hours < 100 else f"{hours:,.0f} core-hours"


def claim_report(name: str, table: pd.DataFrame | None = None) -> ClaimReport:
    """Return the report on a claim.

    Args:
        name: Name of the claim.
        table: The claim's table, by default the bundled one. If it lacks all runs of a comparison, the report says so
            in place of a verdict.

    Raises:
        ValueError: If there is no such claim, or its bundled table is missing.

    >>> import labkit as lk
    >>> lk.research.study.claim_report("elsewhere")
    ClaimReport(elsewhere: not supported, 8 findings)
    """
    claim, text = claims.get(name), declarations.declaration(name)["claim"]
    table = tables.with_losses(tables.read(name) if table is None else table)
    seeds, hours = len(tables.complete_seeds(table)), tables.hours_per_seed(table)
    try:
        findings = (*claim.findings(table[table["error"].isna()]), *_failures(table))
    except (ValueError, KeyError, IndexError) as error:
        return ClaimReport(name, text, (), f"incomplete: {error}", seeds, hours)
    return ClaimReport(name, text, findings, verdict(findings, claim.rule), seeds, hours, claim.rule)


def _failures(table: pd.DataFrame) -> Iterator[Finding]:
    """Yield the share of failed runs of each scheme that has any, with their errors."""
    runs = table.drop_duplicates("run")
    for (part, network, scheme), rows in runs.groupby(["part", "network", "scheme"], sort=False):
        if errors := [error.partition(":")[0] for error in rows["error"].dropna()]:
            text = f"{network}, {part}, {scheme}: runs that failed with {', '.join(sorted(set(errors)))}"
            text += f", {len(errors)} of {len(rows)}"
            yield Finding(text, len(errors) / len(rows), math.nan, math.nan)


def claim_reports(folder: str | Path | None = None) -> list[ClaimReport]:
    """Return the reports on all claims, from the tables in a folder or from the bundled tables."""
    return [
        claim_report(name, tables.read(name, folder))
        if tables.table_path(name, folder).is_file()
        else ClaimReport(name, declarations.declaration(name)["claim"])
        for name in claims.CLAIMS
    ]

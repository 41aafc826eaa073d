"""What the study's tables decide: a report per claim, and the README's block of all claims."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from labkit.disk import write_whole
from labkit.research.study import claims, declarations, tables
from labkit.research.study.findings import INCONCLUSIVE, NOT_SUPPORTED, SUPPORTED, Finding, Rule, verdict

if TYPE_CHECKING:
    import pandas as pd

BEGIN, END = "<!-- study -->", "<!-- /study -->"
FIGURES = "data/results/study-{name}.svg"  # relative to the README


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


def markdown(reports: Sequence[ClaimReport]) -> str:
    """Return a table of the claims as Markdown.

    For each claim the table counts the main findings by verdict and gives one example of each verdict: the first
    finding, or among inconclusive ones that which needs the fewest further seeds.
    """
    lines = ["| claim | verdict | main findings |", "| --- | --- | --- |"]
    for number, report in enumerate(reports, start=1):
        mains = [finding for finding in report.findings if finding.main]
        mains.sort(key=lambda main: main.further_seeds or math.inf)
        cells = []
        for word in (SUPPORTED, NOT_SUPPORTED, INCONCLUSIVE):
            if same := [main for main in mains if main.verdict == word]:
                cells.append(f"{len(same)} {word}, e.g. {same[0].comparison}: {same[0].numbers}")
        cells += [f"[figure of all]({FIGURES.format(name=report.name)})"] if mains else []
        word, _, rest = report.conclusion.partition(":")
        lines.append(f"| {number}. {report.text} | **{word}**{':' * bool(rest)}{rest} | {'<br>'.join(cells)} |")
    return "\n".join(lines)


def with_block(text: str, reports: Sequence[ClaimReport]) -> str:
    """Return a text with the block between the study's two marks replaced.

    Raises:
        ValueError: If the text lacks the marks.
    """
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"the text must contain {BEGIN} … {END}")
    return f"{before}{BEGIN}\n{markdown(reports)}\n{END}{after}"


def rewrite(path: Path, reports: Sequence[ClaimReport]) -> None:
    """Replace the block between the study's two marks in a file.

    Raises:
        ValueError: If the file cannot be read or written, or lacks the marks. The message names the file.
    """
    try:
        text = path.read_text(encoding="utf-8")
        write_whole(path, with_block(text, reports).encode())
    except (OSError, ValueError) as error:
        raise ValueError(f"{path}: {error}") from None

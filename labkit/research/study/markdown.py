"""The study in Markdown files: tables of verdicts, and single figures within sentences.

    <!-- study trained -->…<!-- /study -->               the claims about patch codecs that were trained from scratch
    <!-- study beginning -->…<!-- /study -->             the claims about networks at the beginning of training
    <!-- finding CLAIM: COMPARISON -->…<!-- /finding --> estimate and interval of one finding

`rewrite` replaces what is between the marks.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Sequence
from pathlib import Path

from labkit.disk import write_whole
from labkit.research.study import tables
from labkit.research.study.findings import INCONCLUSIVE, NOT_SUPPORTED, SUPPORTED
from labkit.research.study.report import ClaimReport

GROUPS = {"trained": True, "beginning": False}  # the value of ClaimReport.trained
_TABLE = re.compile(r"(<!-- study (\w+) -->).*?(<!-- /study -->)", re.DOTALL)
_FINDING = re.compile(r"(<!-- finding (\w+): (.+?) -->).*?(<!-- /finding -->)", re.DOTALL)


def table(reports: Sequence[ClaimReport], folder: str = ".") -> str:
    """Return a table of claims as Markdown.

    For each claim the table counts the main findings by verdict and gives one example of each verdict: the first
    finding, or among inconclusive ones that which needs the fewest further seeds.

    Args:
        reports: Reports on the claims.
        folder: Folder of the figures, relative to the file that contains the table.
    """
    lines = ["| claim | verdict | main findings |", "| --- | --- | --- |"]
    for report in reports:
        mains = [finding for finding in report.findings if finding.main]
        mains.sort(key=lambda main: main.further_seeds or math.inf)
        cells = []
        for word in (SUPPORTED, NOT_SUPPORTED, INCONCLUSIVE):
            if same := [main for main in mains if main.verdict == word]:
                cells.append(f"{len(same)} {word}, e.g. {same[0].comparison}: {same[0].numbers}")
        figure = tables.table_path(report.name, folder).with_suffix(".svg").as_posix()
        cells += [f"[figure of all]({figure})"] if mains else []
        word, _, rest = report.conclusion.partition(":")
        verdict = f"**{word}**{':' * bool(rest)}{rest}"
        lines.append(f"| `{report.name}`: {report.text} | {verdict} | {'<br>'.join(cells)} |")
    return "\n".join(lines)


def rewritten(text: str, reports: Sequence[ClaimReport], folder: str = ".") -> str:
    """Return a text with its tables of verdicts and its figures of findings replaced.

    Args:
        text: Text with the marks of the study.
        reports: Reports on all claims.
        folder: Folder of the figures, relative to the file that contains the text.

    Raises:
        ValueError: If the text has no marks, or a mark names an unknown group, claim or comparison.
    """
    numbers = {(one.name, finding.comparison): finding.numbers for one in reports for finding in one.findings}

    def with_table(match: re.Match[str]) -> str:
        if match[2] not in GROUPS:
            raise ValueError(f"{match[1]}: the group must be one of {', '.join(GROUPS)}")
        group = [report for report in reports if report.trained == GROUPS[match[2]]]
        return f"{match[1]}\n{table(group, folder)}\n{match[3]}"

    def with_number(match: re.Match[str]) -> str:
        key = match[2], " ".join(match[3].split())
        if key not in numbers:
            raise ValueError(f"{match[1]}: the report on {match[2]} has no such finding")
        return f"{match[1]}{numbers[key]}{match[4]}"

    text, found = _TABLE.subn(with_table, text)
    text, more = _FINDING.subn(with_number, text)
    if not found + more:
        raise ValueError("the text must contain <!-- study trained --> … <!-- /study --> or another mark of the study")
    return text


def rewrite(path: Path, reports: Sequence[ClaimReport]) -> None:
    """Update the tables of verdicts and the figures of findings in a Markdown file.

    Raises:
        ValueError: If the file cannot be read or written, or `rewritten` refuses its text. The message names the file.
    """
    try:
        text = path.read_text(encoding="utf-8")
        folder = os.path.relpath(tables.table_path("").parent, path.resolve().parent)
        write_whole(path, rewritten(text, reports, folder).encode())
    except (OSError, ValueError) as error:
        raise ValueError(f"{path}: {error}") from None

"""Hypotheses about the claims of the paper, which are registered first and later compared with the study's verdicts."""

from __future__ import annotations

import time
from collections.abc import Sequence
from html import escape
from typing import Any

from labkit.checks import check_name
from labkit.course import record, results
from labkit.course.cards import Card
from labkit.course.guesses import Prediction
from labkit.research import study
from labkit.research.study.declarations import declaration
from labkit.research.study.findings import INCONCLUSIVE, NOT_SUPPORTED, SUPPORTED

# Claims of the paper's abstract, each with the claims of the study that test it: first on networks in early training,
# then on patch codecs that were trained from scratch
CLAIMS = {
    "mismatch": ("mismatch", "trained_mismatch"),
    "gradients": ("gradients", "trained_gradients"),
    "tradeoff": ("tradeoff",),
    "structure": ("structure", "temperature"),
    "bound": ("bound", "tricks"),
    "zero_center": ("zero_center", "tricks"),
    "method": ("method", "comparison"),
}
EVIDENCE = ("early training", "trained patch codecs")


class Hypothesis(Prediction):
    """A claim of the paper, with a control that registers the verdict that the learner expects.

    The record keeps the statement, the choice and the date. After `open_hypotheses`, the choice cannot be changed.
    """

    @property
    def guess(self) -> Any:
        """The expected verdict, or None."""
        return _registered().get(self.key, {}).get("choice")

    def _record_guess(self, change: dict[str, Any]) -> None:
        if change["new"] is not None and "opened" not in _registered().get(self.key, {}):
            entry = {"statement": self.question, "choice": change["new"], "date": time.strftime("%Y-%m-%d")}
            record.write("hypotheses", self.key, entry)
            self._show_status()

    def _describe_guess(self) -> str:
        entry = _registered().get(self.key)
        if not entry:
            return "Not registered yet."
        status = f"Registered on {entry['date']}: {entry['choice']}."
        return f"{status} Opened on {entry['opened']}." if "opened" in entry else status


def hypothesis(
    key: str, statement: str = "", options: Sequence[str] = (SUPPORTED, NOT_SUPPORTED, INCONCLUSIVE)
) -> Hypothesis:
    """Register the verdict that the learner expects from the study on a claim of the paper.

    Args:
        key: Name of the study's claim that tests it, one of `CLAIMS`.
        statement: The claim. By default, it has the words of the study, which `open_hypotheses` shows again.
        options: Verdicts to choose from.

    Raises:
        ValueError: If there is no such claim.
    """
    import ipywidgets

    check_name("claim", key, CLAIMS)
    statement = statement or declaration(CLAIMS[key][0])["claim"]
    before = _registered().get(key, {})
    value = before["choice"] if before.get("choice") in options else None
    style = {"description": "", "layout": {"width": "max-content"}}
    control = ipywidgets.RadioButtons(options=list(options), value=value, disabled="opened" in before, **style)
    return Hypothesis(key, statement, control, f"({' / '.join(options)})")


def open_hypotheses() -> Card:
    """Show the registered hypotheses next to the verdicts of the study, and close the registration."""
    entries = _registered()
    rows = []
    for key, tests in CLAIMS.items():
        expected = "none"
        if entry := entries.get(key):
            record.write("hypotheses", key, {"opened": time.strftime("%Y-%m-%d")} | entry)
            expected = f"{entry['choice']} ({entry['date']})"
        reports = [results.report(name) for name in tests if study.table_path(name).is_file()]
        verdicts = [f"{where}: {report.verdict}" for where, report in zip(EVIDENCE, reports, strict=False)]
        rows.append((entry["statement"] if entry else reports[0].text, expected, "; ".join(verdicts)))
    first = f"You registered {len(entries)} of {len(CLAIMS)} hypotheses. They can no longer be changed."
    if not entries:
        first = "You registered no hypothesis, so this table has the verdicts alone. Your own experiment can have one."
    names = ("claim", "your hypothesis", "verdict of the study")
    head = "".join(f'<th style="text-align:left">{name}</th>' for name in names)
    body = "".join(
        "<tr>" + "".join(f'<td style="text-align:left">{escape(cell)}</td>' for cell in row) + "</tr>" for row in rows
    )
    html = f"<b>{escape(first)}</b><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
    lines = [f"{claim} Your hypothesis: {own}. The study: {verdict}." for claim, own, verdict in rows]
    return Card(html, "\n".join([first, *lines]), "note")


def _registered() -> dict[str, Any]:
    return record.read()["hypotheses"]

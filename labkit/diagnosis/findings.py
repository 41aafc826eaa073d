"""The possible findings of a diagnosis, and the thresholds for notes, warnings and errors."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

SEVERITIES = ("error", "warning", "note")


class Kind(NamedTuple):
    """One kind of finding, with the smallest figure for each severity, or None if a severity does not occur.

    Attributes:
        what: Description of the problem in a few words.
        unit: Unit of the figure.
        note: Smallest figure of a note.
        warning: Smallest figure of a warning.
        error: Smallest figure of an error.
    """

    what: str
    unit: str
    note: float | None
    warning: float | None
    error: float | None


_BITS = "% of the bits"
KINDS = {
    "nonfinite": Kind("values that cannot be coded", "values", None, None, 1),
    "missing_tables": Kind("no coder tables", "entropy models", None, None, 1),
    "stale_tables": Kind("coder tables of other weights", _BITS, 0, 1, 10),
    "quantiles": Kind("quantiles that did not converge", "steps", 0.1, 1, 2**13),
    "overflow": Kind("symbols outside the tables", _BITS, 0.1, 2, 20),
    "mismatch": Kind("training reports a different rate than rounding gives", _BITS, 2, 150, None),
    "scale_bound": Kind("noise at the lower bound on σ", _BITS, 2, 100, None),
    "center": Kind("the forward pass rounds different values than the coder", "%", 0.1, 5, None),
    "not_reproducible": Kind("decoding depends on the machine", "settings", 0, None, 1),
    "dead_channels": Kind("channels that carry no information", "% of the channels", 1, None, None),
    "dominant_channel": Kind("one channel that takes most bits", _BITS, 50, None, None),
    "checkpoint_keys": Kind("keys of the checkpoint that were not loaded as they are", "keys", 1, None, None),
}


@dataclass(frozen=True)
class Finding:
    """Something that makes the real bits of a codec differ from its estimate, or that wastes bits.

    Attributes:
        kind: One of `KINDS`.
        severity: "error", "warning" or "note".
        figure: The measured figure.
        unit: Unit of the figure.
        message: The cause, with the figure, in one sentence.
        remedy: What to do about the problem.
    """

    kind: str
    severity: str
    figure: float
    unit: str
    message: str
    remedy: str

    def __repr__(self) -> str:
        return f"Finding({self.kind}, {self.severity}, {self.figure:.3g} {self.unit})"

    def __str__(self) -> str:
        return f"{self.severity}: {self.message}\n    {self.remedy}"


def judged(kind: str, figure: float, message: str, remedy: str) -> list[Finding]:
    """Return a finding with the severity of its figure, or nothing if the figure is too small.

    Args:
        kind: One of `KINDS`.
        figure: Measured figure, in the unit of the kind.
        message: The cause.
        remedy: What to do about the problem.
    """
    levels = KINDS[kind]
    for severity in SEVERITIES:
        least = getattr(levels, severity)
        if least is not None and (figure >= least or math.isnan(figure)):
            return [Finding(kind, severity, figure, levels.unit, message, remedy)]
    return []

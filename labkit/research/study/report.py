"""What the claims' tables say: sentences with intervals and verdicts, a figure each, and the README's block."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from labkit import theme
from labkit.disk import whole, write_whole
from labkit.research.study import engine
from labkit.research.study.findings import HELD, NOT_HELD, UNDECIDED, Finding, verdict

if TYPE_CHECKING:
    import pandas as pd

BEGIN, END = "<!-- study -->", "<!-- /study -->"
FAR = 1000.0  # where a figure's axis ends, whatever an interval has beyond
WIDE = 20.0  # from a value of this size on, a figure's axis is logarithmic outside ± 1
MARKERS = {HELD: "o", NOT_HELD: "X", UNDECIDED: "$?$"}
COLORS = {HELD: theme.COLORS[2], NOT_HELD: theme.COLORS[1], UNDECIDED: theme.COLORS[4]}


@dataclass(frozen=True)
class Report:
    """A claim, what its table says of it, and what one more seed costs in core-hours. Empty without a table."""

    name: str
    text: str
    findings: tuple[Finding, ...] = ()
    verdict: str = "no table yet"
    seeds: int = 0
    hours: float = 0.0
    enough: str = "all"  # of the findings, to make the claim

    @property
    def told(self) -> str:
        """The verdict, and what would decide a claim that is undecided."""
        if self.verdict != UNDECIDED:
            return self.verdict
        open_ones = [one.further or math.inf for one in self.findings if one.verdict == UNDECIDED]
        more = (min if self.enough == "any" else max)(open_ones, default=math.inf)
        if more == math.inf:
            return f"{UNDECIDED}: 1,000 further seeds would not do; other effects or images might"
        seeds = f"{more} further seed{'s' * (more > 1)}"
        return f"{UNDECIDED}: {seeds} would do if nothing else changed, {_hours(more * self.hours)} here"

    def __str__(self) -> str:
        lines = [f"{self.name}: {self.text}", f"  {self.told}" + f" ({self.seeds} seeds)" * bool(self.seeds)]
        return "\n".join([*lines, *(f"    {one}" for one in self.findings)])


def _hours(hours: float) -> str:
    return f"{hours:.2g} core-hours" if hours < 100 else f"{hours:,.0f} core-hours"


def of(name: str, table: pd.DataFrame) -> Report:
    """What a claim's table says. A table that lacks all of a comparison is said to, in the verdict."""
    module, text = engine.claim(name), engine.declared(name)["claim"]
    table = engine.with_losses(table)
    seeds = len(engine.whole_seeds(table))
    try:
        findings = (*module.findings(table[table["error"].isna()]), *_failures(table))
    except (ValueError, KeyError, IndexError) as error:
        return Report(name, text, (), f"not all there: {error}", seeds, engine.cost(table))
    enough = getattr(module, "ENOUGH", "all")
    return Report(name, text, findings, verdict(findings, enough), seeds, engine.cost(table), enough)


def _failures(table: pd.DataFrame) -> Iterator[Finding]:
    """What share of a scheme's runs failed, where any did, and with which errors."""
    runs = table.drop_duplicates("run")
    for (part, network, scheme), own in runs.groupby(["part", "network", "scheme"], sort=False):
        if errors := [told.partition(":")[0] for told in own["error"].dropna()]:
            what = f"{network}, {part}, {scheme}, runs that failed with {', '.join(sorted(set(errors)))}"
            yield Finding(f"{what}, {len(errors)} of {len(own)}", len(errors) / len(own), math.nan, math.nan)


def reports(folder: str | Path | None = None) -> list[Report]:
    """Every claim's, from the tables in a folder, by default those that come with labkit."""
    found = []
    for name in engine.CLAIMS:
        there = engine.file(name, folder).is_file()
        missing = Report(name, engine.declared(name)["claim"])
        found.append(of(name, engine.read(name, folder)) if there else missing)
    return found


def markdown(found: list[Report]) -> str:
    """A table of the claims: of each one's main findings how many there are of a verdict, and one of each.

    That is the first, or where seeds are missing the one that misses fewest.
    """
    lines = ["| claim | verdict | what it rests on |", "| --- | --- | --- |"]
    for number, one in enumerate(found, start=1):
        mains = [finding for finding in one.findings if finding.main]
        mains.sort(key=lambda main: main.further or math.inf)
        kinds = {kind: [main for main in mains if main.verdict == kind] for kind in (HELD, NOT_HELD, UNDECIDED)}
        told = [f"{len(some)} {kind}, e.g. {some[0].what}: {some[0].told}" for kind, some in kinds.items() if some]
        told += [f"[all of them](data/results/study-{one.name}.svg)"] if mains else []
        word, _, rest = one.told.partition(":")
        lines.append(f"| {number}. {one.text} | **{word}**{':' * bool(rest)}{rest} | {'<br>'.join(told)} |")
    return "\n".join(lines)


def block(text: str, found: list[Report]) -> str:
    """A text with the block between the two marks made anew. Raises ValueError where they are missing."""
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"the text has no {BEGIN} … {END}")
    return f"{before}{BEGIN}\n{markdown(found)}\n{END}{after}"


def rewrite(path: Path, found: list[Report]) -> None:
    """Make the block in a file anew."""
    try:
        text = path.read_text(encoding="utf-8")
        write_whole(path, block(text, found).encode())
    except (OSError, ValueError) as error:
        raise ValueError(f"{path}: {error}") from None


def draw(one: Report, table: pd.DataFrame, path: Path) -> None:
    """A claim's figure as SVG: its curves, where it has them, beside the findings that the verdict rests on."""
    import matplotlib
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    module = engine.claim(one.name)
    shown = [finding for finding in one.findings if finding.verdict and not math.isnan(finding.low)]
    height = max(4.0, 0.2 * len(shown) + 1.2)
    with matplotlib.rc_context(
        {"svg.hashsalt": one.name, "svg.fonttype": "none", "font.size": 8, "axes.edgecolor": theme.INK}
    ):
        page = Figure(figsize=(11 if hasattr(module, "curves") else 8, height), layout="constrained")
        axes = page.subplots(1, 2 if hasattr(module, "curves") else 1, squeeze=False)[0]
        if hasattr(module, "curves"):
            whole_ones = table[table["seed"].isin(engine.whole_seeds(table))]  # means of equal seeds all along a line
            _curves(axes[0], *module.curves(engine.with_losses(whole_ones)))
        _forest(axes[-1], shown)
        page.suptitle(f"{one.text}\n{one.told}", color=theme.INK, fontsize=9)
        with whole(path) as temporary:
            FigureCanvasSVG(page).print_svg(temporary, metadata={"Date": None})


def _curves(axes: Any, label: str, lines: dict[str, tuple[list[float], list[float]]]) -> None:
    for number, (name, (x, y)) in enumerate(lines.items()):
        color = theme.COLORS[number % len(theme.COLORS)]
        dash = ("-", "--", ":", "-.")[number // len(theme.COLORS) % 4]
        axes.plot(x, y, dash, color=color, marker="o", markersize=3, label=name)
    axes.set(xscale="log", xlabel=label, ylabel="loss above its least (%)")
    levels = sorted({level for x, _ in lines.values() for level in x})
    axes.set_xticks(levels, [f"{level:g}" for level in levels])
    axes.minorticks_off()
    axes.set_ylim(-0.3, min(axes.get_ylim()[1], 10.0))
    below = {"loc": "upper center", "bbox_to_anchor": (0.5, -0.2), "ncols": 2}
    axes.legend(frameon=False, labelcolor=theme.INK, fontsize=7, **below)
    _gray(axes)


def _forest(axes: Any, shown: list[Finding]) -> None:
    """Estimates with their intervals, each row in its own measure: percent, or as it is."""
    for place, one in enumerate(shown):
        scale = 100 if one.percent else 1
        value, low, high = (scale * number for number in (one.value, one.low, one.high))
        color = COLORS[one.verdict]
        axes.plot([low, high], [place, place], color=color, linewidth=1.5)
        axes.plot([value], [place], marker=MARKERS[one.verdict], color=color, markersize=6)
    for told in dict.fromkeys(one.verdict for one in shown):
        axes.plot([], [], linestyle="", marker=MARKERS[told], color=COLORS[told], label=told)
    if shown:
        axes.legend(frameon=False, labelcolor=theme.INK, loc="lower center", bbox_to_anchor=(0.5, 1), ncols=3)
    axes.axvline(0, color=theme.INK, linewidth=0.8)
    axes.set_yticks(range(len(shown)), [one.what for one in shown], fontsize=7)
    axes.set_ylim(max(len(shown), 1) - 0.5, -0.5)
    axes.set_xlim(*(min(max(end, -FAR), FAR) for end in axes.get_xlim()))
    if max(map(abs, axes.get_xlim())) > WIDE:
        axes.set_xscale("symlog", linthresh=1)
        axes.xaxis.set_major_formatter("{x:g}")
    axes.set_xlabel("estimate and 95% interval (% where a share)")
    _gray(axes)


def _gray(axes: Any) -> None:
    axes.grid(color=theme.INK, alpha=0.25, linewidth=0.6)
    axes.tick_params(colors=theme.INK)
    for label in (axes.xaxis.label, axes.yaxis.label):
        label.set_color(theme.INK)

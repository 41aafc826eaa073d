"""The description of a scheme: which surrogate is used on which path, as text, as a table and as a diagram."""

from __future__ import annotations

from html import escape
from typing import NamedTuple

from labkit.surrogates import Surrogate

READERS = {
    "rate": "entropy model → bits",
    "distortion": "synthesis transform → x̂",
    "hyper_rate": "entropy model → bits",
    "hyper_distortion": "hyper-synthesis → μ, σ",
}


class StageDescription(NamedTuple):
    """The parts of a scheme that its description shows.

    Attributes:
        surrogates: Surrogate of each path.
        zero_center: True if the latent is quantized around its mean.
        stop_gradient: True if the mean is treated as a constant on the distortion path.
        notes: Sentences about the other settings.
        title: Heading, empty for a scheme of one stage.
    """

    surrogates: dict[str, Surrogate]
    zero_center: bool
    stop_gradient: bool
    notes: list[str]
    title: str = ""


class SchemeDescription:
    """A readable view of a scheme: `print` shows text, and a notebook shows a table and a diagram.

    Args:
        stages: Descriptions of the scheme's stages, in order.
    """

    def __init__(self, stages: list[StageDescription]):
        self.stages = stages

    def __repr__(self) -> str:
        return f"SchemeDescription({len(self.stages)} stage{'s' * (len(self.stages) > 1)})"

    def __str__(self) -> str:
        return "\n\n".join((f"{stage.title}\n" if stage.title else "") + _text(stage) for stage in self.stages)

    def _repr_html_(self) -> str:
        return "".join((f"<h4>{stage.title}</h4>" if stage.title else "") + _html(stage) for stage in self.stages)


def _rows(stage: StageDescription) -> list[tuple[str, str, str, str, str]]:
    rows = [("path", "surrogate", "ỹ", "derivative", "read by")]
    for path, reader in READERS.items():
        surrogate = stage.surrogates[path]
        rows.append((path.replace("_", "-"), str(surrogate), surrogate.forward, surrogate.derivative, reader))
    return rows


def _text(stage: StageDescription) -> str:
    rows = _rows(stage)
    widths = [max(len(row[i]) for row in rows) for i in range(4)]
    table = ["  ".join([*(cell.ljust(w) for cell, w in zip(row, widths, strict=False)), row[4]]) for row in rows]
    minus, plus = ("─(− μ)", "─(+ μ)") if stage.zero_center else ("", "")
    stopped = "─(+ μ, constant)" if stage.stop_gradient else plus
    rate, distortion, hyper_rate, hyper_distortion = (str(stage.surrogates[path]) for path in READERS)
    indent = " " * (len(minus) + 4)
    flow = [
        f"y ─{minus}─┬─ {rate} ─{plus}─► {READERS['rate']}",
        f"{indent}└─ {distortion} ─{stopped}─► {READERS['distortion']}",
        f"z ──┬─ {hyper_rate} ──► {READERS['hyper_rate']}",
        f"    └─ {hyper_distortion} ──► {READERS['hyper_distortion']}",
    ]
    return "\n".join([*table, "", *flow, "", *stage.notes])


def _html(stage: StageDescription) -> str:
    head, *body = _rows(stage)
    cells = "".join(f"<th>{escape(cell)}</th>" for cell in head)
    rows = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in body)
    notes = "".join(f"<li>{escape(note)}</li>" for note in stage.notes)
    return f"<table><thead><tr>{cells}</tr></thead><tbody>{rows}</tbody></table>{_svg(stage)}<ul>{notes}</ul>"


def _svg(stage: StageDescription) -> str:
    """Draw the two paths of y and the two paths of z, in the text color of the page."""
    parts = []

    def box(x: int, y: int, width: int, label: str, dashed: bool = False) -> None:
        dash = ' stroke-dasharray="4 3"' if dashed else ""
        parts.append(f'<rect x="{x}" y="{y - 15}" width="{width}" height="30" rx="4" fill="none"{dash}/>')
        parts.append(f'<text x="{x + width // 2}" y="{y + 5}" text-anchor="middle">{escape(label)}</text>')

    def arrow(*points: tuple[int, int]) -> None:
        parts.append(f'<polyline points="{" ".join(f"{x},{y}" for x, y in points)}" fill="none"/>')
        x, y = points[-1]
        parts.append(f'<path d="M{x},{y} l-7,-4 v8 z" fill="currentColor" stroke="none"/>')

    for name, top, centered, prefix in (("y", 30, stage.zero_center, ""), ("z", 130, False, "hyper_")):
        middle = top + 22
        parts.append(f'<text x="8" y="{middle + 5}" font-style="italic">{name}</text>')
        if centered:
            arrow((20, middle), (40, middle))
            box(40, middle, 46, "− μ")
        for path, y in ((f"{prefix}rate", top), (f"{prefix}distortion", top + 44)):
            arrow((86 if centered else 20, middle), (106, middle), (106, y), (126, y))
            box(126, y, 210, str(stage.surrogates[path]))
            right = 336
            if centered:
                stopped = stage.stop_gradient and path == "distortion"
                arrow((336, y), (356, y))
                box(356, y, 112, "+ μ, constant" if stopped else "+ μ", dashed=stopped)
                right = 468
            arrow((right, y), (488, y))
            box(488, y, 204, READERS[path])
    title = "Data flow of the scheme: the latent y and the hyper-latent z"
    return (
        '<svg viewBox="0 0 700 205" width="700" style="max-width: 100%" role="img" stroke="currentColor" '
        f'font-family="sans-serif" font-size="13"><title>{title}</title>'
        f"<style>text {{ fill: currentColor; stroke: none }}</style>{''.join(parts)}</svg>"
    )

"""Schemes that print themselves: which surrogate stands where, as a table and as a small data-flow picture."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from labkit.schemes import QuantizationScheme

READERS = {
    "rate": "entropy model → bits",
    "distortion": "synthesis transform → x̂",
    "hyper_rate": "entropy model → bits",
    "hyper_distortion": "hyper-synthesis → μ, σ",
}


class SchemeDescription:
    """A scheme's account of itself: `str` gives text, a notebook shows a table and a picture."""

    def __init__(self, stages: list[tuple[str, QuantizationScheme]]):
        self.stages = stages

    def __str__(self) -> str:
        return "\n\n".join((f"{title}\n" if title else "") + _text(scheme) for title, scheme in self.stages)

    __repr__ = __str__

    def _repr_html_(self) -> str:
        return "".join((f"<h4>{title}</h4>" if title else "") + _html(scheme) for title, scheme in self.stages)


def _rows(scheme: QuantizationScheme) -> list[tuple[str, str, str, str, str]]:
    rows = [("path", "surrogate", "ỹ", "derivative", "read by")]
    for path, reader in READERS.items():
        one = getattr(scheme, path)
        rows.append((path.replace("_", "-"), str(one), one.forward, one.derivative, reader))
    return rows


def _notes(scheme: QuantizationScheme) -> list[str]:
    center = "y − μ is quantized and μ added back" if scheme.zero_center else "y itself is quantized, not y − μ"
    if scheme.stop_gradient:
        center += "; on the distortion path μ is a constant: the reconstruction error sends no gradient into it"
    return [
        f"center: {center}",
        f"scale: σ ≥ {scheme.scale_lower_bound:g}, in training and in the coder's tables",
        f"noise: {'one draw for both paths' if scheme.shared_noise else 'each path draws its own'}",
        f"temperature: {scheme.temperature}",
        "at test: ⌊y − μ⌉ + μ on both paths, whatever the scheme",
    ]


def _text(scheme: QuantizationScheme) -> str:
    rows = _rows(scheme)
    widths = [max(len(row[i]) for row in rows) for i in range(4)]
    table = ["  ".join([*(cell.ljust(w) for cell, w in zip(row, widths, strict=False)), row[4]]) for row in rows]
    minus, plus = ("─(− μ)", "─(+ μ)") if scheme.zero_center else ("", "")
    stopped = "─(+ μ, constant)" if scheme.stop_gradient else plus
    rate, distortion, hyper_rate, hyper_distortion = (str(getattr(scheme, path)) for path in READERS)
    lead = " " * (len(minus) + 4)
    flow = [
        f"y ─{minus}─┬─ {rate} ─{plus}─► {READERS['rate']}",
        f"{lead}└─ {distortion} ─{stopped}─► {READERS['distortion']}",
        f"z ──┬─ {hyper_rate} ──► {READERS['hyper_rate']}",
        f"    └─ {hyper_distortion} ──► {READERS['hyper_distortion']}",
    ]
    return "\n".join([*table, "", *flow, "", *_notes(scheme)])


def _html(scheme: QuantizationScheme) -> str:
    head, *body = _rows(scheme)
    cells = "".join(f"<th>{escape(cell)}</th>" for cell in head)
    rows = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in body)
    notes = "".join(f"<li>{escape(note)}</li>" for note in _notes(scheme))
    return f"<table><thead><tr>{cells}</tr></thead><tbody>{rows}</tbody></table>{_svg(scheme)}<ul>{notes}</ul>"


def _svg(scheme: QuantizationScheme) -> str:
    """Two forks, y's and z's, in the page's own text color."""
    parts = []

    def box(x: int, y: int, width: int, label: str, dashed: bool = False) -> None:
        dash = ' stroke-dasharray="4 3"' if dashed else ""
        parts.append(f'<rect x="{x}" y="{y - 15}" width="{width}" height="30" rx="4" fill="none"{dash}/>')
        parts.append(f'<text x="{x + width // 2}" y="{y + 5}" text-anchor="middle">{escape(label)}</text>')

    def arrow(*points: tuple[int, int]) -> None:
        parts.append(f'<polyline points="{" ".join(f"{x},{y}" for x, y in points)}" fill="none"/>')
        x, y = points[-1]
        parts.append(f'<path d="M{x},{y} l-7,-4 v8 z" fill="currentColor" stroke="none"/>')

    for name, top, centered, prefix in (("y", 30, scheme.zero_center, ""), ("z", 130, False, "hyper_")):
        middle = top + 22
        parts.append(f'<text x="8" y="{middle + 5}" font-style="italic">{name}</text>')
        if centered:
            arrow((20, middle), (40, middle))
            box(40, middle, 46, "− μ")
        for path, y in ((f"{prefix}rate", top), (f"{prefix}distortion", top + 44)):
            arrow((86 if centered else 20, middle), (106, middle), (106, y), (126, y))
            box(126, y, 210, str(getattr(scheme, path)))
            after = 336
            if centered:
                stopped = scheme.stop_gradient and path == "distortion"
                arrow((336, y), (356, y))
                box(356, y, 112, "+ μ, constant" if stopped else "+ μ", dashed=stopped)
                after = 468
            arrow((after, y), (488, y))
            box(488, y, 204, READERS[path])
    title = f"Data flow of the scheme: the latent y and the hyper-latent z, σ at least {scheme.scale_lower_bound:g}"
    return (
        '<svg viewBox="0 0 700 205" width="700" style="max-width: 100%" role="img" stroke="currentColor" '
        f'font-family="sans-serif" font-size="13"><title>{title}</title>'
        f"<style>text {{ fill: currentColor; stroke: none }}</style>{''.join(parts)}</svg>"
    )

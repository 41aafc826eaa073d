"""What the course says in a notebook: HTML in JupyterLab's own colors, plain text where there is no HTML."""

from __future__ import annotations

from html import escape
from typing import Any

# The page's own colors, so that a card reads in the light and the dark theme; the accents are readable on both.
_INK = "var(--jp-content-font-color1, inherit)"
_GROUND = "var(--jp-layout-color2, #f4f4f4)"
ACCENTS = {"plain": "#808080", "good": "#2b9348", "bad": "#d9480f", "note": "#1c7ed6"}


class Card:
    """A short message with a colored edge. html: the body; text: the same in plain words."""

    def __init__(self, html: str, text: str, accent: str = "plain") -> None:
        self._html, self.text, self._accent = html, text, ACCENTS[accent]

    def __repr__(self) -> str:
        return self.text

    def _repr_html_(self) -> str:
        edge = f"border-left:4px solid {self._accent};padding:.5em 1em;max-width:50em"
        style = f"{edge};background:{_GROUND};color:{_INK}"
        return f'<div class="labkit-card" style="{style}">{self._html}</div>'


def code(source: str) -> str:
    """Python source as HTML."""
    return f'<pre style="background:none;color:inherit;margin:.5em 0"><code>{escape(source)}</code></pre>'


def fold(summary: str, html: str) -> str:
    """HTML that opens when its summary is clicked, or by Enter."""
    return f'<details><summary style="cursor:pointer">{escape(summary)}</summary>{html}</details>'


def number(value: Any) -> str:
    """A number, or a small array of numbers, in four digits; anything else as it is."""
    if isinstance(value, float):
        return f"{value:.4g}"
    if hasattr(value, "ravel"):
        flat = value.ravel()
        words = ", ".join(f"{float(each):.4g}" for each in flat[:4])
        return words if flat.size == 1 else f"[{words}{', …' if flat.size > 4 else ''}]"
    return str(value)

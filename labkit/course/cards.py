"""Messages of the course in a notebook: HTML in JupyterLab's own colors, or plain text if there is no HTML."""

from __future__ import annotations

from html import escape
from typing import Any

# Colors of the page, so cards are readable in the light and the dark theme. The accents are readable in both.
_INK = "var(--jp-content-font-color1, inherit)"
_GROUND = "var(--jp-layout-color2, #f4f4f4)"
ACCENTS = {"plain": "#808080", "good": "#2b9348", "bad": "#d9480f", "note": "#1c7ed6"}


class Card:
    """A short message with a colored edge.

    Args:
        html: Content as HTML.
        text: Content as plain text.
        accent: Color of the edge: "plain", "good", "bad" or "note".
    """

    def __init__(self, html: str, text: str, accent: str = "plain") -> None:
        self._html, self.text, self._accent = html, text, ACCENTS[accent]

    def __repr__(self) -> str:
        return self.text.partition("\n")[0]

    def __str__(self) -> str:
        return self.text

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:
        printer.text(self.text)  # for notebooks and consoles without HTML

    def _repr_html_(self) -> str:
        edge = f"border-left:4px solid {self._accent};padding:.5em 1em;max-width:50em"
        style = f"{edge};background:{_GROUND};color:{_INK}"
        return f'<div class="labkit-card" style="{style}">{self._html}</div>'


def code(source: str) -> str:
    """Return Python source as HTML."""
    return f'<pre style="background:none;color:inherit;margin:.5em 0"><code>{escape(source)}</code></pre>'


def fold(summary: str, html: str) -> str:
    """Return HTML that unfolds when the reader clicks its summary."""
    return f'<details><summary style="cursor:pointer">{escape(summary)}</summary>{html}</details>'


def number(value: Any) -> str:
    """Return a number or a small array with four significant digits, and any other value as text."""
    if isinstance(value, float):
        return f"{value:.4g}"
    if hasattr(value, "ravel"):
        flat = value.ravel()
        text = ", ".join(f"{float(entry):.4g}" for entry in flat[:4])
        return text if flat.size == 1 else f"[{text}{', …' if flat.size > 4 else ''}]"
    return str(value)

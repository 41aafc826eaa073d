"""Boxes, lines and texts, drawn twice: as SVG in the colors of the page, and as an image on white."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from html import escape
from pathlib import Path

from PIL import Image, ImageColor, ImageDraw, ImageFont

from labkit.theme import INK

_PAGE_INK = "var(--jp-content-font-color1, currentColor)"
_ANCHORS = {"start": "l", "middle": "m", "end": "r"}
_SIZE = 13  # font size in pixels


class Drawing:
    """A drawing. Coordinates are pixels from the top left corner.

    Args:
        width: Width in pixels.
        height: Height in pixels.
    """

    def __init__(self, width: int, height: int) -> None:
        self.width, self.height = width, height
        self._elements: list[str] = []
        self._strokes: list[Callable[[ImageDraw.ImageDraw], None]] = []

    def box(self, x: float, y: float, width: float, height: float, color: str = "", opacity: float = 0.35) -> None:
        """Draw a box with gray edges.

        Args:
            x: Left edge.
            y: Upper edge.
            width: Width.
            height: Height.
            color: Color that fills the box, such as "#1c7ed6"; no filling by default.
            opacity: Opacity of the filling, from 0 to 1.
        """
        fill = f'fill="{color}" fill-opacity="{opacity:g}"' if color else 'fill="none"'
        place = f'x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}"'
        self._elements.append(f'<rect {place} {fill} stroke="{INK}"/>')
        paint = (*ImageColor.getrgb(color), round(255 * opacity)) if color else None
        self._strokes.append(lambda draw: draw.rectangle([x, y, x + width, y + height], paint, INK))

    def line(self, *points: tuple[float, float], color: str = INK, width: int = 1, arrow: bool = False) -> None:
        """Draw a line through points.

        Args:
            *points: x and y of each point.
            color: Color of the line.
            width: Width of the line.
            arrow: Whether to draw an arrowhead at the last point, where the line must be horizontal or vertical.
        """
        places = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        self._elements.append(f'<polyline points="{places}" fill="none" stroke="{color}" stroke-width="{width}"/>')
        self._strokes.append(lambda draw: draw.line(points, color, width))
        if arrow:
            (x0, y0), (x1, y1) = points[-2:]
            length = max(abs(x1 - x0), abs(y1 - y0))
            along, across = ((x1 - x0) / length, (y1 - y0) / length), ((y1 - y0) / length, (x1 - x0) / length)
            head = [(x1, y1)]
            head += [(x1 - 8 * along[0] + s * across[0], y1 - 8 * along[1] + s * across[1]) for s in (4, -4)]
            places = " ".join(f"{x:.1f},{y:.1f}" for x, y in head)
            self._elements.append(f'<polygon points="{places}" fill="{color}"/>')
            self._strokes.append(lambda draw: draw.polygon(head, color))

    def text(self, x: float, y: float, text: str, anchor: str = "middle", color: str = "") -> None:
        """Write a line of text.

        Args:
            x: Position of the anchor.
            y: Middle of the line.
            text: The text.
            anchor: Part of the text at x: "start", "middle" or "end".
            color: Color of the text; the text color of the page by default.
        """
        style = f'font-size="{_SIZE}" text-anchor="{anchor}" dominant-baseline="central" fill="{color or _PAGE_INK}"'
        self._elements.append(f'<text x="{x:.1f}" y="{y:.1f}" {style}>{escape(text)}</text>')
        self._strokes.append(
            lambda draw: draw.text((x, y), text, color or "#333333", font(_SIZE), _ANCHORS[anchor] + "m")
        )

    def svg(self, label: str) -> str:
        """Return the drawing as an SVG element.

        Args:
            label: Text alternative for readers who cannot see the drawing.
        """
        size = f'viewBox="0 0 {self.width} {self.height}" style="width:100%;max-width:{self.width}px"'
        family = 'font-family="system-ui, sans-serif"'
        content = "".join(self._elements)
        return f'<svg role="img" aria-label="{escape(label)}" {size} {family}>{content}</svg>'

    def image(self) -> Image.Image:
        """Return the drawing as an image on white."""
        image = Image.new("RGB", (self.width, self.height), "white")
        draw = ImageDraw.Draw(image, "RGBA")
        for stroke in self._strokes:
            stroke(draw)
        return image


@cache
def font(size: int) -> ImageFont.FreeTypeFont:
    """Return a font with Greek letters and arrows, which Pillow's own font lacks.

    Args:
        size: Size in pixels.
    """
    import matplotlib

    return ImageFont.truetype(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf", size)

"""A small canvas for what moves while a network trains: an image, a cloud of samples, discs for codewords."""

from __future__ import annotations

from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import anywidget
import numpy as np
import traitlets
from PIL import Image, ImageDraw

_HERE = Path(__file__).parent


def script(name: str) -> str:
    """A widget's script, and before it what those that show frames share: no bundler, no second request."""
    return "\n".join((_HERE / each).read_text("utf-8") for each in ("frame.js", name))


@dataclass(frozen=True)
class Picture:
    """What a canvas shows. Coordinates run from 0 to 1 from the top left corner.

    pixels: uint8 (height, width, 3 or 4); where it is transparent, the page's own background shows.
    label: the text alternative, what one would say to somebody who cannot see the picture.
    discs: float32 (k, 3), x, y and radius, the radius in widths.
    captions: texts set in equal columns under the picture.
    """

    pixels: np.ndarray
    label: str
    discs: np.ndarray | None = None
    captions: tuple[str, ...] = ()


class Canvas(anywidget.AnyWidget):
    """Shows one Picture at a time, `width` page pixels wide, over a cloud of samples that stays."""

    _esm = script("canvas.js")
    _css = _HERE / "panel.css"

    width = traitlets.Int(360).tag(sync=True)
    cloud = traitlets.Bytes(b"").tag(sync=True)  # float32 x, y, x, y, …
    frame = traitlets.Dict().tag(sync=True)  # a whole frame in one message: never half of one

    def __init__(self, *, width: int = 360, cloud: np.ndarray | None = None) -> None:
        super().__init__(width=width, cloud=_bytes(cloud))
        self.picture: Picture | None = None

    @property
    def widget(self) -> Canvas:
        """Itself: a canvas is one widget."""
        return self

    @property
    def label(self) -> str:
        """The text alternative of what it shows."""
        return self.picture.label if self.picture else ""

    def show(self, picture: Picture, run: int = 0) -> None:
        """Draw a picture, which belongs to the run of that number."""
        self.picture = picture
        height, width, channels = picture.pixels.shape
        pixels = picture.pixels
        if channels == 3:
            pixels = np.concatenate([pixels, np.full((height, width, 1), 255, np.uint8)], axis=2)
        self.frame = {
            "run": run,
            "width": width,
            "height": height,
            "pixels": np.ascontiguousarray(pixels).tobytes(),
            "discs": _bytes(picture.discs),
            "label": picture.label,
            "captions": list(picture.captions),
        }

    def refresh(self) -> None:
        """Nothing: a page finds the frame in the widget's state, however late it comes."""

    def still(self) -> Image.Image:
        """The same picture by Pillow, on white, for wherever there is no browser."""
        if self.picture is None:
            return Image.new("RGB", (self.width, self.width), "white")
        image = Image.fromarray(self.picture.pixels).convert("RGBA")
        height = round(self.width * image.height / image.width)
        image = image.resize((self.width, height), Image.Resampling.NEAREST)
        still = Image.new("RGBA", image.size, "white")
        still.alpha_composite(image)
        draw = ImageDraw.Draw(still)
        scale = np.array([self.width, height])
        for x, y in np.frombuffer(self.cloud, np.float32).reshape(-1, 2) * scale:
            draw.ellipse([x - 1, y - 1, x + 1, y + 1], fill="#aab0ba")
        if self.picture.discs is not None:
            for x, y, radius in self.picture.discs * [self.width, height, self.width]:
                draw.ellipse([x - radius, y - radius, x + radius, y + radius], fill="#e8590c", outline="white")
        return still.convert("RGB")


def _bytes(array: np.ndarray | None) -> bytes:
    return b"" if array is None else np.ascontiguousarray(array, dtype=np.float32).tobytes()


def png(image: Image.Image) -> bytes:
    """An image as the bytes of a PNG file."""
    file = BytesIO()
    image.save(file, "png", optimize=True)
    return file.getvalue()

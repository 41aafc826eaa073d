"""Two pictures of one thing, and a divider between them to drag."""

from __future__ import annotations

from pathlib import Path

import anywidget
import numpy as np
import traitlets
from PIL import Image, ImageDraw

from labkit.live.canvas import script

_HERE = Path(__file__).parent


class Divider(anywidget.AnyWidget):
    """Shows two pictures of one size in one frame, `width` page pixels wide: the first left of the divider."""

    _esm = script("divider.js")
    _css = _HERE / "panel.css"

    width = traitlets.Int(512).tag(sync=True)
    frame = traitlets.Dict().tag(sync=True)  # a whole frame in one message: never half of one

    def __init__(self, *, width: int = 512) -> None:
        super().__init__(width=width)

    @property
    def widget(self) -> Divider:
        """Itself: a divider is one widget."""
        return self

    @property
    def label(self) -> str:
        """The text alternative of what it shows."""
        return self.frame.get("label", "")

    def show(
        self, first: np.ndarray, second: np.ndarray, *, label: str, captions: tuple[str, str], run: int = 0
    ) -> None:
        """Show two pictures, uint8 (height, width, 3), which belong to the run of that number; captions: under each.

        Raises ValueError where their shapes differ.
        """
        if first.shape != second.shape:
            raise ValueError(f"second: takes a picture of the first one's shape {first.shape}, got {second.shape}")
        height, width, _ = first.shape
        self.frame = {
            "run": run,
            "width": width,
            "height": height,
            "first": _rgba(first),
            "second": _rgba(second),
            "label": label,
            "captions": list(captions),
        }

    def refresh(self) -> None:
        """Nothing: a page finds the frame in the widget's state, however late it comes."""

    def still(self) -> Image.Image:
        """Both by Pillow, the divider in the middle, for wherever there is no browser."""
        frame = self.frame
        if not frame:
            return Image.new("RGB", (self.width, self.width), "white")
        size = (frame["width"], frame["height"])
        first, second = (Image.frombytes("RGBA", size, frame[name]).convert("RGB") for name in ("first", "second"))
        middle = size[0] // 2
        first.paste(second.crop((middle, 0, *size)), (middle, 0))
        ImageDraw.Draw(first).line([middle, 0, middle, size[1]], fill="white", width=2)
        return first.resize((self.width, round(self.width * size[1] / size[0])), Image.Resampling.NEAREST)


def _rgba(pixels: np.ndarray) -> bytes:
    return np.concatenate([pixels, np.full_like(pixels[..., :1], 255)], axis=2).tobytes()

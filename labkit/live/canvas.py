"""A canvas for content that changes during training: an image, a cloud of samples, and discs for codewords."""

from __future__ import annotations

from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import anywidget
import numpy as np
import traitlets
from PIL import Image, ImageDraw
from torch import Tensor

from labkit.statistics import Array

HERE = Path(__file__).parent


class FrameWidget(anywidget.AnyWidget):
    """A widget that shows one frame at a time, `width` page pixels wide."""

    _css = HERE / "panel.css"

    width = traitlets.Int(360).tag(sync=True)
    frame = traitlets.Dict().tag(sync=True)  # one message per frame, so a page never shows half of a frame

    @property
    def widget(self) -> FrameWidget:
        """The widget itself, for use as a screen of a panel."""
        return self

    @property
    def label(self) -> str:
        """Text alternative for readers who cannot see the frame."""
        return str(self.frame.get("label", ""))

    def refresh(self) -> None:
        """Do nothing, because a page that loads late finds the frame in the widget's state."""

    def still(self) -> Image.Image:
        """Draw the frame for pages without a browser, on white."""
        raise NotImplementedError


@dataclass(frozen=True)
class Picture:
    """Content of a canvas. Coordinates run from 0 to 1, from the top left corner.

    Attributes:
        pixels: Image, uint8 of shape (height, width, 3 or 4). The page shows through transparent pixels.
        label: Text alternative for readers who cannot see the picture.
        discs: x, y and radius of k discs, float32 of shape (k, 3); radii are in units of the width.
        captions: Captions in equal columns below the picture.
    """

    pixels: Array
    label: str
    discs: Array | None = None
    captions: tuple[str, ...] = ()


class Canvas(FrameWidget):
    """Shows one Picture at a time on top of a constant cloud of samples.

    Args:
        width: Width in page pixels.
        cloud: Samples in the coordinates of a Picture, of shape (n, 2).
    """

    _esm = HERE / "canvas.js"

    cloud = traitlets.Bytes(b"").tag(sync=True)  # float32 x, y, x, y, …

    def __init__(self, *, width: int = 360, cloud: Array | None = None) -> None:
        super().__init__(width=width, cloud=_bytes(cloud))
        self.picture: Picture | None = None

    def show(self, picture: Picture, run: int = 0) -> None:
        """Draw a picture.

        Args:
            picture: Content to show.
            run: Number of the run that the picture belongs to.
        """
        self.picture = picture
        height, width, _ = picture.pixels.shape
        self.frame = {
            "width": width,
            "height": height,
            "pixels": rgba(picture.pixels).tobytes(),
            "discs": _bytes(picture.discs),
            "run": run,
            "label": picture.label,
            "captions": list(picture.captions),
        }

    def still(self) -> Image.Image:
        """Draw the picture for pages without a browser, on white."""
        if self.picture is None:
            return Image.new("RGB", (self.width, self.width), "white")
        image = Image.fromarray(rgba(self.picture.pixels))
        height = round(self.width * image.height / image.width)
        still = Image.new("RGBA", (self.width, height), "white")
        still.alpha_composite(image.resize(still.size, Image.Resampling.NEAREST))
        draw = ImageDraw.Draw(still)
        for x, y in np.frombuffer(self.cloud, np.float32).reshape(-1, 2) * still.size:
            draw.ellipse([x - 1, y - 1, x + 1, y + 1], fill="#aab0ba")
        if self.picture.discs is not None:
            for x, y, radius in self.picture.discs * [*still.size, still.width]:
                draw.ellipse([x - radius, y - radius, x + radius, y + radius], fill="#e8590c", outline="white")
        return still.convert("RGB")


def _bytes(array: Array | None) -> bytes:
    return b"" if array is None else np.ascontiguousarray(array, dtype=np.float32).tobytes()


def rgba(pixels: Array) -> Array:
    """Add an opaque alpha channel to uint8 pixels of shape (height, width, 3); return four channels unchanged."""
    if pixels.shape[-1] == 4:
        return pixels
    return np.concatenate([pixels, np.full_like(pixels[..., :1], 255)], axis=-1)


def pixels_of(image: Tensor) -> Array:
    """Convert a (3, H, W) image in [0, 1] to uint8 pixels of shape (H, W, 3)."""
    return (image * 255).round().byte().permute(1, 2, 0).contiguous().numpy()


def png(image: Image.Image) -> bytes:
    """Encode an image as the bytes of a PNG file."""
    file = BytesIO()
    image.save(file, "png", optimize=True)
    return file.getvalue()

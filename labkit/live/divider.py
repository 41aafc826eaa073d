"""Two images of the same subject in one frame, with a movable divider between them."""

from __future__ import annotations

from PIL import Image, ImageDraw

from labkit.live.canvas import FrameWidget, script
from labkit.statistics import Array


class Divider(FrameWidget):
    """Shows one image to the left of a divider and another one, of the same size, to its right.

    Args:
        width: Width in page pixels.
    """

    _esm = script("divider.js")

    def __init__(self, *, width: int = 512) -> None:
        super().__init__(width=width)

    def show(self, first: Array, second: Array, *, label: str, captions: tuple[str, str], run: int = 0) -> None:
        """Show two images.

        Args:
            first: Left image, uint8 of shape (height, width, 3).
            second: Right image of the same shape.
            label: Text alternative for readers who cannot see the images.
            captions: Captions of the two images.
            run: Number of the run that the images belong to.

        Raises:
            ValueError: If the images have different shapes.
        """
        if first.shape != second.shape:
            raise ValueError(f"second must have the shape of the first image, {first.shape}, got {second.shape}")
        self._show({"first": first, "second": second}, run=run, label=label, captions=list(captions))

    def still(self) -> Image.Image:
        """Draw both images for pages without a browser, with the divider in the middle."""
        if not self.frame:
            return Image.new("RGB", (self.width, self.width), "white")
        still, second = self._image("first"), self._image("second")
        middle = still.width // 2
        still.paste(second.crop((middle, 0, *still.size)), (middle, 0))
        ImageDraw.Draw(still).line([middle, 0, middle, still.height], fill="white", width=2)
        return self._fitted(still).convert("RGB")

"""Reading image files as 8-bit RGB."""

from __future__ import annotations

import math
import os
import sys
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

SUFFIXES = (".png", ".webp", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".ppm")
MAX_PIXELS = 100_000_000  # larger images are refused: they need over 300 MB as RGB and are probably a mistake

_STDERR = threading.Lock()


def load_image(path: str | Path) -> Tensor:
    """Read an image file, rotated according to its EXIF orientation.

    Grayscale becomes three equal channels. Palettes and CMYK become RGB, and embedded color profiles are not applied.
    Transparent pixels are blended with white. If there are 16 bits per channel, the upper eight are used. For an
    animation, the first frame is used.

    Args:
        path: Image file.

    Returns:
        uint8 image of shape (3, H, W).

    Raises:
        ValueError: If the file is missing, damaged, not an image, larger than 100 million pixels, or has samples of
            more than 16 bits. The message has one line.
    """
    with _opened(path) as image:
        array = np.asarray(_to_rgb(_upright(image))).copy()
    return torch.from_numpy(array).permute(2, 0, 1).contiguous()


def stored_size(path: str | Path) -> tuple[int, int]:
    """Return height and width of an image before its rotation, read from its header.

    Raises:
        ValueError: As for `load_image`.
    """
    with _opened(path) as image:
        return image.height, image.width


def transparent(path: str | Path) -> bool:
    """Return whether an image file has transparent pixels.

    Raises:
        ValueError: As for `load_image`.
    """
    with _opened(path) as image, _quiet_libtiff(image):
        if not image.has_transparency_data:
            return False
        lowest, _ = image.convert("RGBA").getchannel("A").getextrema()
        return float(lowest) < 255  # type: ignore[arg-type]


@contextmanager
def _opened(path: str | Path) -> Iterator[Image.Image]:
    """Open an image file, and turn all errors inside the block into a one-line ValueError."""
    path = Path(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # Pillow's limit is lower than MAX_PIXELS
            opened = Image.open(path)
        with opened as image:
            if math.prod(image.size) > MAX_PIXELS:
                raise ValueError(f"it claims {image.width}×{image.height} pixels, more than {MAX_PIXELS:,}")
            yield image
    except FileNotFoundError:
        raise ValueError(f"{path}: there is no such file") from None
    except (UnidentifiedImageError, Image.DecompressionBombError, OSError, SyntaxError, ValueError) as error:
        raise ValueError(f"{path} cannot be read as an image: {error}") from None


@contextmanager
def _quiet_libtiff(image: Image.Image) -> Iterator[None]:
    """Hide the messages that libtiff writes to file descriptor 2 inside the block.

    Pillow has no option for this. The descriptor belongs to the whole process, so a lock lets only one thread at a time
    redirect it. Messages from other threads during this time are lost.
    """
    if image.format != "TIFF":
        yield
        return
    with _STDERR:
        try:
            stderr = os.dup(2)
        except OSError:  # the process has no standard error
            yield
            return
        try:
            if sys.stderr:
                sys.stderr.flush()
            with open(os.devnull, "wb") as null:
                os.dup2(null.fileno(), 2)
            yield
        finally:
            os.dup2(stderr, 2)
            os.close(stderr)


def _upright(image: Image.Image) -> Image.Image:
    """Decode the image and rotate it according to its EXIF orientation; damaged EXIF data are ignored."""
    with _quiet_libtiff(image):
        image.load()
    try:
        return ImageOps.exif_transpose(image)
    except Exception:  # Pillow's parser may raise any exception
        return image


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith(("I", "F")):
        return _from_deep_gray(image)
    if image.mode == "La":  # premultiplied alpha
        image = image.convert("LA")
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba)
    return image.convert("RGB")


def _from_deep_gray(image: Image.Image) -> Image.Image:
    """Convert 16-bit grayscale, which Pillow would clip at 255, and replace its transparent value with white."""
    deep = np.asarray(image)
    if deep.dtype.kind == "f" or deep.min() < 0 or deep.max() > 65535:
        raise ValueError("its samples are floating-point or have more than 16 bits")
    gray = (deep >> 8).astype(np.uint8)
    if "transparency" in image.info:
        gray[deep == image.info["transparency"]] = 255
    return Image.fromarray(gray).convert("RGB")

"""Image files of lossless formats. This module loads without torch, so a wrong file name is refused at once."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from labkit.disk import write_whole

if TYPE_CHECKING:
    from torch import Tensor

LOSSLESS: dict[str, dict[str, Any]] = {  # arguments of PIL.Image.Image.save
    ".png": {"format": "PNG"},
    ".webp": {"format": "WEBP", "lossless": True},
    ".ppm": {"format": "PPM"},
    ".bmp": {"format": "BMP"},
    ".tif": {"format": "TIFF"},
    ".tiff": {"format": "TIFF"},
}
LOSSY = {".jpg": "JPEG", ".jpeg": "JPEG", ".jp2": "JPEG 2000", ".avif": "AVIF", ".heic": "HEIC", ".gif": "GIF"}


def check_lossless(path: str | Path) -> None:
    """Check that the suffix of a file name selects a lossless image format.

    Args:
        path: Name of the file.

    Raises:
        ValueError: If the suffix is not one of `LOSSLESS`.
    """
    suffix = Path(path).suffix.lower()
    if suffix not in LOSSLESS:
        reason = f"{LOSSY[suffix]} is lossy" if suffix in LOSSY else f"no image format has the suffix {suffix!r}"
        raise ValueError(f"{path}: {reason}; use {', '.join(LOSSLESS)}")


def write_image(path: str | Path, image: Tensor) -> None:
    """Write an image in the lossless format that the suffix selects, completely or not at all.

    Args:
        path: Name of the file.
        image: 8-bit RGB image of shape (3, H, W), uint8.

    Raises:
        ValueError: If the suffix is not one of `LOSSLESS`, if the format cannot hold an image of this size, or if the
            file cannot be written.
    """
    from PIL import Image

    check_lossless(path)
    options = LOSSLESS[Path(path).suffix.lower()]
    buffer = BytesIO()
    try:
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(buffer, **options)
    except (ValueError, OSError) as error:  # WebP limits the length of a side
        raise ValueError(f"{path}: {options['format']} cannot hold this image ({error})") from None
    write_whole(path, buffer.getvalue())

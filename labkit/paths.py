"""The folders of labkit's data and lessons, in the checkout or in the installed package."""

from __future__ import annotations

from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent


def _folder(name: str) -> Path:
    checkout = _PACKAGE.parent
    for folder in (_PACKAGE / "_bundled" / name, checkout / name):
        if folder.is_dir():
            return folder
    raise FileNotFoundError(
        f"labkit's {name} folder is missing; install labkit again, or run it from a complete checkout"
    )


def data() -> Path:
    """Return the folder with photographs, weights and results."""
    return _folder("data")


def lessons() -> Path:
    """Return the folder with the notebooks of the lessons."""
    return _folder("lessons")

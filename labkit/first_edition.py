"""Names of settings and claims in files that the first edition of labkit wrote, and their present names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

SETTINGS = {"permute_colours": "permute_colors"}  # TOML files, checkpoints, resumable states, digests of runs
CLAIMS = {"zero_centre": "zero_center"}  # digests of measurements


def modern(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings under their present names."""
    return {SETTINGS.get(name, name): value for name, value in settings.items()}


def original(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings under the first edition's names, which digests of runs are computed from."""
    names = {new: old for old, new in SETTINGS.items()}
    return {names.get(name, name): value for name, value in settings.items()}

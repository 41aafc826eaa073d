"""Names of settings and claims in files from labkit's first edition, and the current names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

SETTINGS = {"permute_colours": "permute_colors"}  # TOML files, checkpoints, resumable states, digests of runs
CLAIMS = {"zero_centre": "zero_center"}  # digests of measurements
SCHEMES = {f"{name} uncentred": f"{name} uncentered" for name in ("soft", "gumbel")}  # digests of measurements


def modern(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings under their current names."""
    return {SETTINGS.get(name, name): value for name, value in settings.items()}


def original(value: Any, names: Mapping[str, str] = SETTINGS) -> Any:
    """Translate names back to those of the first edition, which digests of runs and measurements contain.

    Args:
        value: A name, or nested dicts and lists that contain names as keys or as values.
        names: Old names, each with the current name that replaced it.
    """
    if isinstance(value, Mapping):
        return {original(name, names): original(entry, names) for name, entry in value.items()}
    if isinstance(value, list):
        return [original(entry, names) for entry in value]
    old = {present: first for first, present in names.items()}
    return old.get(value, value) if isinstance(value, str) else value

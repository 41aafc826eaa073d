"""What a learner has done, in one small JSON file on their own machine.

The file is ~/.local/share/labkit/progress.json (or under $LABKIT_HOME, or $XDG_DATA_HOME/labkit). It appears whole or
not at all. A damaged file is set aside, not lost; where nothing can be written, the record lasts as long as the kernel.
"""

from __future__ import annotations

import json
import os
import threading
from pathlib import Path
from typing import Any

from labkit.disk import whole

SECTIONS = ("lessons", "guesses", "exercises")
_lock = threading.Lock()
_memory: dict[str, dict[str, Any]] | None = None  # used from the moment that the file cannot be written


def path() -> Path:
    """The file that holds the record."""
    if home := os.environ.get("LABKIT_HOME"):
        return Path(home) / "progress.json"
    shared = os.environ.get("XDG_DATA_HOME") or "~/.local/share"
    return Path(shared).expanduser() / "labkit" / "progress.json"


def kept() -> bool:
    """False once the file could not be written."""
    return _memory is None


def read() -> dict[str, dict[str, Any]]:
    """Everything recorded, by section and key. A missing, unreadable or damaged file reads as empty."""
    if _memory is not None:
        return _memory
    record = _load(path()) or {}
    return {section: record.get(section) or {} for section in SECTIONS}


def write(section: str, key: str, value: Any) -> None:
    """Record one value, leaving the others as they are in the file."""
    global _memory
    with _lock:
        record = read()
        record[section] = {**record[section], key: value}
        if _memory is not None:
            return
        try:
            _save(path(), record)
        except (OSError, ValueError):  # of the folder, of the file
            _memory = record


def _load(file: Path) -> dict[str, Any] | None:
    try:
        record = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    sound = isinstance(record, dict) and all(isinstance(record.get(section, {}), dict) for section in SECTIONS)
    return record if sound else None


def _save(file: Path, record: dict[str, Any]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    if file.exists() and _load(file) is None:
        os.replace(file, file.with_suffix(".damaged.json"))
    with whole(file) as temporary, open(temporary, "w", encoding="utf-8") as stream:
        json.dump(record, stream, indent=1, sort_keys=True)

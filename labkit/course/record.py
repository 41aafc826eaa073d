"""The learner's record: one small JSON file on the learner's machine.

The file is progress.json in $LABKIT_HOME, in $XDG_DATA_HOME/labkit, or by default in ~/.local/share/labkit. It is
always replaced as a whole. A damaged file is renamed, never deleted. If the file cannot be written, the record lasts
until the kernel stops.
"""

from __future__ import annotations

import json
import os
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any

from labkit.course import first_edition
from labkit.disk import whole, write_whole

SECTIONS = ("lessons", "guesses", "questions", "exercises", "hypotheses", "experiments")
Record = dict[str, dict[str, Any]]  # section → key → entry

_lock = threading.RLock()
_memory: Record | None = None  # the record, if the file could not be written


def path() -> Path:
    """Return the path of the file."""
    if home := os.environ.get("LABKIT_HOME"):
        return Path(home) / "progress.json"
    data = os.environ.get("XDG_DATA_HOME") or "~/.local/share"
    return Path(data).expanduser() / "labkit" / "progress.json"


def is_saved() -> bool:
    """Return False if the file could not be written."""
    return _memory is None


def read() -> Record:
    """Return all entries, by section and key.

    If the file is missing, unreadable or damaged, the record is empty. A record of the first edition is backed up as
    progress.first-edition.json and rewritten with the current keys.
    """
    with _lock:
        if _memory is not None:
            return _memory
        record = load(path()) or {section: {} for section in SECTIONS}
        if not first_edition.has_old_keys(record):
            return record
        translated = first_edition.translate(record)
        with suppress(OSError, ValueError):  # if a file cannot be written, the next read translates again
            _back_up(path())
            _save(path(), translated)
        return translated


def write(section: str, key: str, entry: Any) -> None:
    """Record one entry and keep all other entries.

    Args:
        section: One of `SECTIONS`.
        key: Key of the entry.
        entry: JSON-compatible value.
    """
    global _memory
    with _lock:
        record = read()
        record[section] = {**record[section], key: entry}
        if _memory is not None:
            return
        try:
            _save(path(), record)
        except (OSError, ValueError):  # when creating the folder or writing the file
            _memory = record


def load(file: Path) -> Record | None:
    """Return the record in a file, or None if the file is missing or damaged.

    Args:
        file: File of a learner's record.
    """
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    if not isinstance(content, dict):
        return None
    record = {section: content.get(section, {}) for section in SECTIONS}
    if not all(isinstance(entries, dict) for entries in record.values()):
        return None
    described = [entry for section in SECTIONS if section != "guesses" for entry in record[section].values()]
    return record if all(isinstance(entry, dict) for entry in described) else None


def _save(file: Path, record: Record) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    if file.exists() and load(file) is None:
        os.replace(file, file.with_suffix(".damaged.json"))
    with whole(file) as temporary, open(temporary, "w", encoding="utf-8") as stream:
        json.dump(record, stream, indent=1, sort_keys=True)


def _back_up(file: Path) -> None:
    """Copy a file of the first edition to a name that no other backup uses."""
    backup, count = file.with_suffix(".first-edition.json"), 1
    while backup.exists() and backup.read_bytes() != file.read_bytes():
        count += 1
        backup = file.with_suffix(f".first-edition-{count}.json")
    write_whole(backup, file.read_bytes())

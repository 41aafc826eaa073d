"""Copies of the notebooks in a learner's own folder."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from labkit import paths
from labkit.course import first_edition


@dataclass(frozen=True)
class Copies:
    """The notebooks that `copy_notebooks` found and wrote.

    Attributes:
        folder: The learner's folder.
        written: Notebooks that were copied.
        kept: Notebooks that already existed and were not changed.
        first_edition: Notebooks of the first edition in the folder, which were not changed, either.
    """

    folder: Path
    written: tuple[str, ...]
    kept: tuple[str, ...]
    first_edition: tuple[str, ...]

    def __str__(self) -> str:
        lines = [f"{len(self.written)} notebooks written to {self.folder}"]
        if self.kept:
            lines[0] += f", {len(self.kept)} existing ones left unchanged"
        if self.first_edition:
            lines.append(f"From the first edition, left unchanged: {', '.join(self.first_edition)}")
        replaced = [name for name in self.first_edition if name in self.kept]
        if replaced:
            lines.append(f"For the current {' and '.join(replaced)}, copy the notebooks to a new folder.")
        return "\n".join(lines)


def copy_notebooks(folder: str | Path) -> Copies:
    """Copy the notebooks of the course to a folder. Existing files are never changed.

    Args:
        folder: Folder of the learner. It is created if it does not exist.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    written, kept = [], []
    for notebook in sorted(paths.lessons().glob("*.ipynb")):
        if (folder / notebook.name).exists():
            kept.append(notebook.name)
        else:
            shutil.copyfile(notebook, folder / notebook.name)
            written.append(notebook.name)
    old = [file.name for file in sorted(folder.glob("*.ipynb")) if _is_old(file)]
    return Copies(folder, tuple(written), tuple(kept), tuple(old))


def _is_old(file: Path) -> bool:
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, ValueError):
        return False
    return first_edition.is_old_notebook(file.name, text)

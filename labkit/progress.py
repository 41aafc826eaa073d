"""Progress bars for long work."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from tqdm.auto import tqdm


def progress_bar(
    iterable: Iterable[Any] | None = None, *, progress: bool | None = None, leave: bool = False, **options: Any
) -> Any:
    """Return a tqdm progress bar.

    Args:
        iterable: Items to iterate over. Without it, pass `total` and call `update`.
        progress: True shows the bar and False hides it. None shows it only if the output is a terminal.
        leave: Keep the bar on the screen after the work has ended.
        **options: Further arguments of `tqdm`, such as `total` and `unit`.
    """
    return tqdm(iterable, disable=None if progress is None else not progress, leave=leave, **options)

"""Files that appear whole or not at all, and settings read from TOML."""

from __future__ import annotations

import os
import secrets
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any


@contextmanager
def whole(path: str | Path) -> Iterator[Path]:
    """A temporary file beside `path` to write to, which takes its place where the block ends, and is removed otherwise.

    It is empty when the block starts, has the permission bits that new files have here, and is flushed to the disk
    before it is renamed: however a process ends, `path` holds what it held or all of the new. One that was killed
    leaves its temporary, named `.{name}.{8 hexadecimal digits}.tmp`, which nothing reads. The folder has to be there;
    a link is followed.

    Raises ValueError naming the file where it cannot be written or is a device or a pipe; for an OSError of the block
    too, so let a block only write. Other errors pass.
    """
    if _special(path):  # as root, renaming would put a file in the place of /dev/null
        raise ValueError(f"{path} cannot be written: it is a device or a pipe")
    target = Path(os.path.realpath(path))
    temporary = target.with_name(f".{target.name}.{secrets.token_hex(4)}.tmp")
    with _named(path):
        with open(temporary, "xb") as file:
            mode = os.fstat(file.fileno()).st_mode
        try:
            yield temporary
            temporary.chmod(mode)  # a writer may have put a file of its own there, as safetensors does
            with open(temporary, "r+b") as file:
                os.fsync(file.fileno())
            os.replace(temporary, target)
        finally:
            with suppress(OSError):  # gone, or the error that is on its way says more
                temporary.unlink()


def write_whole(path: str | Path, data: bytes) -> None:
    """Write a file whole or not at all, as `whole` does, and a device or a pipe as it is.

    Raises ValueError naming the file where it cannot be written.
    """
    if _special(path):
        with _named(path):
            Path(path).write_bytes(data)
        return
    with whole(path) as temporary:
        temporary.write_bytes(data)


def read_toml(path: str | Path) -> dict[str, Any]:
    """The values of a TOML file. Raises ValueError, in one line, where it is absent or none."""
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib
    try:
        return tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ValueError(f"{path}: there is no such file") from None
    except ValueError as error:
        raise ValueError(f"{path} is no TOML: {error}") from None


@contextmanager
def _named(path: str | Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise ValueError(f"{path} cannot be written: {error.strerror or error}") from None


def _special(path: str | Path) -> bool:
    return os.path.exists(path) and not os.path.isfile(path) and not os.path.isdir(path)

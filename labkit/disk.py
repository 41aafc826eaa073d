"""Writing files atomically, and reading settings from TOML."""

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
    """Write a file atomically: yield a temporary file that replaces `path` when the block ends without an error.

    The temporary file is empty when the block starts, and it is in the same folder, which must exist. It gets the
    permissions of a new file and is flushed to the disk before it is renamed. However the process ends, `path` has
    either its old or its new content. A killed process leaves its temporary file behind, named
    `.{name}.{8 hexadecimal digits}.tmp`. Symbolic links are followed.

    Args:
        path: File to write.

    Raises:
        ValueError: If the file cannot be written, or is a device or a pipe. An OSError raised inside the block is
            reported in the same way, so the block should do nothing but write the file.
    """
    if _special(path):  # as root, renaming would replace /dev/null with a file
        raise ValueError(f"{path} cannot be written: it is a device or a pipe")
    target = Path(os.path.realpath(path))
    temporary = target.with_name(f".{target.name}.{secrets.token_hex(4)}.tmp")
    with _named(path):
        with open(temporary, "xb") as file:
            mode = os.fstat(file.fileno()).st_mode
        try:
            yield temporary
            temporary.chmod(mode)  # a writer such as safetensors may have replaced the temporary file
            with open(temporary, "r+b") as file:
                os.fsync(file.fileno())
            os.replace(temporary, target)
        finally:
            with suppress(OSError):  # the error that ended the block matters more than this one
                temporary.unlink()


def write_whole(path: str | Path, data: bytes) -> None:
    """Write a file atomically, as `whole` does; devices and pipes are written directly.

    Args:
        path: File to write.
        data: Its new content.

    Raises:
        ValueError: If the file cannot be written. The message names it.
    """
    if _special(path):
        with _named(path):
            Path(path).write_bytes(data)
        return
    with whole(path) as temporary:
        temporary.write_bytes(data)


def read_toml(path: str | Path) -> dict[str, Any]:
    """Read a TOML file.

    Args:
        path: File to read.

    Raises:
        ValueError: If the file is missing or is not valid TOML.
    """
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib
    try:
        return tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ValueError(f"{path}: there is no such file") from None
    except ValueError as error:
        raise ValueError(f"{path} is not valid TOML: {error}") from None


@contextmanager
def _named(path: str | Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise ValueError(f"{path} cannot be written: {error.strerror or error}") from None


def _special(path: str | Path) -> bool:
    return os.path.exists(path) and not os.path.isfile(path) and not os.path.isdir(path)

"""Files that appear whole or not at all: written under another name, then renamed."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextlib.contextmanager
def replacing(path: Path, *, temporary: str = "", durable: bool = True) -> Iterator[BinaryIO]:
    """Open a new file that replaces `path` when the block ends; if the block raises, it does not.

    An OSError, as of a full disk, leaves no file behind. What a kill leaves under the temporary
    name is overwritten by the next writer.

    Args:
        path: The file to be replaced or made.
        temporary: Name of the file until then, beside `path`; empty: its name with `.tmp`.
        durable: Make file and name survive a loss of power.
    """
    unfinished = path.parent / (temporary or path.with_suffix(".tmp").name)
    try:
        with unfinished.open("wb") as file:
            yield file
            if durable:
                file.flush()
                os.fsync(file.fileno())
        unfinished.replace(path)
    except BaseException:
        unfinished.unlink(missing_ok=True)
        raise
    if durable:
        sync_directory(path.parent)


def write_whole(path: Path, *parts: bytes, temporary: str = "", durable: bool = True) -> Path:
    """Write `parts` one after the other into a new file, as `replacing` does.

    Args:
        path: The file; missing directories are made.
        parts: Its content.
        temporary: As for `replacing`.
        durable: As for `replacing`.

    Returns:
        The path.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path, temporary=temporary, durable=durable) as file:
        file.writelines(parts)
    return path


def sync_directory(path: Path) -> None:
    """Make the names in a directory survive a loss of power."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

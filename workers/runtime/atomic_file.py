"""A file that is there whole or not at all: written beside its place, then renamed."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextlib.contextmanager
def replacing(path: Path, *, temporary: str = "", durable: bool = True) -> Iterator[BinaryIO]:
    """Give a new file that takes the place of `path` when the block ends, and not if it raises.

    Until then it has the name `temporary` beside it, by default `path`'s with the suffix `.tmp`.
    What a kill leaves under that name the next writer of it overwrites. If `durable`, file and
    name outlast a loss of power from then on. Raises OSError, as of a full disk, and leaves
    nothing then.
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
    """Put `parts` behind each other into the file `path`, as `replacing` does, and give the path.

    Directories that are missing are made.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path, temporary=temporary, durable=durable) as file:
        file.writelines(parts)
    return path


def sync_directory(path: Path) -> None:
    """Make the names in a directory outlast a loss of power."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

"""A file that is there whole or not at all, also after a power cut."""

from __future__ import annotations

import os
from pathlib import Path


def write_whole(path: Path, *parts: bytes, temporary: str) -> Path:
    """Write `parts` behind each other under the name `temporary` beside it, then rename.

    File and directory are on the disk when this returns. Raises OSError, as of a full disk, and
    leaves nothing then; what a kill leaves is overwritten by whoever writes under that name next.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.parent / temporary
    try:
        with unfinished.open("wb") as file:
            file.writelines(parts)
            file.flush()
            os.fsync(file.fileno())
        unfinished.replace(path)
    except OSError:
        unfinished.unlink(missing_ok=True)
        raise
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
    return path

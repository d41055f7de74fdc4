"""Learner states on disk: written whole or not at all, checked, the newest few kept."""

from __future__ import annotations

import hashlib
import io
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from workers.runtime.atomic_file import write_whole

if TYPE_CHECKING:
    from mesh.arrays import Array

MAGIC = b"TMCKPT01"
DIGEST = 32


class BadCheckpoint(Exception):
    """The file does not hold what was written to it."""


def write(directory: Path, updates: int, arrays: dict[str, Array], keep: int) -> Path:
    """Write `checkpoint-<updates>` whole and remove older ones.

    Args:
        directory: of the trainer's checkpoints; made where it is missing.
        updates: of the learner, in the name.
        arrays: the learner's state.
        keep: how many of the newest stay.

    Returns:
        The path written. OSError of the disk passes through.
    """
    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=False, **arrays)
    body = buffer.getvalue()
    path = directory / f"checkpoint-{updates:012d}"
    digest = hashlib.blake2b(body, digest_size=DIGEST).digest()
    write_whole(path, MAGIC, digest, body, temporary=".new")
    for old in paths(directory)[keep:]:
        old.unlink(missing_ok=True)
    return path


def paths(directory: Path) -> list[Path]:
    """Return the checkpoints of a directory, the newest first."""
    return sorted(directory.glob("checkpoint-*"), reverse=True)


def read(path: Path) -> dict[str, Array]:
    """Return the arrays of a checkpoint.

    Raises:
        BadCheckpoint: the file is not one, or does not match its checksum.
    """
    data = path.read_bytes()
    head = len(MAGIC) + DIGEST
    body = data[head:]
    if data[: len(MAGIC)] != MAGIC:
        raise BadCheckpoint(f"{path}: no checkpoint of this program; the one before is used")
    if hashlib.blake2b(body, digest_size=DIGEST).digest() != data[len(MAGIC) : head]:
        raise BadCheckpoint(f"{path}: does not match its checksum; the one before is used")
    with np.load(io.BytesIO(body), allow_pickle=False) as found:
        return {name: found[name] for name in found.files}

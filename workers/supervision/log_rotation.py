"""The files that hold what workers write: bounded, whatever a worker does to them.

A worker's standard output and error go straight into its file, opened for appending. No process
sits in between, so that nothing a worker writes can be lost with, or held up by, another process,
and the files outlive the daemon. The daemon looks at the sizes: a file over its limit is copied
to NAME.log.1 (as much of it as the limit allows) and cut; the writer, appending, goes on at the
new end. A line that is written between the copy and the cut is lost, and a flood past the limit is
cut harder: only its last part is kept. Lines through the logger are limited before (workers/log).
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from config.logging import LoggingConfig

LOOK_S = 0.5
FLOOD = 2.0  # a file of this many limits grew faster than it was looked at,
OFTEN_S = 60.0  # one that is cut again within this time is written too fast, too

Tell = Callable[[str, int], None]  # name of the worker, size of its file in bytes


class LogFiles:
    """All log files of a directory."""

    def __init__(self, directory: Path, limits: LoggingConfig, flooded: Tell) -> None:
        """Watch `directory`; `flooded` is told of a worker that writes too much."""
        self.directory = directory
        self._limits = limits
        self._flooded = flooded
        self._next = 0.0
        self._cut_at: dict[str, float] = {}

    def path(self, worker: str) -> Path:
        """Give the file of a worker."""
        return self.directory / f"{worker}.log"

    def look(self, now: float) -> None:
        """Cut what is too long, once in a while; `now` is monotonic seconds."""
        if now < self._next:
            return
        self._next = now + LOOK_S
        entries: list[os.DirEntry[str]] = []
        with contextlib.suppress(OSError):  # somebody cleared up: the next worker makes it again
            entries += os.scandir(self.directory)
        for entry in entries:
            if not entry.name.endswith(".log"):
                continue
            try:
                size = entry.stat().st_size
                if size > self._limits.max_bytes:
                    self._rotate(Path(entry.path), size, now)
            except OSError:  # it went away, or the disk is full: the next look tries again
                continue

    def _rotate(self, path: Path, size: int, now: float) -> None:
        for number in range(self._limits.keep, 1, -1):
            older = path.with_name(f"{path.name}.{number - 1}")
            if older.exists():
                older.replace(path.with_name(f"{path.name}.{number}"))
        if self._limits.keep:
            kept = min(size, self._limits.max_bytes)
            with path.open("rb") as source, path.with_name(f"{path.name}.1").open("wb") as target:
                source.seek(size - kept)
                target.write(source.read(kept))
        os.truncate(path, 0)
        worker = path.name.removesuffix(".log")
        again = now - self._cut_at.get(worker, float("-inf")) < OFTEN_S
        self._cut_at[worker] = now
        if again or size > FLOOD * self._limits.max_bytes:
            self._flooded(worker, size)

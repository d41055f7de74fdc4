"""The log files of the workers: bounded, whatever a worker writes into them.

A worker's standard output and error go straight into its file, opened for appending. No process
sits in between, so nothing that a worker writes can be lost with, or held up by, another process,
and the files outlive the daemon. The daemon checks the sizes: a file over its limit is copied to
NAME.log.1 (as much of it as the limit allows) and cut; the writer, appending, continues at the new
end. A line that is written between the copy and the cut is lost, and of a flood past the limit only
the last part is kept. Lines through the logger are limited before (workers/runtime/logging.py).
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from config.logging import LoggingConfig

CHECK_INTERVAL_S = 0.5
FLOOD = 2.0  # a file of this many limits grew faster than it was checked,
OFTEN_S = 60.0  # and one that is cut again within this time is written too fast, too


class LogFiles:
    """All log files of a directory."""

    def __init__(self, directory: Path, limits: LoggingConfig) -> None:
        """Watch the log files of `directory`."""
        self.directory = directory
        self._limits = limits
        self._check_at = 0.0
        self._cut_at: dict[str, float] = {}

    def path(self, worker: str) -> Path:
        """Return the log file of a worker."""
        return self.directory / f"{worker}.log"

    def rotate(self, now: float) -> list[tuple[str, int]]:
        """Cut the files that are too long, every `CHECK_INTERVAL_S`.

        Args:
            now: Monotonic seconds.

        Returns:
            Name of each worker that writes too much, with the size of its file in bytes.
        """
        if now < self._check_at:
            return []
        self._check_at = now + CHECK_INTERVAL_S
        flooded: list[tuple[str, int]] = []
        entries: list[os.DirEntry[str]] = []
        with contextlib.suppress(OSError):  # somebody cleared up: the next worker makes it again
            entries += os.scandir(self.directory)
        for entry in entries:
            if not entry.name.endswith(".log"):
                continue
            try:
                size = entry.stat().st_size
                if size > self._limits.max_bytes and self._cut(Path(entry.path), size, now):
                    flooded.append((entry.name.removesuffix(".log"), size))
            except OSError:  # it went away, or the disk is full: the next check tries again
                continue
        return flooded

    def _cut(self, path: Path, size: int, now: float) -> bool:
        """Copy the end of a file beside it and empty it; True when its writer floods it."""
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
        return again or size > FLOOD * self._limits.max_bytes

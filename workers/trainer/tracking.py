"""What a trainer measures, appended to a spool on disk: the training thread asks nobody else.

One JSON object a line: `{"run", "trainer", "t", "step", "metrics"}` for points, with "params"
once at the start of a run and "end" at its end. The shipper sends the lines to MLflow and keeps
its own place, so that a server that is away for an hour costs nothing and loses nothing.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import IO, Any


class Spool:
    """The spool of one run."""

    def __init__(self, directory: Path, trainer: str, run: str, limit: int) -> None:
        """Append to `<trainer>.jsonl`, up to `limit` bytes."""
        directory.mkdir(parents=True, exist_ok=True)
        self.path = directory / f"{trainer}.jsonl"
        self.run = run
        self.dropped = 0
        self._trainer = trainer
        self._limit = limit
        self._file: IO[bytes] = self.path.open("ab", buffering=0)
        if self._is_cut():
            self._file.write(b"\n")  # a line cut by a kill: the shipper passes over it

    def _is_cut(self) -> bool:
        if self.path.stat().st_size == 0:
            return False
        with self.path.open("rb") as file:
            file.seek(-1, 2)
            return file.read() != b"\n"

    def params(self, values: dict[str, Any]) -> None:
        """Note what the run was started with."""
        self._append({"params": values})

    def point(self, step: int, metrics: dict[str, float]) -> None:
        """Note metrics at `step`."""
        self._append({"step": step, "metrics": metrics})

    def end(self, status: str) -> None:
        """Note the end of the run: FINISHED, FAILED or KILLED."""
        self._append({"end": status})

    def close(self) -> None:
        """Close the file; every line is in it already."""
        self._file.close()

    def _append(self, content: dict[str, Any]) -> None:
        head = {"run": self.run, "trainer": self._trainer, "t": time.time_ns() // 10**6}
        line = json.dumps({**head, **content}).encode() + b"\n"
        if self._file.tell() + len(line) > self._limit:
            self.dropped += 1
            return
        self._file.write(line)

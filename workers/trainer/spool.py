"""What a trainer measures, appended to a spool on disk: the training thread asks nobody else.

One JSON object a line: `{"run", "trainer", "t", ...}` with one of

- "begin": where the learner goes on from, and the process: the run is running (again);
- "params": what it was started with; "step" and "metrics": a point;
- "model": files of a policy, its name in the registry and the alias it is to have;
- "end": FINISHED, FAILED or KILLED.

The spool is a row of files `<trainer>-<number>.jsonl`; a file that has grown is followed by
another, and the shipper removes what it has shipped, so that the disk holds what MLflow does not
have yet. Together they are bounded: beyond that, points are counted and not kept. A disk that is
full costs points, never an exception.
"""

from __future__ import annotations

import json
import time
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

from mesh import ProcessIdentity

FILE_BYTES = 4 << 20


def spool_files(directory: Path, trainer: str) -> list[Path]:
    """Return the files of a trainer's spool, the oldest first."""
    found = directory.glob(f"{trainer}-*.jsonl")
    return sorted(path for path in found if path.stem.rpartition("-")[0] == trainer)


class Spool:
    """The spool of one run."""

    def __init__(self, directory: Path, trainer: str, run: str, limit: int) -> None:
        """Append to the newest file of `trainer`, up to `limit` bytes in all files."""
        self.run = run
        self.dropped = 0
        self.error = ""  # why the newest point was dropped
        self._directory, self._trainer, self._limit = directory, trainer, limit
        files = spool_files(directory, trainer)
        self._number = int(files[-1].stem.rpartition("-")[2]) if files else 0
        self._file: IO[bytes] | None = None  # none: it could not be opened, the next line tries
        self._cut = False
        self._others = 0
        with suppress(OSError):
            self._opened()

    def begin(self, resumed_from: str) -> None:
        """Note that this process works on the run now."""
        me = ProcessIdentity.current()
        self._append({"begin": resumed_from, "pid": me.pid, "start_time": me.start_time})

    def params(self, values: dict[str, Any]) -> None:
        """Note what the run was started with."""
        self._append({"params": values})

    def point(self, step: int, metrics: dict[str, float]) -> None:
        """Note metrics at `step`."""
        self._append({"step": step, "metrics": metrics})

    def model(self, step: int, name: str, alias: str, files: list[Path]) -> None:
        """Note files of a policy that is `alias` of the registered model `name` now."""
        paths = [str(path.resolve()) for path in files]
        self._append({"step": step, "model": name, "alias": alias, "files": paths})

    def end(self, status: str) -> None:
        """Note the end of the run: FINISHED, FAILED or KILLED."""
        self._append({"end": status})

    def close(self) -> None:
        """Close the file; every line is in it already."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def _append(self, content: dict[str, Any]) -> None:
        head = {"run": self.run, "trainer": self._trainer, "t": time.time_ns() // 10**6}
        line = json.dumps({**head, **content}, default=str).encode() + b"\n"
        try:
            file = self._opened()
            if file.tell() > min(FILE_BYTES, self._limit // 4):
                self.close()
                self._number += 1
                file = self._opened()
            if self._cut:
                line = b"\n" + line
            if self._others + file.tell() + len(line) > self._limit:
                self._others = self._size_of_others()  # the shipper may have removed some
            if self._others + file.tell() + len(line) > self._limit:
                self._drop(f"the spool is full: {self._limit} bytes")
                return
            self._cut = True  # until all of it is written
            self._cut = file.write(line) != len(line)
            if self._cut:
                self._drop("the disk took a part of the line")
        except OSError as error:
            self._drop(str(error))

    def _drop(self, why: str) -> None:
        self.dropped += 1
        self.error = why

    def _opened(self) -> IO[bytes]:
        """Return the open file.

        Raises:
            OSError: It cannot be opened.
        """
        if self._file is None:
            self._directory.mkdir(parents=True, exist_ok=True)
            self._file = self.path.open("ab", buffering=0)
            self._cut = self._is_cut()  # by a kill or a full disk: the shipper passes over it
            self._others = self._size_of_others()
        return self._file

    @property
    def path(self) -> Path:
        """The file that is appended to."""
        return self._directory / f"{self._trainer}-{self._number:08d}.jsonl"

    def _is_cut(self) -> bool:
        if self.path.stat().st_size == 0:
            return False
        with self.path.open("rb") as file:
            file.seek(-1, 2)
            return file.read() != b"\n"

    def _size_of_others(self) -> int:
        sizes = 0
        for path in spool_files(self._directory, self._trainer):
            if path != self.path:
                try:
                    sizes += path.stat().st_size
                except FileNotFoundError:  # shipped and removed this moment
                    continue
        return sizes

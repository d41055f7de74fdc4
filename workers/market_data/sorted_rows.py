"""Rows merged by time in flat memory: an external merge sort (Knuth, TAOCP 3, §5.4).

Blocks are gathered into runs of bounded size, each sorted and written to a temporary file; the
runs are merged into a second one through small buffers. Both files have no name any more once they
are open, so that nothing is left behind however the process ends. The sort is stable: rows of one
time keep the order in which they were read.
"""

from __future__ import annotations

import os
import tempfile
import weakref
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from workers.contract.dtypes import TICK_DTYPE
from workers.market_data.archive import BLOCK_ROWS, Rows, no_beat, numbered
from workers.market_data.errors import MarketDataError

RUN_ROWS = 1 << 14  # 3.5 MB of rows sorted at once
MERGED_AT_ONCE = 64
_BYTES = TICK_DTYPE.itemsize
_Run = tuple[int, int]  # first row in the file, number of rows


class _Spill:
    """A file of rows without a name; it goes with the object."""

    def __init__(self, directory: Path) -> None:
        with tempfile.TemporaryFile(dir=directory) as file:
            self._fd = os.dup(file.fileno())
        weakref.finalize(self, os.close, self._fd)

    def append(self, rows: Rows) -> None:
        """Write rows behind those that are there."""
        left = rows.view(np.uint8).data
        while left:
            left = left[os.write(self._fd, left) :]

    def read(self, position: int, count: int) -> Rows:
        """Return `count` rows from `position` on, as an array of their own."""
        rows = np.empty(count, TICK_DTYPE)
        view = rows.view(np.uint8).data
        done = 0
        while done < len(view):  # a read may be cut short
            got = os.preadv(self._fd, [view[done:]], position * _BYTES + done)
            if got == 0:
                raise OSError("the temporary file of sorted rows was cut")
            done += got
        return rows


class SortedRows:
    """An archive ordered by `ts_event`, kept in a temporary file and read from there."""

    def __init__(
        self,
        name: str,
        blocks: Iterable[Rows],
        directory: Path,
        *,
        run_rows: int = RUN_ROWS,
        beat: Callable[[], object] = no_beat,
    ) -> None:
        """Read and sort everything.

        Args:
            name: Name for messages.
            blocks: TICK_DTYPE (n,), read once.
            directory: Folder for temporary files, with room for twice the rows (212 bytes each).
            run_rows: Rows sorted at a time in memory.
            beat: Called for every block that is read or merged.

        Raises:
            MarketDataError: The folder cannot hold the rows.
        """
        self.name = name
        self.skipped: dict[str, int] = {}
        self._run_rows = run_rows
        self._beat = beat
        try:
            directory.mkdir(parents=True, exist_ok=True)
            file, runs = self._spill(blocks, directory)
            while len(runs) > 1:
                file, runs = self._merge(file, runs, directory)
        except OSError as error:
            raise MarketDataError(
                directory,
                found=f"{error.strerror or error} while rows were sorted there",
                expected="room for twice the rows",
                remedy="set run_directory to a disk with more room",
            ) from error
        self._file = file
        self._rows = runs[0][1] if runs else 0

    def __len__(self) -> int:
        """Rows of the archive."""
        return self._rows

    def blocks(self, start: int = 0) -> Iterator[Rows]:
        """Return the rows from `start` on, ordered by time."""
        for position in range(start, self._rows, BLOCK_ROWS):
            count = min(BLOCK_ROWS, self._rows - position)
            yield numbered(self._file.read(position, count), position)

    def _spill(self, blocks: Iterable[Rows], directory: Path) -> tuple[_Spill, list[_Run]]:
        """Write sorted runs, each (first row, rows); runs that follow each other are one."""
        file = _Spill(directory)
        runs: list[tuple[int, int]] = []
        newest = -(1 << 63)
        for rows in _gathered(blocks, self._run_rows):
            times = rows["ts_event"]
            ordered = rows
            if (np.diff(times) < 0).any():
                ordered = rows[np.argsort(times, kind="stable")]
            file.append(ordered)
            begin = sum(runs[-1]) if runs else 0
            if runs and ordered["ts_event"][0] >= newest:
                runs[-1] = (runs[-1][0], runs[-1][1] + ordered.size)
            else:
                runs.append((begin, ordered.size))
            newest = int(ordered["ts_event"][-1])
            self._beat()
        return file, runs

    def _merge(self, file: _Spill, runs: list[_Run], directory: Path) -> tuple[_Spill, list[_Run]]:
        """Merge neighbouring runs, at most MERGED_AT_ONCE together, into fewer."""
        merged = _Spill(directory)
        fewer = []
        for first in range(0, len(runs), MERGED_AT_ONCE):
            group = runs[first : first + MERGED_AT_ONCE]
            begin, count = group[0][0], sum(size for _, size in group)
            for rows in _merged(file, group, max(64, self._run_rows // len(group))):
                merged.append(rows)
                self._beat()
            fewer.append((begin, count))
        return merged, fewer


def _gathered(blocks: Iterable[Rows], max_rows: int) -> Iterator[Rows]:
    """Blocks of any size as arrays of up to `max_rows` rows."""
    held: list[Rows] = []
    count = 0
    for block in blocks:
        for begin in range(0, block.size, max_rows):
            rows = block[begin : begin + max_rows]
            if count + rows.size > max_rows:
                yield np.concatenate(held)
                held, count = [], 0
            held.append(rows)
            count += rows.size
    if held:
        yield np.concatenate(held)


def _merged(file: _Spill, runs: list[_Run], buffer_rows: int) -> Iterator[Rows]:
    """Rows of all runs by time; rows of one time in the order of their runs.

    A row may leave once no run can still hold an earlier one: all up to the smallest of the last
    times in the buffers, and of that very time only from runs not behind the one it belongs to.
    """
    buffers: list[Rows] = []
    ahead = list(runs)
    for index, (begin, count) in enumerate(runs):
        taken = min(buffer_rows, count)
        buffers.append(file.read(begin, taken))
        ahead[index] = (begin + taken, count - taken)
    while any(b.size for b in buffers):
        open_runs = [i for i, (_, left) in enumerate(ahead) if left]
        if open_runs:
            bound, limit = min((int(buffers[i]["ts_event"][-1]), i) for i in open_runs)
        else:
            bound, limit = (1 << 63) - 1, len(runs)
        parts = []
        for index, rows in enumerate(buffers):
            side: Any = "right" if index <= limit else "left"
            cut = int(np.searchsorted(rows["ts_event"], bound, side=side))
            if cut:
                parts.append(rows[:cut])
                buffers[index] = rows[cut:]
            begin, left = ahead[index]
            if left and not buffers[index].size:
                taken = min(buffer_rows, left)
                buffers[index] = file.read(begin, taken)
                ahead[index] = (begin + taken, left - taken)
        together = np.concatenate(parts)
        yield together[np.argsort(together["ts_event"], kind="stable")]

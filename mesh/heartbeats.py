"""One row a worker: who it is, what it is doing since when, and how far it got.

Written from the worker's own loop, never by a helper thread: liveness is progress. A beat is one
write without a system call; a row belongs to one live process (I4).
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from enum import IntEnum
from typing import NamedTuple

from mesh._core import _native
from mesh.errors import InvalidName, LeaseHeld, MeshFull
from mesh.header import LINE, NUMPY, Shape, round_up
from mesh.process_identity import ProcessIdentity
from mesh.segment import Segment
from mesh.segment_file import SegmentFile, directory_lock

KIND = 6
RECORD = 128
STRIDE = round_up(32 + RECORD, LINE)
ROW_STRIDE = 64 + 2 * STRIDE
NAME_BYTES = 32
DETAIL_BYTES = 64


class Phase(IntEnum):
    """What a worker is doing."""

    GONE = 0
    STARTING = 1
    WORKING = 2
    WAITING = 3


class HeartbeatRow(NamedTuple):
    """One row as it was read; times are CLOCK_MONOTONIC nanoseconds."""

    worker: str
    pid: int
    start_time: int
    phase: Phase
    phase_since_ns: int
    expect_s: float
    beats: int
    progress: int
    beat_ns: int
    ready: bool
    detail: str = ""

    @property
    def identity(self) -> ProcessIdentity:
        """The process that claimed the row."""
        return ProcessIdentity(self.pid, self.start_time)


def heartbeats_shape(rows: int) -> Shape:
    """Return the shape for `rows` workers."""
    if rows < 1:
        raise ValueError(f"heartbeats need rows >= 1, got {rows}")
    schema = '{"heartbeats":1}'
    return Shape(KIND, NUMPY, schema, 2, RECORD, STRIDE, rows, rows * ROW_STRIDE)


class Heartbeats(Segment):
    """The rows of all workers.

    >>> heartbeats = mesh.heartbeats(create=True, rows=4)
    >>> own = heartbeats.claim("ingest")
    >>> own.ready()
    >>> own.beat(progress=128)
    >>> row = heartbeats.rows()[0]
    >>> row.worker, row.phase.name, row.progress, row.ready, row.beats
    ('ingest', 'WORKING', 128, True, 2)
    """

    def __init__(self, file: SegmentFile) -> None:
        """Bind for reading; a claim attaches for writing."""
        super().__init__(file)
        self._rows = _native_rows(file)

    def rows(self) -> tuple[HeartbeatRow, ...]:
        """Return every row that a process has or had, each whole; skip damaged rows."""
        return tuple(row for row in self._every_row() if row.pid)

    def _every_row(self) -> tuple[HeartbeatRow, ...]:
        return tuple(
            HeartbeatRow(
                worker=key.decode("utf-8", "replace"),
                pid=pid,
                start_time=start_time,
                phase=Phase(phase),
                phase_since_ns=since,
                expect_s=expect / 1e9,
                beats=beats,
                progress=progress,
                beat_ns=beat,
                ready=bool(ready),
                detail=detail.decode("utf-8", "replace"),
            )
            for (
                key,
                pid,
                phase,
                start_time,
                since,
                expect,
                beats,
                progress,
                beat,
                ready,
                detail,
            ) in self._rows.rows()
        )

    def claim(self, worker: str, *, keep: Collection[str] = ()) -> Heartbeat:
        """Take the row of `worker`, or a row for it.

        Once every row is taken, that of the longest dead process gets the new name.

        Args:
            worker: 1 to 32 bytes of UTF-8.
            keep: Names whose rows are not reused.

        Raises:
            InvalidName: The name is empty or too long.
            LeaseHeld: Another live process has the row.
            MeshFull: Every row belongs to a live process or to a name in `keep`.
        """
        name = worker.encode()
        if not 0 < len(name) <= NAME_BYTES:
            raise InvalidName(f"worker name {worker!r}: 1 to {NAME_BYTES} bytes are allowed")
        me = ProcessIdentity.current()
        own = _native_rows(SegmentFile(self.name, self._file.path, writable=True))
        with directory_lock(self._file.path.parent):
            rows = self._every_row()
            at = next((i for i, row in enumerate(rows) if row.worker == worker), len(rows))
            if at < len(rows) and rows[at].identity != me and rows[at].identity.is_alive():
                raise LeaseHeld(
                    f"heartbeat of {worker!r}: {rows[at].identity} has it, this is {me}; "
                    "stop that process or take another name"
                )
            full = at == self._file.identity.capacity
            index = _reusable_row(rows, keep) if full else at
            if index is None or not own.claim(index, name, me.pid, me.start_time):
                raise MeshFull(
                    f"{self.name}: 0 of {len(rows)} rows are free, {worker!r} needs 1; stop one of "
                    "their processes or make the mesh with more rows"
                )
        return Heartbeat(own)


def _reusable_row(rows: Sequence[HeartbeatRow], keep: Collection[str]) -> int | None:
    """Index of the row to reuse: one without a process, else that of the longest dead one."""
    free = [
        i
        for i, row in enumerate(rows)
        if row.pid == 0 or (row.worker not in keep and not row.identity.is_alive())
    ]
    return min(free, key=lambda i: rows[i].beat_ns, default=None)


def _native_rows(file: SegmentFile) -> _native.Heartbeats:
    i = file.identity
    return _native.Heartbeats(file.mapping, i.data_offset, i.stride, i.capacity)


class Heartbeat:
    """The row of this process."""

    def __init__(self, rows: _native.Heartbeats) -> None:
        """Start in the phase `starting`, not ready, with progress 0."""
        self._rows = rows
        self._ready = False
        self._progress = 0

    @property
    def progress(self) -> int:
        """Progress as of the last beat."""
        return self._progress

    def starting(self, *, expect: float | None = None) -> None:
        """Beat while starting; the next beat is due within `expect` seconds."""
        self._beat(Phase.STARTING, expect)

    def ready(self) -> None:
        """Declare the worker ready: workers that depend on it may start."""
        self._ready = True
        self._beat(Phase.WORKING, None)

    def beat(self, *, progress: int, expect: float | None = None) -> None:
        """Beat while working.

        Args:
            progress: A count of work done; it only grows.
            expect: Seconds within which the next beat is due; the worker's deadline by default.
        """
        self._progress = progress
        self._beat(Phase.WORKING, expect)

    def waiting(self, *, expect: float | None = None) -> None:
        """Beat before waiting for input."""
        self._beat(Phase.WAITING, expect)

    def describe(self, detail: str) -> None:
        """Set the detail that the next beat publishes, cut to DETAIL_BYTES of UTF-8."""
        self._rows.describe(detail.encode()[:DETAIL_BYTES].decode("utf-8", "ignore").encode())

    def gone(self) -> None:
        """Publish that the process ends on purpose."""
        self._ready = False
        self._beat(Phase.GONE, None)

    def _beat(self, phase: Phase, expect: float | None) -> None:
        self._rows.beat(phase, self._progress, int((expect or 0.0) * 1e9), self._ready)

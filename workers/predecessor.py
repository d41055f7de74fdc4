"""What an earlier daemon left: its status, and the workers that live on.

Serves I7. A worker is known by pid and start time from the last status, or, where the daemon died
between a fork and the status, by its heartbeat row and its process title; a process that runs as
a worker of the same name but was started by somebody else is not the daemon's, and left alone.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from mesh import (
    Cell,
    LayoutMismatch,
    LeaseHeld,
    Mesh,
    MeshError,
    ProcessIdentity,
    Ring,
    SchemaMismatch,
)
from mesh.control import ControlRequest, ControlUnavailable, ask
from workers.records import EVENT_DTYPE, EVENTS, SUPERVISOR, SupervisorStatus, WorkerStatus
from workers.spawn import title

if TYPE_CHECKING:
    from mesh import HeartbeatRow

STATUS_BYTES = 1 << 19
SHORT_REASON = 60  # characters
_OVER = {"down", "stopping"}  # ended in an orderly way: the next daemon starts afresh


def take_status(mesh: Mesh) -> tuple[Cell[SupervisorStatus], SupervisorStatus | None]:
    """Become the writer of the daemon's status, and give what an earlier daemon wrote there.

    A status of another version or size is made anew. Where its very layout is another one (an
    earlier boot, an incompatible version) the mesh is swept of all such segments. Raises LeaseHeld
    while another daemon lives.
    """
    said = _said(mesh)
    try:
        return _cell(mesh), said
    except LayoutMismatch:
        with contextlib.suppress(ControlUnavailable):
            answer = ask(mesh.path, ControlRequest("ping"), timeout=1.0)
            raise LeaseHeld(
                f"{mesh.path}: a daemon of another layout runs: {answer.text}"
            ) from None
        mesh.sweep()
        return _cell(mesh), None
    except SchemaMismatch:
        owner = mesh.attach(SUPERVISOR).info.owner
        if owner is not None and owner != ProcessIdentity.current() and owner.is_alive():
            raise LeaseHeld(f"{mesh.path}: a daemon of another version runs: {owner}") from None
        mesh.unlink(SUPERVISOR)
    return _cell(mesh), said


def shortened(status: SupervisorStatus) -> SupervisorStatus:
    """Give as much of a status as fits into its cell: of very many workers, or long faults.

    First go incidents and foreign processes, then the deaths and the ends of the reasons; what
    adoption needs (name, pid, start time, state) stays for any number of workers that can be.
    """
    short = msgspec.structs.replace(status, incidents=[], foreign=[])
    if len(msgspec.msgpack.encode(short)) > STATUS_BYTES:
        rows = [
            msgspec.structs.replace(row, reason=row.reason[:SHORT_REASON], deaths=[])
            for row in status.workers
        ]
        short = msgspec.structs.replace(short, workers=rows)
    return short


def take_events(mesh: Mesh, capacity: int) -> Ring:
    """Become the writer of the events; a ring of another version or size is made anew.

    To be called as the daemon of the mesh, which `take_status` has made sure of.
    """
    try:
        return mesh.ring(EVENTS, EVENT_DTYPE, capacity=capacity, create=True)
    except SchemaMismatch:
        mesh.unlink(EVENTS)
    return mesh.ring(EVENTS, EVENT_DTYPE, capacity=capacity, create=True)


def _cell(mesh: Mesh) -> Cell[SupervisorStatus]:
    return mesh.cell(SUPERVISOR, SupervisorStatus, create=True, max_bytes=STATUS_BYTES)


def _said(mesh: Mesh) -> SupervisorStatus | None:
    try:
        segment = mesh.attach(SUPERVISOR)
        if not isinstance(segment, Cell):
            return None
        said = msgspec.convert(segment.read()[1], SupervisorStatus)
    except (MeshError, msgspec.ValidationError):
        return None
    return None if said.state in _OVER else said


def live_process(
    name: str, told: WorkerStatus | None, row: HeartbeatRow | None
) -> ProcessIdentity | None:
    """Give the process of worker `name` that an earlier daemon started and that lives."""
    if told is not None and told.pid:
        known = ProcessIdentity(told.pid, told.start_time)
        if known.is_alive():
            return known
    if row is not None and row.identity.is_alive() and _is_titled(row.pid, title(name)):
        return row.identity
    return None


def watch(identity: ProcessIdentity) -> int | None:
    """Open a pidfd of exactly that process; None when it has ended (and its pid was reused)."""
    try:
        pidfd = os.pidfd_open(identity.pid)
    except ProcessLookupError:
        return None
    if not identity.is_alive():
        os.close(pidfd)
        return None
    return pidfd


def _is_titled(pid: int, wanted: str) -> bool:
    try:
        line = Path(f"/proc/{pid}/cmdline").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return line.split(b"\0")[0].rstrip(b" ") == wanted.encode()

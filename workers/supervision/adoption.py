"""What an earlier daemon left: its status, and the workers that live on.

Serves I7. A worker is known by pid and start time from the last status, or, where the daemon died
between a fork and the status, by its heartbeat row and its process title; a process that runs as
a worker of the same name but was started by somebody else is not the daemon's, and left alone.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import msgspec

from mesh import (
    Cell,
    Corrupt,
    LayoutMismatch,
    LeaseHeld,
    Mesh,
    MeshError,
    ProcessIdentity,
    Ring,
    SchemaMismatch,
    SegmentMissing,
)
from mesh.control import ControlRequest, ControlUnavailable, ask
from mesh.directory import HEARTBEATS
from workers.contract.dtypes import EVENT_DTYPE
from workers.contract.names import EVENTS, SUPERVISOR
from workers.contract.statuses import SupervisorStatus, WorkerStatus
from workers.supervision.spawn import title

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from mesh import HeartbeatRow, Heartbeats
    from mesh.segment import Segment

T = TypeVar("T")

STATUS_BYTES = 1 << 19
SHORT_REASON = 60  # characters
_OVER = {"down", "stopping"}  # ended in an orderly way: the next daemon starts afresh


def claim_status(
    mesh: Mesh, faults: list[str] | None = None
) -> tuple[Cell[SupervisorStatus], SupervisorStatus | None]:
    """Become the writer of the daemon's status, and give what an earlier daemon wrote there.

    A status of another version or size, or a damaged one (told in `faults`), is made anew. Where
    its very layout is another one (an earlier boot, an incompatible version) the mesh is swept of
    all such segments. Raises LeaseHeld while another daemon lives.
    """
    said = _said(mesh)
    try:
        return _cell(mesh), said
    except (LayoutMismatch, Corrupt):
        with contextlib.suppress(ControlUnavailable):
            answer = ask(mesh.path, ControlRequest("ping"), timeout=1.0)
            raise LeaseHeld(
                f"{mesh.path}: a daemon of another layout runs: {answer.text}"
            ) from None
        mesh.sweep()
        return _anew(mesh, SUPERVISOR, lambda: _cell(mesh), faults), None
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


def claim_events(mesh: Mesh, capacity: int, faults: list[str] | None = None) -> Ring:
    """Become the writer of the events; a ring of another version or size is made anew.

    As is a damaged one. To be called as the daemon of the mesh, which `claim_status` has made sure
    of.
    """

    def take() -> Ring:
        return mesh.ring(EVENTS, EVENT_DTYPE, capacity=capacity, create=True)

    try:
        return _anew(mesh, EVENTS, take, faults)
    except SchemaMismatch:
        mesh.unlink(EVENTS)
    return take()


def open_heartbeats(mesh: Mesh, rows: int, faults: list[str] | None = None) -> Heartbeats:
    """Open the heartbeats; damaged ones are made anew, and workers that run get rows by a restart.

    To be called as the daemon of the mesh.
    """
    return _anew(mesh, HEARTBEATS, lambda: mesh.heartbeats(create=True, rows=rows), faults)


def _anew(mesh: Mesh, name: str, take: Callable[[], T], faults: list[str] | None) -> T:
    """Take a segment of the daemon's own; one that is damaged is taken away and made anew."""
    try:
        return take()
    except Corrupt as error:
        if faults is not None:
            faults.append(f"made anew: {error}")
        (mesh.path / name).unlink(missing_ok=True)
        return take()


def find_lost_segment(mesh: Mesh, segments: Iterable[Segment]) -> str:
    """Say which of these segments lost its name to nobody or to another one; empty: none.

    Raises LeaseHeld where another live process is the writer of what is there now.
    """
    for segment in segments:
        try:
            found = mesh.info(segment.name)
        except (SegmentMissing, Corrupt, LayoutMismatch) as error:
            return str(error)
        except MeshError:  # it cannot be looked at now
            return ""
        if found.generation == segment.info.generation:
            continue
        text = f"{mesh.path / segment.name}: another one took the place of ours"
        if found.owner is not None and found.owner.is_alive():
            raise LeaseHeld(f"{text}, and {found.owner} writes it")
        return text
    return ""


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

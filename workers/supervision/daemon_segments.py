"""The segments of which the daemon is the writer: its status, its events, the heartbeats.

Taken over from an earlier daemon (I7), also from one of another version; never from a live one.
"""

from __future__ import annotations

import contextlib
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
from workers.contract.statuses import SupervisorStatus

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from mesh import Heartbeats
    from mesh.segment import Segment

T = TypeVar("T")

STATUS_BYTES = 1 << 19
SHORT_REASON = 60  # characters
_OVER = {"down", "stopping"}  # ended in an orderly way: the next daemon starts afresh


class PublishedStatus:
    """The status that others read; written only when something in it changed."""

    def __init__(self, cell: Cell[SupervisorStatus], first: SupervisorStatus) -> None:
        """Publish into `cell`; `first` itself is published with the first change."""
        self._cell = cell
        self._encoded = b""
        self.current = first

    def replace(self, **fields: object) -> None:
        """Publish the status with these fields changed; nothing is written if they are the same."""
        new = msgspec.structs.replace(self.current, **fields)
        encoded = msgspec.msgpack.encode(new)
        if encoded != self._encoded:
            self._encoded = encoded
            self.current = new
            self._cell.write(new if len(encoded) <= STATUS_BYTES else shortened(new))


def claim_status(
    mesh: Mesh, faults: list[str]
) -> tuple[Cell[SupervisorStatus], SupervisorStatus | None]:
    """Become the writer of the daemon's status.

    A status of another version or size, or a damaged one, is replaced by a new one. Where its very
    layout is another one (an earlier boot, an incompatible version) the mesh is swept of all
    segments of that layout.

    Args:
        mesh: Where the cell is.
        faults: Gets a line about each segment that was damaged.

    Returns:
        The cell, and the status of an earlier daemon that did not end in an orderly way.

    Raises:
        LeaseHeld: Another daemon lives.
    """
    earlier = _read_earlier(mesh)
    try:
        return _open_status(mesh), earlier
    except (LayoutMismatch, Corrupt):
        with contextlib.suppress(ControlUnavailable):
            answer = ask(mesh.path, ControlRequest("ping"), timeout=1.0)
            raise LeaseHeld(
                f"{mesh.path}: a daemon of another layout runs: {answer.text}"
            ) from None
        mesh.sweep()
        return _replace_damaged(mesh, SUPERVISOR, lambda: _open_status(mesh), faults), None
    except SchemaMismatch:
        owner = mesh.attach(SUPERVISOR).info.owner
        if owner is not None and owner != ProcessIdentity.current() and owner.is_alive():
            raise LeaseHeld(f"{mesh.path}: a daemon of another version runs: {owner}") from None
        mesh.unlink(SUPERVISOR)
    return _open_status(mesh), earlier


def claim_events(mesh: Mesh, capacity: int, faults: list[str]) -> Ring:
    """Become the writer of the events; a ring of another version or size, or damaged, is replaced.

    Called by the daemon of the mesh, which `claim_status` has made sure of.
    """

    def claim() -> Ring:
        return mesh.ring(EVENTS, EVENT_DTYPE, capacity=capacity, create=True)

    try:
        return _replace_damaged(mesh, EVENTS, claim, faults)
    except SchemaMismatch:
        mesh.unlink(EVENTS)
    return claim()


def open_heartbeats(mesh: Mesh, rows: int, faults: list[str]) -> Heartbeats:
    """Open the heartbeats; damaged ones are replaced, and running workers get rows by a restart.

    Called by the daemon of the mesh.
    """
    return _replace_damaged(
        mesh, HEARTBEATS, lambda: mesh.heartbeats(create=True, rows=rows), faults
    )


def find_lost_segment(mesh: Mesh, segments: Iterable[Segment]) -> str:
    """Return which of these segments was removed or replaced by another one; empty: none was.

    Raises:
        LeaseHeld: Another live process is the writer of what is there now.
    """
    for segment in segments:
        try:
            found = mesh.info(segment.name)
        except (SegmentMissing, Corrupt, LayoutMismatch) as error:
            return str(error)
        except MeshError:  # it cannot be read now
            return ""
        if found.generation == segment.info.generation:
            continue
        text = f"{mesh.path / segment.name}: another one took the place of ours"
        if found.owner is not None and found.owner.is_alive():
            raise LeaseHeld(f"{text}, and {found.owner} writes it")
        return text
    return ""


def shortened(status: SupervisorStatus) -> SupervisorStatus:
    """Return as much of a status as fits into its cell: of very many workers, or long faults.

    First go incidents and unmanaged processes, then the deaths and the ends of the reasons; what
    adoption needs (name, pid, start time, state) stays for any possible number of workers.
    """
    short = msgspec.structs.replace(status, incidents=[], unmanaged=[])
    if len(msgspec.msgpack.encode(short)) > STATUS_BYTES:
        rows = [
            msgspec.structs.replace(row, reason=row.reason[:SHORT_REASON], deaths=[])
            for row in status.workers
        ]
        short = msgspec.structs.replace(short, workers=rows)
    return short


def _replace_damaged(mesh: Mesh, name: str, claim: Callable[[], T], faults: list[str]) -> T:
    """Claim a segment of the daemon's own; a damaged one is removed and made again."""
    try:
        return claim()
    except Corrupt as error:
        faults.append(f"made anew: {error}")
        (mesh.path / name).unlink(missing_ok=True)
        return claim()


def _open_status(mesh: Mesh) -> Cell[SupervisorStatus]:
    return mesh.cell(SUPERVISOR, SupervisorStatus, create=True, max_bytes=STATUS_BYTES)


def _read_earlier(mesh: Mesh) -> SupervisorStatus | None:
    try:
        segment = mesh.attach(SUPERVISOR)
        if not isinstance(segment, Cell):
            return None
        earlier = msgspec.convert(segment.read()[1], SupervisorStatus)
    except (MeshError, msgspec.ValidationError):
        return None
    return None if earlier.state in _OVER else earlier

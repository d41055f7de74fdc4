"""Which process a worker already has: one that an earlier daemon started (I7).

A worker is known by pid and start time from the last status, or, where the daemon died between a
fork and the status, by its heartbeat row and its process title. A process that runs under the name
of a worker but was started by somebody else is not the daemon's and is left running.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from mesh import ProcessIdentity
from mesh.procfs import read_command_line
from workers.supervision.spawn import title

if TYPE_CHECKING:
    from mesh import HeartbeatRow
    from workers.contract.statuses import WorkerStatus


def live_process(
    name: str, status: WorkerStatus | None, row: HeartbeatRow | None
) -> ProcessIdentity | None:
    """Return the live process of worker `name` that an earlier daemon started, if there is one."""
    if status is not None and status.pid:
        known = ProcessIdentity(status.pid, status.start_time)
        if known.is_alive():
            return known
    if row is not None and row.identity.is_alive() and _has_title(row.pid, title(name)):
        return row.identity
    return None


def open_pidfd(identity: ProcessIdentity) -> int | None:
    """Open a pidfd of exactly that process; None when it has ended (its pid may be reused)."""
    try:
        pidfd = os.pidfd_open(identity.pid)
    except ProcessLookupError:
        return None
    if not identity.is_alive():
        os.close(pidfd)
        return None
    return pidfd


def _has_title(pid: int, wanted: str) -> bool:
    arguments = read_command_line(pid)
    return bool(arguments) and arguments[0].rstrip(b" ") == wanted.encode()

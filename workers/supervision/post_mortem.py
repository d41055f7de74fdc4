"""Evidence of a death, gathered by the daemon: what the process did, held, dumped and logged."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mesh import MeshError
from workers.runtime.crash_report import (
    held_by,
    keep_newest,
    last_lines,
    take_stacks,
    write_report,
)
from workers.supervision.hang_detection import activity_of
from workers.supervision.process_memory import private_bytes

if TYPE_CHECKING:
    from mesh import HeartbeatRow, Mesh
    from workers.supervision.managed_worker import ManagedWorker


def of_living(worker: ManagedWorker, mesh: Mesh) -> dict[str, Any]:
    """Look at a process that is about to be killed: its activity, memory, locks and leases."""
    identity = worker.process()
    locks: list[str] = []
    leases: list[str] = []
    with contextlib.suppress(MeshError):  # the directory cannot be read now
        locks, leases = held_by(mesh, identity)
    activity = activity_of(identity.pid)
    return {
        "activity": activity.told(None) if activity else "",
        "memory_bytes": private_bytes(identity.pid),
        "locks": locks,
        "leases": leases,
    }


def of_death(worker: ManagedWorker, row: HeartbeatRow | None, log: Path) -> dict[str, Any]:
    """Gather what the next process would overwrite: heartbeat, reason, last lines of the log."""
    mine = row is not None and row.identity == worker.identity
    return {
        "reason": worker.reason,
        "generation": worker.generation,
        "heartbeat": _as_dict(row) if row is not None and mine else None,
        "log": last_lines(log),
    }


def write(directory: Path, kept: int, worker: str, pid: int, content: dict[str, Any]) -> Path:
    """Write the crash report with the stacks that the process dumped. Raises OSError."""
    content = {**content, "stacks": take_stacks(directory, worker, pid)}
    path = write_report(directory, worker, pid, content)
    keep_newest(directory, kept)
    return path


def _as_dict(row: HeartbeatRow) -> dict[str, Any]:
    return {
        "phase": row.phase.name.lower(),
        "beats": row.beats,
        "progress": row.progress,
        "beat_ns": row.beat_ns,
        "phase_since_ns": row.phase_since_ns,
        "expect_s": row.expect_s,
        "ready": row.ready,
    }

"""What the daemon keeps of a death: what the process did, held, dumped and logged."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mesh import MeshError
from mesh.procfs import read_memory
from workers.runtime.crash_report import (
    held_by,
    keep_newest,
    last_lines,
    take_stacks,
    write_report,
)
from workers.supervision.hang_detection import activity_of

if TYPE_CHECKING:
    from config import Settings
    from mesh import HeartbeatRow, Mesh
    from workers.contract.statuses import Incident
    from workers.supervision.event_log import EmitEvent
    from workers.supervision.managed_worker import ManagedWorker


def of_living(worker: ManagedWorker, mesh: Mesh) -> dict[str, Any]:
    """Describe a process that is about to be killed: its activity, memory, locks and leases."""
    identity = worker.process()
    locks: list[str] = []
    leases: list[str] = []
    with contextlib.suppress(MeshError):  # the directory cannot be read now
        locks, leases = held_by(mesh, identity)
    activity, memory = activity_of(identity.pid), read_memory(identity.pid)
    return {
        "activity": activity.describe(None) if activity else "",
        "memory_bytes": memory.private if memory else 0,
        "locks": locks,
        "leases": leases,
    }


def of_death(worker: ManagedWorker, row: HeartbeatRow | None, log: Path) -> dict[str, Any]:
    """Collect what the next process would overwrite: heartbeat, reason, last lines of the log."""
    own = row is not None and row.identity == worker.identity
    return {
        "reason": worker.reason,
        "generation": worker.generation,
        "heartbeat": _as_dict(row) if row is not None and own else None,
        "log": last_lines(log),
    }


class CrashReports:
    """The crash reports that the daemon writes; the newest are kept."""

    def __init__(self, settings: Settings, emit_event: EmitEvent) -> None:
        """Write into the run directory of `settings`."""
        self.directory = settings.run_directory.resolve() / "crashes"
        self._emit_event = emit_event
        self._deferred: list[tuple[Incident, dict[str, Any]]] = []
        self.configure(settings)

    def configure(self, settings: Settings) -> None:
        """Take changed settings: how many reports are kept, and the fingerprint in each."""
        self._kept = settings.supervisor.crash_reports
        self._fingerprint = settings.fingerprint()

    def write(self, worker: str, pid: int, kind: str, content: dict[str, Any]) -> str:
        """Write a report with the stacks that the process dumped.

        Returns:
            Its path; empty where it cannot be written, since a full disk must not stop the healing.
        """
        content = {"kind": kind, "configuration": self._fingerprint, **content}
        try:
            content["stacks"] = take_stacks(self.directory, worker, pid)
            path = write_report(self.directory, worker, pid, content)
            keep_newest(self.directory, self._kept)
        except OSError as error:
            self._emit_event("no report", "warning", f"{worker}: {error}")
            return ""
        return str(path)

    def defer(self, incident: Incident, content: dict[str, Any]) -> None:
        """Write a report later: a replacement is started first."""
        self._deferred.append((incident, content))

    def write_deferred(self) -> None:
        """Write what was deferred, and note each path in its incident."""
        for incident, content in self._deferred:
            incident.report = self.write(incident.worker, incident.pid, incident.kind, content)
        self._deferred.clear()


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

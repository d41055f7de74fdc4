"""The parts of a daemon, opened in order: the mesh is taken, earlier workers are adopted."""

from __future__ import annotations

import os
import selectors
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mesh import Mesh, ProcessIdentity
from mesh.control import SOCKET
from workers.contract.statuses import SupervisorStatus
from workers.runtime.logging import configure_logging
from workers.supervision.adoption import adopt_workers
from workers.supervision.control_server import ControlServer
from workers.supervision.daemon_segments import (
    PublishedStatus,
    claim_events,
    claim_status,
    open_heartbeats,
)
from workers.supervision.event_log import EventLog
from workers.supervision.executor import WorkerExecutor
from workers.supervision.fork_server import ForkServers, become_subreaper
from workers.supervision.log_rotation import LogFiles
from workers.supervision.post_mortem import CrashReports
from workers.supervision.rolling_restart import RollingRestart
from workers.supervision.unmanaged_processes import UnmanagedProcesses
from workers.supervision.watch import Watcher

if TYPE_CHECKING:
    from pathlib import Path

    from config import Settings
    from mesh.segment import Segment


@dataclass(frozen=True, kw_only=True)
class Parts:
    """What a daemon consists of, each complete."""

    mesh: Mesh
    selector: selectors.BaseSelector
    segments: tuple[Segment, ...]  # whose loss ends the daemon
    status: PublishedStatus
    event_log: EventLog
    watcher: Watcher
    logs: LogFiles
    reports: CrashReports
    fork_servers: ForkServers
    executor: WorkerExecutor
    rolling: RollingRestart
    unmanaged: UnmanagedProcesses
    server: ControlServer
    was_ready: bool  # this very process was ready before an upgrade


def open_parts(settings: Settings, clock: Callable[[], float], profile: str) -> Parts:
    """Take the mesh, adopt the workers that run on it, and return the parts of the daemon.

    Args:
        settings: The configuration.
        clock: Monotonic seconds.
        profile: Name of the profile, for the status.

    The mesh raises LeaseHeld while another daemon has it, and other MeshErrors where it cannot be
    opened.
    """
    faults: list[str] = []
    mesh = Mesh(settings.mesh.path, mode=settings.mesh.permissions)
    cell, earlier = claim_status(mesh, faults)
    logs = _log_directory(settings, faults)
    mesh.sweep()
    limits = settings.supervisor
    heartbeats = open_heartbeats(mesh, limits.rows, faults)
    event_log = EventLog(
        claim_events(mesh, limits.events, faults),
        limits.incidents,
        lambda: configure_logging(settings.logging, worker="supervisor", pid=os.getpid()),
    )
    become_subreaper()
    selector = selectors.DefaultSelector()
    emit = event_log.emit
    watcher = Watcher(heartbeats, selector)
    reports = CrashReports(settings, emit)
    log_files = LogFiles(logs, settings.logging)
    fork_servers = ForkServers(settings, selector, logs, clock, emit)
    executor = WorkerExecutor(
        settings, mesh, event_log, watcher, reports, log_files, fork_servers, clock, time.time
    )
    watcher.read_heartbeats()
    incidents = event_log.take_over(earlier.incidents if earlier else ())
    adopt_workers(executor, earlier.workers if earlier else (), watcher.rows, incidents)
    if earlier is not None:
        # after an upgrade the earlier program's fork servers are still children of this process
        executor.end_strays(quiet=True)
    server = ControlServer(settings.mesh.path, selector, limits, clock)
    for fault in faults + server.faults:
        emit("fault", "warning", fault)
    return Parts(
        mesh=mesh,
        selector=selector,
        segments=(cell, heartbeats),
        status=PublishedStatus(cell, _first_status(settings, profile, logs, earlier)),
        event_log=event_log,
        watcher=watcher,
        logs=log_files,
        reports=reports,
        fork_servers=fork_servers,
        executor=executor,
        rolling=RollingRestart(executor, emit, earlier.rolling if earlier else {}),
        unmanaged=UnmanagedProcesses(mesh, emit),
        server=server,
        was_ready=earlier is not None and earlier.pid == os.getpid() and earlier.ready,
    )


def _log_directory(settings: Settings, faults: list[str]) -> Path:
    """Return the directory of the workers' logs; where it cannot be made they run without."""
    logs = settings.logging.directory or settings.run_directory.resolve() / "logs"
    try:
        logs.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        faults.append(f"no logs: {error}")
    return logs


def _first_status(
    settings: Settings, profile: str, logs: Path, earlier: SupervisorStatus | None
) -> SupervisorStatus:
    me = ProcessIdentity.current()
    upgraded = earlier is not None and earlier.pid == me.pid
    return SupervisorStatus(
        pid=me.pid,
        start_time=me.start_time,
        since=earlier.since if earlier is not None and upgraded else time.time(),
        version="",
        profile=profile,
        state="starting",
        control=str(settings.mesh.path / SOCKET),
        logs=str(logs),
        configuration=settings.fingerprint(),
    )

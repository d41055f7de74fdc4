"""The workers of an earlier daemon, which live on: found, and managed again (I7).

How a process is recognised is in `live_process.py`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mesh import ProcessIdentity
from workers.supervision.live_process import live_process, open_pidfd
from workers.supervision.state_machine import Event, State

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from mesh import HeartbeatRow
    from workers.contract.statuses import Incident, WorkerStatus
    from workers.supervision.executor import WorkerExecutor
    from workers.supervision.managed_worker import ManagedWorker

#: Planned ends that an earlier daemon had begun, and the event that continues each.
_ENDING = {State.STOPPING: Event.STOP, State.RESTARTING: Event.RESTART}


def adopt_workers(
    executor: WorkerExecutor,
    statuses: Iterable[WorkerStatus],
    rows: Mapping[str, HeartbeatRow],
    incidents: Mapping[str, Incident | None],
) -> None:
    """Manage the workers of an earlier daemon: none is lost, doubled or restarted.

    What was being healed, stopped or restarted continues where that daemon left it.

    Args:
        executor: Has the configured workers, of which none was started yet.
        statuses: The rows that the earlier daemon published; empty: there was none.
        rows: Heartbeats by worker.
        incidents: Open incidents by worker.
    """
    known = {status.name: status for status in statuses}
    for status in known.values():
        executor.restore(status, incidents.get(status.name))
    for name, worker in list(executor.workers.items()):
        adopt_worker(executor, worker, known.get(name), rows.get(name))
        executor.retry_now(worker)


def adopt_worker(
    executor: WorkerExecutor,
    worker: ManagedWorker,
    status: WorkerStatus | None,
    row: HeartbeatRow | None,
) -> None:
    """Manage one worker's process, if an earlier daemon started one: alive or dead.

    Args:
        executor: Manages it.
        worker: Has no process yet.
        status: Its row in the earlier daemon's status; None: it had none.
        row: Its heartbeat.
    """
    ending = State(status.state) if status is not None and status.state in _ENDING else None
    identity = live_process(worker.name, status, row)
    pidfd = open_pidfd(identity) if identity is not None else None
    if identity is not None and pidfd is not None:
        ready = row is not None and row.ready and row.identity == identity
        executor.resume(worker, identity, pidfd, ready=ready)
        if ending is not None:
            executor.apply(worker, _ENDING[ending])
    elif status is not None and status.pid:
        dead = ProcessIdentity(status.pid, status.start_time)
        executor.resume_dead(worker, dead, ending)

"""What an operator may ask of workers and locks through the control socket."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mesh.control import ControlReply, ControlRequest
from workers.supervision.state_machine import Event, State

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from workers.supervision.executor import WorkerExecutor
    from workers.supervision.managed_worker import ManagedWorker
    from workers.supervision.rolling_restart import RollingRestart
    from workers.supervision.unmanaged_processes import UnmanagedProcesses

#: What a request asks of each worker that it names.
_EVENTS = {"start": Event.START, "stop": Event.STOP, "restart": Event.RESTART, "reset": Event.RESET}


def refusal(text: str) -> ControlReply:
    """Return a reply that says why nothing was done."""
    return ControlReply(ok=False, text=text)


def answer_worker_request(
    request: ControlRequest,
    executor: WorkerExecutor,
    rolling: RollingRestart,
    unmanaged: UnmanagedProcesses,
    daemon_commands: Iterable[str],
) -> ControlReply:
    """Carry out a request about workers or a lock.

    Args:
        request: An unknown command, worker or lock is answered with a refusal.
        executor: Has the workers.
        rolling: Restarts several workers one after the other.
        unmanaged: Breaks locks.
        daemon_commands: Further commands that exist, for the text of a refusal.
    """
    if request.command == "break-lock":
        ok, text = unmanaged.break_lock(request.target)
        return ControlReply(ok=ok, text=text)
    if request.command not in _EVENTS:
        known = ", ".join([*_EVENTS, "break-lock", *daemon_commands])
        return refusal(f"no command {request.command!r}; there are {known}")
    workers = executor.named(request.target) if request.target else []
    if not workers:
        known = ", ".join(executor.workers)
        return refusal(f"no worker {request.target!r}; there are {known}")
    if request.command == "restart" and len(workers) > 1:
        rolling.begin(workers)
        names = ", ".join(rolling.remaining)
        return ControlReply(ok=True, text=f"restarting one after the other: {names}")
    return _apply(request.command, workers, executor)


def _apply(
    command: str, workers: Sequence[ManagedWorker], executor: WorkerExecutor
) -> ControlReply:
    moves = []
    for worker in workers:
        if command == "restart" and worker.state is State.QUARANTINED:
            return refusal(f"{worker.name} is quarantined ({worker.reason}); reset it")
        before = worker.state
        executor.request(worker, _EVENTS[command])
        moves.append(f"{worker.name}: {before} -> {worker.state}")
    return ControlReply(ok=True, text="; ".join(moves))

"""What happens to the workers' processes: heartbeats, memory, timers, exits. Observes, decides not.

The watcher reads the heartbeats and /proc and returns observations; the executor acts on them. It
keeps what it needs to compare one reading with the next, by process, and changes no worker.
"""

from __future__ import annotations

import os
import selectors
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

from mesh.procfs import read_memory
from workers.supervision.hang_detection import Liveness, check_liveness, next_check_at
from workers.supervision.managed_worker import NEVER, ManagedWorker
from workers.supervision.state_machine import ALIVE, Event, State

if TYPE_CHECKING:
    from config.supervisor import SupervisorConfig
    from mesh import HeartbeatRow, Heartbeats, ProcessIdentity

MEMORY_CHECK_INTERVAL_S = 0.2
START_CHECK_INTERVAL_S = 0.005  # for the readiness of a worker that just started,
SLOW_START_CHECK_INTERVAL_S = 0.05  # and of one that has been starting for longer than
QUICK_START_S = 1.0
MAX_CHECK_INTERVAL_S = 0.5
MISSED_S = 1.0  # a heartbeat that is damaged may be whole again with the next beat
MIB = 1 << 20


class Timer(Enum):
    """What has run out."""

    KILL = "kill"  # the moment for the stack dump of a process that is to be killed
    DEADLINE = "deadline"  # of the start, the stop or the retry


@dataclass(frozen=True, slots=True)
class Observation:
    """Something seen of one worker, for the executor to act on."""

    worker: ManagedWorker
    event: Event | None = None  # None: nothing but the memory
    reason: str = ""
    fault: str = ""  # kind of the incident, if the worker is killed for it
    fault_at: float = NEVER  # when it began, monotonic seconds
    notice: str = ""  # kind of an event for the log, and its severity
    severity: str = "warning"
    memory_bytes: int | None = None


class Watcher:
    """Observes the processes of the workers; holds the latest reading of every heartbeat."""

    def __init__(self, heartbeats: Heartbeats, selector: selectors.BaseSelector) -> None:
        """Read from `heartbeats`; exits are found by `selector`."""
        self._heartbeats = heartbeats
        self._selector = selector
        self._memory_at = 0.0
        self._verdicts: dict[ProcessIdentity, Liveness] = {}
        self._missing_since: dict[ProcessIdentity, float] = {}
        #: heartbeat rows by worker, as of the last reading
        self.rows: dict[str, HeartbeatRow] = {}

    def read_heartbeats(self) -> None:
        """Read every row."""
        self.rows = {row.worker: row for row in self._heartbeats.rows()}

    def watch_exit(self, pidfd: int, on_exit: Callable[[], None]) -> None:
        """Call `on_exit` once, from the loop, when the process of `pidfd` has ended; closes it."""

        def exited(_pidfd: object) -> None:
            self._selector.unregister(pidfd)
            os.close(pidfd)
            on_exit()

        self._selector.register(pidfd, selectors.EVENT_READ, exited)

    def observe(
        self, workers: Iterable[ManagedWorker], limits: SupervisorConfig, now: float
    ) -> list[Observation]:
        """Read heartbeats and memory.

        Args:
            workers: All managed workers.
            limits: Patience with starved workers.
            now: Monotonic seconds.

        Returns:
            What happened, in the order in which it is to be acted on.
        """
        self.read_heartbeats()
        alive = [worker for worker in workers if worker.state in ALIVE]
        verdicts, self._verdicts = self._verdicts, {}
        missing, self._missing_since = self._missing_since, {}
        seen: list[Observation] = []
        for worker in alive:
            row, identity = self.rows.get(worker.name), worker.process()
            if row is None or row.identity != identity:
                since = self._missing_since[identity] = missing.get(identity, now)
                seen += self._without_heartbeat(worker, since, now)
                continue
            if row.ready and worker.state is State.STARTING:
                seen.append(Observation(worker, Event.READY))
            elif worker.state is not State.RUNNING or worker.kill_at != NEVER:
                continue
            verdict = self._verdicts[identity] = check_liveness(
                row,
                verdicts.get(identity),
                worker.spec.heartbeat_deadline_s,
                limits.starved_patience,
                now,
            )
            if verdict.hung:
                began = row.beat_ns / 1e9
                seen.append(Observation(worker, Event.HUNG, verdict.hung, "hung", began))
        if now >= self._memory_at:
            self._memory_at = now + MEMORY_CHECK_INTERVAL_S
            seen += [self._memory(w, now) for w in alive if w.spec.memory_limit_bytes is not None]
        return seen

    def _without_heartbeat(
        self, worker: ManagedWorker, since: float, now: float
    ) -> list[Observation]:
        """A worker that runs without a heartbeat row cannot be watched: its successor has one."""
        late = now - since > worker.spec.heartbeat_deadline_s + MISSED_S
        if not late or worker.state is not State.RUNNING:
            return []
        del self._missing_since[worker.process()]
        reason = "its heartbeat was damaged or taken away"
        return [
            Observation(worker, Event.RESTART, reason, notice="heartbeat lost", severity="error")
        ]

    @staticmethod
    def _memory(worker: ManagedWorker, now: float) -> Observation:
        limit = worker.spec.memory_limit_bytes or 0
        memory = read_memory(worker.process().pid)
        used = memory.private if memory is not None else 0
        whole = used // MIB * MIB
        text = f"memory: {used / MIB:.0f} MiB of its own, {limit / MIB:.0f} MiB are allowed"
        if used > limit:
            return Observation(worker, Event.OUTGROWN, text, "memory", now, memory_bytes=whole)
        if used > limit * worker.spec.memory_recycle_share and worker.state is State.RUNNING:
            reason = f"{text}: restarted in an orderly way"
            return Observation(
                worker, Event.RESTART, reason, "memory", notice="recycled", memory_bytes=whole
            )
        return Observation(worker, memory_bytes=whole)

    @staticmethod
    def expired(workers: Iterable[ManagedWorker], now: float) -> list[tuple[ManagedWorker, Timer]]:
        """Return the timers that have run out by `now`, monotonic seconds."""
        due: list[tuple[ManagedWorker, Timer]] = []
        for worker in workers:
            if worker.kill_at <= now:
                due.append((worker, Timer.KILL))
            if worker.deadline <= now:
                due.append((worker, Timer.DEADLINE))
        return due

    def next_check_s(
        self, workers: Iterable[ManagedWorker], limits: SupervisorConfig, now: float
    ) -> float:
        """Return the seconds until the heartbeats are to be read again or a timer runs out."""
        wait = MAX_CHECK_INTERVAL_S
        for worker in workers:
            due = min(worker.deadline, worker.kill_at) - now
            wait = min(wait, max(0.0, due))
            if worker.state is State.STARTING:
                quick = now - worker.spawned_at < QUICK_START_S
                interval = START_CHECK_INTERVAL_S if quick else SLOW_START_CHECK_INTERVAL_S
                wait = min(wait, interval)
            elif worker.state is State.RUNNING:
                wait = min(wait, self._running_check_s(worker, limits, now))
        return wait

    def _running_check_s(
        self, worker: ManagedWorker, limits: SupervisorConfig, now: float
    ) -> float:
        wait = MAX_CHECK_INTERVAL_S
        if worker.spec.memory_limit_bytes is not None:
            wait = MEMORY_CHECK_INTERVAL_S
        row = self.rows.get(worker.name)
        if row is None:
            return wait
        verdict = self._verdicts.get(worker.process())
        due = next_check_at(row, verdict, worker.spec.heartbeat_deadline_s) - now
        suspicious = verdict is not None and verdict.suspicion is not None
        exact = suspicious and due > 0.0
        return min(wait, due if exact else max(due, limits.watch_interval_s))

"""One worker as the daemon knows it: its process, its state, its deaths, its open incident."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from workers.lifecycle import State
from workers.liveness import is_starved, processor_of, silent_s
from workers.records import Incident, WorkerStatus

if TYPE_CHECKING:
    from config.supervisor import SupervisorConfig
    from config.worker_spec import WorkerSpec
    from mesh import HeartbeatRow, ProcessIdentity
    from workers.liveness import Processor
    from workers.restart_policy import Death

NEVER = float("inf")


@dataclass
class Tracked:
    """Times are monotonic seconds, `since_wall` is wall-clock seconds for people."""

    spec: WorkerSpec
    since_wall: float
    state: State = State.WAITING
    identity: ProcessIdentity | None = None
    pidfd: int = -1
    ours: bool = False  # our child: its exit status can be read
    deadline: float = NEVER  # of the start, the stop, or the retry
    ready_at: float = NEVER
    kill_at: float = NEVER  # after the stack dump
    start_again: bool = False  # a planned restart: start once it has stopped
    restarts: int = 0
    reason: str = ""
    deaths: list[Death] = field(default_factory=list)
    incident: Incident | None = None
    died_at: float = 0.0
    beats: int = -1
    processor: Processor | None = None  # at the last beat seen

    @property
    def name(self) -> str:
        """Name of the worker."""
        return self.spec.name

    def process(self) -> ProcessIdentity:
        """Give the process, which must be there in this state."""
        if self.identity is None:
            raise AssertionError(f"{self.name} has no process in state {self.state}")
        return self.identity

    def is_hung(self, row: HeartbeatRow, limits: SupervisorConfig, now: float) -> bool:
        """Judge a silence, and note the reason; a starved worker gets more time."""
        deadline = self.spec.heartbeat_deadline_s
        now_ns = int(now * 1e9)
        if self.kill_at != NEVER or silent_s(row, deadline, now_ns) <= 0:
            return False
        silence = now - row.beat_ns / 1e9
        share = limits.starved_cpu_share
        patient = silent_s(row, deadline * limits.starved_patience, now_ns) <= 0
        if patient and is_starved(self.processor, processor_of(row.pid), silence, share):
            return False
        self.reason = f"hung: no beat for {silence:.2f} s in phase {row.phase.name.lower()}"
        return True

    def status(self) -> WorkerStatus:
        """Give the row that others see."""
        return WorkerStatus(
            self.name,
            self.spec.worker,
            self.identity.pid if self.identity else 0,
            self.state.value,
            self.restarts,
            self.reason,
            self.since_wall,
            self.spec.required,
        )

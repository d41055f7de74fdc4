"""One worker as the daemon knows it: its process, its state, its deaths, its open incident."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from workers.contract.statuses import Incident, WorkerStatus
from workers.supervision.hang_detection import (
    SUSPICIOUS,
    Suspicion,
    activity_of,
    due_s,
    is_excused,
    is_hung,
)
from workers.supervision.restart_policy import Death
from workers.supervision.state_machine import ALIVE, State

if TYPE_CHECKING:
    from config.supervisor import SupervisorConfig
    from config.worker_spec import WorkerSpec
    from mesh import HeartbeatRow, ProcessIdentity

NEVER = float("inf")
DEATHS_TOLD = 64
REASON_CHARACTERS = 400


@dataclass
class ManagedWorker:
    """Times are monotonic seconds, `since_wall` is wall-clock seconds for people."""

    spec: WorkerSpec
    since_wall: float
    state: State = State.WAITING
    identity: ProcessIdentity | None = None
    pidfd: int = -1
    deadline: float = NEVER  # of the start, the stop, or the retry
    spawned_at: float = NEVER
    ready_at: float = NEVER
    left_running_at: float = 0.0
    kill_at: float = NEVER  # after the stack dump
    leaving: bool = False  # no longer configured: forgotten once it has ended
    generation: int = 0
    restarts: int = 0
    reason: str = ""
    report: str = ""  # path of the crash report of its last process
    fault: str = ""  # kind of the incident that a kill on purpose will be
    hopeless: bool = False  # its last process said that starting again does not help
    fault_at: float = NEVER  # when that fault began, as far as it can be known
    deaths: list[Death] = field(default_factory=list)
    incident: Incident | None = None
    beats: int = -1
    suspicion: Suspicion | None = None
    memory_bytes: int = 0
    missed_at: float = NEVER  # since when it has no row of heartbeats

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
        """Judge a silence, and note the reason; time without a processor is not held against it."""
        allowed = due_s(row, self.spec.heartbeat_deadline_s)
        silence = now - row.beat_ns / 1e9
        if row.beats != self.beats or silence < SUSPICIOUS * allowed:
            self.beats, self.suspicion = row.beats, None
            return False
        if self.kill_at != NEVER:
            return False
        activity = activity_of(row.pid)
        if self.suspicion is None:
            self.suspicion = Suspicion(now, silence, activity)
        if not is_hung(self.suspicion, activity, silence, allowed, now):
            if silence < limits.starved_patience * allowed:
                return False
        elif is_excused(activity) and silence < limits.starved_patience * allowed:
            return False
        doing = activity.told(self.suspicion.activity) if activity else "gone"
        self.reason = (
            f"hung: no beat for {silence:.2f} s in phase {row.phase.name.lower()}, {doing}"
        )
        self.fault, self.fault_at = "hung", row.beat_ns / 1e9
        return True

    def next_check_at(self, row: HeartbeatRow | None) -> float:
        """Give when a silence becomes suspicious, and then when it is too long."""
        if row is None:
            return NEVER
        share = SUSPICIOUS if self.suspicion is None else 1.0
        return row.beat_ns / 1e9 + share * due_s(row, self.spec.heartbeat_deadline_s)

    def status(self) -> WorkerStatus:
        """Give the row that others see."""
        told = min(DEATHS_TOLD, self.spec.restart.intensity + 2)
        return WorkerStatus(
            self.name,
            self.spec.worker,
            self.identity.pid if self.identity else 0,
            self.state.value,
            self.restarts,
            self.reason[:REASON_CHARACTERS],
            self.since_wall,
            self.spec.required,
            self.spec.group,
            self.identity.start_time if self.identity else 0,
            self.generation,
            self.memory_bytes,
            [(d.at, d.ready_s, d.hopeless) for d in self.deaths[-told:]],
        )

    def remember(self, told: WorkerStatus) -> None:
        """Take over what an earlier daemon knew, but for the process."""
        self.since_wall, self.reason = told.since, told.reason
        self.restarts, self.generation = told.restarts, told.generation
        self.deaths = [Death(*death) for death in told.deaths]
        state = State(told.state) if told.state in set(State) else State.WAITING
        if state not in ALIVE:
            self.state = state

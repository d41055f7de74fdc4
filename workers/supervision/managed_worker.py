"""One worker as the daemon knows it: its process, its state, its deaths, its open incident.

Only the executor changes these fields. Times are monotonic seconds unless their name says `wall`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from workers.contract.statuses import Incident, RecordedDeath, WorkerStatus
from workers.supervision.restart_policy import Death
from workers.supervision.state_machine import ALIVE, State

if TYPE_CHECKING:
    from config.worker_spec import WorkerSpec
    from mesh import ProcessIdentity

NEVER = float("inf")
MAX_PUBLISHED_DEATHS = 64
REASON_CHARACTERS = 400


@dataclass
class ManagedWorker:
    """State of one worker and of its present or last process."""

    spec: WorkerSpec
    since_wall: float  # of the last change of state, wall-clock seconds for people
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
    fault_at: float = NEVER  # when that fault began, as far as it can be known
    hopeless: bool = False  # its last process said that starting again does not help
    deaths: list[Death] = field(default_factory=list)
    incident: Incident | None = None
    memory_bytes: int = 0

    @property
    def name(self) -> str:
        """Name of the worker."""
        return self.spec.name

    def process(self) -> ProcessIdentity:
        """Return the identity of its process.

        Raises:
            AssertionError: There is none in this state: a bug of the daemon.
        """
        if self.identity is None:
            raise AssertionError(f"{self.name} has no process in state {self.state}")
        return self.identity

    def attach(self, identity: ProcessIdentity, pidfd: int) -> None:
        """Begin with a new or adopted process; nothing is known against it."""
        self.identity, self.pidfd = identity, pidfd
        self.kill_at = self.fault_at = NEVER
        self.fault = ""
        self.memory_bytes = 0

    def status(self) -> WorkerStatus:
        """Return the row that is published."""
        deaths = min(MAX_PUBLISHED_DEATHS, self.spec.restart.intensity + 2)
        return WorkerStatus(
            name=self.name,
            class_path=self.spec.worker,
            pid=self.identity.pid if self.identity else 0,
            state=self.state.value,
            restarts=self.restarts,
            reason=self.reason[:REASON_CHARACTERS],
            since=self.since_wall,
            required=self.spec.required,
            group=self.spec.group,
            start_time=self.identity.start_time if self.identity else 0,
            generation=self.generation,
            memory_bytes=self.memory_bytes,
            deaths=[
                RecordedDeath(at=d.at, ready_s=d.ready_s, hopeless=d.hopeless)
                for d in self.deaths[-deaths:]
            ],
        )

    def restore(self, status: WorkerStatus) -> None:
        """Take over what an earlier daemon published, except for the process."""
        self.since_wall, self.reason = status.since, status.reason
        self.restarts, self.generation = status.restarts, status.generation
        self.deaths = [Death(d.at, d.ready_s, d.hopeless) for d in status.deaths]
        state = State(status.state) if status.state in set(State) else State.WAITING
        if state not in ALIVE:
            self.state = state

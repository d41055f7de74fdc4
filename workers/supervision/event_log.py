"""What the daemon tells: events in a ring for everybody, incidents with their evidence, the log.

An event is a line that happened; an incident is one failure of a worker from its detection until
the worker runs again. Both outlive the daemon: the ring goes on, open incidents are taken over.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

import msgspec
import numpy as np

from workers.contract.dtypes import EVENT_DTYPE
from workers.contract.statuses import Incident
from workers.runtime.logging import LEVELS
from workers.supervision.managed_worker import REASON_CHARACTERS

if TYPE_CHECKING:
    import structlog

    from mesh import Ring
    from workers.supervision.managed_worker import ManagedWorker

EmitEvent = Callable[[str, str, str], None]  # kind, severity, text of an event

_TEXT_BYTES = EVENT_DTYPE["text"].itemsize


class EventLog:
    """Events and incidents of one daemon, bounded."""

    def __init__(
        self,
        ring: Ring,
        incidents: int,
        configured: Callable[[], structlog.typing.FilteringBoundLogger],
    ) -> None:
        """Write into `ring`; `incidents` bounds what is kept; `configured` makes the logger."""
        self._configured = configured
        self._log: structlog.typing.FilteringBoundLogger | None = None
        self.incidents: list[Incident] = []
        self._kept = incidents
        self._lines: list[tuple[int, str, dict[str, object]]] = []
        self._ring = ring

    def emit(
        self, kind: str, severity: str, worker: ManagedWorker | None = None, *, text: str = ""
    ) -> None:
        """Publish one event and log it."""
        record = np.zeros(1, EVENT_DTYPE)
        record["ts"], record["kind"], record["severity"] = time.time_ns(), kind, severity
        record["text"] = text.encode()[:_TEXT_BYTES].decode("utf-8", "ignore").encode()
        context: dict[str, object] = {"text": text}
        if worker is not None:
            about = _about(worker)
            context |= about
            record["worker"], record["pid"] = worker.name, about["child"]
            record["incident"] = about["incident"]
        self._ring.publish(record)
        self._lines.append((LEVELS[severity], kind, context))

    def log_only(self, kind: str, worker: ManagedWorker) -> None:
        """Log what is no event for others."""
        self._lines.append((LEVELS["info"], kind, dict(_about(worker))))

    def flush(self) -> None:
        """Write the log lines of what happened; healing does not wait for them."""
        if self._log is None:
            self._log = self._configured()
        for level, kind, context in self._lines:
            self._log.log(level, kind, **context)
        self._lines.clear()

    def open(self, worker: ManagedWorker, kind: str, detected_s: float, now: float) -> Incident:
        """Begin an incident of `worker`, whose process is confirmed dead at `now` (monotonic)."""
        number = max((i.number for i in self.incidents), default=0) + 1
        incident = Incident(
            worker.name,
            kind,
            time.time_ns() / 1e9,
            detected_s=detected_s,
            evidence=worker.reason[:REASON_CHARACTERS],
            number=number,
            pid=worker.process().pid,
            generation=worker.generation,
            died_at=now,
        )
        self.incidents = [*self.incidents, incident][-self._kept :]
        worker.incident = incident
        return incident

    def close(self, worker: ManagedWorker, now: float, replayed: int) -> str:
        """End the open incident of `worker`, which runs again; give a line about it."""
        incident = worker.incident
        if incident is None:
            return "ready"
        incident.running_s = now - incident.died_at
        incident.messages_replayed = replayed
        return f"ready again after {incident.running_s:.3f} s"

    def take_over(self, incidents: list[Incident], workers: dict[str, ManagedWorker]) -> None:
        """Go on with an earlier daemon's incidents; the newest open one of a worker stays open."""
        self.incidents = [msgspec.structs.replace(i) for i in incidents][-self._kept :]
        for incident in self.incidents:
            worker = workers.get(incident.worker)
            if worker is not None:
                worker.incident = incident if incident.running_s < 0 else None


def _about(worker: ManagedWorker) -> dict[str, str | int]:
    """Give what every line about a worker carries."""
    return {
        "name": worker.name,
        "child": worker.identity.pid if worker.identity else 0,
        "generation": worker.generation,
        "incident": worker.incident.number if worker.incident else 0,
    }

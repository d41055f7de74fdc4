"""What the daemon reports: events in a ring for everybody, incidents with their cause, the log.

An event is a line about something that happened; an incident is one failure of a worker from its
detection until the worker runs again. Both outlive the daemon: the next one continues the ring and
takes over the open incidents.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
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
        max_incidents: int,
        make_logger: Callable[[], structlog.typing.FilteringBoundLogger],
    ) -> None:
        """Publish into a ring, and keep the newest incidents.

        Args:
            ring: Ring of `EVENT_DTYPE`, of which this process is the writer.
            max_incidents: How many incidents are kept.
            make_logger: Called at the first flush: loading the logger may wait.
        """
        self._make_logger = make_logger
        self._log: structlog.typing.FilteringBoundLogger | None = None
        self.incidents: list[Incident] = []
        self._max_incidents = max_incidents
        self._lines: list[tuple[int, str, dict[str, object]]] = []
        self._ring = ring

    def emit(
        self, kind: str, severity: str, text: str, worker: ManagedWorker | None = None
    ) -> None:
        """Publish one event and log it.

        Args:
            kind: What happened, in a word or two.
            severity: A key of `workers.runtime.logging.LEVELS`.
            text: Details; cut to the length that a record holds.
            worker: Whom it concerns.
        """
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
        """Log what is not an event for others."""
        self._lines.append((LEVELS["info"], kind, dict(_about(worker))))

    def flush(self) -> None:
        """Write the log lines of what happened; healing does not wait for them."""
        if self._log is None:
            self._log = self._make_logger()
        for level, kind, context in self._lines:
            self._log.log(level, kind, **context)
        self._lines.clear()

    def open_incident(
        self, worker: ManagedWorker, kind: str, detected_s: float, now: float
    ) -> Incident:
        """Begin an incident of a worker whose process is confirmed dead.

        Args:
            worker: Its reason becomes the evidence.
            kind: What went wrong, in a word.
            detected_s: Seconds from the fault to its detection.
            now: Monotonic seconds.
        """
        number = max((i.number for i in self.incidents), default=0) + 1
        incident = Incident(
            worker=worker.name,
            kind=kind,
            at=time.time_ns() / 1e9,
            detected_s=detected_s,
            evidence=worker.reason[:REASON_CHARACTERS],
            number=number,
            pid=worker.process().pid,
            generation=worker.generation,
            died_at=now,
        )
        self.incidents = [*self.incidents, incident][-self._max_incidents :]
        return incident

    @staticmethod
    def close_incident(incident: Incident | None, now: float, replayed: int) -> str:
        """End an incident: its worker runs again.

        Args:
            incident: The open one; None where the worker started without one.
            now: Monotonic seconds.
            replayed: Messages that the worker took again from its source; -1: not known.

        Returns:
            A line about it.
        """
        if incident is None:
            return "ready"
        incident.running_s = now - incident.died_at
        incident.messages_replayed = replayed
        return f"ready again after {incident.running_s:.3f} s"

    def take_over(self, incidents: Iterable[Incident]) -> dict[str, Incident | None]:
        """Continue with an earlier daemon's incidents.

        Returns:
            By worker its newest incident, if that is still open; else None.
        """
        kept = [msgspec.structs.replace(incident) for incident in incidents]
        self.incidents = kept[-self._max_incidents :]
        return {i.worker: i if i.running_s < 0 else None for i in self.incidents}


def _about(worker: ManagedWorker) -> dict[str, str | int]:
    """Return what every line about a worker carries."""
    return {
        "name": worker.name,
        "child": worker.identity.pid if worker.identity else 0,
        "generation": worker.generation,
        "incident": worker.incident.number if worker.incident else 0,
    }

"""The status of ingest: what is committed with the ring, and what others see in its cell."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from mesh import NotWritten
from workers.contract.names import status_segment
from workers.contract.statuses import IngestStatus

if TYPE_CHECKING:
    from workers.ingest.kafka.backpressure import Backpressure
    from workers.ingest.session import BrokerSession
    from workers.runtime.worker import WorkerContext

STATUS_BYTES = 1 << 15
PUBLISH_INTERVAL_S = 0.05
STOPPED = "stopped"


class StatusReport:
    """The newest IngestStatus and its cell.

    Attributes:
        was_killed: whether the ingest before this one did not end in an orderly way.
        current: the status; `Batch.status` makes the next one from it.
        paused: why nothing can be done now; empty: nothing is wrong.
        is_blocked: whether a follower of the ring is too far behind.
    """

    def __init__(self, context: WorkerContext, backpressure: Backpressure) -> None:
        """Open the cell; the current status is empty until `restore`."""
        self._context = context
        self._backpressure = backpressure
        self._cell = context.mesh.cell(
            status_segment(context.name), IngestStatus, create=True, max_bytes=STATUS_BYTES
        )
        self.was_killed = self._read_was_killed()
        self.current = IngestStatus()
        self.paused = ""
        self.is_blocked = False
        self._published_at = 0.0
        self._rate_since = time.monotonic()
        self._rate_consumed = 0

    def _read_was_killed(self) -> bool:
        try:
            return bool(self._cell.read()[1].state != STOPPED)
        except NotWritten:
            return False

    def restore(self, committed: IngestStatus | None) -> None:
        """Continue from the status that is committed with the ring; None: the ring is new."""
        self.current = committed or IngestStatus()
        # positions and rows are one commit: no message of a known position is consumed twice
        self.current.replayed = -1 if committed is None else 0
        self._rate_consumed = self.current.consumed

    def positions_at(self, incarnation: str) -> dict[str, int]:
        """Return the positions, by partition name; those of another broker are dropped."""
        if incarnation != self.current.incarnation:
            self.current.incarnation, self.current.positions = incarnation, {}
        return self.current.positions

    def record_error(self, kind: str, text: str, *, count: int = 1) -> None:
        """Count an error, and log it unless it was the last one."""
        if self.current.last_error != text:
            self._context.log.warning(kind, error=text)
        self._count_error(kind, text, count)

    def pause(self, kind: str, text: str) -> None:
        """Set why nothing can be done now."""
        if self.current.last_error != text:
            self._context.log.warning("paused", kind=kind, error=text)
        self._count_error(kind, text, 1)
        self.paused = kind

    def _count_error(self, kind: str, text: str, count: int) -> None:
        self.current.errors[kind] = self.current.errors.get(kind, 0) + count
        self.current.last_error = text

    def publish(self, session: BrokerSession | None, *, now: bool = False, state: str = "") -> None:
        """Write the status into its cell and into the heartbeat, at most every 50 ms.

        Args:
            session: with the brokers, None without one.
            now: write whenever the last time was.
            state: instead of the one that `session` and this report give.
        """
        moment = time.monotonic()
        if not now and moment - self._published_at < PUBLISH_INTERVAL_S:
            return
        self._published_at = moment
        status = self.current
        if moment - self._rate_since >= 1.0:
            status.rate = (status.consumed - self._rate_consumed) / (moment - self._rate_since)
            self._rate_since, self._rate_consumed = moment, status.consumed
        status.state = state or self._state(session)
        status.backlog, status.slowest = self._backpressure.backlog, self._backpressure.slowest
        if session is not None:
            self._add_session(session)
        self._cell.write(status)
        behind = sum(status.lag.values())
        detail = f"{status.rate:,.0f}/s, {behind:,} behind, {status.dead_lettered:,} dead"
        self._context.heartbeat.describe(f"{status.state}: {detail}")

    def _add_session(self, session: BrokerSession) -> None:
        status, health = self.current, session.reader.health
        status.lag = session.reader.lag()
        status.rebalances = session.reader.rebalances
        status.round_trip_ms = health.round_trip_ms
        status.spooled = session.dead_letters.spooled
        status.letters_repeated = session.dead_letters.repeated
        status.registry_requests = session.decoder.registry_requests
        for name, count in health.errors.items():
            status.errors[name] = status.errors.get(name, 0) + count
        health.errors.clear()

    def _state(self, session: BrokerSession | None) -> str:
        """Return "running", or "degraded: " and what is wrong."""
        if self.paused:
            return f"degraded: {self.paused}"
        if session is None or session.reader.health.brokers_up == 0:
            return "degraded: transport"
        if session.reader.is_deferring:
            return "degraded: registry"
        if session.dead_letters.spooled:
            return "degraded: dead letters are spooled"
        if self.is_blocked:
            return f"degraded: {self._backpressure.slowest} is slow"
        return "running"

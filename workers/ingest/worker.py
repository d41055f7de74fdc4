"""Ingest: from Kafka to the ring `ticks` and the table `quotes`, each offset exactly once.

A batch is processed in this order: dead letters are made safe, the checks' memory is written, rows
are published together with the new positions and counters (one commit, `Ring.publish(state=...)`),
quotes are updated. Killed anywhere, the next ingest finds the positions that belong to what the
ring shows; it writes the quotes again from the newest records, and undoes memory that was not
committed.

An outage stops only what needs the missing part: a message whose schema is not available holds up
its own partition alone, dead letters wait in a spool, and every call that may take long is
announced to the supervisor.
"""

from __future__ import annotations

import gc
import time
from typing import TYPE_CHECKING, Any

from workers.ingest.batch import Batch
from workers.ingest.decode.formats import check_format
from workers.ingest.errors import SinkFull
from workers.ingest.kafka.backpressure import Backpressure
from workers.ingest.kafka.partition import partition_name
from workers.ingest.kafka.rewind import Rewinds
from workers.ingest.output import Output
from workers.ingest.sessions import BrokerSessions
from workers.ingest.status import STOPPED, StatusReport
from workers.runtime.worker import Worker

if TYPE_CHECKING:
    from confluent_kafka import Message

    from workers.ingest.session import BrokerSession

WAIT_S = 0.05  # for a message, or for brokers
BLOCKED_WAIT_S = 0.005  # for slow followers
REWIND_POLL_INTERVAL_S = 0.05
SKIP_INTERVAL_S = 1.0
GROWTH_CHECK_INTERVAL_S = 30.0
GC_OBJECTS = 100_000  # allocated before the garbage collector runs
DRAIN_S = 10.0  # a piece of the spool at most: the rest of it is copied


class Interval:
    """Says when something is due again."""

    def __init__(self, seconds: float, *, is_due: bool = True) -> None:
        """Be due every `seconds`; the first time at once, or (not `is_due`) after them."""
        self._seconds = seconds
        self._due_at = 0.0 if is_due else time.monotonic() + seconds

    def is_due(self) -> bool:
        """Whether it is due; if so the next interval begins."""
        now = time.monotonic()
        if now < self._due_at:
            return False
        self._due_at = now + self._seconds
        return True


class IngestWorker(Worker):
    """One process reads all partitions of its topics, or its share of them in a group."""

    def setup(self) -> None:
        """Open ring, table and status, and continue from what they hold."""
        context = self.context
        self._settings, self._config = context.settings, context.settings.ingest
        check_format(self._config)
        self._output = Output(context.mesh, self._config)
        self._backpressure = Backpressure(
            context.mesh, self._output.ring, self._config.followers, self._config.high_water
        )
        self._status = StatusReport(context, self._backpressure)
        self._status.restore(self._output.committed)
        self._rewinds = Rewinds(context.mesh, context.name, self._status.current.rewind_id)
        self._sessions = BrokerSessions(
            context,
            self._status,
            self._output.max_records,
            is_in_doubt=self._status.was_killed,
        )
        self._commit_interval = Interval(self._settings.kafka.commit_s)
        self._rewind_interval = Interval(REWIND_POLL_INTERVAL_S)
        self._skip_interval = Interval(SKIP_INTERVAL_S)
        self._growth_interval = Interval(GROWTH_CHECK_INTERVAL_S, is_due=False)
        # A batch is thousands of objects that the collector would walk again and again, together
        # with everything imported, though none of them is part of a cycle.
        gc.freeze()
        gc.set_threshold(GC_OBJECTS)

    def step(self) -> int:
        """Process one batch; returns the messages that are accounted for with it."""
        session = self._sessions.get()
        if session is None:
            self._publish_status()
            self.context.pause(WAIT_S)
            return 0
        if session.dead_letters.spooled:
            with self.context.expect(DRAIN_S):
                session.dead_letters.drain()
        self._commit(session)
        if self._sessions.current is None:
            return 0
        self._rewind(session)
        max_records = self._output.max_records
        self._status.is_blocked = self._backpressure.is_high(max_records)
        if self._status.is_blocked and self._must_wait(session):
            session.reader.idle()
            self._publish_status()
            self.context.pause(BLOCKED_WAIT_S)
            return 0
        messages = session.next_messages(max_records, WAIT_S)
        consumed = self._process(messages, session) if messages or session.has_moved else 0
        self._publish_status()
        return consumed

    def teardown(self) -> None:
        """Leave the brokers; the ring already holds the positions."""
        session, timeout_s = self._sessions.current, self._settings.kafka.connect_timeout_s
        if session is not None:
            with self.context.expect(timeout_s):
                session.reader.commit(wait=True)
        self._status.publish(session, now=True, state=STOPPED)
        if session is not None:
            with self.context.expect(timeout_s):
                session.close()

    def last_inputs(self) -> dict[str, Any]:
        """Return the positions and the number of held messages, for the crash report."""
        session = self._sessions.current
        held = 0 if session is None else len(session.held)
        return {"positions": self._status.current.positions, "held": held}

    def _publish_status(self) -> None:
        self._status.publish(self._sessions.current)

    # --- one batch ------------------------------------------------------------------------

    def _process(self, messages: list[Message], session: BrokerSession) -> int:
        """Commit one batch as a whole, or nothing of it; returns the messages accounted for."""
        status, output = self._status, self._output
        batch = Batch(session, messages)
        batch.decode(self._config.registry_backoff_s)
        status.current.rewinds += batch.rewinds
        if batch.unavailable:
            status.record_error("registry", batch.unavailable)
        result = batch.check(output.checks, status.current.batches + 1)
        if not self._store_letters(batch, session):
            output.undo_checks(status.current)
            session.hold(messages)
            return 0
        after = batch.status(status.current, result, output.checks.clock)
        conflate = status.is_blocked and self._config.back_pressure == "conflate"
        output.publish(batch.rows, result, after, conflate=conflate)
        status.current = after
        status.paused = "sink" if batch.letters_lost else ""
        session.committed(batch.next_offsets, after.positions)
        return batch.consumed

    def _store_letters(self, batch: Batch, session: BrokerSession) -> bool:
        """Make dead letters safe, or lose them where that is configured; False: wait for room."""
        if not batch.letters:
            return True
        try:
            with self.context.expect(self._config.dead_letter_timeout_s + 5.0):
                session.dead_letters.store(batch.marked_letters())
        except SinkFull as error:
            if self._config.sink_full == "wait":
                self._sessions.pause("sink", str(error))
                return False
            batch.letters_lost = error.letters
            self._status.record_error("sink", str(error), count=error.letters)
        return True

    # --- positions that are set ---------------------------------------------------------------

    def _rewind(self, session: BrokerSession) -> None:
        """Move to the positions that an operator requested."""
        if not self._rewind_interval.is_due():
            return
        wanted = self._rewinds.new_request()
        if not wanted:
            return
        session.held = []
        status = self._status.current
        for index, key in enumerate(session.reader.partitions):
            offset = wanted.get(partition_name(*key))
            if offset is not None and session.reader.seek(index, offset):
                status.rewinds += session.positions.move({index: offset})
        status.rewind_id = self._rewinds.done
        self.context.log.warning("rewound", positions=wanted)

    def _must_wait(self, session: BrokerSession) -> bool:
        """Apply what is configured against slow followers; returns whether to read nothing now."""
        if self._config.back_pressure == "skip_to_end":
            if not self._skip_interval.is_due():
                return True
            self._skip_to_end(session)
        return self._config.back_pressure == "block"

    def _skip_to_end(self, session: BrokerSession) -> None:
        """Skip the messages that wait in Kafka, and count them."""
        skipped = session.reader.skip_to_end()
        session.held = []
        session.positions.move({index: offset for index, (_, offset) in skipped.items()})
        if skipped:
            total = sum(count for count, _ in skipped.values())
            self._status.current.skipped += total
            self._status.current.consumed += total
            slowest = self._backpressure.slowest
            self._status.record_error("skipped", f"{total} messages: {slowest} is too slow")

    def _commit(self, session: BrokerSession) -> None:
        """Commit to Kafka at intervals, and open a new session where partitions were added."""
        if self._commit_interval.is_due():
            session.reader.commit()
        if not session.reader.health.brokers_up or not self._growth_interval.is_due():
            return
        if session.reader.has_grown():
            self.context.log.warning("partitions were added: opening a new session")
            with self.context.expect(10.0):
                session.reader.commit()
                self._sessions.close()

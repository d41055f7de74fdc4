"""One batch: from messages to rows, dead letters and the status that is committed with them."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import TYPE_CHECKING

import msgspec
import numpy as np

from workers.contract.dtypes import TICK_DTYPE
from workers.ingest.decode.plan import OK, PENDING
from workers.ingest.errors import ErrorClass, Rejection
from workers.ingest.kafka.dead_letter import DeadLetter
from workers.ingest.kafka.partition import partition_name
from workers.ingest.quality.checks import DEAD_LETTER, flag_names

if TYPE_CHECKING:
    from confluent_kafka import Message

    from workers.contract.statuses import IngestStatus
    from workers.ingest.decode.mapping import Rows
    from workers.ingest.quality.checks import CheckResult, QualityChecks
    from workers.ingest.session import BrokerSession


class Batch:
    """The messages of one batch and what becomes of them.

    Attributes:
        next_offsets: int64 by index of a partition, after this batch.
        rows: TICK_DTYPE, the decoded messages in the order of the stream.
        letters: dead letters of the others.
        consumed: messages that are accounted for with this batch.
        letters_lost: of `letters`, those for which there was no room anywhere.
        rewinds: positions that moved back because a topic was recreated.
        unavailable: why messages were left for later; empty if all were decoded.
    """

    def __init__(self, session: BrokerSession, messages: list[Message]) -> None:
        """Begin with nothing decoded."""
        self._session = session
        self._messages = messages
        self._origins: Rows = np.zeros(0, np.int32)  # by row: index of its message
        self.next_offsets = session.positions.before()
        self.rows: Rows = np.zeros(0, TICK_DTYPE)
        self.letters: list[DeadLetter] = []
        self.consumed = 0
        self.letters_lost = 0
        self.rewinds = 0
        self.unavailable = ""

    def decode(self, backoff_s: float) -> None:
        """Decode the messages, and process the events among them.

        A partition whose next message has a schema that is not available now is left at that
        message, and not read for `backoff_s` seconds.
        """
        session = self._session
        reader, decoder = session.reader, session.decoder
        events, _ = decoder.load(self._messages, self.next_offsets)
        for event in events:
            reader.handle_event(event)
        if reader.is_recovering:
            self.rewinds = session.positions.recover(reader.recover())
        rows, status = decoder.decode()
        origins = decoder.origins[: rows.size]
        self.consumed = rows.size
        if status.any():  # not all are OK
            waiting = self._defer(status, backoff_s)
            self._reject_undecoded(status, waiting)
            good = (status == OK) & ~waiting
            rows, origins = rows[good], origins[good]
            self.consumed -= int(waiting.sum())
        for index, offset in session.positions.recovered.items():
            self.next_offsets[index] = offset
        self.rows, self._origins = rows, origins

    def _defer(self, status: Rows, backoff_s: float) -> Rows:
        """Leave partitions at their first message without a schema; returns a mask of messages."""
        waiting: Rows = status == PENDING
        if not waiting.any():
            return waiting
        n, decoder = status.size, self._session.decoder
        partitions, offsets = decoder.partitions[:n], decoder.offsets[:n]
        self.unavailable = decoder.unavailable
        for index in sorted(set(partitions[waiting].tolist())):
            own = partitions == index
            first = int(offsets[own & waiting].min())
            waiting |= own & (offsets >= first)
            self.next_offsets[index] = first
            self._session.reader.defer(index, first, backoff_s)
        return waiting

    def _reject_undecoded(self, status: Rows, waiting: Rows) -> None:
        decoder = self._session.decoder
        self.letters += [
            DeadLetter.of(
                self._messages[decoder.origins[i]],
                decoder.reason(i),
                int(decoder.schema_ids[i]) or None,
            )
            for i in np.flatnonzero((status != OK) & ~waiting).tolist()
        ]

    def check(self, checks: QualityChecks, number: int) -> CheckResult:
        """Stamp and check the rows; those with the disposition DEAD_LETTER get a letter.

        `number` is the number of this batch in the ring's state.
        """
        self.rows["ts_ingest"] = now = time.time_ns()
        result = checks.evaluate(self.rows, now_ns=now, batch=number)
        if result.published != self.rows.size:
            for i in np.flatnonzero(result.dispositions == DEAD_LETTER).tolist():
                rejection = Rejection(ErrorClass.GATE, flag_names(self.rows["flags"][i]))
                message = self._messages[self._origins[i]]
                self.letters.append(DeadLetter.of(message, rejection, None))
        return result

    def marked_letters(self) -> list[DeadLetter]:
        """Return the letters, marked where the process before this one may have delivered them."""
        until = self._session.in_doubt_until
        if not until:
            return self.letters
        return [
            replace(letter, repeated=letter.offset < until[letter.topic, letter.partition])
            for letter in self.letters
        ]

    def status(
        self, before: IngestStatus, result: CheckResult, market_clock: tuple[int, int]
    ) -> IngestStatus:
        """Return the status after this batch.

        consumed = published + dead-lettered + dropped + conflated + skipped.

        Args:
            before: the status after the last batch; it is not changed.
            result: of the checks.
            market_clock: `QualityChecks.clock` after this batch.
        """
        session, dead = self._session, len(self.letters) - self.letters_lost
        positions = dict(before.positions)
        for index in session.positions.changed(self.next_offsets):
            name = partition_name(*session.reader.partitions[index])
            positions[name] = int(self.next_offsets[index])
        gates, errors = dict(before.gates), dict(before.errors)
        for name, count in result.counts.items():
            gates[name] = gates.get(name, 0) + count
        for letter in self.letters:
            errors[letter.kind] = errors.get(letter.kind, 0) + 1
        time_ns, leap_ns = market_clock
        return msgspec.structs.replace(
            before,
            positions=positions,
            gates=gates,
            errors=errors,
            batches=before.batches + 1,
            market_time_ns=time_ns,
            market_leap_ns=leap_ns,
            consumed=before.consumed + self.consumed,
            published=before.published + result.published,
            dead_lettered=before.dead_lettered + dead,
            dropped=before.dropped + self.consumed - dead - result.published,
            letters_lost=before.letters_lost + self.letters_lost,
            fallback_decoded=before.fallback_decoded + session.decoder.fallback_decoded,
            lost=before.lost + session.reader.lost,
            spooled=session.dead_letters.spooled,
            last_error=self.letters[-1].text if self.letters else before.last_error,
        )

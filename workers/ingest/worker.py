"""Ingest: from Kafka to the ring `ticks` and the table `quotes`, each offset exactly once.

A batch is passed in this order: dead letters made safe, the gates' memory written, rows published
together with the new positions and counters (one commit, `Ring.publish(state=...)`), quotes
updated. Killed anywhere, the next ingest finds the positions that belong to what the ring shows;
the quotes are made good from the newest records, the memory goes back where it was not committed.

Nothing that is away stops what can go on: a message whose schema cannot be had now holds up its
own partition alone, dead letters wait in a spool, and every call that may take long is announced
to the supervisor.
"""

from __future__ import annotations

import gc
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from mesh import NotWritten, SegmentMissing
from workers.contract.dtypes import TICK_DTYPE
from workers.contract.names import BROKER, QUOTES, TICKS, status_segment
from workers.contract.statuses import BrokerAddress, IngestStatus
from workers.ingest.decode.formats import check_format, decoder_for
from workers.ingest.decode.plan import OK, PENDING
from workers.ingest.decode.registry import MAX_BACKOFF_S, SchemaRegistry
from workers.ingest.errors import ErrorClass, Rejection, SinkFull
from workers.ingest.kafka.backpressure import Pressure
from workers.ingest.kafka.consumer import BrokerUnavailable, PartitionReader, place, profile_options
from workers.ingest.kafka.dead_letter import DeadLetter, DeadLetters
from workers.ingest.kafka.rewind import Rewinds
from workers.ingest.quality.checks import (
    DEAD_LETTER,
    MEMORY_DTYPE,
    PUBLISH,
    CheckResult,
    QualityChecks,
    flag_names,
)
from workers.runtime.worker import Worker

if TYPE_CHECKING:
    from confluent_kafka import Message

    from workers.ingest.decode.decoder import BatchDecoder
    from workers.ingest.decode.mapping import Rows

WAIT_S = 0.05
BLOCKED_S = 0.005
GATE_MEMORY = "gates"
STATE_BYTES = 1 << 15
STATUS_BYTES = 1 << 15
STATUS_EVERY_S = 0.05
LOOK_S = 0.05  # between two looks at the broker's address and at requests
SKIP_S = 1.0
FILL_S = 0.01  # that a batch waits to become full in the profile `throughput`
GC_OBJECTS = 100_000  # allocated before the garbage collector looks
DRAIN_S = 10.0  # a piece of the spool at most: the rest of it is copied
STOPPED = "stopped"
COUNT_S = 30.0  # between two looks at the number of partitions


class Links:
    """What exists while there is a broker: reader, decoder, dead letters, and the next offsets."""

    def __init__(
        self, reader: PartitionReader, decoder: BatchDecoder, dead: DeadLetters, incarnation: str
    ) -> None:
        """Take the partitions that the reader has found."""
        self.reader, self.decoder, self.dead = reader, decoder, dead
        self.incarnation = incarnation
        self.moved: dict[int, int] = {}  # next offsets by place that were set, not read
        self.recovered: dict[int, int] = {}  # and those set after the batch that is under way
        self.begun = reader.begun
        self.following = np.array(reader.following(), np.int64)  # by place, as committed
        self.in_doubt = np.zeros(0, np.int64)  # letters before it may be delivered already

    @property
    def has_moved(self) -> bool:
        """Whether there is something to commit or to recover without a message."""
        return bool(self.moved) or self.reader.is_stuck

    def follow(self) -> Rows:
        """Give the next offset of each place before the coming batch."""
        if self.reader.begun != self.begun:
            self.begun = self.reader.begun
            self.following = np.array(self.reader.following(), np.int64)
        return self.following.copy()

    def close(self) -> None:
        """Leave the brokers."""
        self.reader.close()
        self.dead.close()


class IngestWorker(Worker):
    """One process owns all partitions of its topics, or its share of them in a group."""

    def setup(self) -> None:
        """Take ring, table and status over, and go on from what they hold."""
        context = self.context
        self._settings = context.settings
        self._config = context.settings.ingest
        mesh, config = context.mesh, self._config
        check_format(config)
        self._ring = mesh.ring(
            TICKS, TICK_DTYPE, capacity=config.ring_capacity, state_bytes=STATE_BYTES, create=True
        )
        self._quotes = mesh.table(QUOTES, TICK_DTYPE, rows=config.quotes, create=True)
        self._cell = mesh.cell(
            status_segment(context.name), IngestStatus, create=True, max_bytes=STATUS_BYTES
        )
        self._is_in_doubt = self._was_killed()
        state = self._ring.state()
        self._status = msgspec.msgpack.decode(state, type=IngestStatus) if state else IngestStatus()
        self._status.replayed = 0 if state else -1  # positions and rows are one commit
        self._make_quotes_good()
        self._memory = mesh.table(GATE_MEMORY, MEMORY_DTYPE, rows=config.quotes, create=True)
        self._most = min(config.batch, self._ring.capacity)
        self._restore_checks()
        self._pressure = Pressure(mesh, self._ring, config.followers, config.high_water)
        self._rewinds = Rewinds(mesh, context.name, self._status.rewind_id)
        self._links: Links | None = None
        self._held: list[Message] = []
        self._paused = ""  # why nothing can be done now
        self._ends = 0  # of clients that librdkafka gave up: two of one name end each other
        self._refusals = 0  # in a row: passwords that are tried too often get locked
        self._is_high = False  # a follower is too far behind
        self._known: BrokerAddress | None = None
        self._retry_at = self._told_at = self._committed_at = 0.0
        self._looked_at = self._asked_at = self._skipped_at = 0.0
        self._counted_at = time.monotonic()
        self._rate = (time.monotonic(), self._status.consumed)
        # A batch is thousands of objects that the collector would walk again and again, together
        # with everything imported, though none of them is part of a cycle.
        gc.freeze()
        gc.set_threshold(GC_OBJECTS)

    def step(self) -> int:
        """Pass one batch."""
        links = self._linked_now()
        if links is None:
            self._tell()
            self.context.pause(WAIT_S)
            return 0
        if links.dead.spooled:
            with self.context.expect(DRAIN_S):
                links.dead.drain()
        self._commit(links)
        if self._links is None:
            return 0
        self._rewind(links)
        self._is_high = self._pressure.is_high(self._most)
        if self._is_high and self._must_wait(links):
            links.reader.idle()
            self._tell()
            self.context.pause(BLOCKED_S)
            return 0
        if self._held:  # what was taken away meanwhile is another host's
            links.reader.idle()
            self._held = [message for message in self._held if links.reader.owns(message)]
        messages = self._held or links.reader.read(self._most, WAIT_S)
        passed = self._pass(messages, links) if messages or links.has_moved else 0
        self._tell()
        return passed

    def teardown(self) -> None:
        """Leave the brokers; the ring already holds where to go on."""
        if self._links is not None:
            with self.context.expect(self._settings.kafka.connect_timeout_s):
                self._links.reader.commit(wait=True)
        self._tell(now=True, state=STOPPED)
        if self._links is not None:
            with self.context.expect(self._settings.kafka.connect_timeout_s):
                self._links.close()

    def last_inputs(self) -> dict[str, Any]:
        """Give the positions, for the crash report."""
        return {"positions": self._status.positions, "held": len(self._held)}

    # --- connections ----------------------------------------------------------------------

    def _linked_now(self) -> Links | None:
        """Give the links to the broker that is there; None while there is none or in a pause."""
        if time.monotonic() < self._retry_at:
            return None
        links = self._links
        if links is not None and links.incarnation == self._incarnation():
            refused = links.reader.refused()
            if refused is None:
                return links
            if links.reader.is_over:
                self._end(links, *refused)
                return None
            self.context.log.warning("refused: connecting anew")
        return self._connect()

    def _end(self, links: Links, kind: str, text: str) -> None:
        """Leave a client that is over, and make none too soon: it may end another host's."""
        with self.context.expect(3 * self._settings.kafka.connect_timeout_s + 1.0):
            links.close()
        self._links, self._held = None, []
        self._ends += 1
        self._pause(kind, text, self._ends)

    def _connect(self) -> Links | None:
        """Connect to the brokers that are there now."""
        address = self._address()
        if address is None:
            self._pause("transport", "no broker is announced in the mesh yet")
            return None
        kafka = self._settings.kafka
        options = {"bootstrap.servers": address.bootstrap_servers, **kafka.options}
        with self.context.expect(3 * kafka.connect_timeout_s + 1.0):
            if self._links is not None:
                self._links.close()
            self._links, self._held = None, []
            if address.incarnation != self._status.incarnation:
                self._status.incarnation, self._status.positions = address.incarnation, {}
            try:
                reader = PartitionReader(
                    {**profile_options(self._config), **options},
                    kafka,
                    self._status.positions,
                    fill_s=FILL_S if self._config.profile == "throughput" else 0.0,
                    expect=self.context.expect,
                )
            except BrokerUnavailable as error:
                self._refusals = self._refusals + 1 if error.kind != "transport" else 0
                self._pause(error.kind, str(error), self._refusals)
                return None
            self._refusals = 0
            self._links = self._linked(address, reader, options)
        self._paused = ""
        return self._links

    def _linked(
        self, address: BrokerAddress, reader: PartitionReader, options: dict[str, Any]
    ) -> Links:
        kafka, config = self._settings.kafka, self._config
        directory = self._settings.run_directory / self.context.name
        registry = SchemaRegistry(
            address.registry_url,
            directory / "schemas",
            config.unknown_schema_s,
            auth=f"{kafka.registry_user}:{kafka.registry_password}" if kafka.registry_user else "",
            backoff_s=config.registry_backoff_s,
            expect=self.context.expect,
        )
        decoder = decoder_for(config, registry, capacity=self._most)
        topics = kafka.topics
        decoder.assign([(topic, topics.index(topic), p) for topic, p in reader.places])
        dead = DeadLetters(
            options,
            kafka.dead_letter_topic,
            directory / "dead_letters.jsonl",
            limit=config.spool_bytes,
            timeout_s=config.dead_letter_timeout_s,
            in_doubt=self._is_in_doubt,
        )
        links = Links(reader, decoder, dead, address.incarnation)
        if self._is_in_doubt:
            links.in_doubt = links.following + self._most
        self._is_in_doubt = True  # a batch that another break leaves behind
        return links

    def _address(self) -> BrokerAddress | None:
        kafka = self._settings.kafka
        if "mesh" not in {kafka.bootstrap_servers, kafka.registry_url}:
            return BrokerAddress(kafka.bootstrap_servers, kafka.registry_url)
        try:
            return self.context.mesh.cell(BROKER, BrokerAddress).read()[1]
        except (SegmentMissing, NotWritten):
            return None

    def _incarnation(self) -> str | None:
        """Give the incarnation of the broker that is there now; None: none is announced."""
        now = time.monotonic()
        if self._known is None or now >= self._asked_at + LOOK_S:
            self._asked_at, self._known = now, self._address()
        return None if self._known is None else self._known.incarnation

    def _pause(self, kind: str, text: str, times: int = 0) -> None:
        """Note why nothing can be done now, and when to try again: later with each time."""
        status = self._status
        if status.last_error != text:
            self.context.log.warning("paused", kind=kind, error=text)
        status.errors[kind] = status.errors.get(kind, 0) + 1
        status.last_error = text
        self._paused = kind
        pause = self._config.registry_backoff_s * 2 ** min(times, 10)
        self._retry_at = time.monotonic() + min(pause, MAX_BACKOFF_S)
        self._tell(now=True)

    # --- one batch ------------------------------------------------------------------------

    def _pass(self, messages: list[Message], links: Links) -> int:
        """Make one batch part of the mesh, or nothing of it."""
        reader, decoder = links.reader, links.decoder
        following = links.follow()
        for number, offset in links.moved.items():
            following[number] = offset
        events, _ = decoder.load(messages, following)
        for event in events:
            reader.note(event)
        if reader.is_stuck:
            self._moved(links, links.recovered, reader.recover())
        rows, status = decoder.decode()
        origins, letters, passed = decoder.origins[: rows.size], [], rows.size
        if status.any():  # not all is OK
            waiting = self._defer(links, status, following)
            letters = self._undecodable(messages, links, status, waiting)
            good = (status == OK) & ~waiting
            rows, origins = rows[good], origins[good]
            passed -= int(waiting.sum())
        for number, offset in links.recovered.items():
            following[number] = offset
        rows["ts_ingest"] = now = time.time_ns()
        result = self._checks.evaluate(rows, now_ns=now, batch=self._status.batches + 1)
        if result.published != rows.size:
            for i in np.flatnonzero(result.dispositions == DEAD_LETTER).tolist():
                doubt = Rejection(ErrorClass.GATE, flag_names(rows["flags"][i]))
                letters.append(DeadLetter.of(messages[origins[i]], doubt, None))
        lost = 0
        try:
            self._keep(letters, links)
        except SinkFull as error:
            if self._config.sink_full == "wait":
                self._restore_checks()
                self._held = [m for m in messages if m.error() is None]
                self._pause("sink", str(error))
                return 0
            lost = error.letters
            self._note("sink", str(error), count=lost)
        new = self._counted(following, result, letters, links, passed)
        new.letters_lost += lost
        new.dead_lettered, new.dropped = new.dead_lettered - lost, new.dropped + lost
        self._publish(rows, result, new, links)
        self._held, self._paused = [], "sink" if lost else ""
        links.following, links.moved, links.recovered = following, {}, {}
        decoder.clear()
        return passed

    def _defer(self, links: Links, status: Rows, following: Rows) -> Rows:
        """Leave partitions at the first message whose schema cannot be had now; gives a mask."""
        waiting: Rows = status == PENDING
        if not waiting.any():
            return waiting
        n = status.size
        places, offsets = links.decoder.partitions[:n], links.decoder.offsets[:n]
        self._note("registry", links.decoder.unavailable, count=1)
        for number in sorted(set(places[waiting].tolist())):
            mine = places == number
            first = int(offsets[mine & waiting].min())
            waiting |= mine & (offsets >= first)
            following[number] = first
            links.reader.defer(number, first, self._config.registry_backoff_s)
        return waiting

    def _undecodable(
        self, messages: list[Message], links: Links, status: Rows, waiting: Rows
    ) -> list[DeadLetter]:
        decoder = links.decoder
        return [
            DeadLetter.of(
                messages[decoder.origins[i]], decoder.reason(i), int(decoder.schema_ids[i]) or None
            )
            for i in np.flatnonzero((status != OK) & ~waiting).tolist()
        ]

    def _keep(self, letters: list[DeadLetter], links: Links) -> None:
        """Make dead letters safe. Raises SinkFull."""
        if letters:
            letters = self._marked(letters, links)
            with self.context.expect(self._config.dead_letter_timeout_s + 5.0):
                links.dead.keep(letters)

    @staticmethod
    def _marked(letters: list[DeadLetter], links: Links) -> list[DeadLetter]:
        """Mark what the process before this one may have delivered before it was killed."""
        if links.in_doubt.size == 0:
            return letters
        until = dict(zip(links.reader.places, links.in_doubt.tolist(), strict=True))
        return [replace(x, repeated=x.offset < until[x.topic, x.partition]) for x in letters]

    def _publish(self, rows: Rows, result: CheckResult, new: IngestStatus, links: Links) -> None:
        """Commit rows, positions and counters in one, then bring the quotes up to date."""
        kept = rows if result.published == rows.size else rows[result.dispositions == PUBLISH]
        latest = rows.take(result.latest)
        if self._is_high and self._config.back_pressure == "conflate":
            kept = rows[np.sort(np.concatenate([result.latest, result.untracked]))]
            new.conflated += result.published - kept.size
            new.published -= result.published - kept.size
        self._memory.write_batch(result.memory["symbol"], result.memory)
        self._ring.publish(kept, state=msgspec.msgpack.encode(new))
        self._status = new
        self._quotes.write_batch(latest["symbol"], latest)
        links.reader.passed(new.positions)
        links.reader.lost = links.decoder.fallback_decoded = 0

    def _counted(
        self,
        following: Rows,
        result: CheckResult,
        letters: list[DeadLetter],
        links: Links,
        passed: int,
    ) -> IngestStatus:
        """Give the status after this batch.

        consumed = published + dead-lettered + dropped + conflated + skipped.
        """
        new = msgspec.structs.replace(
            self._status,
            positions=dict(self._status.positions),
            gates=dict(self._status.gates),
            errors=dict(self._status.errors),
        )
        reader, decoder = links.reader, links.decoder
        changed = set((following != links.following).nonzero()[0].tolist())
        for number in changed | links.moved.keys() | links.recovered.keys():
            new.positions[place(*reader.places[number])] = int(following[number])
        new.batches += 1
        new.market_time_ns, new.market_leap_ns = self._checks.clock
        new.consumed += passed
        new.dead_lettered += len(letters)
        new.dropped += passed - len(letters) - result.published
        new.published += result.published
        new.fallback_decoded += decoder.fallback_decoded
        new.lost += reader.lost
        new.spooled = links.dead.spooled
        for name, count in result.counts.items():
            new.gates[name] = new.gates.get(name, 0) + count
        for letter in letters:
            new.errors[letter.kind] = new.errors.get(letter.kind, 0) + 1
            new.last_error = letter.text
        return new

    # --- positions that are set ---------------------------------------------------------------

    def _moved(self, links: Links, into: dict[int, int], moved: dict[int, int]) -> None:
        """Take positions over that are set and not read; they are committed with a batch."""
        for number, offset in moved.items():
            if offset < links.following[number]:
                self._status.rewinds += 1
            into[number] = offset

    def _rewind(self, links: Links) -> None:
        """Go where an operator wants to go."""
        now = time.monotonic()
        if now < self._looked_at + LOOK_S:
            return
        self._looked_at = now
        wanted = self._rewinds.wanted()
        if not wanted:
            return
        self._held = []
        for number, at in enumerate(links.reader.places):
            if place(*at) in wanted:
                offset = wanted[place(*at)]
                links.reader.seek(number, offset)
                self._moved(links, links.moved, {number: offset})
                links.recovered.pop(number, None)
        self._status.rewind_id = self._rewinds.done
        self.context.log.warning("rewound", positions=wanted)

    def _must_wait(self, links: Links) -> bool:
        """Do what is configured against slow followers; tells whether nothing may be read now."""
        if self._config.back_pressure == "block":
            return True
        now = time.monotonic()
        if self._config.back_pressure == "skip_to_end":
            if now < self._skipped_at + SKIP_S:
                return True
            self._skipped_at = now
            self._skip_to_end(links)
        return False

    def _skip_to_end(self, links: Links) -> None:
        """Leave everything out that waits, and count it."""
        skipped = links.reader.skip_to_end()
        self._held = []
        for number, (count, offset) in skipped.items():
            self._status.skipped += count
            self._status.consumed += count
            links.moved[number] = offset
        if skipped:
            total = sum(count for count, _ in skipped.values())
            self._note("skipped", f"{total} messages: {self._pressure.slowest} is too slow")

    def _commit(self, links: Links) -> None:
        """Tell Kafka now and then how far the ring is."""
        now = time.monotonic()
        if now - self._committed_at >= self._settings.kafka.commit_s:
            self._committed_at = now
            links.reader.commit()
        if now - self._counted_at >= COUNT_S and links.reader.brokers_up:
            self._counted_at = now
            if links.reader.has_grown():
                self.context.log.warning("partitions were added: connecting anew")
                with self.context.expect(10.0):
                    links.reader.commit()
                    links.close()
                    self._links = None

    # --- what others see ------------------------------------------------------------------

    def _note(self, kind: str, text: str, *, count: int = 1) -> None:
        """Count an error and say it once."""
        if self._status.last_error != text:
            self.context.log.warning(kind, error=text)
        self._status.errors[kind] = self._status.errors.get(kind, 0) + count
        self._status.last_error = text

    def _state(self) -> str:
        """Say in one word what is wrong, if anything."""
        links = self._links
        if self._paused:
            return f"degraded: {self._paused}"
        if links is None or links.reader.brokers_up == 0:
            return "degraded: transport"
        if links.reader.is_deferring:
            return "degraded: registry"
        if links.dead.spooled:
            return "degraded: dead letters are spooled"
        if self._is_high:
            return f"degraded: {self._pressure.slowest} is slow"
        return "running"

    def _tell(self, *, now: bool = False, state: str = "") -> None:
        moment = time.monotonic()
        if not now and moment - self._told_at < STATUS_EVERY_S:
            return
        self._told_at = moment
        status, links = self._status, self._links
        since, consumed = self._rate
        if moment - since >= 1.0:
            status.rate = (status.consumed - consumed) / (moment - since)
            self._rate = moment, status.consumed
        status.state = state or self._state()
        status.backlog, status.slowest = self._pressure.backlog, self._pressure.slowest
        if links is not None:
            status.lag = links.reader.lag()
            status.rebalances = links.reader.rebalances
            status.round_trip_ms = links.reader.round_trip_ms
            status.spooled = links.dead.spooled
            status.letters_repeated = links.dead.repeated
            status.registry_requests = links.decoder.registry_requests
            for name, count in links.reader.errors.items():
                status.errors[name] = status.errors.get(name, 0) + count
            links.reader.errors.clear()
        self._cell.write(status)
        behind = sum(status.lag.values())
        detail = f"{status.rate:,.0f}/s, {behind:,} behind, {status.dead_lettered:,} dead"
        self.context.heartbeat.describe(f"{status.state}: {detail}")

    def _was_killed(self) -> bool:
        """Tell whether an ingest before this one did not get to its orderly end."""
        try:
            return self._cell.read()[1].state != STOPPED
        except NotWritten:
            return False

    def _restore_checks(self) -> None:
        """Take the gates' memory as of the committed batch."""
        self._checks = QualityChecks(self._config, max_rows=self._most)
        self._checks.restore(
            self._memory.snapshot(),
            batch=self._status.batches,
            clock=(self._status.market_time_ns, self._status.market_leap_ns),
        )
        self._checks.adopt(self._quotes.snapshot()["symbol"])

    def _make_quotes_good(self) -> None:
        """Write the newest records again: a kill may have come between ring and quotes."""
        reader = self._ring.reader(max(self._ring.oldest, self._ring.published - 65536))
        while (rows := reader.read(max_records=8192)).size:
            self._quotes.write_batch(rows["symbol"], rows)

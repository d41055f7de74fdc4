"""Ingest: from Kafka to the ring `ticks` and the table `quotes`, each offset exactly once.

A batch is passed in this order: dead letters made safe, rows published together with the new
positions and counters (one commit, `Ring.publish(state=...)`), quotes updated. Killed anywhere,
the next ingest finds the positions that belong to what the ring shows; the quotes are made good
from the newest records.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from mesh import NotWritten, SegmentMissing
from workers.base import Worker
from workers.ingest.consumer import BrokerUnavailable, PartitionReader, place
from workers.ingest.dead_letter import DeadLetter, DeadLetters
from workers.ingest.decode import Decoder
from workers.ingest.errors import ErrorClass, Poison, RegistryUnavailable, SinkFull
from workers.ingest.gates import Gates, counts
from workers.ingest.mapping import Rows, tick_mapping
from workers.ingest.plan import OK
from workers.ingest.registry import SchemaRegistry
from workers.market_schema import QUOTE_READER_SCHEMA
from workers.records import (
    BROKER,
    QUOTES,
    TICK_DTYPE,
    TICKS,
    BrokerAddress,
    IngestStatus,
    status_segment,
)

if TYPE_CHECKING:
    from confluent_kafka import Message

WAIT_S = 0.1
STATE_BYTES = 1 << 15
STATUS_BYTES = 1 << 15
STATUS_EVERY_S = 0.05


class IngestWorker(Worker):
    """One process owns all partitions of its topics."""

    def setup(self) -> None:
        """Take ring, table and status over, and go on from what they hold."""
        context = self.context
        self._settings = context.settings
        self._config = context.settings.ingest
        mesh, config = context.mesh, self._config
        self._ring = mesh.ring(
            TICKS, TICK_DTYPE, capacity=config.ring_capacity, state_bytes=STATE_BYTES, create=True
        )
        self._quotes = mesh.table(QUOTES, TICK_DTYPE, rows=config.quotes, create=True)
        self._cell = mesh.cell(
            status_segment(context.name), IngestStatus, create=True, max_bytes=STATUS_BYTES
        )
        state = self._ring.state()
        self._status = msgspec.msgpack.decode(state, type=IngestStatus) if state else IngestStatus()
        self._make_quotes_good()
        self._gates = Gates(config)
        self._gates.remember(self._quotes.snapshot())
        self._reader: PartitionReader | None = None
        self._decoder: Decoder | None = None
        self._dead: DeadLetters | None = None
        self._held: list[Message] = []
        self._most = min(config.batch, self._ring.capacity)
        self._following = np.zeros(0, np.int64)  # next offset by place, as committed
        self._retry_at = 0.0
        self._told_at = 0.0
        self._rate = (time.monotonic(), self._status.consumed)

    def step(self) -> int:
        """Pass one batch."""
        if time.monotonic() < self._retry_at or not self._connected():
            self._tell()
            self.context.pause(WAIT_S)
            return 0
        reader, decoder, dead = self._reader, self._decoder, self._dead
        if reader is None or decoder is None or dead is None:
            raise AssertionError("connected without a reader")
        messages = self._held or reader.read(self._most, WAIT_S)
        if not messages:
            self._tell()
            return 0
        self._held = messages
        try:
            passed = self._pass(messages, reader, decoder, dead)
        except RegistryUnavailable as error:
            self._pause("registry", str(error))
            return 0
        except SinkFull as error:
            self._pause("sink", str(error))
            return 0
        self._held = []
        self._status.state = "running"
        self._tell()
        return passed

    def teardown(self) -> None:
        """Leave the brokers; the ring already holds where to go on."""
        self._tell(now=True)
        if self._reader is not None:
            self._reader.close()
        if self._dead is not None:
            self._dead.close()

    def last_inputs(self) -> dict[str, Any]:
        """Give the positions, for the crash report."""
        return {"positions": self._status.positions, "held": len(self._held)}

    # --- connections ----------------------------------------------------------------------

    def _connected(self) -> bool:
        """Be connected to the brokers that are there now."""
        address = self._address()
        if address is None:
            self._pause("transport", "no broker is announced in the mesh yet")
            return False
        if self._reader is not None and address.incarnation == self._status.incarnation:
            return True
        if self._reader is not None:
            self._reader.close()
            self._reader, self._held = None, []
        if address.incarnation != self._status.incarnation:
            self._status.incarnation, self._status.positions = address.incarnation, {}
        kafka = self._settings.kafka
        options = {"bootstrap.servers": address.bootstrap_servers, **kafka.options}
        try:
            self._reader = PartitionReader(
                {"fetch.wait.max.ms": int(self._config.latency_ms), **options},
                kafka.topics,
                self._status.positions,
                timeout_s=kafka.connect_timeout_s,
            )
        except BrokerUnavailable as error:
            self._pause("transport", str(error))
            return False
        directory = self._settings.run_directory / self.context.name
        registry = SchemaRegistry(
            address.registry_url, directory / "schemas", self._config.unknown_schema_s
        )
        decoder = Decoder(
            registry,
            tick_mapping(self._config.fields, self._config.time_units),
            self._reader_schema(),
            capacity=self._most,
        )
        topics = kafka.topics
        decoder.assign([(topic, topics.index(topic), p) for topic, p in self._reader.places])
        self._decoder = decoder
        self._following = np.array(
            [self._status.positions.get(place(*at), 0) for at in self._reader.places], np.int64
        )
        self._dead = DeadLetters(
            options,
            kafka.dead_letter_topic,
            directory / "dead_letters.jsonl",
            limit=self._config.spool_bytes,
            timeout_s=self._config.dead_letter_timeout_s,
        )
        self._status.state = "running"
        return True

    def _reader_schema(self) -> Any:
        """Give the Avro schema through which messages are read; None: each writer's own."""
        chosen = self._config.reader_schema
        if chosen == "writer":
            return None
        if chosen == "shipped":
            return QUOTE_READER_SCHEMA
        return msgspec.json.decode(Path(chosen).read_bytes())

    def _address(self) -> BrokerAddress | None:
        kafka = self._settings.kafka
        if "mesh" not in {kafka.bootstrap_servers, kafka.registry_url}:
            return BrokerAddress(kafka.bootstrap_servers, kafka.registry_url)
        try:
            return self.context.mesh.cell(BROKER, BrokerAddress).read()[1]
        except (SegmentMissing, NotWritten):
            return None

    def _pause(self, kind: str, text: str) -> None:
        """Note why nothing can be done now, and when to try again."""
        status = self._status
        if status.last_error != text:
            self.context.log.warning("paused", kind=kind, error=text)
        status.errors[kind] = status.errors.get(kind, 0) + 1
        status.last_error = text
        status.state = f"degraded: {kind}"
        self._retry_at = time.monotonic() + self._config.registry_backoff_s
        self._tell(now=True)

    # --- one batch ------------------------------------------------------------------------

    def _pass(
        self,
        messages: list[Message],
        reader: PartitionReader,
        decoder: Decoder,
        dead: DeadLetters,
    ) -> int:
        """Make one batch part of the mesh; raises before anything is passed."""
        following = self._following.copy()
        events, _ = decoder.take(messages, following)
        if events:
            for event in events:
                moved = reader.note(event)
                if moved is not None:
                    following[moved[0]] = self._following[moved[0]] = moved[1]
            self._held = messages = [m for m in messages if m.error() is None]
        rows, status = decoder.decode()
        good = status == OK
        letters = [
            _letter(messages[decoder.origins[i]], decoder.reason(i))
            for i in np.flatnonzero(~good).tolist()
        ]
        origins = decoder.origins[: decoder.count]
        if letters:
            rows, origins = rows[good], origins[good]
        rows["ts_ingest"] = time.time_ns()
        self._gates.flag(rows)
        gated = self._gates.dead(rows)
        letters += [
            _letter(
                messages[origins[i]], Poison(ErrorClass.GATE, f"flags {int(rows['flags'][i]):#x}")
            )
            for i in np.flatnonzero(gated).tolist()
        ]
        if letters or dead.spooled:
            with self.context.expect(self._config.dead_letter_timeout_s * 2 + 5.0):
                dead.keep(letters)
        dropped = self._gates.dropped(rows)
        out = gated | dropped
        kept = rows[~out] if out.any() else rows
        new = self._counted(following, rows, letters, kept.size, decoder)
        new.lost += reader.lost
        new.spooled = dead.spooled
        self._ring.publish(kept, state=msgspec.msgpack.encode(new))
        reader.lost = decoder.fallback_decoded = 0
        passed = decoder.count
        decoder.clear()
        self._status, self._following = new, following
        if kept.size:
            self._quotes.write_batch(kept["symbol"], kept)
        return passed

    def _counted(
        self,
        following: Rows,
        rows: Rows,
        letters: list[DeadLetter],
        published: int,
        decoder: Decoder,
    ) -> IngestStatus:
        """Give the status after this batch: consumed = published + dead-lettered + dropped."""
        new = msgspec.structs.replace(
            self._status,
            positions=dict(self._status.positions),
            gates=dict(self._status.gates),
            errors=dict(self._status.errors),
        )
        reader = self._reader
        if reader is None:
            raise AssertionError("a batch without a reader")
        for number in np.flatnonzero(following != self._following).tolist():
            new.positions[place(*reader.places[number])] = int(following[number])
        new.consumed += decoder.count
        new.dead_lettered += len(letters)
        new.dropped += decoder.count - len(letters) - published
        new.published += published
        new.fallback_decoded += decoder.fallback_decoded
        for name, count in counts(rows).items():
            new.gates[name] = new.gates.get(name, 0) + count
        for letter in letters:
            new.errors[letter.kind] = new.errors.get(letter.kind, 0) + 1
            new.last_error = letter.text
        return new

    # --- what others see ------------------------------------------------------------------

    def _tell(self, *, now: bool = False) -> None:
        moment = time.monotonic()
        if not now and moment - self._told_at < STATUS_EVERY_S:
            return
        self._told_at = moment
        since, consumed = self._rate
        if moment - since >= 1.0:
            self._status.rate = (self._status.consumed - consumed) / (moment - since)
            self._rate = moment, self._status.consumed
        if self._reader is not None:
            self._status.lag = self._reader.lag(self._status.positions)
            for name, count in self._reader.errors.items():
                self._status.errors[name] = count
        self._cell.write(self._status)

    def _make_quotes_good(self) -> None:
        """Write the newest records again: a kill may have come between ring and quotes."""
        reader = self._ring.reader(max(self._ring.oldest, self._ring.published - 65536))
        while (rows := reader.read(max_records=8192)).size:
            self._quotes.write_batch(rows["symbol"], rows)


def _letter(message: Message, poison: Poison) -> DeadLetter:
    headers = message.headers()
    return DeadLetter(
        str(message.topic()),
        int(message.partition() or 0),
        int(message.offset() or 0),
        _raw(message.key()),
        _raw(message.value()),
        list(headers) if isinstance(headers, list) else [],
        poison.kind.value,
        str(poison)[:1000],
    )


def _raw(value: str | bytes | None) -> bytes | None:
    return value.encode() if isinstance(value, str) else value

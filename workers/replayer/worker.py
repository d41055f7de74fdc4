"""Publishes a source at a chosen speed, never further ahead than its consumer can still read.

At least once: the position is noted after the delivery reports of a batch, so a replayer that is
killed sends the unconfirmed part of one batch again. Without a kill every row is sent once.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from confluent_kafka import KafkaError, Message, Producer

from config.problems import ConfigProblems, Problem
from mesh import NotWritten, SegmentMissing
from workers.base import Worker
from workers.market_data.archive import DAY_NS, Archive, Rows
from workers.market_data.errors import MarketDataError
from workers.market_data.families import open_archive
from workers.records import (
    BROKER,
    BrokerAddress,
    IngestStatus,
    ReplayerStatus,
    status_segment,
)
from workers.replayer.encoder import Encoder, RegistryUnavailable, partitions, register_schema
from workers.replayer.source import Cursor
from workers.replayer.synthetic import SyntheticMarket

WAIT_S = 0.05
Mask = np.ndarray[Any, np.dtype[np.bool_]]


class ReplayerWorker(Worker):
    """One source, one topic."""

    def setup(self) -> None:
        """Open the data and go on from the noted position. Raises ConfigProblems."""
        context = self.context
        config = context.settings.replayer
        self._config = config
        self._topic = context.settings.kafka.topics[0]
        with context.expect(context.spec.start_deadline_s):
            source = self._source()
        self._cell = context.mesh.cell(status_segment(context.name), ReplayerStatus, create=True)
        try:
            _, self._status = self._cell.read()
        except NotWritten:
            self._status = ReplayerStatus()
        if self._status.source != source.name:
            self._status = ReplayerStatus(source=source.name)
        self._cursor = Cursor(source, self._status.position)
        self._status.speed = config.speed
        self._producer: Producer | None = None
        self._encoder: Encoder | None = None
        self._incarnation = ""
        self._clock: tuple[int, float] | None = None  # market ns and monotonic s of its start

    def _source(self) -> Archive:
        config = self._config
        if config.data is None:
            return SyntheticMarket(config.seed, config.start)
        spill = self.context.settings.run_directory / self.context.name
        try:
            return open_archive(config.data, date=config.date, form=config.format, spill=spill)
        except MarketDataError as error:  # the same tomorrow: starting again does not help
            what, _, remedy = str(error).rpartition("; ")
            problem = Problem("replayer.data", "", what or remedy, remedy)
            raise ConfigProblems([problem]) from error

    def step(self) -> int:
        """Publish what is due, at most one batch; else wait a little."""
        if not self._connected() or self._status.finished or not self._room():
            self._wait()
            return 0
        rows = self._due()
        if rows.size == 0:
            self._wait()
            return 0
        self._send(rows)
        self._cell.write(self._status)
        return int(rows.size)

    def teardown(self) -> None:
        """Note the position."""
        self._cell.write(self._status)

    def _wait(self) -> None:
        """Wait a moment, or until a signal; the producer's callbacks are served."""
        if self._producer is not None:
            self._producer.poll(0)
        self.context.pause(WAIT_S)

    def _connected(self) -> bool:
        """Have a producer for the broker that is there now, and the schema's id."""
        address = self._address()
        if address is None:
            return False
        if self._producer is None or address.incarnation != self._incarnation:
            self._incarnation = address.incarnation
            options = {
                "bootstrap.servers": address.bootstrap_servers,
                "linger.ms": 5,
                "enable.idempotence": False,
                **self.context.settings.kafka.options,
            }
            self._producer = Producer(options)
            self._encoder = None
            if self._status.incarnation != address.incarnation:
                self._status.incarnation, self._status.delivered = address.incarnation, 0
            self._partitions = max(1, address.topics.get(self._topic, 0) or self._ask_partitions())
        if self._encoder is None:
            try:
                self._encoder = Encoder(register_schema(address.registry_url, self._topic))
            except RegistryUnavailable as error:
                self.context.log.warning("registry", error=str(error))
                return False
        return True

    def _ask_partitions(self) -> int:
        assert self._producer is not None  # noqa: S101 - set by the only caller
        timeout = self.context.settings.kafka.connect_timeout_s
        topics = self._producer.list_topics(self._topic, timeout).topics
        return len(topics[self._topic].partitions)

    def _address(self) -> BrokerAddress | None:
        kafka = self.context.settings.kafka
        if "mesh" not in {kafka.bootstrap_servers, kafka.registry_url}:
            return BrokerAddress(kafka.bootstrap_servers, kafka.registry_url)
        try:
            return self.context.mesh.cell(BROKER, BrokerAddress).read()[1]
        except (SegmentMissing, NotWritten):
            return None

    def _room(self) -> bool:
        """Tell whether the consumer is near enough."""
        if not self._config.follow:
            return True
        try:
            name = status_segment(self._config.follow)
            status = self.context.mesh.cell(name, IngestStatus).read()[1]
        except (SegmentMissing, NotWritten):
            return self._status.delivered < self._config.max_ahead
        consumed = sum(status.positions.values())
        return self._status.delivered - consumed < self._config.max_ahead

    def _due(self) -> Rows:
        """Give the rows that the market clock has reached."""
        rows = self._read()
        if rows.size == 0:
            return rows
        if self._config.speed == 0.0:
            return rows
        now = time.monotonic()
        if self._clock is None:
            self._clock = int(rows["ts_event"][0]), now
        market, wall = self._clock
        reached = market + int((now - wall) * self._config.speed * 1e9)
        first = int(rows["ts_event"][0])
        if 0 < self._config.max_gap_s * 1e9 < first - max(reached, self._status.market_time_ns):
            self._clock = first, now
            reached = first
        return rows[: int(np.searchsorted(rows["ts_event"], reached, side="right"))]

    def _read(self) -> Rows:
        rows = self._cursor.peek(self._config.batch)
        if rows.size == 0 and self._config.loop and self._status.position > 0:
            self._status.loops += 1
            self._status.position = 0
            self._clock = None
            self._cursor.rewind()
            rows = self._cursor.peek(self._config.batch)
        if rows.size == 0:
            self._status.finished = True
            self._cell.write(self._status)
            self.context.log.info("finished", rows=self._status.rows_read)
            return rows
        rows = rows.copy()
        rows["ts_event"] += self._status.loops * DAY_NS
        return rows

    def _send(self, rows: Rows) -> None:
        """Send rows and wait for their delivery reports; what failed is sent again."""
        rows["ts_recv"] = time.time_ns()
        left = rows
        while left.size and not self.context.stopping():
            if not self._connected():
                self._wait()
                self.context.heartbeat.beat(progress=self.context.heartbeat.progress)
                continue
            failed = self._attempt(left)
            self._status.produced += int(left.size - failed.sum())
            self._status.delivered += int(left.size - failed.sum())
            self._status.failed += int(failed.sum())
            left = left[failed]
        if left.size:
            return  # stopped amid a batch: it is sent again, at least once
        self._status.rows_read += int(rows.size)
        self._cursor.advance(rows.size)
        self._status.position = self._cursor.position
        self._status.market_time_ns = int(rows["ts_event"][-1])

    def _attempt(self, rows: Rows) -> Mask:
        """Send rows once and give which of them failed."""
        producer, encoder = self._producer, self._encoder
        if producer is None or encoder is None:
            raise AssertionError("sent without a connection")
        self._reports = Reports(rows.size)
        for index, (message, key, partition) in enumerate(
            zip(
                encoder.encode(rows),
                rows["symbol"].tolist(),
                partitions(rows, self._partitions).tolist(),
                strict=True,
            )
        ):
            self._produce(producer, message, key, partition, partial(self._reports.take, index))
        while self._reports.missing > 0 and not self.context.stopping():
            producer.flush(WAIT_S)
            self.context.heartbeat.beat(progress=self.context.heartbeat.progress)
            address = self._address()
            if address is not None and address.incarnation != self._incarnation:
                producer.purge()  # that broker is gone for good: its messages are failures
        return self._reports.failed

    def _produce(
        self,
        producer: Producer,
        message: bytes,
        key: bytes,
        partition: int,
        report: Callable[[KafkaError | None, Message], None],
    ) -> None:
        while not self.context.stopping():
            try:
                producer.produce(self._topic, message, key, partition, on_delivery=report)
            except BufferError:  # the local queue is full: let it drain
                producer.poll(WAIT_S)
            else:
                return


class Reports:
    """The delivery reports of one batch."""

    def __init__(self, count: int) -> None:
        """Expect `count` reports; one that never comes counts as a failure."""
        self.missing = count
        self.failed: Mask = np.ones(count, bool)

    def take(self, index: int, error: KafkaError | None, _message: Message) -> None:
        """Note the report of one message."""
        self.missing -= 1
        self.failed[index] = error is not None

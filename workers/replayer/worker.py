"""Publishes a source at a configured speed, at most `max_ahead` messages ahead of its consumer.

Delivery is at least once: the position is stored after a whole batch was delivered, so that a
replayer that was killed or stopped sends up to one batch again.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from confluent_kafka import KafkaException

from config.problems import ConfigProblems, Problem
from mesh import NotWritten, SegmentMissing
from workers.contract.names import BROKER, status_segment
from workers.contract.quote_schema import EVOLVED_SCHEMA, MINIMAL_SCHEMA, QUOTE_SCHEMA
from workers.contract.statuses import BrokerAddress, IngestStatus, ReplayerStatus
from workers.market_data.archive import DAY_NS, Archive, Rows
from workers.market_data.errors import MarketDataError
from workers.market_data.families import open_archive, recognise
from workers.replayer.clock import MarketClock
from workers.replayer.encoder import Encoder, RegistryUnavailable, register_schema
from workers.replayer.faults import Faults, Outgoing, Writers
from workers.replayer.publisher import WAIT_S, Publisher
from workers.replayer.source import Cursor
from workers.replayer.synthetic import SyntheticMarket
from workers.runtime.worker import Worker

STATUS_BYTES = 1 << 14
PATH_S = 60.0  # for a piece of a file, or the synthetic market's path up to a position


class ReplayerWorker(Worker):
    """Publishes one source to one topic."""

    def setup(self) -> None:
        """Check the data and read the stored position; unreadable data is a ConfigProblems."""
        context = self.context
        config = context.settings.replayer
        self._config = config
        self._topic = context.settings.kafka.topics[0]
        self._cell = context.mesh.cell(
            status_segment(context.name), ReplayerStatus, create=True, max_bytes=STATUS_BYTES
        )
        try:
            _, self._status = self._cell.read()
        except NotWritten:
            self._status = ReplayerStatus()
        if config.data is not None:
            with _problems():
                recognise(config.data, date=config.date, form=config.format)
        self._cursor: Cursor | None = None
        self._faults = Faults(config.faults, config.seed)
        self._clock = MarketClock(config)
        self._publisher: Publisher | None = None
        self._writers: Writers | None = None
        self._incarnation = ""

    def step(self) -> int:
        """Publish the rows that are due, at most one batch, or wait a moment.

        Returns:
            The number of rows published.
        """
        with _problems():
            cursor = self._cursor or self._begin()
            if self._status.finished or not self._connected() or not self._room():
                self._wait()
                return 0
            rows = self._due(cursor)
        if rows.size == 0:
            self._wait()
            return 0
        self._send(rows, cursor)
        self._cell.write(self._status)
        return int(rows.size)

    def _begin(self) -> Cursor:
        """Open the data and go to the stored position, which takes a while in large files."""
        config = self._config
        self._archive: Archive
        if config.data is None:
            self._archive = SyntheticMarket(config.seed, config.start)
        else:
            spill = self.context.settings.run_directory / self.context.name
            self._archive = open_archive(
                config.data, date=config.date, form=config.format, spill=spill, beat=self._beat
            )
        if self._status.source != self._archive.name:
            self._status = ReplayerStatus(source=self._archive.name)
        self._status.speed = config.speed
        self._cursor = Cursor(self._archive, self._status.position)
        with self.context.expect(PATH_S):
            self._cursor.peek(1)  # skips the rows before the position
        return self._cursor

    def _beat(self) -> None:
        self.context.heartbeat.beat(progress=self.context.heartbeat.progress, expect=PATH_S)

    def teardown(self) -> None:
        """Store the position."""
        self._cell.write(self._status)

    def _wait(self) -> None:
        """Wait a moment or until a signal, and run the producer's callbacks."""
        if self._publisher is not None:
            self._publisher.poll()
        self.context.pause(WAIT_S)

    # --- connections ----------------------------------------------------------------------

    def _connected(self) -> bool:
        """Connect to the current broker and register the schemas; return whether both are done."""
        address = self._address()
        if address is None:
            return False
        try:
            if self._publisher is None or address.incarnation != self._incarnation:
                self._publisher = self._open(address)
            if self._writers is None:
                self._writers = self._register(address)
        except (RegistryUnavailable, KafkaException) as error:
            self.context.log.warning("not connected", error=str(error))
            return False
        return True

    def _open(self, address: BrokerAddress) -> Publisher:
        kafka = self.context.settings.kafka
        options = {"bootstrap.servers": address.bootstrap_servers, **kafka.options}
        with self.context.expect(kafka.connect_timeout_s + 1.0):
            publisher = Publisher(
                options, self._topic, address.topics.get(self._topic, 0), kafka.connect_timeout_s
            )
        self._incarnation = address.incarnation
        self._writers = None
        if self._status.incarnation != address.incarnation:
            self._status.incarnation, self._status.delivered = address.incarnation, 0
        return publisher

    def _register(self, address: BrokerAddress) -> Writers:
        """Register the schemas that the configured faults need, and return their encoders."""

        def writer(schema: dict[str, object]) -> Encoder:
            with self.context.expect(10.0):
                number = register_schema(address.registry_url, self._topic, schema)
            return Encoder(number, schema)

        plain = writer(QUOTE_SCHEMA)
        faults = self._config.faults
        return Writers(
            plain,
            writer(EVOLVED_SCHEMA) if faults.evolve_every else plain,
            writer(MINIMAL_SCHEMA) if faults.least else plain,
        )

    def _address(self) -> BrokerAddress | None:
        kafka = self.context.settings.kafka
        if "mesh" not in {kafka.bootstrap_servers, kafka.registry_url}:
            return BrokerAddress(
                bootstrap_servers=kafka.bootstrap_servers, registry_url=kafka.registry_url
            )
        try:
            return self.context.mesh.cell(BROKER, BrokerAddress).read()[1]
        except (SegmentMissing, NotWritten):
            return None

    def _room(self) -> bool:
        """Return whether the consumer lags by less than `max_ahead`."""
        if not self._config.follow:
            return True
        try:
            name = status_segment(self._config.follow)
            status = self.context.mesh.cell(name, IngestStatus).read()[1]
        except (SegmentMissing, NotWritten):
            return self._status.delivered < self._config.max_ahead
        consumed = sum(status.positions.values())
        return self._status.delivered - consumed < self._config.max_ahead

    # --- rows -----------------------------------------------------------------------------

    def _due(self, cursor: Cursor) -> Rows:
        """Return the rows that the market clock has reached, with shifted times."""
        rows = self._read(cursor)
        if rows.size == 0 or self._config.speed == 0.0:
            return rows
        moments = delivery_times(rows)
        now = time.monotonic()
        reached = self._clock.reached(int(moments[0]), self._status.market_time_ns, now)
        return rows[: int(np.searchsorted(moments, reached, side="right"))]

    def _read(self, cursor: Cursor) -> Rows:
        config, status = self._config, self._status
        max_rows = (
            min(config.batch, config.rows - status.rows_read) if config.rows else config.batch
        )
        rows = cursor.peek(max_rows)
        if rows.size == 0 and max_rows > 0 and config.loop and status.position > 0:
            rows = self._rewind(cursor, max_rows)
        if rows.size == 0:
            status.finished = True
            self._cell.write(status)
            self.context.log.info("finished", rows=status.rows_read)
            return rows
        rows = rows.copy()
        rows["ts_event"] += status.shift_ns
        rows["ts_recv"][rows["ts_recv"] != 0] += status.shift_ns
        return rows

    def _rewind(self, cursor: Cursor, max_rows: int) -> Rows:
        """Start the source again, shifted by whole days so that time does not go back."""
        status = self._status
        cursor.rewind()
        rows = cursor.peek(max_rows)
        if rows.size:
            status.loops += 1
            status.position = 0
            days = (status.market_time_ns - int(delivery_times(rows)[0])) // DAY_NS + 1
            status.shift_ns = days * DAY_NS
            self._clock.restart()
        return rows

    def _send(self, rows: Rows, cursor: Cursor) -> None:
        """Send rows until all are delivered; failed messages are sent again."""
        status = self._status
        market_time = int(delivery_times(rows)[-1])
        rows["ts_recv"][rows["ts_recv"] == 0] = time.time_ns()
        out: Outgoing | None = None
        left: list[int] = []
        while out is None or left:
            if self.context.stopping():
                return  # the batch is sent again by the next process
            connected = self._connected()
            publisher, writers = self._publisher, self._writers
            if not connected or publisher is None or writers is None:
                self._wait()
                self._keep_waiting()
                continue
            if out is None:
                out = self._faults.messages(rows, cursor.position, writers)
                left = list(range(len(out.values)))
            part = Outgoing([out.values[i] for i in left], [out.keys[i] for i in left])
            failed = publisher.send(part, self._keep_waiting)
            status.produced += len(left) - len(failed)
            status.delivered += len(left) - len(failed)
            status.failed += len(failed)
            left = [left[i] for i in failed]
        status.rows_read += int(rows.size)
        cursor.advance(rows.size)
        status.position = cursor.position
        status.market_time_ns = max(market_time, status.market_time_ns)
        status.skipped = dict(self._archive.skipped)
        for kind, count in (+out.faults).items():
            status.faults[kind] = status.faults.get(kind, 0) + count

    def _keep_waiting(self) -> bool | None:
        """Beat, and return False when asked to stop, None when the brokers were replaced."""
        self.context.heartbeat.beat(progress=self.context.heartbeat.progress)
        address = self._address()
        if address is not None and address.incarnation != self._incarnation:
            return None
        return not self.context.stopping()


@contextmanager
def _problems() -> Iterator[None]:
    """Turn unreadable data into a ConfigProblems error, after which a restart does not help."""
    try:
        yield
    except MarketDataError as error:
        what, _, remedy = str(error).rpartition("; ")
        raise ConfigProblems([Problem("replayer.data", "", what or remedy, remedy)]) from error


def delivery_times(rows: Rows) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """Return when rows are due, in ns: time of receipt, else of the event; never decreasing."""
    moments = np.where(rows["ts_recv"] > 0, rows["ts_recv"], rows["ts_event"])
    return np.maximum.accumulate(moments)

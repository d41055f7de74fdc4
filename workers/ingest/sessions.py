"""Opens a session with the brokers that are there, and another one when they change."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from mesh import NotWritten, SegmentMissing
from workers.contract.names import BROKER
from workers.contract.statuses import BrokerAddress
from workers.ingest.decode.formats import decoder_for
from workers.ingest.decode.registry import MAX_BACKOFF_S, SchemaRegistry
from workers.ingest.kafka.consumer import BrokerUnavailable, PartitionReader, profile_options
from workers.ingest.kafka.dead_letter import DeadLetters
from workers.ingest.session import BrokerSession

if TYPE_CHECKING:
    from workers.ingest.kafka.broker_errors import BrokerError
    from workers.ingest.status import StatusReport
    from workers.runtime.worker import WorkerContext

ADDRESS_POLL_INTERVAL_S = 0.05  # of the broker's address in the mesh
FILL_S = 0.01  # that a batch waits to become full in the profile `throughput`


class BrokerSessions:
    """Opens a session with the brokers that are there, and another one when they change."""

    def __init__(
        self, context: WorkerContext, status: StatusReport, max_records: int, *, is_in_doubt: bool
    ) -> None:
        """Open nothing yet.

        Args:
            context: of the worker.
            status: has the positions to begin at, and reports pauses.
            max_records: of a batch.
            is_in_doubt: whether the process before this one was killed.
        """
        self._context, self._settings, self._status = context, context.settings, status
        self._max_records = max_records
        self._is_in_doubt = is_in_doubt
        self._address: BrokerAddress | None = None
        self._address_read_at = 0.0
        self._retry_at = 0.0
        self._clients_lost = 0  # given up by librdkafka: two of one name end each other
        self._denials = 0  # in a row: passwords that are tried too often get locked
        self.current: BrokerSession | None = None

    def get(self) -> BrokerSession | None:
        """Return the session with the broker that is there; None without one, or in a pause."""
        if time.monotonic() < self._retry_at:
            return None
        session = self.current
        if session is not None and session.incarnation == self._incarnation():
            error = session.reader.broker_error()
            if error is None:
                return session
            if session.reader.health.is_over:
                self._abandon(error)
                return None
            self._context.log.warning("access denied: opening a new session")
        return self._open()

    def pause(self, kind: str, text: str, times: int = 0) -> None:
        """Report why nothing can be done now, and wait: longer with each of `times`."""
        pause_s = self._settings.ingest.registry_backoff_s * 2 ** min(times, 10)
        self._retry_at = time.monotonic() + min(pause_s, MAX_BACKOFF_S)
        self._status.pause(kind, text)
        self._status.publish(self.current, now=True)

    def close(self) -> None:
        """Close the session, if there is one."""
        session, self.current = self.current, None
        if session is not None:
            session.close()

    def _abandon(self, error: BrokerError) -> None:
        """Leave a client that is over, and wait before the next: it may end another host's."""
        with self._context.expect(self._open_s):
            self.close()
        self._clients_lost += 1
        self.pause(error.kind, error.text, self._clients_lost)

    @property
    def _open_s(self) -> float:
        """How long closing and opening may take."""
        return float(3 * self._settings.kafka.connect_timeout_s + 1.0)

    def _open(self) -> BrokerSession | None:
        """Open a session with the brokers that are there now."""
        address = self._read_address()
        if address is None:
            self.pause("transport", "no broker is announced in the mesh yet")
            return None
        kafka, config = self._settings.kafka, self._settings.ingest
        options = {"bootstrap.servers": address.bootstrap_servers, **kafka.options}
        with self._context.expect(self._open_s):
            self.close()
            try:
                reader = PartitionReader(
                    {**profile_options(config), **options},
                    kafka,
                    self._status.positions_at(address.incarnation),
                    fill_s=FILL_S if config.profile == "throughput" else 0.0,
                    expect=self._context.expect,
                )
            except BrokerUnavailable as error:
                self._denials = self._denials + 1 if error.kind != "transport" else 0
                self.pause(error.kind, str(error), self._denials)
                return None
            self._denials = 0
            self.current = self._session(address, reader, options)
        self._status.paused = ""
        return self.current

    def _session(
        self, address: BrokerAddress, reader: PartitionReader, options: dict[str, Any]
    ) -> BrokerSession:
        kafka, config = self._settings.kafka, self._settings.ingest
        directory = self._settings.run_directory / self._context.name
        registry = SchemaRegistry(
            address.registry_url,
            directory / "schemas",
            config.unknown_schema_s,
            auth=f"{kafka.registry_user}:{kafka.registry_password}" if kafka.registry_user else "",
            backoff_s=config.registry_backoff_s,
            expect=self._context.expect,
        )
        decoder = decoder_for(config, registry, capacity=self._max_records)
        topics = kafka.topics
        decoder.assign(
            [(topic, topics.index(topic), number) for topic, number in reader.partitions]
        )
        dead_letters = DeadLetters(
            options,
            kafka.dead_letter_topic,
            directory / "dead_letters.jsonl",
            limit=config.spool_bytes,
            timeout_s=config.dead_letter_timeout_s,
            in_doubt=self._is_in_doubt,
        )
        in_doubt_records = self._max_records if self._is_in_doubt else 0
        self._is_in_doubt = True  # the next session follows a batch that may be cut off
        return BrokerSession(
            reader, decoder, dead_letters, address.incarnation, in_doubt_records=in_doubt_records
        )

    def _read_address(self) -> BrokerAddress | None:
        kafka = self._settings.kafka
        if "mesh" not in {kafka.bootstrap_servers, kafka.registry_url}:
            return BrokerAddress(
                bootstrap_servers=kafka.bootstrap_servers, registry_url=kafka.registry_url
            )
        try:
            return self._context.mesh.cell(BROKER, BrokerAddress).read()[1]
        except (SegmentMissing, NotWritten):
            return None

    def _incarnation(self) -> str | None:
        """Return the incarnation of the broker that is there now; None where none is announced."""
        now = time.monotonic()
        if self._address is None or now >= self._address_read_at + ADDRESS_POLL_INTERVAL_S:
            self._address_read_at, self._address = now, self._read_address()
        return None if self._address is None else self._address.incarnation

"""Reads the messages of all partitions from known positions on; the ring owns the positions.

Without a group this process is assigned every partition (`assign()`): the positions committed with
the ring decide where reading continues. What is committed to Kafka serves monitoring, and a start
with an empty mesh. In a group (several hosts) the brokers assign the partitions; how far another
host came since is then known from its commits alone.

A position that the broker no longer holds is never skipped silently: `auto.offset.reset` is
`error`, the gap is counted as lost, and reading continues at the oldest message.

What each partition is doing is one state (`partition.py`); this module performs the actions.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any, Final

from confluent_kafka import (
    OFFSET_BEGINNING,
    OFFSET_END,
    Consumer,
    KafkaError,
    KafkaException,
    Message,
    TopicPartition,
)

from workers.ingest.kafka.broker_errors import BrokerError, BrokerHealth
from workers.ingest.kafka.partition import (
    STARTED,
    Action,
    Event,
    Partition,
    PartitionKey,
    PartitionTable,
    State,
)

if TYPE_CHECKING:
    from config.ingest import IngestConfig
    from config.kafka import KafkaConfig

_RESET: Final = KafkaError._AUTO_OFFSET_RESET  # noqa: SLF001 - public in librdkafka, so spelt in the binding
_EOF: Final = KafkaError._PARTITION_EOF  # noqa: SLF001 - as above
_METADATA_S: Final = 5.0  # time-out of a request that is made while reading
_COMMIT_S: Final = 60.0  # librdkafka's socket.timeout.ms: the longest that a commit takes
#: Without a group librdkafka's session time-out has one effect: that long a commit waits for absent
#: brokers, and a close for the commit (measured, 2.16); the default would be 45 s.
_SESSION_MS: Final = 1000
_GROUP_SESSION_MS: Final = 45_000  # librdkafka's default
_METADATA_CHECK_INTERVAL_S: Final = 0.1  # first wait for metadata before errors are checked
_START_RETRY_S: Final = 0.5  # between two requests for the starts of partitions
STATISTICS_MS: Final = 1000


def profile_options(config: IngestConfig) -> dict[str, Any]:
    """Return librdkafka's options for a profile (CONFIGURATION.md of librdkafka)."""
    options: dict[str, Any] = {
        "fetch.wait.max.ms": math.ceil(config.latency_ms),
        "fetch.error.backoff.ms": 10,
        "fetch.queue.backoff.ms": 1,
        "reconnect.backoff.ms": 50,
        "reconnect.backoff.max.ms": 1000,  # reconnect at once after an outage, not 10 s later
    }
    if config.profile == "throughput":
        return {**options, "queued.min.messages": 1_000_000, "queued.max.messages.kbytes": 262_144}
    return {**options, "socket.nagle.disable": True}


class BrokerUnavailable(Exception):
    """The brokers do not answer, or deny access; worth another try.

    `kind` says which: transport, authentication, tls, configuration (an option of librdkafka).
    """

    def __init__(self, text: str, kind: str = "transport") -> None:
        super().__init__(text)
        self.kind = kind


class PartitionReader:
    """Reads every partition of some topics, or this host's share of them in a group.

    Attributes:
        partitions: (topic, number) of every partition of the topics, at the start; methods name a
            partition by its index here.
        health: connections to the brokers, and errors.
        lost: messages that the broker deleted before they were read; whoever reads it resets it.
        rebalances: assignments and revocations in a group.
        starts_resolved: how often first offsets were looked up after the start.
    """

    def __init__(
        self,
        options: dict[str, Any],
        kafka: KafkaConfig,
        positions: dict[str, int],
        *,
        fill_s: float = 0.0,
        expect: Callable[[float], AbstractContextManager[object]] = nullcontext,
    ) -> None:
        """Look up the partitions and begin at their positions.

        Args:
            options: of librdkafka.
            kafka: topics, group, start and time-outs.
            positions: next offset by partition name, as the ring has them; offsets found
                elsewhere are added.
            fill_s: how long a batch waits to become full once its first message is there, s.
            expect: entered with the seconds that a wait for the brokers may take, so that the
                supervisor does not take it for a hang.

        Raises:
            BrokerUnavailable: no broker answers or accepts this host, a topic does not exist, or
                librdkafka does not accept the options.
        """
        self._fill_s, self._expect = fill_s, expect
        self._positions = positions
        self._group = bool(kafka.group)
        self._start = kafka.start
        self._resolve_at = 0.0  # when starts are requested (again)
        self.health = BrokerHealth(options, expect)
        self.lost = 0
        self.rebalances = 0
        self.starts_resolved = 0
        session_ms = _GROUP_SESSION_MS if kafka.group else _SESSION_MS
        options = {"session.timeout.ms": session_ms, **options}
        self._consumer = self._new_consumer(options, kafka)
        self._close_s = float(options["session.timeout.ms"]) / 1000 + 5.0
        try:
            self.partitions = self._list_partitions(kafka.topics, kafka.connect_timeout_s)
            self._table = PartitionTable(self.partitions)
            self.health.connected()
            self._begin(kafka)
        except KafkaException as error:
            self._consumer.close()
            kind, text = self.health.error() or ("transport", error.args[0].str())
            raise BrokerUnavailable(text, kind) from error
        except BrokerUnavailable:
            self._consumer.close()
            raise

    def _new_consumer(self, options: dict[str, Any], kafka: KafkaConfig) -> Consumer:
        """Make the consumer.

        Raises:
            BrokerUnavailable: librdkafka rejects an option.
        """
        try:
            return Consumer(
                {
                    "statistics.interval.ms": STATISTICS_MS,
                    **options,
                    "group.id": kafka.group or kafka.commit_group,
                    "enable.auto.commit": False,
                    "auto.offset.reset": "error",
                    "partition.assignment.strategy": "cooperative-sticky",
                    **({"group.instance.id": kafka.instance} if kafka.instance else {}),
                    "stats_cb": self.health.on_statistics,
                    "error_cb": self.health.on_error,
                    "on_commit": self._on_commit,
                },
            )
        except KafkaException as error:
            text = f"kafka.options: {error.args[0].str()}"
            raise BrokerUnavailable(text, "configuration") from error

    def _begin(self, kafka: KafkaConfig) -> None:
        """Join the group, or assign every partition.

        Raises:
            KafkaException: the brokers did not answer, or refused.
        """
        if self._group:
            self._consumer.subscribe(
                list(kafka.topics), on_assign=self._on_assign, on_revoke=self._on_revoke
            )
            return
        every = [self._table[key] for key in self.partitions]
        starts = self._starts(every, kafka.connect_timeout_s)
        for partition in every:
            self._table.apply(partition, Event.ASSIGNED)
            self._table.apply(partition, Event.START_KNOWN)
        self._consumer.assign(starts)

    def _list_partitions(self, topics: tuple[str, ...], timeout_s: float) -> list[PartitionKey]:
        known = self._metadata(timeout_s).topics
        missing = [topic for topic in topics if topic not in known or known[topic].error]
        if missing:
            raise BrokerUnavailable(f"topic {missing[0]!r} is not there (yet)")
        return [(topic, number) for topic in topics for number in known[topic].partitions]

    def _metadata(self, timeout_s: float) -> Any:
        """Request the topics, with short time-outs first, so that denied access ends it soon.

        (Passwords that are tried again and again get locked.)

        Raises:
            KafkaException: the brokers did not answer, or refused.
        """
        deadline, wait_s = time.monotonic() + timeout_s, _METADATA_CHECK_INTERVAL_S
        while True:
            left = deadline - time.monotonic()
            try:
                return self._consumer.list_topics(
                    timeout=min(wait_s, max(left, _METADATA_CHECK_INTERVAL_S))
                )
            except KafkaException:
                self._consumer.poll(0)  # callbacks with the errors of the connections
                if self.health.is_denied or left <= wait_s:
                    raise
            wait_s *= 2

    def _starts(self, partitions: list[Partition], timeout_s: float) -> list[TopicPartition]:
        """Return where to begin: the ring's position, Kafka's where that is ahead or alone.

        All within `timeout_s` seconds, however many partitions there are.

        Raises:
            KafkaException: the brokers did not answer, or refused.
        """
        deadline = time.monotonic() + timeout_s
        known = {p.key: self._positions[p.name] for p in partitions if p.name in self._positions}
        requested = [
            TopicPartition(*p.key) for p in partitions if self._group or p.key not in known
        ]
        for answer in self._consumer.committed(requested, timeout=timeout_s) if requested else []:
            key = answer.topic, answer.partition
            if answer.error is not None:
                raise KafkaException(answer.error)
            if answer.offset >= 0:
                known[key] = max(answer.offset, known.get(key, 0))
        blank = [p for p in partitions if p.key not in known]
        edge = OFFSET_BEGINNING if self._start == "oldest" else OFFSET_END
        known |= self._edges(blank, edge, deadline - time.monotonic())
        for key, offset in known.items():
            self._positions[self._table[key].name] = offset
        return [TopicPartition(*key, offset) for key, offset in known.items()]

    def _edges(
        self, partitions: Iterable[Partition], edge: int, timeout_s: float
    ) -> dict[PartitionKey, int]:
        """Return the oldest or the next offset of partitions: one request a broker, not one each.

        `edge` is OFFSET_BEGINNING or OFFSET_END, which Kafka's ListOffsets takes instead of a
        time.

        Raises:
            KafkaException: the brokers did not answer, or refused.
        """
        requested = [TopicPartition(*partition.key, edge) for partition in partitions]
        if not requested:
            return {}
        answers = self._consumer.offsets_for_times(requested, timeout=max(0.1, timeout_s))
        for answer in answers:
            if answer.error is not None:
                raise KafkaException(answer.error)
        return {(answer.topic, answer.partition): answer.offset for answer in answers}

    # --- reading --------------------------------------------------------------------------

    def read(self, max_records: int, wait_s: float) -> list[Message]:
        """Return up to `max_records` messages: wait for the first, add what is there already.

        Args:
            max_records: of messages and events (messages with an error).
            wait_s: for the first message, s.
        """
        self._apply(Event.UNBLOCK, self._table.within(State.BLOCKED))
        if self._table.has(State.WAITING):
            self._resume_due()
        if self._table.has(State.RESOLVING):
            self._resolve_starts()
        rebalances = self.rebalances
        first = self._consumer.poll(wait_s)
        if first is None:
            return []
        messages = self._consumer.consume(max_records - 1, self._fill_s) if max_records > 1 else []
        messages.insert(0, first)
        if self.rebalances != rebalances or self._table.has(State.RESOLVING):
            # drop what is another host's now, or lies before a start
            messages = [m for m in messages if m.error() or self.owns(m)]
        if self._table.has(State.FAILED):
            fetched = {(m.topic(), m.partition()) for m in messages if m.error() is None}
            failed = [p for p in self._table.within(State.FAILED) if p.key in fetched]
            self._apply(Event.MESSAGE, failed)
        return messages

    def idle(self) -> None:
        """Read nothing, but stay a member of the group that answers."""
        if not self._group:
            return
        self._apply(Event.BLOCK, self._table.within(State.READING, State.FAILED))
        event = self._consumer.poll(0)
        if event is not None and event.error() is not None:
            self.handle_event(event)

    def owns(self, message: Message) -> bool:
        """Whether a message is of a partition that is (still) this host's, and started."""
        return self._table[str(message.topic()), int(message.partition() or 0)].state in STARTED

    def next_offsets(self) -> list[int]:
        """Return the next offset by index of a partition, as the ring has it (0 where unknown)."""
        return [self._positions.get(self._table[key].name, 0) for key in self.partitions]

    def handle_event(self, event: Message) -> None:
        """Process a message that carries an error."""
        error, topic, number = event.error(), event.topic(), event.partition()
        if error is None or error.code() == _EOF:
            return
        partition = None
        if topic is not None and number is not None and number >= 0:
            partition = self._table[topic, number]
        if error.code() == _RESET and partition is not None:
            self._apply(Event.OUT_OF_RANGE, [partition])
            partition.missing_offset = event.offset() or 0
            return
        if partition is not None:
            self._apply(Event.ERROR, [partition])
        self.health.on_error(error)

    def recover(self) -> dict[int, int]:
        """Move the partitions whose positions the broker does not hold.

        Returns:
            The new offset by index of a partition; empty while the broker does not answer: the
            next call tries again.
        """
        missing = self._table.within(State.RECOVERING)
        try:
            with self._expect(2 * _METADATA_S + 1.0):
                lows = self._edges(missing, OFFSET_BEGINNING, _METADATA_S)
                highs = self._edges(missing, OFFSET_END, _METADATA_S)
        except KafkaException as error:
            self.health.on_error(error.args[0])
            return {}
        moved = {}
        for partition in missing:
            if partition.state is not State.RECOVERING:  # revoked meanwhile
                continue
            low, wanted = lows[partition.key], partition.missing_offset
            self._move(partition, low)
            # A log that ends before the position is another one (the topic was recreated): all of
            # it is new. Otherwise what was deleted before it was read is lost.
            self.lost += max(0, low - wanted) if wanted <= highs[partition.key] else 0
            moved[self.partitions.index(partition.key)] = low
        return moved

    @property
    def is_deferring(self) -> bool:
        """Whether partitions wait for a schema."""
        return self._table.has(State.WAITING)

    @property
    def is_recovering(self) -> bool:
        """Whether there are positions to recover."""
        return self._table.has(State.RECOVERING)

    def states(self) -> dict[str, str]:
        """Return the state of each partition by its name."""
        return self._table.states()

    def defer(self, index: int, offset: int, seconds: float) -> None:
        """Pause a partition for some seconds and continue it at `offset`; the others are read."""
        partition = self._table[self.partitions[index]]
        partition.due_at = time.monotonic() + seconds
        self._apply(Event.DEFERRED, [partition], {partition.key: offset})

    def skip_to_end(self) -> dict[int, tuple[int, int]]:
        """Move every partition to its end.

        Returns:
            How many messages were skipped, and the next offset, by index of a partition.
        """
        started = self._table.within(*STARTED)
        try:
            with self._expect(_METADATA_S + 1.0):
                highs = self._edges(started, OFFSET_END, _METADATA_S)
        except KafkaException as error:
            self.health.on_error(error.args[0])
            return {}
        skipped = {}
        for partition in started:
            high = highs[partition.key]
            behind = high - self._positions.get(partition.name, 0)
            if behind > 0:
                self._move(partition, high)
                skipped[self.partitions.index(partition.key)] = behind, high
        return skipped

    def seek(self, index: int, offset: int) -> bool:
        """Continue a partition at another offset; False where it is another host's."""
        partition = self._table[self.partitions[index]]
        if partition.state is State.UNASSIGNED:
            return False
        self._move(partition, offset)
        return True

    def _resolve_starts(self) -> None:
        """Start the partitions that were assigned; they stay paused while the brokers are away."""
        if time.monotonic() < self._resolve_at:
            return
        resolving = self._table.within(State.RESOLVING)
        try:
            with self._expect(2 * _METADATA_S + 1.0):
                starts = self._starts(resolving, _METADATA_S)
        except KafkaException as error:
            self.health.on_error(error.args[0])
            self._resolve_at = time.monotonic() + _START_RETRY_S
            return
        offsets = {(start.topic, start.partition): start.offset for start in starts}
        self._apply(Event.START_KNOWN, resolving, offsets)
        self.starts_resolved += 1

    def _resume_due(self) -> None:
        now = time.monotonic()
        due = [p for p in self._table.within(State.WAITING) if p.due_at <= now]
        self._apply(Event.DUE, due)

    def _move(self, partition: Partition, offset: int) -> None:
        self._apply(Event.MOVED, [partition], {partition.key: offset})

    # --- actions --------------------------------------------------------------------------

    def _apply(
        self,
        event: Event,
        partitions: Iterable[Partition],
        offsets: dict[PartitionKey, int] | None = None,
    ) -> None:
        """Change states and perform the actions; `offsets` where an action needs them."""
        actions: dict[Action, list[TopicPartition]] = {}
        for partition in partitions:
            action = self._table.apply(partition, event)
            if action is not Action.NOTHING:
                at = TopicPartition(*partition.key)
                if offsets is not None:
                    at.offset = offsets[partition.key]
                actions.setdefault(action, []).append(at)
        for action, located in actions.items():
            self._perform(action, located)

    def _perform(self, action: Action, located: list[TopicPartition]) -> None:
        consumer = self._consumer
        if action is Action.ADD:
            consumer.incremental_assign(located)
            consumer.pause(located)
        elif action is Action.MOVE:
            # assigned anew: a partition whose position was lost is stopped and cannot seek
            consumer.incremental_unassign(located)
            consumer.incremental_assign(located)
            consumer.resume(located)
        elif action is Action.HOLD:
            consumer.pause(located)
            for each in located:
                consumer.seek(each)
        elif action is Action.PAUSE:
            consumer.pause(located)
        elif action is Action.RESUME:
            consumer.resume(located)
        elif action is Action.REMOVE:
            consumer.incremental_unassign(located)

    # --- commits to Kafka -----------------------------------------------------------------

    def acknowledge(self, positions: dict[str, int]) -> None:
        """Take over the positions that are committed to the ring, by partition name."""
        self._positions = positions

    def commit(self, *, wait: bool = False, partitions: Iterable[Partition] | None = None) -> None:
        """Commit to Kafka what has moved since the last time, or all positions of `partitions`.

        `wait`: until the brokers have answered, if any is connected.
        """
        # partitions of others, and those without a start, may be behind Kafka's commit
        chosen = self._table.within(*STARTED) if partitions is None else partitions
        offsets = []
        for partition in chosen:
            offset = self._positions.get(partition.name, 0)
            if partition.state not in STARTED:
                continue
            if offset != partition.committed or (partitions is not None and offset):
                partition.committed = offset
                offsets.append(TopicPartition(*partition.key, offset))
        if not offsets:
            return
        try:
            if wait and self.health.brokers_up:
                with self._expect(_COMMIT_S + 1.0):
                    done = self._consumer.commit(offsets=offsets, asynchronous=False)
                self._on_commit(None, done)
            else:
                self._consumer.commit(offsets=offsets, asynchronous=True)
        except KafkaException as error:
            self._on_commit(error.args[0], offsets)

    def has_grown(self) -> bool:
        """Whether the topics have partitions that were not there at the start."""
        try:
            with self._expect(_METADATA_S + 1.0):
                known = self._consumer.list_topics(timeout=_METADATA_S).topics
        except KafkaException as error:
            self.health.on_error(error.args[0])
            return False
        return any(
            (topic, number) not in self.partitions
            for topic in {topic for topic, _ in self.partitions} & known.keys()
            for number in known[topic].partitions
        )

    def lag(self) -> dict[str, int]:
        """Return how many messages each partition is behind its newest, where that is known."""
        behind = {}
        for partition in self._table.within(*STARTED):
            at = TopicPartition(*partition.key)
            _, high = self._consumer.get_watermark_offsets(at, cached=True)
            if high >= 0:
                position = self._positions.get(partition.name, 0)
                behind[partition.name] = max(0, high - position)
        return behind

    def broker_error(self) -> BrokerError | None:
        """Return why no broker accepts this host, or why this client is over; see BrokerHealth."""
        return self.health.error()

    def close(self) -> None:
        """Leave the brokers, and the group."""
        with self._expect(self._close_s):
            self._consumer.close()

    # --- callbacks of librdkafka, all within poll() ------------------------------------------

    def _on_assign(self, _: Consumer, assigned: list[TopicPartition]) -> None:
        """Add partitions, paused: a callback must not wait, so `read` looks up their starts."""
        self.rebalances += 1
        self._resolve_at = 0.0
        partitions = [self._table[at.topic, at.partition] for at in assigned]
        offsets = {p.key: self._positions.get(p.name, 0) for p in partitions}
        self._apply(Event.ASSIGNED, partitions, offsets)

    def _on_revoke(self, _: Consumer, revoked: list[TopicPartition]) -> None:
        """Commit for the next owner: no message of these partitions is under way here."""
        self.rebalances += 1
        partitions = [self._table[at.topic, at.partition] for at in revoked]
        self.commit(wait=True, partitions=partitions)
        self._apply(Event.REVOKED, partitions)

    def _on_commit(self, error: KafkaError | None, offsets: list[TopicPartition]) -> None:
        """Forget what could not be committed: it is committed again."""
        for at in offsets:
            failed = error or at.error
            if failed:
                self.health.on_error(failed)
                self._table[at.topic, at.partition].committed = 0

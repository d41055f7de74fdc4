"""Messages of all partitions from known positions on; the ring knows them, Kafka is told.

Without a group this process is assigned every partition (`assign()`): the positions committed with
the ring decide where to go on, and what is committed to Kafka is for monitoring, and for a start
with an empty mesh. In a group (several hosts) the partitions are dealt out by the brokers; what
another host has passed since is then known from its commits alone.

A position that the broker no longer holds is never skipped silently: `auto.offset.reset` is
`error`, the gap is counted as lost, and reading goes on at the oldest message there.
"""

from __future__ import annotations

import json
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

from workers.ingest.kafka.broker_errors import FINAL, LOOK_S, refusal, with_reason

if TYPE_CHECKING:
    from config.ingest import IngestConfig
    from config.kafka import KafkaConfig

_RESET: Final = KafkaError._AUTO_OFFSET_RESET  # noqa: SLF001 - public in librdkafka, so spelt in the binding
_EOF: Final = KafkaError._PARTITION_EOF  # noqa: SLF001 - as above
_METADATA_S: Final = 5.0  # of a request that is made while reading
_COMMIT_S: Final = 60.0  # librdkafka's socket.timeout.ms: the longest that a commit is waited for
#: Without a group librdkafka's session time out has one effect: so long a commit waits for brokers
#: that are away, and a close for the commit (measured, 2.16); the default would be 45 s.
_SESSION_MS: Final = 1000
_GROUP_SESSION_MS: Final = 45_000  # librdkafka's default
_LOOK_S: Final = 0.1  # of a request for metadata, before it is looked whether we are refused
_AGAIN_S: Final = 0.5  # between two questions where partitions begin
STATISTICS_MS: Final = 1000

Place = tuple[str, int]


def place(topic: str, partition: int) -> str:
    """Give the name of a partition in positions and status."""
    return f"{topic}/{partition}"


def profile_options(config: IngestConfig) -> dict[str, Any]:
    """Give librdkafka's options for a profile (CONFIGURATION.md of librdkafka)."""
    options: dict[str, Any] = {
        "fetch.wait.max.ms": math.ceil(config.latency_ms),
        "fetch.error.backoff.ms": 10,
        "fetch.queue.backoff.ms": 1,
        "reconnect.backoff.ms": 50,
        "reconnect.backoff.max.ms": 1000,  # an outage ends when the broker is back, not 10 s later
    }
    if config.profile == "throughput":
        return {**options, "queued.min.messages": 1_000_000, "queued.max.messages.kbytes": 262_144}
    return {**options, "socket.nagle.disable": True}


class BrokerUnavailable(Exception):
    """The brokers do not answer, or refuse us; worth another try.

    `kind` says which: transport, authentication, tls, configuration (an option of librdkafka).
    """

    def __init__(self, text: str, kind: str = "transport") -> None:
        super().__init__(text)
        self.kind = kind


class PartitionReader:
    """Reads every partition of some topics, or its share of them in a group."""

    def __init__(
        self,
        options: dict[str, Any],
        kafka: KafkaConfig,
        positions: dict[str, int],
        *,
        fill_s: float = 0.0,
        expect: Callable[[float], AbstractContextManager[object]] = nullcontext,
    ) -> None:
        """Look the partitions up and begin at their positions. Raises BrokerUnavailable.

        A batch whose first message is there waits up to `fill_s` seconds to become full.
        `expect(seconds)` is entered while the brokers are waited for: that is no hang.
        """
        self._fill_s, self._expect, self._options = fill_s, expect, options
        self.errors: dict[str, int] = {}
        self.lost = 0
        self.rebalances = 0
        self.begun = 0  # how often positions were taken from elsewhere than the ring
        self.brokers_up = 0
        self._refusal: tuple[str, str] | None = None  # kind and text, while no broker takes us
        self._reasons: dict[str, str] = {}  # texts with what a look at the certificate showed
        self.round_trip_ms = 0.0
        self._positions = positions
        self._group = bool(kafka.group)
        self._start = kafka.start
        self._committed: dict[Place, int] = {}
        self._is_idle = False
        self._stuck: dict[Place, int] = {}  # positions that the broker does not hold
        self._deferred: dict[Place, float] = {}  # paused until then
        self._new: set[Place] = set()  # assigned, and not yet known where to begin
        self._ask_at = 0.0
        session_ms = _GROUP_SESSION_MS if kafka.group else _SESSION_MS
        options = {"session.timeout.ms": session_ms, **options}
        self._consumer = self._made(options, kafka)
        self._close_s = float(options["session.timeout.ms"]) / 1000 + 5.0
        try:
            self.places = self._look_up(kafka.topics, kafka.connect_timeout_s)
            self.brokers_up, self._refusal = 1, None
            if self._group:
                self._consumer.subscribe(
                    list(kafka.topics), on_assign=self._on_assign, on_revoke=self._on_revoke
                )
                self._owned: set[Place] = set()
            else:
                self._owned = set(self.places)
                self._consumer.assign(self._starts(self.places, kafka.connect_timeout_s))
        except KafkaException as error:
            self._consumer.close()
            kind, text = self.refused() or ("transport", error.args[0].str())
            raise BrokerUnavailable(text, kind) from error
        except BrokerUnavailable:
            self._consumer.close()
            raise

    def _made(self, options: dict[str, Any], kafka: KafkaConfig) -> Consumer:
        """Make the consumer. Raises BrokerUnavailable for options that librdkafka does not take."""
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
                    "stats_cb": self._note_statistics,
                    "error_cb": self._note_error,
                    "on_commit": self._note_commit,
                },
            )
        except KafkaException as error:
            text = f"kafka.options: {error.args[0].str()}"
            raise BrokerUnavailable(text, "configuration") from error

    def _look_up(self, topics: tuple[str, ...], timeout_s: float) -> list[Place]:
        known = self._metadata(timeout_s).topics
        missing = [topic for topic in topics if topic not in known or known[topic].error]
        if missing:
            raise BrokerUnavailable(f"topic {missing[0]!r} is not there (yet)")
        return [(topic, partition) for topic in topics for partition in known[topic].partitions]

    def _metadata(self, timeout_s: float) -> Any:
        """Ask for the topics, first for a moment, then longer: who is refused learns it soon.

        (Passwords that are tried again and again get locked.) Raises KafkaException.
        """
        deadline, wait_s = time.monotonic() + timeout_s, _LOOK_S
        while True:
            left = deadline - time.monotonic()
            try:
                return self._consumer.list_topics(timeout=min(wait_s, max(left, _LOOK_S)))
            except KafkaException:
                self._consumer.poll(0)  # what the connections met with
                if self._refusal is not None or left <= wait_s:
                    raise
            wait_s *= 2

    def _starts(self, places: list[Place], timeout_s: float) -> list[TopicPartition]:
        """Give where to begin: the ring's position, Kafka's where that is ahead or alone.

        All within `timeout_s` seconds, however many partitions there are. Raises KafkaException.
        """
        deadline = time.monotonic() + timeout_s
        known = {at: self._positions[place(*at)] for at in places if place(*at) in self._positions}
        asked = [TopicPartition(*at) for at in places if self._group or at not in known]
        for found in self._consumer.committed(asked, timeout=timeout_s) if asked else []:
            at = found.topic, found.partition
            if found.error is not None:
                raise KafkaException(found.error)
            if found.offset >= 0:
                known[at] = max(found.offset, known.get(at, 0))
        blank = [at for at in places if at not in known]
        edge = OFFSET_BEGINNING if self._start == "oldest" else OFFSET_END
        known |= self._edges(blank, edge, deadline - time.monotonic())
        for at, offset in known.items():
            self._positions[place(*at)] = offset
        return [TopicPartition(*at, offset) for at, offset in known.items()]

    def _edges(self, places: Iterable[Place], edge: int, timeout_s: float) -> dict[Place, int]:
        """Give the oldest or the next offset of partitions: one request a broker, not one each.

        `edge` is OFFSET_BEGINNING or OFFSET_END, as Kafka's ListOffsets has them in the place of
        a time. Raises KafkaException.
        """
        asked = [TopicPartition(*at, edge) for at in places]
        found = (
            self._consumer.offsets_for_times(asked, timeout=max(0.1, timeout_s)) if asked else []
        )
        for at in found:
            if at.error is not None:
                raise KafkaException(at.error)
        return {(at.topic, at.partition): at.offset for at in found}

    # --- reading --------------------------------------------------------------------------

    def read(self, most: int, wait_s: float) -> list[Message]:
        """Give up to `most` messages: wait for the first, take what else is there already."""
        if self._is_idle:
            self._is_idle = False
            ready = self._owned - self._new - set(self._deferred)
            self._consumer.resume([TopicPartition(*at) for at in ready])
        if self._deferred:
            self._resume()
        if self._new:
            self._begin()
        rebalances = self.rebalances
        first = self._consumer.poll(wait_s)
        if first is None:
            return []
        found = self._consumer.consume(most - 1, self._fill_s) if most > 1 else []
        found.insert(0, first)
        if self.rebalances != rebalances or self._new:  # another host's, or from before its start
            found = [m for m in found if m.error() or self.owns(m)]
        return found

    def idle(self) -> None:
        """Take nothing, but stay a member of the group that answers."""
        if not self._group:
            return
        if not self._is_idle:
            self._is_idle = True
            self._consumer.pause([TopicPartition(*at) for at in self._owned])
        event = self._consumer.poll(0)
        if event is not None and event.error() is not None:
            self.note(event)

    def owns(self, message: Message) -> bool:
        """Tell whether a message is of a partition that is (still) this host's, and begun."""
        return (message.topic(), message.partition()) in self._owned - self._new

    def following(self) -> list[int]:
        """Give the next offset of each place, as the ring has it (0 where it has none)."""
        return [self._positions.get(place(*at), 0) for at in self.places]

    def note(self, event: Message) -> None:
        """Take a message that carries an error."""
        error, topic, partition = event.error(), event.topic(), event.partition()
        if error is None or error.code() == _EOF:
            return
        if error.code() == _RESET and topic is not None and partition is not None:
            self._stuck[topic, partition] = event.offset() or 0
            return
        self._note_error(error)

    def recover(self) -> dict[int, int]:
        """Move positions that the broker does not hold; gives the new ones by place.

        Nothing is moved while the broker does not answer: the next call tries again.
        """
        moved = {}
        try:
            with self._expect(2 * _METADATA_S + 1.0):
                lows = self._edges(self._stuck, OFFSET_BEGINNING, _METADATA_S)
                highs = self._edges(self._stuck, OFFSET_END, _METADATA_S)
        except KafkaException as error:
            self._note_error(error.args[0])
            return {}
        for at, low in lows.items():
            wanted = self._stuck.pop(at)
            if at not in self._owned:  # taken away meanwhile
                continue
            self._go(TopicPartition(*at, low))
            # A log that ends before the position is another one (the topic was made anew): all
            # of it is new. Otherwise what was deleted before it was read is gone.
            self.lost += max(0, low - wanted) if wanted <= highs[at] else 0
            moved[self.places.index(at)] = low
        return moved

    @property
    def is_over(self) -> bool:
        """Whether librdkafka has given this client up: nothing comes any more."""
        return self._refusal is not None and self._refusal[0] in FINAL

    @property
    def is_deferring(self) -> bool:
        """Whether places are left alone for a while."""
        return bool(self._deferred)

    @property
    def is_stuck(self) -> bool:
        """Whether there are positions to recover."""
        return bool(self._stuck)

    def defer(self, number: int, offset: int, seconds: float) -> None:
        """Leave a place alone for a while and go on with it at `offset`; the others run on."""
        at = self.places[number]
        partition = TopicPartition(*at, offset)
        self._consumer.pause([partition])
        self._consumer.seek(partition)
        self._deferred[at] = time.monotonic() + seconds

    def skip_to_end(self) -> dict[int, tuple[int, int]]:
        """Go to the end of every partition; gives (how many were skipped, next offset) by place."""
        skipped = {}
        try:
            with self._expect(_METADATA_S + 1.0):
                highs = self._edges(sorted(self._owned - self._new), OFFSET_END, _METADATA_S)
        except KafkaException as error:
            self._note_error(error.args[0])
            return {}
        for at, high in highs.items():
            behind = high - self._positions.get(place(*at), 0)
            if behind > 0:
                self._go(TopicPartition(*at, high))
                skipped[self.places.index(at)] = behind, high
        return skipped

    def seek(self, number: int, offset: int) -> None:
        """Go on with a place at another offset."""
        self._go(TopicPartition(*self.places[number], offset))

    def _go(self, to: TopicPartition) -> None:
        """Go on with a partition elsewhere.

        It is assigned anew: one whose position was lost is stopped, and cannot seek.
        """
        self._consumer.incremental_unassign([to])
        self._consumer.incremental_assign([to])
        self._deferred.pop((to.topic, to.partition), None)

    def _begin(self) -> None:
        """Let partitions that were assigned begin; while that cannot be known they stand still."""
        if time.monotonic() < self._ask_at:
            return
        try:
            with self._expect(2 * _METADATA_S + 1.0):
                starts = self._starts(sorted(self._new), _METADATA_S)
        except KafkaException as error:
            self._note_error(error.args[0])
            self._ask_at = time.monotonic() + _AGAIN_S
            return
        for start in starts:
            self._go(start)
        self._consumer.resume(starts)
        self._new.clear()
        self.begun += 1

    def _resume(self) -> None:
        now = time.monotonic()
        due = [at for at, until in self._deferred.items() if until <= now]
        for at in due:
            del self._deferred[at]
        self._consumer.resume([TopicPartition(*at) for at in due if at in self._owned])

    # --- what Kafka is told ---------------------------------------------------------------

    def passed(self, positions: dict[str, int]) -> None:
        """Take over positions that are committed to the ring."""
        self._positions = positions

    def commit(self, *, wait: bool = False, places: Iterable[Place] | None = None) -> None:
        """Commit what has moved since the last time, or all positions of `places`."""
        begun = self._owned - self._new  # the positions of others may be behind Kafka's
        moved = {
            at: offset
            for at in (begun if places is None else begun.intersection(places))
            if (offset := self._positions.get(place(*at), 0)) != self._committed.get(at, 0)
            or (places is not None and offset)
        }
        if not moved:
            return
        offsets = [TopicPartition(*at, offset) for at, offset in moved.items()]
        self._committed.update(moved)
        try:
            if wait and self.brokers_up:
                with self._expect(_COMMIT_S + 1.0):
                    done = self._consumer.commit(offsets=offsets, asynchronous=False)
                self._note_commit(None, done)
            else:
                self._consumer.commit(offsets=offsets, asynchronous=True)
        except KafkaException as error:
            self._note_commit(error.args[0], offsets)

    def has_grown(self) -> bool:
        """Tell whether the topics have partitions that were not there at the start."""
        try:
            with self._expect(_METADATA_S + 1.0):
                known = self._consumer.list_topics(timeout=_METADATA_S).topics
        except KafkaException as error:
            self._note_error(error.args[0])
            return False
        return any(
            (topic, partition) not in self.places
            for topic in {topic for topic, _ in self.places} & known.keys()
            for partition in known[topic].partitions
        )

    def lag(self) -> dict[str, int]:
        """Give how many messages each partition is behind its newest, as far as it is known."""
        behind = {}
        for at in self._owned - self._new:
            _, high = self._consumer.get_watermark_offsets(TopicPartition(*at), cached=True)
            if high >= 0:
                behind[place(*at)] = max(0, high - self._positions.get(place(*at), 0))
        return behind

    def refused(self) -> tuple[str, str] | None:
        """Give kind and text of why no broker takes us, or why this client is over.

        None where all is well, or the brokers are just not there.
        """
        if self._refusal is None or (self.brokers_up and not self.is_over):
            return None
        kind, text = self._refusal
        if text not in self._reasons:
            with self._expect(2 * LOOK_S + 1.0):
                self._reasons[text] = with_reason(text, self._options)
        return kind, self._reasons[text]

    def close(self) -> None:
        """Leave the brokers, and the group."""
        with self._expect(self._close_s):
            self._consumer.close()

    # --- callbacks of librdkafka, all within poll() ------------------------------------------

    def _on_assign(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        """Take partitions over, standing still: nothing may wait here, `read` asks for starts."""
        self.rebalances += 1
        places = [(p.topic, p.partition) for p in partitions]
        self._owned.update(places)
        self._new.update(places)
        self._ask_at = 0.0
        at = [TopicPartition(*each, self._positions.get(place(*each), 0)) for each in places]
        consumer.incremental_assign(at)
        consumer.pause(at)

    def _on_revoke(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        """Tell the next owner where to go on: nothing of these partitions is under way here."""
        self.rebalances += 1
        gone = {(p.topic, p.partition) for p in partitions}
        self.commit(wait=True, places=gone)
        self._owned -= gone
        self._new -= gone
        for at in gone:
            self._stuck.pop(at, None)
            self._deferred.pop(at, None)
        consumer.incremental_unassign(partitions)

    def _note_commit(self, error: KafkaError | None, partitions: list[TopicPartition]) -> None:
        """Forget what was not committed after all: it is committed again."""
        for partition in partitions:
            failed = error or partition.error
            if failed:
                self._note_error(failed)
                self._committed.pop((partition.topic, partition.partition), None)

    def _note_error(self, error: KafkaError) -> None:
        self.errors[error.name()] = self.errors.get(error.name(), 0) + 1
        if self.is_over:  # what follows is for this reason
            return
        self._refusal = refusal(error) or self._refusal

    def _note_statistics(self, text: str) -> None:
        """Keep whether a broker is connected, and how fast it answers (STATISTICS.md)."""
        brokers = [b for b in json.loads(text)["brokers"].values() if b["nodeid"] >= 0]
        self.brokers_up = sum(broker["state"] == "UP" for broker in brokers)
        if self.brokers_up and not self.is_over:
            self._refusal = None
        times = [broker["rtt"]["avg"] for broker in brokers if broker["state"] == "UP"]
        self.round_trip_ms = sum(times) / len(times) / 1000 if times else 0.0

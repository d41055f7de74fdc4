"""Messages of all partitions from known positions on: `assign()`, never a commit that matters.

The ring `ticks` knows what was taken; Kafka is only asked for what comes after it. A position that
the broker no longer holds is moved to the oldest message there, and the gap is counted as lost.
"""

from __future__ import annotations

from typing import Any

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition

_RESET = KafkaError._AUTO_OFFSET_RESET  # noqa: SLF001 - public in librdkafka, so spelt in the binding
_EOF = KafkaError._PARTITION_EOF  # noqa: SLF001 - as above


def place(topic: str, partition: int) -> str:
    """Give the name of a partition in positions and status."""
    return f"{topic}/{partition}"


class BrokerUnavailable(Exception):
    """The brokers do not answer; worth another try."""


class PartitionReader:
    """Reads every partition of some topics."""

    def __init__(
        self,
        options: dict[str, Any],
        topics: tuple[str, ...],
        positions: dict[str, int],
        *,
        timeout_s: float,
    ) -> None:
        """Assign all partitions at their positions (0 where unknown). Raises BrokerUnavailable."""
        self.errors: dict[str, int] = {}
        self.lost = 0
        self._timeout_s = timeout_s
        self._consumer = Consumer(
            {
                "group.id": "tradingmesh",
                "enable.auto.commit": False,
                "auto.offset.reset": "error",
                **options,
            },
        )
        try:
            known = self._consumer.list_topics(timeout=timeout_s).topics
        except KafkaException as error:
            self._consumer.close()
            raise BrokerUnavailable(str(error.args[0])) from error
        missing = [topic for topic in topics if topic not in known]
        if missing:
            self._consumer.close()
            raise BrokerUnavailable(f"topic {missing[0]!r} is not there (yet)")
        self._assigned = [
            TopicPartition(topic, partition, positions.get(place(topic, partition), 0))
            for topic in topics
            for partition in known[topic].partitions
        ]
        #: (topic, partition) by place, the number that batches use
        self.places = [(at.topic, at.partition) for at in self._assigned]
        self._consumer.assign(self._assigned)

    def read(self, most: int, wait_s: float) -> list[Message]:
        """Give up to `most` messages: wait for the first, take what else is there already."""
        first = self._consumer.poll(wait_s)
        if first is None:
            return []
        if most == 1:
            return [first]
        found = self._consumer.consume(most - 1, 0)
        found.insert(0, first)
        return found

    def lag(self, positions: dict[str, int]) -> dict[str, int]:
        """Give how many messages each partition is behind its newest, as far as it is known."""
        behind = {}
        for assigned in self._assigned:
            _, high = self._consumer.get_watermark_offsets(assigned, cached=True)
            name = place(assigned.topic, assigned.partition)
            if high >= 0:
                behind[name] = max(0, high - positions.get(name, 0))
        return behind

    def close(self) -> None:
        """Leave the brokers."""
        self._consumer.close()

    def note(self, event: Message) -> tuple[int, int] | None:
        """Take a message with an error; gives (place, next offset) where it moved a position."""
        error = event.error()
        if error is None or error.code() == _EOF:
            return None
        if error.code() == _RESET:
            return self._move(event)
        self.errors[error.name()] = self.errors.get(error.name(), 0) + 1
        return None

    def _move(self, event: Message) -> tuple[int, int] | None:
        """Go on at the oldest message the broker still has; what lies between is lost."""
        topic, partition = event.topic(), event.partition()
        if topic is None or partition is None:
            return None
        at = TopicPartition(topic, partition)
        low, high = self._consumer.get_watermark_offsets(at, timeout=self._timeout_s)
        wanted = event.offset() or 0
        # A log that ends before the position is another one (the topic was made anew): all of it
        # is new. Otherwise what was deleted before it was read is gone.
        self.lost += max(0, low - wanted) if wanted <= high else 0
        self._consumer.seek(TopicPartition(topic, partition, low))
        return self.places.index((topic, partition)), low

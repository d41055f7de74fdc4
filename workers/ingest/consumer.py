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
        self._consumer.assign(self._assigned)

    def read(self, most: int, wait_s: float) -> list[Message]:
        """Give up to `most` messages: wait for the first, take what else is there already."""
        first = self._consumer.poll(wait_s)
        if first is None:
            return []
        found = [first, *self._consumer.consume(most - 1, 0)] if most > 1 else [first]
        return [message for message in found if self._is_message(message)]

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

    def _is_message(self, message: Message) -> bool:
        error = message.error()
        if error is None:
            return True
        if error.code() == _RESET:
            self._move(message)
        elif error.code() != _EOF:
            self.errors[error.name()] = self.errors.get(error.name(), 0) + 1
        return False

    def _move(self, message: Message) -> None:
        """Go on at the oldest message the broker still has; what lies between is lost."""
        topic, partition = message.topic(), message.partition()
        if topic is None or partition is None:
            return
        at = TopicPartition(topic, partition)
        low, high = self._consumer.get_watermark_offsets(at, timeout=self._timeout_s)
        wanted = message.offset() or 0
        target = low if wanted < low else high
        self.lost += max(0, target - wanted)
        self._consumer.seek(TopicPartition(topic, partition, target))

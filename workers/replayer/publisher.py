"""Sends messages to a topic, at least once, in the given order within each partition.

librdkafka reports errors only, which saves a Python call per message: if a flush empties the queue
without a report, all messages were delivered. Only one request is in flight, so that a retry cannot
change the order.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING

from confluent_kafka import KafkaError, Message, Producer

from workers.replayer.encoder import Partitions

if TYPE_CHECKING:
    from workers.replayer.faults import Outgoing

WAIT_S = 0.05


class Publisher:
    """A producer for the current brokers."""

    def __init__(
        self, options: dict[str, str], topic: str, partitions: int, timeout_s: float
    ) -> None:
        """Connect to the brokers.

        Args:
            options: Options of librdkafka, with `bootstrap.servers`.
            topic: The topic.
            partitions: Its number of partitions; 0: ask the brokers, which is a KafkaException of
                the client if none answers.
            timeout_s: Time limit for asking, seconds.
        """
        self._failed: Counter[bytes | None] = Counter()
        self._topic = topic
        self._producer = Producer(
            {
                "linger.ms": 5,
                "max.in.flight.requests.per.connection": 1,
                "queue.buffering.max.messages": 1_000_000,
                "delivery.report.only.error": True,
                "on_delivery": self._report,
                **options,
            }
        )
        if partitions < 1:
            known = self._producer.list_topics(topic, timeout_s).topics[topic].partitions
            partitions = max(1, len(known))
        self._partitions = Partitions(partitions)

    def poll(self) -> None:
        """Run the pending callbacks of librdkafka."""
        self._producer.poll(0)

    def send(self, out: Outgoing, keep_waiting: Callable[[], bool | None]) -> list[int]:
        """Send messages and wait until each is delivered or has failed.

        Args:
            out: The messages.
            keep_waiting: Called every 50 ms. False ends the wait, and all messages count as
                failed; None gives up messages in flight, because the brokers were replaced.

        Returns:
            The indices of the failed messages.
        """
        self._failed.clear()
        produce, topic, partitions = self._producer.produce, self._topic, self._partitions
        for value, key in zip(out.values, out.keys, strict=True):
            while True:
                try:
                    produce(topic, value, key, partitions[key])
                except BufferError:  # the local queue is full: let it drain
                    self._producer.poll(WAIT_S)
                    if not keep_waiting():
                        return list(range(len(out.values)))
                else:
                    break
        while self._producer.flush(WAIT_S) > 0:
            answer = keep_waiting()
            if answer is None:
                self._producer.purge()
            elif not answer:
                return list(range(len(out.values)))
        return self._matched(out)

    def _report(self, error: KafkaError | None, message: Message) -> None:
        if error is not None:
            value = message.value()
            self._failed[value.encode() if isinstance(value, str) else value] += 1

    def _matched(self, out: Outgoing) -> list[int]:
        """Return the indices of the failed messages, matched by value."""
        if not self._failed:
            return []
        found = []
        for index, value in enumerate(out.values):
            if self._failed[value] > 0:
                self._failed[value] -= 1
                found.append(index)
        return found

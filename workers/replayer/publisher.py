"""Messages to a topic of one broker, at least once, in the order given for each partition.

librdkafka is asked to report errors alone: a call of Python a message is spared, and a flush that
ends empty without a report has delivered everything. One request is under way at a time, so that a
retry cannot overtake what was sent behind it.
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
    """A producer for the brokers that are there now."""

    def __init__(
        self, options: dict[str, str], topic: str, partitions: int, timeout_s: float
    ) -> None:
        """Connect; `partitions` = 0: ask for the number. Raises KafkaException if none answers."""
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
        """Serve what librdkafka has to say."""
        self._producer.poll(0)

    def send(self, out: Outgoing, go_on: Callable[[], bool | None]) -> list[int]:
        """Send messages and wait until each is delivered or has failed; gives which have failed.

        `go_on` is asked every 50 ms: False ends the waiting, what is not delivered has failed
        then; None says that these brokers will never answer again.
        """
        self._failed.clear()
        produce, topic, partitions = self._producer.produce, self._topic, self._partitions
        for value, key in zip(out.values, out.keys, strict=True):
            while True:
                try:
                    produce(topic, value, key, partitions[key])
                except BufferError:  # the local queue is full: let it drain
                    self._producer.poll(WAIT_S)
                    if not go_on():
                        return list(range(len(out.values)))
                else:
                    break
        while self._producer.flush(WAIT_S) > 0:
            answer = go_on()
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
        """Which messages the errors were about: found by value, of equal ones any will do."""
        if not self._failed:
            return []
        found = []
        for index, value in enumerate(out.values):
            if self._failed[value] > 0:
                self._failed[value] -= 1
                found.append(index)
        return found

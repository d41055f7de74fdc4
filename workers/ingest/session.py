"""The session with the brokers: what belongs to one connection."""

from __future__ import annotations

from typing import TYPE_CHECKING

from workers.ingest.positions import Positions

if TYPE_CHECKING:
    from confluent_kafka import Message

    from workers.ingest.decode.decoder import BatchDecoder
    from workers.ingest.decode.mapping import Rows
    from workers.ingest.kafka.consumer import PartitionReader
    from workers.ingest.kafka.dead_letter import DeadLetters
    from workers.ingest.kafka.partition import PartitionKey


class BrokerSession:
    """What exists while there is a broker.

    Attributes:
        held: messages of a batch that could not be committed; they are processed again.
        in_doubt_until: by partition, letters before this offset may be delivered already.
    """

    def __init__(
        self,
        reader: PartitionReader,
        decoder: BatchDecoder,
        dead_letters: DeadLetters,
        incarnation: str,
        *,
        in_doubt_records: int = 0,
    ) -> None:
        """Begin at the reader's positions.

        `in_doubt_records`: size of a batch whose letters an earlier process may have delivered.
        """
        self.reader, self.decoder, self.dead_letters = reader, decoder, dead_letters
        self.incarnation = incarnation
        self.positions = Positions(reader)
        self.held: list[Message] = []
        self.in_doubt_until: dict[PartitionKey, int] = {}
        if in_doubt_records:
            ends = (self.positions.committed + in_doubt_records).tolist()
            self.in_doubt_until = dict(zip(reader.partitions, ends, strict=True))

    @property
    def has_moved(self) -> bool:
        """Whether there is something to commit or to recover without a message."""
        return bool(self.positions.moved) or self.reader.is_recovering

    def next_messages(self, max_records: int, wait_s: float) -> list[Message]:
        """Return the held messages, or else new ones: at most `max_records`, after `wait_s` s."""
        if self.held:  # without those of partitions that are another host's meanwhile
            self.reader.idle()
            self.held = [message for message in self.held if self.reader.owns(message)]
        return self.held or self.reader.read(max_records, wait_s)

    def hold(self, messages: list[Message]) -> None:
        """Keep the messages of a batch that could not be committed."""
        self.held = [message for message in messages if message.error() is None]

    def committed(self, next_offsets: Rows, positions: dict[str, int]) -> None:
        """Take over what was committed to the ring.

        Args:
            next_offsets: int64, by index of a partition.
            positions: the same that moved, by partition name.
        """
        self.reader.acknowledge(positions)
        self.reader.lost = self.decoder.fallback_decoded = 0
        self.positions.commit(next_offsets)
        self.decoder.clear()
        self.held = []

    def close(self) -> None:
        """Leave the brokers."""
        self.reader.close()
        self.dead_letters.close()

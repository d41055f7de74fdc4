"""Next offsets of a session's partitions: as the ring has them, and as they were set since."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from workers.ingest.decode.mapping import Rows
    from workers.ingest.kafka.consumer import PartitionReader


class Positions:
    """Arrays and dicts here are by the index of a partition in `PartitionReader.partitions`.

    A position may be set instead of read: by an operator, by a skip, or because the broker does
    not hold it any more. Set positions are committed with the next batch.
    """

    def __init__(self, reader: PartitionReader) -> None:
        """Begin with the positions that the reader began with."""
        self._reader = reader
        self._starts = reader.starts_resolved
        self.committed: Rows = np.array(reader.next_offsets(), np.int64)
        self.moved: dict[int, int] = {}  # set before the batch that is under way
        self.recovered: dict[int, int] = {}  # set after its messages

    def before(self) -> Rows:
        """Return a copy of the next offsets before the coming batch, int64."""
        if self._reader.starts_resolved != self._starts:
            self._starts = self._reader.starts_resolved
            self.committed = np.array(self._reader.next_offsets(), np.int64)
        offsets: Rows = self.committed.copy()
        for index, offset in self.moved.items():
            offsets[index] = offset
        return offsets

    def move(self, moved: dict[int, int]) -> int:
        """Set positions for the coming batch; returns how many of them go back."""
        for index, offset in moved.items():
            self.moved[index] = offset
            self.recovered.pop(index, None)
        return self._backwards(moved)

    def recover(self, moved: dict[int, int]) -> int:
        """Set positions that hold after the batch under way; returns how many of them go back."""
        self.recovered |= moved
        return self._backwards(moved)

    def _backwards(self, moved: dict[int, int]) -> int:
        return sum(offset < int(self.committed[index]) for index, offset in moved.items())

    def changed(self, next_offsets: Rows) -> set[int]:
        """Return the indices of the partitions whose positions a batch commits."""
        read = set((next_offsets != self.committed).nonzero()[0].tolist())
        return read | self.moved.keys() | self.recovered.keys()

    def commit(self, next_offsets: Rows) -> None:
        """Take over the next offsets that were committed with a batch."""
        self.committed, self.moved, self.recovered = next_offsets, {}, {}

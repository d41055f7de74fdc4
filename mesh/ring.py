"""A broadcast stream of fixed-size records; each reader has its own cursor.

Serves I5: sequences have neither gap nor repeat, whatever happens to the writer, and a reader
that was overtaken learns exactly how many records it lost. The protocol is in `_core/ring.h`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from mesh._core import _native
from mesh.header import CHECKED, LINE, NUMPY, Shape, round_up
from mesh.schema import schema_of
from mesh.segment import Segment

if TYPE_CHECKING:
    from mesh.segment_file import SegmentFile

KIND = 3
JOURNAL_HEAD = 32
CHECKSUM = 8


def ring_shape(
    dtype: np.dtype[Any], capacity: int, state_bytes: int, *, checksum: bool = False
) -> Shape:
    """Return the shape of a ring of `capacity` records.

    Raises:
        ValueError: `capacity` or the record's size is below 1, or `state_bytes` negative.
    """
    if capacity < 1 or state_bytes < 0 or dtype.itemsize < 1:
        raise ValueError(
            f"a ring needs capacity >= 1, state_bytes >= 0 and records, got {capacity}, "
            f"{state_bytes} and dtype {dtype}"
        )
    stride = round_up(dtype.itemsize, 8) + (CHECKSUM if checksum else 0)
    journal = 2 * round_up(JOURNAL_HEAD + state_bytes, LINE) if state_bytes else 0
    return Shape(
        KIND,
        NUMPY,
        schema_of(dtype),
        0,
        dtype.itemsize,
        stride,
        capacity,
        capacity * stride,
        journal,
        state_bytes,
        CHECKED if checksum else 0,
    )


class Ring(Segment):
    """A ring of records; sequences count from 0, sequence s lies in slot s % capacity.

    >>> ring = mesh.ring("steps", np.dtype("<i8"), capacity=4, state_bytes=8, create=True)
    >>> ring.publish(np.arange(4))
    3
    >>> ring.publish(np.array([4, 5]), b"offset 6")  # overwrites the two oldest
    5
    >>> ring.published, ring.oldest, ring.state()
    (6, 2, b'offset 6')
    """

    #: publish(records, state=None) -> sequence of the last record. `records` has the shape (n,),
    #: n >= 0; `state` (bytes) is committed together with them. Raises LeaseLost when this process
    #: is not the writer.
    publish: Callable[..., int]

    def __init__(self, file: SegmentFile, dtype: np.dtype[Any]) -> None:
        """Bind the native calls; a writer first repairs what a dead one left."""
        super().__init__(file)
        i = file.identity
        self.dtype = dtype
        self.capacity = i.capacity
        self._ring = _native.Ring(
            file.mapping,
            i.data_offset,
            i.stride,
            i.capacity,
            i.aux_offset,
            i.aux_size,
            dtype,
            i.checked,
        )
        self.publish = self._ring.publish
        if file.mapping.is_writer:
            self._ring.recover()

    @property
    def published(self) -> int:
        """Number of records ever published."""
        return self._file.mapping.published

    @property
    def oldest(self) -> int:
        """Oldest sequence that is still whole."""
        return self._ring.oldest

    def state(self) -> bytes | None:
        """Return the state committed with the newest records; None if no state was committed."""
        return self._ring.state()

    def view(self) -> np.ndarray[Any, np.dtype[Any]]:
        """Return a read-only view of the slots, shape (capacity,).

        A record copied from the view is whole if `oldest`, read afterwards, is not above its
        sequence.
        """
        i = self._file.identity
        view = np.ndarray(
            (self.capacity,), self.dtype, memoryview(self._file.mapping), i.data_offset, (i.stride,)
        )
        view.flags.writeable = False
        return view

    def gather(
        self,
        sequences: np.ndarray[Any, Any],
        field: str,
        out: np.ndarray[Any, Any],
        through: str | None = None,
    ) -> bool:
        """Copy a field of the records of `sequences` into `out`.

        Args:
            sequences: Shape (n,), any integer dtype.
            field: Name of a field of the ring's dtype.
            out: C-contiguous, n times the field's bytes.
            through: Copy all bytes from `field` to the end of this field, as `out`'s dtype lays
                them out.

        Returns:
            False if one of the records was already overwritten; do not use `out` then.

        Raises:
            KeyError: The dtype has no such field.
            ValueError: `out` has another size.
            TypeError: `out` is not contiguous.
        """
        fields: Any = self.dtype.fields or {}
        start = fields[field][1]
        last, offset = fields[through or field][:2]
        return self._ring.gather(
            np.ascontiguousarray(sequences, np.int64), start, offset + last.itemsize - start, out
        )

    def reader(self, start: int | Literal["latest", "oldest"] = "latest") -> RingReader:
        """Return a reader with a cursor of its own.

        Args:
            start: `latest` reads what is published from now on, `oldest` begins with the oldest
                record kept, an int is the first sequence to read.

        Raises:
            ValueError: A negative sequence, or another word.
        """
        if isinstance(start, int) and start >= 0:
            return RingReader(self._file, self._ring, start)
        if start not in {"latest", "oldest"}:
            raise ValueError(f"{self.name}: start is 'latest', 'oldest' or >= 0, got {start!r}")
        first = self.published if start == "latest" else self.oldest
        return RingReader(self._file, self._ring, first)


class RingReader:
    """A reader's cursor: `sequence` is read next; `lost` and `lapped` count what it missed.

    >>> ring = mesh.ring("steps", np.dtype("<i8"), capacity=4, create=True)
    >>> reader = ring.reader(0)
    >>> ring.publish(np.arange(4)), ring.publish(np.array([4, 5]))  # the second laps the reader
    (3, 5)
    >>> reader.read(max_records=3).tolist(), reader.sequence, reader.lost
    ([2, 3, 4], 5, 2)
    """

    #: read(max_records=4096) -> owned array, shape (n,); read(out=array) -> n, the part filled.
    #: With timeout=SECONDS it waits for the first record as `wait_published` does, in one call.
    read: Callable[..., Any]

    def __init__(self, file: SegmentFile, ring: _native.Ring, sequence: int) -> None:
        """Start at `sequence`."""
        self._file = file
        self._reader = _native.RingReader(ring, sequence)
        self.read = self._reader.read

    @property
    def sequence(self) -> int:
        """Sequence of the record that is read next."""
        return self._reader.sequence

    @property
    def lost(self) -> int:
        """Records overwritten before this reader came to them."""
        return self._reader.lost

    @property
    def lapped(self) -> int:
        """How often the writer overtook this reader."""
        return self._reader.lapped

    def wait_published(self, timeout: float, *, spin: float = _native.SPIN_S) -> bool:
        """Wait until there is something to read; arguments and result as in `Cell.wait_newer`."""
        return self._file.mapping.wait(self._reader.sequence, timeout, spin)

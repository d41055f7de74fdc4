"""The latest value: a msgspec Struct or a numpy record.

Serves I1 and I2: a read is never torn and never blocks the writer, and a writer killed at any
instruction leaves the last value readable. The protocol is in `_core/seqlock.h`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import msgspec
import numpy as np

from mesh._core import _native
from mesh.header import CHECKED, LINE, MSGPACK, NUMPY, Shape, round_up
from mesh.schema import schema_of
from mesh.segment import Segment

if TYPE_CHECKING:
    from mesh.segment_file import SegmentFile

T = TypeVar("T")
KIND = 1
SLOT_HEAD = 32


def cell_shape(kind: type[Any] | np.dtype[Any], max_bytes: int, *, checksum: bool = False) -> Shape:
    """Return the shape of a cell; `max_bytes` bounds the msgpack form of a Struct."""
    if max_bytes < 1 or (isinstance(kind, np.dtype) and kind.itemsize < 1):
        raise ValueError(f"a cell needs a value with a byte in it, got {kind} and {max_bytes=}")
    record = isinstance(kind, np.dtype)
    size = kind.itemsize if isinstance(kind, np.dtype) else max_bytes
    stride = round_up(SLOT_HEAD + round_up(size, 8), LINE)
    encoding = NUMPY if record else MSGPACK
    flags = CHECKED if checksum else 0
    return Shape(KIND, encoding, schema_of(kind), 2, size, stride, 1, 2 * stride, flags=flags)


class Cell(Segment, Generic[T]):
    """One value, the latest; versions count from 1.

    >>> cell = mesh.cell("limit", np.dtype("<f8"), create=True)
    >>> cell.write(np.array([2.5])), cell.write(np.array([3.5]))
    (1, 2)
    >>> version, value = cell.read()
    >>> version, value.item(), cell.version
    (2, 3.5, 2)
    >>> cell.wait_newer(2, timeout=0.0)
    False
    """

    #: write(value) -> its version. Raises LeaseLost when this process is not the writer.
    write: Callable[[T], int]
    #: read() -> (version, value); read(out=record) fills a record of the caller's. Raises
    #: NotWritten before the first write, Corrupt for a value that fails its checksum.
    read: Callable[..., tuple[int, T]]
    #: read_newer(version, timeout, out=None, spin=SPIN_S): wait as `wait_newer` does and read, in
    #: one call, for the lowest latency. None after `timeout` seconds.
    read_newer: Callable[..., tuple[int, T] | None]

    def __init__(self, file: SegmentFile, kind: type[T] | np.dtype[Any]) -> None:
        """Bind the native calls: an operation is one call into C."""
        super().__init__(file)
        i = file.identity
        dtype = kind if isinstance(kind, np.dtype) else None
        slots = _native.Slots(
            file.mapping, i.data_offset, i.stride, i.slots, i.record_size, dtype, i.checked
        )
        if isinstance(kind, np.dtype):
            self.write, self.read = slots.write, slots.read
            self.read_newer = slots.read_newer
            return
        encoder, decoder = msgspec.msgpack.Encoder(), msgspec.msgpack.Decoder(kind)
        slots.set_codec(encoder.encode, decoder.decode, msgspec.MsgspecError)
        self.write, self.read = slots.write_value, slots.read_value
        self.read_newer = slots.read_newer_value

    @property
    def version(self) -> int:
        """Version of the newest value, 0 before the first write."""
        return self._file.mapping.published

    def wait_newer(self, version: int, timeout: float, *, spin: float = _native.SPIN_S) -> bool:
        """Wait for a version above `version`; raises SegmentMissing if the segment is replaced.

        Args:
            version: The newest version already known; 0 waits for the first.
            timeout: Seconds, >= 0.
            spin: Seconds of busy waiting before the process sleeps on a futex; by default about
                as long as a sleep and a wake take.

        Returns:
            False after `timeout` seconds without one.
        """
        return self._file.mapping.wait(version, timeout, spin)

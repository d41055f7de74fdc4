"""Segments read as plain Python values, by the schema each carries: a program without numpy.

Importing numpy and msgspec takes longer than all else that a command of `meshctl` does. Read-only
(I6); the protocols are the same ones, one call into the core a read.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from mesh._core import _native
from mesh.errors import Corrupt
from mesh.header import KINDS, MSGPACK
from mesh.heartbeats import Heartbeats
from mesh.msgpack import NOT_MSGPACK, unpack
from mesh.segment import Segment
from mesh.spinlock import SpinLock

if TYPE_CHECKING:
    from mesh.arrays import Array
    from mesh.segment_file import SegmentFile

Decoder = Callable[[bytes, int], Any]  # (records, offset) -> value
#: numpy's letter and size of a number -> that of the struct module
NUMBERS = {
    "b1": "?",
    "i1": "b",
    "i2": "h",
    "i4": "i",
    "i8": "q",
    "u1": "B",
    "u2": "H",
    "u4": "I",
    "u8": "Q",
    "f2": "e",
    "f4": "f",
    "f8": "d",
}


class PlainRecords:
    """How the records of a schema are decoded: numbers, text of bytes, lists, dicts of fields.

    What is not finite is None and bytes are text, as JSON has them.
    """

    def __init__(self, schema: str, size: int) -> None:
        """Compile the schema text of records of `size` bytes.

        Raises:
            ValueError: The text is not JSON, or describes records of another size.
            TypeError: The text describes no dtype.
            KeyError: A part of the description is missing.
        """
        described = json.loads(schema)["dtype"]
        self.size = size
        fields = described["fields"] if isinstance(described, dict) else []
        self.names: tuple[str, ...] = tuple(field[0] for field in fields)
        self._decode, found = _decoder(described)
        if found != size:
            raise ValueError(f"the schema describes records of {found} bytes, the head of {size}")

    def decode(self, data: bytes) -> list[Any]:
        """Return the values of consecutive records."""
        return [self._decode(data, offset) for offset in range(0, len(data), self.size)]


def _decoder(described: Any) -> tuple[Decoder, int]:
    """Return the decoder of a described dtype (see mesh.schema), and its size in bytes."""
    if isinstance(described, str):
        return _scalar(described)
    if "base" in described:
        return _array(described)
    parts = [(name, _decoder(inner)[0], at) for name, inner, at, *_ in described["fields"]]
    size = int(described["itemsize"])

    def fields(data: bytes, offset: int) -> dict[str, Any]:
        return {name: decode(data, offset + at) for name, decode, at in parts}

    return fields, size


def _array(described: Any) -> tuple[Decoder, int]:
    element, size = _decoder(described["base"])
    decode, total = element, size
    for length in reversed(described["shape"]):
        decode, total = _list(decode, total, int(length)), total * int(length)
    return decode, total


def _list(element: Decoder, size: int, length: int) -> Decoder:
    return lambda data, offset: [element(data, offset + i * size) for i in range(length)]


def _scalar(code: str) -> tuple[Decoder, int]:
    """Return the decoder of numpy's code of a scalar: `<f8`, `|S16`, `|b1`."""
    order, letter = code[0], code[1]
    if code[1:] not in NUMBERS and letter not in "SVU":
        return _by_numpy(code)
    size = int(code[2:])
    if letter in "SV":
        ending = b"\0" if letter == "S" else b""  # numpy pads text, not void
        return (
            lambda data, at: (
                data[at : at + size].rstrip(ending).decode("utf-8", "replace")
                if ending
                else data[at : at + size].decode("utf-8", "replace")
            ),
            size,
        )
    if letter == "U":
        name = "utf-32-be" if order == ">" else "utf-32-le"
        return lambda data, at: data[at : at + 4 * size].decode(name, "replace").rstrip("\0"), (
            4 * size
        )
    unpack = struct.Struct((">" if order == ">" else "<") + NUMBERS[code[1:]]).unpack_from
    if letter == "f":
        return lambda data, at: _finite(unpack(data, at)[0]), size
    return lambda data, at: unpack(data, at)[0], size


def _finite(number: float) -> float | None:
    return number if math.isfinite(number) else None


def _by_numpy(code: str) -> tuple[Decoder, int]:
    """Times, complex and long numbers: only numpy knows what they mean."""
    import numpy as np  # noqa: PLC0415 - the rare segment that needs it

    dtype = np.dtype(code)

    def decode(data: bytes, at: int) -> Any:
        value = np.frombuffer(data, dtype, 1, at)[0]
        return _finite(float(value)) if dtype.kind == "f" else str(value)

    return decode, dtype.itemsize


class PlainCell(Segment):
    """A cell of a Struct or of a record."""

    def __init__(self, file: SegmentFile) -> None:
        """Bind for reading."""
        super().__init__(file)
        i = file.identity
        record = i.encoding != MSGPACK
        self._records = PlainRecords(file.schema, i.record_size) if record else None
        self._slots = _native.Slots(
            file.mapping,
            i.data_offset,
            i.stride,
            i.slots,
            i.record_size,
            i.record_size if record else None,
            i.checked,
        )
        if not record:
            self._slots.set_codec(bytes, unpack, NOT_MSGPACK)

    def read(self) -> tuple[int, Any]:
        """Return (version, value).

        Raises:
            NotWritten: Nothing was written yet.
            Corrupt: The value does not match its checksum or its schema.
        """
        if self._records is None:
            return self._slots.read_value()
        version, data = self._slots.read()
        return version, self._records.decode(data)[0]


class PlainRing(Segment):
    """A ring; see mesh.Ring for sequences and what is lost."""

    def __init__(self, file: SegmentFile) -> None:
        """Bind for reading."""
        super().__init__(file)
        i = file.identity
        self.capacity = i.capacity
        self.records = PlainRecords(file.schema, i.record_size)
        self._ring = _native.Ring(
            file.mapping,
            i.data_offset,
            i.stride,
            i.capacity,
            i.aux_offset,
            i.aux_size,
            i.record_size,
            i.checked,
        )

    @property
    def published(self) -> int:
        """Number of records ever published."""
        return self._file.mapping.published

    @property
    def oldest(self) -> int:
        """Oldest sequence that is still whole."""
        return self._ring.oldest

    def reader(self, start: int) -> PlainReader:
        """Return a reader whose first record has the sequence `start` (>= 0)."""
        return PlainReader(self._file, self._ring, self.records, start)


class PlainReader:
    """A cursor of its own in a ring."""

    def __init__(
        self, file: SegmentFile, ring: _native.Ring, records: PlainRecords, sequence: int
    ) -> None:
        """Start at `sequence`."""
        self._file = file
        self._records = records
        self._reader = _native.RingReader(ring, sequence)

    @property
    def sequence(self) -> int:
        """Sequence of the record that is read next."""
        return self._reader.sequence

    @property
    def lost(self) -> int:
        """Records overwritten before this reader came to them."""
        return self._reader.lost

    def read(self, max_records: int) -> list[Any]:
        """Return the next records; an empty list when there are no new ones.

        Raises:
            SegmentMissing: The segment was replaced or removed.
            Corrupt: A record does not match its checksum.
        """
        return self._records.decode(self._reader.read(max_records))

    def wait_published(self, timeout: float) -> bool:
        """Wait until there is something to read; False after `timeout` seconds."""
        return self._file.mapping.wait(self._reader.sequence, timeout, 0.0)


class PlainTable(Segment):
    """The latest record of each key."""

    def __init__(self, file: SegmentFile) -> None:
        """Bind for reading."""
        super().__init__(file)
        i = file.identity
        self._records = PlainRecords(file.schema, i.record_size)
        self._table = _native.Table(
            file.mapping,
            i.data_offset,
            i.stride,
            i.capacity,
            i.aux_offset,
            i.aux_size,
            i.record_size,
            i.checked,
        )

    def keys(self) -> list[bytes]:
        """Return the keys, in the order they were first written."""
        return self._table.keys()

    def read(self, key: str | bytes) -> tuple[int, Any]:
        """Return (version, value) of a row.

        Raises:
            KeyError: The key was never written.
        """
        version, data = self._table.read(key)
        return version, self._records.decode(data)[0]


class PlainTensors(Segment):
    """A named set of arrays, which are numpy's: it is imported when they are read."""

    def read(self) -> tuple[int, dict[str, Array]]:
        """Return (version, arrays).

        Raises:
            NotWritten: Nothing was published yet.
            Corrupt: The arrays do not match their checksum.
        """
        from mesh.attach import tensors_of  # noqa: PLC0415 - numpy

        return tensors_of(self._file).read()


Plain = PlainCell | PlainRing | PlainTable | PlainTensors | SpinLock | Heartbeats


def plain_attached(file: SegmentFile) -> Plain:
    """Return the segment of an open file for reading.

    Raises:
        Corrupt: The kind or the schema in its head cannot be read.
    """
    kind = KINDS.get(file.identity.kind, "")
    if kind == "tensors":
        return PlainTensors(file)
    try:
        if kind == "lock":
            return SpinLock(file, owner_name="", timeout=0.0)
        if kind == "heartbeats":
            return Heartbeats(file)
        if kind == "cell":
            return PlainCell(file)
        return PlainTable(file) if kind == "table" else PlainRing(file)
    except (ValueError, TypeError, KeyError, struct.error) as error:
        raise Corrupt(f"{file.path}: its head describes no {kind}: {error}") from error

"""The latest record of each key: quotes by instrument.

Serves I1 and I2 row by row: each row is a value in two slots (`_core/seqlock.h`), found by a hash
of its key (`_core/table.h`). Rows are never removed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from mesh._core import _native
from mesh.header import CHECKED, LINE, NUMPY, Shape, round_up
from mesh.schema import schema_of
from mesh.segment import Segment

if TYPE_CHECKING:
    from mesh.segment_file import SegmentFile

KIND = 2
SLOT_HEAD = 32
ROW_HEAD = 64
INDEX_ENTRY = 4


def table_shape(dtype: np.dtype[Any], rows: int, *, checksum: bool = False) -> Shape:
    """Return the shape of a table of `rows` keys.

    Raises:
        ValueError: `rows` or the record's size is below 1.
    """
    if rows < 1 or dtype.itemsize < 1:
        raise ValueError(f"a table needs rows >= 1 and records, got {rows} and dtype {dtype}")
    stride = round_up(SLOT_HEAD + round_up(dtype.itemsize, 8), 32)
    index = 1 << (2 * rows - 1).bit_length()
    return Shape(
        KIND,
        NUMPY,
        schema_of(dtype),
        2,
        dtype.itemsize,
        stride,
        rows,
        rows * (ROW_HEAD + 2 * stride),
        round_up(index * INDEX_ENTRY, LINE),
        index,
        CHECKED if checksum else 0,
    )


class Table(Segment):
    """Records by key (str or bytes, 1 to 32 bytes); each row counts its versions from 1.

    >>> table = mesh.table("last", np.dtype("<f8"), rows=8, create=True)
    >>> table.write_batch(np.array(["A", "B"], "S1"), np.array([1.0, 2.0]))
    >>> table.snapshot().tolist(), len(table)
    ([1.0, 2.0], 2)
    """

    #: write(key, record) -> version of the row. Raises LeaseLost when this process is not the
    #: writer, MeshFull when no row is free.
    write: Callable[[str | bytes, Any], int]
    #: write_batch(keys, records): keys of dtype S1 to S32, shape (n,); the last one of a key wins.
    write_batch: Callable[[Any, Any], None]
    #: read(key, out=None) -> (version, record). Raises KeyError for a key never written.
    read: Callable[..., tuple[int, Any]]

    def __init__(self, file: SegmentFile, dtype: np.dtype[Any]) -> None:
        """Bind the native calls; a writer first indexes what a dead one left unindexed."""
        super().__init__(file)
        i = file.identity
        self.dtype = dtype
        self.rows = i.capacity
        self._table = _native.Table(
            file.mapping,
            i.data_offset,
            i.stride,
            i.capacity,
            i.aux_offset,
            i.aux_size,
            dtype,
            i.checked,
        )
        self.write, self.write_batch = self._table.write, self._table.write_batch
        self.read = self._table.read
        if file.mapping.is_writer:
            self._table.recover()

    def __len__(self) -> int:
        """Number of keys written."""
        return len(self._table.keys())

    @property
    def version(self) -> int:
        """Counts the writes and batches since the table was made."""
        return self._file.mapping.published

    def keys(self) -> list[str]:
        """Return the keys in the order of `snapshot()`."""
        found = self._table.keys()
        return [key.decode("utf-8", "replace") for key in found]

    def snapshot(self, out: np.ndarray[Any, Any] | None = None) -> np.ndarray[Any, Any]:
        """Copy the records of all keys, each of them whole, in the order of `keys()`.

        Args:
            out: Where to copy them, shape (rows,), of the table's dtype; a new array by default.

        Returns:
            The first n records of `out`, shape (n,), n the number of keys.
        """
        rows = np.empty(self.rows, self.dtype) if out is None else out
        return rows[: self._table.snapshot(rows)]

    def wait_newer(self, version: int, timeout: float, *, spin: float = _native.SPIN_S) -> bool:
        """Wait for a write or batch after `version`; arguments and result as in `Cell`."""
        return self._file.mapping.wait(version, timeout, spin)

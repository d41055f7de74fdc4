"""A mesh: a directory of segments, opened and created by name. The registry is the directory.

Serves I4 (one writer) and I7 (a process that starts again finds what it left).
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from mesh.cell import Cell, cell_shape
from mesh.errors import AccessDenied, MeshError, SegmentExists
from mesh.ring import Ring, ring_shape
from mesh.segment import Segment, SegmentInfo
from mesh.segment_file import SegmentFile, Shape, create, directory_lock, file_name
from mesh.table import Table, table_shape
from mesh.tensors import Array, Tensors, tensors_shape

if TYPE_CHECKING:
    import numpy as np

T = TypeVar("T")


class Mesh:
    """The segments of one directory; `mode` is that of the directory, files get its 0o666 part."""

    def __init__(self, path: str | os.PathLike[str], *, mode: int = 0o700) -> None:
        """Name the directory; it is made by the first segment that is created in it."""
        self.path = Path(path)
        self.mode = mode

    def cell(
        self,
        name: str,
        kind: type[T] | np.dtype[Any],
        *,
        create: bool = False,
        exclusive: bool = False,
        max_bytes: int = 4096,
    ) -> Cell[T]:
        """Open a cell; with `create` as its writer. `max_bytes` bounds a Struct's msgpack form."""
        shape = cell_shape(kind, max_bytes)
        return Cell(self._open(name, shape, create=create, exclusive=exclusive), kind)

    def ring(
        self,
        name: str,
        dtype: np.dtype[Any],
        *,
        capacity: int | None = None,
        state_bytes: int = 0,
        create: bool = False,
        exclusive: bool = False,
    ) -> Ring:
        """Open a ring; with `create` as its writer, of `capacity` records."""
        shape = ring_shape(dtype, 1 if capacity is None else capacity, state_bytes)
        if create and capacity is None:
            raise ValueError(f"ring {name!r}: create=True needs a capacity in records")
        return Ring(self._open(name, shape, create=create, exclusive=exclusive), dtype)

    def table(
        self,
        name: str,
        dtype: np.dtype[Any],
        *,
        rows: int | None = None,
        create: bool = False,
        exclusive: bool = False,
    ) -> Table:
        """Open a table; with `create` as its writer, of at most `rows` keys."""
        if create and rows is None:
            raise ValueError(f"table {name!r}: create=True needs a number of rows")
        shape = table_shape(dtype, 1 if rows is None else rows)
        return Table(self._open(name, shape, create=create, exclusive=exclusive), dtype)

    def tensors(
        self,
        name: str,
        *,
        like: Mapping[str, Array],
        create: bool = False,
        exclusive: bool = False,
    ) -> Tensors:
        """Open a set of arrays with the names, dtypes and shapes of `like`."""
        shape = tensors_shape(like)
        return Tensors(self._open(name, shape, create=create, exclusive=exclusive), like)

    def segments(self) -> Iterator[SegmentInfo]:
        """Give every readable segment of the directory; other files are passed over."""
        if not self.path.is_dir():
            return
        for path in sorted(self.path.iterdir()):
            if path.name.startswith("."):
                continue
            try:
                segment = Segment(SegmentFile(path.name.replace("+", "/"), path, writable=False))
            except MeshError:
                continue
            yield segment.info
            segment.close()

    def unlink(self, name: str) -> None:
        """Remove a segment; those attached are told at their next call. Raises SegmentMissing."""
        path = self.path / file_name(name)
        file = SegmentFile(name, path, writable=True)
        with directory_lock(self.path):
            path.unlink(missing_ok=True)
            file.mapping.retire()
        file.mapping.close()

    def _open(self, name: str, shape: Shape, *, create: bool, exclusive: bool) -> SegmentFile:
        path = self.path / file_name(name)
        if not create:
            file = SegmentFile(name, path, writable=False)
            file.expect(shape.kind, shape.schema)
            return file
        self._make(path, shape, exclusive=exclusive)
        file = SegmentFile(name, path, writable=True)
        file.expect(shape.kind, shape.schema)
        file.take_lease()
        return file

    def _make(self, path: Path, shape: Shape, *, exclusive: bool) -> None:
        try:
            self.path.mkdir(mode=self.mode, parents=True, exist_ok=True)
        except PermissionError as error:
            raise AccessDenied(
                f"{self.path}: may not be made by uid {os.getuid()}; make it or choose another"
            ) from error
        if path.exists() and not exclusive:
            return
        try:
            create(path, shape, self.mode & 0o666)
        except FileExistsError as error:
            if exclusive:
                raise SegmentExists(
                    f"{path}: is there already; open it without exclusive"
                ) from error

"""A mesh: a directory of segments, opened and created by name. The registry is the directory.

Serves I4 (one writer) and I7 (a process that starts again finds what it left). The kinds that
need numpy are imported where they are opened: who only looks does not wait for it.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from mesh.errors import (
    Corrupt,
    LayoutMismatch,
    LeaseHeld,
    MeshError,
    SchemaMismatch,
    SegmentExists,
    SegmentMissing,
)
from mesh.header import KINDS, Shape
from mesh.heartbeats import KIND as HEARTBEATS_KIND
from mesh.heartbeats import Heartbeats, heartbeats_shape
from mesh.process_identity import ProcessIdentity
from mesh.procfs import boot_id
from mesh.segment import SegmentInfo, info_of
from mesh.segment_file import (
    SegmentFile,
    create,
    directory_lock,
    file_name,
    read_head,
    refusal,
)
from mesh.spinlock import KIND as LOCK
from mesh.spinlock import SpinLock, lock_shape

if TYPE_CHECKING:
    import numpy as np

    from mesh.arrays import Array
    from mesh.attach import Attached
    from mesh.cell import Cell
    from mesh.plain import Plain
    from mesh.ring import Ring
    from mesh.table import Table
    from mesh.tensors import Tensors

T = TypeVar("T")
HEARTBEATS = "heartbeats"


class Mesh:
    """The segments of one directory; `mode` is that of the directory, files get its 0o666 part."""

    def __init__(self, path: str | os.PathLike[str], *, mode: int = 0o700) -> None:
        """Name the directory; it is made by the first segment that is created in it."""
        self.path = Path(path)
        self.mode = mode

    def cell(
        self,
        name: str,
        type: type[T] | np.dtype[Any],  # noqa: A002 - `kind` is the kind of a segment
        *,
        create: bool = False,
        exclusive: bool = False,
        max_bytes: int = 4096,
        checksum: bool = False,
    ) -> Cell[T]:
        """Open a cell; with `create` as its writer.

        `max_bytes` bounds a Struct's msgpack form; with `checksum` every read is verified.
        """
        from mesh.cell import Cell, cell_shape  # noqa: PLC0415 - see the head of this module

        shape = cell_shape(type, max_bytes, checksum=checksum)
        return Cell(self._open(name, shape, create=create, exclusive=exclusive), type)

    def ring(
        self,
        name: str,
        dtype: np.dtype[Any],
        *,
        capacity: int | None = None,
        state_bytes: int = 0,
        create: bool = False,
        exclusive: bool = False,
        checksum: bool = False,
    ) -> Ring:
        """Open a ring; with `create` as its writer, of `capacity` records.

        `state_bytes` bounds the state committed with them; with `checksum` every read is verified.
        """
        from mesh.ring import Ring, ring_shape  # noqa: PLC0415 - see the head of this module

        shape = ring_shape(
            dtype, 1 if capacity is None else capacity, state_bytes, checksum=checksum
        )
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
        checksum: bool = False,
    ) -> Table:
        """Open a table; with `create` as its writer, of at most `rows` keys.

        With `checksum` every read is verified.
        """
        from mesh.table import Table, table_shape  # noqa: PLC0415 - see the head of this module

        if create and rows is None:
            raise ValueError(f"table {name!r}: create=True needs a number of rows")
        shape = table_shape(dtype, 1 if rows is None else rows, checksum=checksum)
        return Table(self._open(name, shape, create=create, exclusive=exclusive), dtype)

    def tensors(
        self,
        name: str,
        *,
        like: Mapping[str, Array] | None = None,
        create: bool = False,
        exclusive: bool = False,
    ) -> Tensors:
        """Open a set of arrays with the names, dtypes and shapes of `like`.

        Without `like` its head says what it holds; `create` needs it.
        """
        from mesh.tensors import Tensors, tensors_shape  # noqa: PLC0415 - see above

        if like is None:
            if create:
                raise ValueError(f"tensors {name!r}: create=True needs arrays to be like")
            found = self.attach(name)
            if isinstance(found, Tensors):
                return found
            raise SchemaMismatch(
                f"{name}: a {found.info.kind} in {self.path}, expected tensors; use another name"
            )
        shape = tensors_shape(like)
        return Tensors(self._open(name, shape, create=create, exclusive=exclusive), like)

    def lock(
        self, name: str, *, create: bool = False, owner_name: str = "", timeout: float = 10.0
    ) -> SpinLock:
        """Open a lock, making it where it is not there; `timeout` s is that of `with`."""
        path = self.path / file_name(name)
        if create:
            self._make(path, lock_shape(), exclusive=False)
        file = SegmentFile(name, path, writable=False)
        file.expect(LOCK, None)
        return SpinLock(file, owner_name=owner_name or f"pid {os.getpid()}", timeout=timeout)

    def heartbeats(self, *, create: bool = False, rows: int = 64) -> Heartbeats:
        """Open the heartbeats, with `create` making them for up to `rows` workers."""
        path = self.path / HEARTBEATS
        if create:
            self._make(path, heartbeats_shape(rows), exclusive=False)
        file = SegmentFile(HEARTBEATS, path, writable=False)
        file.expect(HEARTBEATS_KIND, None)
        return Heartbeats(file)

    def attach(self, name: str) -> Attached:
        """Open any segment read-only by what its head says. Raises SegmentMissing, Corrupt."""
        from mesh.attach import attached  # noqa: PLC0415 - see the head of this module

        return attached(SegmentFile(name, self.path / file_name(name), writable=False))

    def attach_plain(self, name: str) -> Plain:
        """Open any segment read-only, its values plain Python ones: numpy is for tensors alone.

        Raises as `attach`.
        """
        from mesh.plain import plain_attached  # noqa: PLC0415 - what only `meshctl` needs

        file = SegmentFile(name, self.path / file_name(name), writable=False, prefault=False)
        return plain_attached(file)

    def break_leases(self, dead: ProcessIdentity) -> list[str]:
        """Free every lease and lock of a dead process; give their names.

        Raises LeaseHeld while that process lives: stop it first and wait for its end.
        """
        if dead.is_alive():
            raise LeaseHeld(f"{self.path}: {dead} lives; its leases are broken after its end only")
        broken = []
        for info in self.segments():
            # removed between the listing and this: its lease went with it; a damaged one holds
            # the others up no longer than this
            with contextlib.suppress(SegmentMissing, Corrupt, LayoutMismatch):
                if self._break_one(info, dead):
                    broken.append(info.name)
        return broken

    def _break_one(self, info: SegmentInfo, dead: ProcessIdentity) -> bool:
        path = self.path / file_name(info.name)
        if info.kind == "lock":
            lock = SpinLock(SegmentFile(info.name, path, writable=False), owner_name="", timeout=0)
            owner = lock.owner()
            freed = owner is not None and owner.identity == dead and lock.break_stale() is not None
            lock.close()
            return freed
        if info.owner != dead:
            return False
        file = SegmentFile(info.name, path, writable=True, prefault=False)
        with directory_lock(self.path):
            freed = file.owner() == dead
            if freed:
                file.mapping.lease_drop(True)
        file.mapping.close()
        return freed

    def sweep(self) -> list[str]:
        """Remove what dead processes left half made and what an earlier boot left; give names."""
        removed = []
        paths = sorted(self.path.iterdir()) if self.path.is_dir() else []
        for path in paths:
            if not self._is_leftover(path):
                continue
            with contextlib.suppress(FileNotFoundError):
                path.unlink()
                removed.append(path.name)
        return removed

    @staticmethod
    def _is_leftover(path: Path) -> bool:
        if path.name.startswith(".new-"):
            try:
                ProcessIdentity.of(int(path.name.split("-")[1]))
            except (ProcessLookupError, ValueError):
                return True
            return False
        if path.name.startswith(".") or not path.is_file():
            return False
        try:
            return read_head(path)[0].boot_id != boot_id()
        except LayoutMismatch:
            return True
        except (MeshError, OSError):
            return False

    def info(self, name: str) -> SegmentInfo:
        """Read the head of a segment, mapping nothing. Raises SegmentMissing, Corrupt."""
        path = self.path / file_name(name)
        try:
            return info_of(name, path)
        except OSError as error:
            raise refusal(error, path) from error

    def segments(self) -> Iterator[SegmentInfo]:
        """Give every readable segment; other files are passed over. Raises AccessDenied."""
        if not self.path.is_dir():
            return
        try:
            paths = sorted(self.path.iterdir())
        except OSError as error:
            raise refusal(error, self.path) from error
        for path in paths:
            name = path.name.replace("+", "/")
            with contextlib.suppress(MeshError, OSError):
                if file_name(name) == path.name:  # else nobody can open it by its name
                    yield info_of(name, path)

    def unlink(self, name: str) -> None:
        """Remove a segment; those attached are told at their next call.

        Raises SegmentMissing, and LeaseHeld while another live process writes it, holds it (a lock)
        or beats in it (heartbeats): stop that process first.
        """
        path = self.path / file_name(name)
        me = ProcessIdentity.current()
        with directory_lock(self.path):  # no lease is taken and no other generation made meanwhile
            file = SegmentFile(name, path, writable=True, prefault=False)
            try:
                for user in users_of(file):
                    if user != me and user.is_alive():
                        raise LeaseHeld(
                            f"{name} ({path}): {user} uses it, not only {me}; stop that process"
                        )
                file.mapping.retire()  # first: killed in between, the next creator finishes it
                path.unlink(missing_ok=True)
            finally:
                file.mapping.close()

    def _open(self, name: str, shape: Shape, *, create: bool, exclusive: bool) -> SegmentFile:
        path = self.path / file_name(name)
        if not create:
            file = SegmentFile(name, path, writable=False)
            file.expect(shape.kind, shape.schema)
            return file
        self._make(path, shape, exclusive=exclusive)
        file = SegmentFile(name, path, writable=True)
        if file.mapping.counters().retired:
            self._finish_unlink(file)
            self._make(path, shape, exclusive=exclusive)
            file = SegmentFile(name, path, writable=True)
        try:
            file.expect(shape.kind, shape.schema)
            file.expect_sizes(shape)
            file.take_lease()
        except MeshError:
            file.mapping.close()
            raise
        return file

    def _finish_unlink(self, file: SegmentFile) -> None:
        """Take away the file of a segment that was retired by somebody who died over it."""
        with directory_lock(self.path), contextlib.suppress(MeshError):
            file.check_current()
            file.path.unlink(missing_ok=True)
        file.mapping.close()

    def _make(self, path: Path, shape: Shape, *, exclusive: bool) -> None:
        try:
            if not self.path.is_dir():
                self.path.mkdir(mode=self.mode, parents=True, exist_ok=True)
                self.path.chmod(self.mode)  # whatever the umask
            if path.exists() and not exclusive:
                return
        except OSError as error:
            raise refusal(error, self.path) from error
        try:
            create(path, shape, self.mode & 0o666)
        except FileExistsError as error:
            if exclusive:
                raise SegmentExists(
                    f"{path}: is there already; open it without exclusive, or unlink it first"
                ) from error


def users_of(file: SegmentFile) -> list[ProcessIdentity]:
    """Give who has a segment to itself or a part of it, dead or alive: writer, owner, workers."""
    kind = KINDS.get(file.identity.kind)
    if kind == "heartbeats":
        return [row.identity for row in Heartbeats(file).rows()]
    if kind == "lock":
        holder = SpinLock(file, owner_name="", timeout=0).owner()
        return [] if holder is None else [holder.identity]
    writer = file.owner()
    return [] if writer is None else [writer]

"""A mesh: a directory of segments, opened and created by name. The registry is the directory.

Serves I4 (one writer) and I7 (a process that starts again finds what it left). The kinds that
need numpy are imported where they are opened, so that `meshctl status` starts without numpy.
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
    """The segments of one directory.

    >>> mesh = Mesh(directory)
    >>> price = mesh.cell("price", np.dtype("<f8"), create=True)
    >>> [(info.name, info.kind) for info in mesh.segments()]
    [('price', 'cell')]
    """

    def __init__(self, path: str | os.PathLike[str], *, mode: int = 0o700) -> None:
        """Name the directory; the first segment created in it makes it.

        Args:
            path: The directory, on a tmpfs (/dev/shm).
            mode: Permissions of the directory; a segment's file gets mode & 0o666.
        """
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
        """Open a cell: one value, the latest.

        >>> quote = np.dtype([("bid", "<f8"), ("ask", "<f8")])
        >>> writer = mesh.cell("price", quote, create=True)
        >>> writer.write(np.array([(99.5, 100.5)], quote)[0])
        1
        >>> version, value = mesh.cell("price", quote).read()
        >>> version, float(value["ask"])
        (1, 100.5)

        Args:
            name: Letters, digits and `-_.`, with one `/` at most as name space.
            type: A msgspec Struct, or a NumPy dtype for records that are copied as they are.
            create: Make the segment if needed and become its only writer.
            exclusive: With `create`: refuse a segment that exists.
            max_bytes: Bound on the msgpack form of a Struct, in bytes.
            checksum: Verify a checksum at every read.

        Raises:
            SegmentMissing: Without `create`: there is no segment of this name.
            SegmentExists: With `exclusive`: there is one.
            LeaseHeld: With `create`: another live process writes it.
            SchemaMismatch: It holds something else.
            MeshFull: The file system has no room for it.
            InvalidName: The name could leave the directory.
            ValueError: The value has no bytes.
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
        """Open a ring: a stream of records that every reader reads with a cursor of its own.

        >>> ring = mesh.ring("ticks", np.dtype("<i8"), capacity=4, create=True)
        >>> reader = ring.reader("oldest")
        >>> ring.publish(np.arange(3))
        2
        >>> reader.read().tolist()
        [0, 1, 2]

        Args:
            name: As in `cell`.
            dtype: Of one record.
            capacity: Records that are kept; needed with `create`.
            state_bytes: Bound on the state committed together with records, in bytes.
            create: Make the segment if needed and become its only writer.
            exclusive: With `create`: refuse a segment that exists.
            checksum: Verify a checksum of every record read.

        Raises:
            ValueError: `create` without a capacity, or impossible sizes; else as in `cell`.
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
        """Open a table: the latest record of each key.

        >>> table = mesh.table("last", np.dtype("<f8"), rows=8, create=True)
        >>> table.write("AAPL", np.array([101.5]))
        1
        >>> table.read("AAPL")[1].item(), table.keys()
        (101.5, ['AAPL'])

        Args:
            name: As in `cell`.
            dtype: Of one record.
            rows: Keys that fit; needed with `create`.
            create: Make the segment if needed and become its only writer.
            exclusive: With `create`: refuse a segment that exists.
            checksum: Verify a checksum of every record read.

        Raises:
            ValueError: `create` without rows, or impossible sizes; else as in `cell`.
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
        """Open a named set of arrays that are published as one version.

        >>> weights = mesh.tensors("policy", like={"w": np.zeros((2, 2))}, create=True)
        >>> weights.publish({"w": np.ones((2, 2))})
        1
        >>> version, arrays = mesh.tensors("policy").read()
        >>> version, float(arrays["w"].sum())
        (1, 4.0)

        Args:
            name: As in `cell`.
            like: Arrays with the names, dtypes and shapes wanted; their values do not matter.
                Needed with `create`; without it the segment's head says what it holds.
            create: Make the segment if needed and become its only writer.
            exclusive: With `create`: refuse a segment that exists.

        Raises:
            ValueError: `create` without `like`, or arrays without a byte; else as in `cell`.
            SchemaMismatch: The segment holds no tensors, or others.
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
        """Open a lock between processes.

        >>> with mesh.lock("journal", create=True, owner_name="writer") as lock:
        ...     lock.owner().name
        'writer'

        Args:
            name: As in `cell`.
            create: Make the lock if needed.
            owner_name: What others are told of the holder, 32 bytes at most; the pid by default.
            timeout: Seconds that the `with` statement waits for the lock.

        Raises:
            SegmentMissing: Without `create`: there is no segment of this name.
            SchemaMismatch: The segment is no lock.
        """
        path = self.path / file_name(name)
        if create:
            self._make(path, lock_shape(), exclusive=False)
        file = SegmentFile(name, path, writable=False)
        file.expect(LOCK, None)
        return SpinLock(file, owner_name=owner_name or f"pid {os.getpid()}", timeout=timeout)

    def heartbeats(self, *, create: bool = False, rows: int = 64) -> Heartbeats:
        """Open the heartbeats of all workers of the mesh.

        >>> mesh.heartbeats(create=True).claim("trainer").beat(progress=3)
        >>> [(row.worker, row.progress) for row in mesh.heartbeats().rows()]
        [('trainer', 3)]

        Args:
            create: Make them if needed.
            rows: Workers that fit, with `create`.

        Raises:
            SegmentMissing: Without `create`: there are no heartbeats yet.
        """
        path = self.path / HEARTBEATS
        if create:
            self._make(path, heartbeats_shape(rows), exclusive=False)
        file = SegmentFile(HEARTBEATS, path, writable=False)
        file.expect(HEARTBEATS_KIND, None)
        return Heartbeats(file)

    def attach(self, name: str) -> Attached:
        """Open any segment read-only, by what its head says.

        >>> _ = mesh.cell("price", np.dtype("<f8"), create=True).write(np.array([1.5]))
        >>> mesh.attach("price").read()[1].item()
        1.5

        Returns:
            The segment; a cell of a Struct is read as a dict.

        Raises:
            SegmentMissing: There is no segment of this name.
            Corrupt: The head contradicts itself.
        """
        from mesh.attach import attached  # noqa: PLC0415 - see the head of this module

        return attached(SegmentFile(name, self.path / file_name(name), writable=False))

    def attach_plain(self, name: str) -> Plain:
        """Open any segment read-only; only tensors need NumPy, other values are Python objects.

        Raises:
            SegmentMissing: There is no segment of this name.
            Corrupt: The head contradicts itself.
        """
        from mesh.plain import plain_attached  # noqa: PLC0415 - what only `meshctl` needs

        file = SegmentFile(name, self.path / file_name(name), writable=False, prefault=False)
        return plain_attached(file)

    def break_leases(self, dead: ProcessIdentity) -> list[str]:
        """Free every lease and lock of a dead process.

        Returns:
            The names of the segments freed.

        Raises:
            LeaseHeld: The process lives; stop it first and wait for its end.
        """
        if dead.is_alive():
            raise LeaseHeld(f"{self.path}: {dead} lives; its leases are broken after its end only")
        broken = []
        for info in self.segments():
            # a segment removed since the listing took its lease along; a damaged segment must
            # not keep the others from being freed
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
        """Remove unfinished files of dead processes, and segments of an earlier boot.

        Returns:
            The names of the files removed.
        """
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
        """Read the head of a segment without mapping it.

        Raises:
            SegmentMissing: There is no segment of this name.
            AccessDenied: This user may not read it.
            Corrupt: The head contradicts itself.
        """
        path = self.path / file_name(name)
        try:
            return info_of(name, path)
        except OSError as error:
            raise refusal(error, path) from error

    def segments(self) -> Iterator[SegmentInfo]:
        """Iterate over the readable segments by name; other files are skipped.

        Raises:
            AccessDenied: This user may not list the directory.
        """
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
        """Remove a segment; processes attached to it get SegmentMissing at their next call.

        >>> _ = mesh.cell("old", np.dtype("<f8"), create=True)
        >>> mesh.unlink("old")
        >>> list(mesh.segments())
        []

        Raises:
            SegmentMissing: There is no segment of this name.
            LeaseHeld: Another live process writes it, holds it (a lock) or beats in it
                (heartbeats); stop that process first.
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
        """Remove the file of a segment whose remover died before it could do so."""
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
    """Processes, dead or alive, that own a segment or a row of it: writer, holder, workers."""
    kind = KINDS.get(file.identity.kind)
    if kind == "heartbeats":
        return [row.identity for row in Heartbeats(file).rows()]
    if kind == "lock":
        holder = SpinLock(file, owner_name="", timeout=0).owner()
        return [] if holder is None else [holder.identity]
    writer = file.owner()
    return [] if writer is None else [writer]

"""A segment's file: made whole or not at all, attached only when every byte of its head agrees.

Serves I6 (readers map read-only), I7 (a stale segment is recognised) and I4 (one writer). Built
under a temporary name with its space reserved, so a full tmpfs is an error at creation and never
a SIGBUS later; then linked to its name, so nobody attaches to half a segment. Rejected:
`multiprocessing.shared_memory`, whose resource tracker unlinks what others still use.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import re
import stat
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

from mesh._core import _native
from mesh.errors import (
    AccessDenied,
    Corrupt,
    InvalidName,
    LayoutMismatch,
    LeaseHeld,
    LeaseLost,
    MeshError,
    MeshFull,
    NotWritten,
    SchemaMismatch,
    SegmentMissing,
)
from mesh.header import (
    KINDS,
    LINE,
    PAGE,
    SCHEMA_OFFSET,
    Control,
    Identity,
    Shape,
    fingerprint,
    round_up,
)
from mesh.process_identity import ProcessIdentity
from mesh.procfs import boot_id

NAME = re.compile(r"[A-Za-z0-9_.-]{1,64}(/[A-Za-z0-9_.-]{1,64})?")


def file_name(name: str) -> str:
    """Return the file of a segment name.

    Raises:
        InvalidName: The name has other characters, is too long, or could leave the mesh.
    """
    if not NAME.fullmatch(name) or any(part.startswith(".") for part in name.split("/")):
        raise InvalidName(
            f"segment name {name!r}: use letters, digits and -_. (64 at most, no leading dot), "
            "with one / at most as name space"
        )
    return name.replace("/", "+")


#: What an operating-system error means here, and what to do about it.
REFUSALS: tuple[tuple[frozenset[int], type[MeshError], str], ...] = (
    (
        frozenset({errno.ENOENT}),
        SegmentMissing,
        "is not there (any more); start its writer, and let nobody else clean the directory",
    ),
    (
        frozenset({errno.EACCES, errno.EPERM, errno.EROFS}),
        AccessDenied,
        "may not be opened by this user; change its owner or mode, or join the mesh's group",
    ),
    (
        frozenset({errno.EEXIST, errno.ENOTDIR, errno.ENAMETOOLONG}),
        AccessDenied,
        "can be no mesh directory; move what is there away, or choose another path",
    ),
    (
        frozenset({errno.ELOOP, errno.EISDIR, errno.ENXIO, errno.ENODEV}),
        Corrupt,
        "is no regular file and so no segment; remove it",
    ),
)


def refusal(error: OSError, path: Path) -> MeshError:
    """Return the typed error for what the operating system said about `path`."""
    for numbers, kind, text in REFUSALS:
        if error.errno in numbers:
            return kind(f"{path}: {text} (uid {os.getuid()}, {error.strerror})")
    return MeshError(f"{path}: {error.strerror}; look at the file system it lies on")


def full(path: Path, total: int) -> MeshFull:
    """Return the error for a segment that does not fit, with what is free and what it needs."""
    free = os.statvfs(path.parent)
    return MeshFull(
        f"{path}: needs {total} bytes, {free.f_bavail * free.f_frsize} are free in "
        f"{path.parent}; enlarge the tmpfs or make the segment smaller"
    )


def create(path: Path, shape: Shape, mode: int) -> None:
    """Make the segment file whole; FileExistsError if the name is taken, MeshFull, AccessDenied."""
    schema = shape.schema.encode()
    aux_offset = round_up(SCHEMA_OFFSET + len(schema), LINE)
    data_offset = round_up(aux_offset + shape.aux_total, LINE)
    readers_offset = round_up(data_offset + shape.data_size, PAGE)
    total = readers_offset + PAGE
    if total > sys.maxsize:
        raise full(path, total)
    identity = Identity(
        shape.kind,
        shape.slots,
        total,
        shape.record_size,
        shape.stride,
        shape.capacity,
        data_offset,
        readers_offset,
        len(schema),
        aux_offset,
        shape.aux_size,
        time.time_ns(),
        ProcessIdentity.current(),
        shape.encoding,
        shape.flags,
        fingerprint(shape.schema),
        boot_id(),
    )
    temporary = path.with_name(f".new-{os.getpid()}-{time.monotonic_ns()}-{path.name}")
    try:
        fd = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    except OSError as error:
        raise refusal(error, path.parent) from error
    try:
        os.fchmod(fd, mode)  # whatever the umask: the group reads where the mesh says so
        os.posix_fallocate(fd, 0, total)
        os.pwrite(fd, identity.pack(), 0)
        os.pwrite(fd, schema, SCHEMA_OFFSET)
        os.link(temporary, path)
    except FileExistsError:
        raise
    except OSError as error:
        if error.errno in {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.ENOMEM}:
            raise full(path, total) from error
        raise refusal(error, path) from error
    finally:
        os.close(fd)
        temporary.unlink(missing_ok=True)


@contextmanager
def directory_lock(directory: Path) -> Iterator[None]:
    """Hold the lock under which leases change hands; the kernel frees it when its owner dies."""
    try:
        fd = os.open(directory / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise refusal(error, directory) from error
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)


def read_head(path: Path) -> tuple[Identity, str, Control]:
    """Read what a segment's head says, mapping nothing.

    Raises:
        Corrupt: The file is no segment, or its head contradicts itself.
        LayoutMismatch: It has another layout version.
        OSError: The file cannot be opened; `refusal` returns the error of the mesh for it.
    """
    fd = open_regular(path, os.O_RDONLY)
    try:
        data = os.pread(fd, PAGE, 0)
        identity = Identity.unpack(data, path)
        if identity.schema_size > PAGE - SCHEMA_OFFSET:
            data += os.pread(fd, identity.schema_size, PAGE)
        return identity, checked_schema(identity, data, path), Control.unpack(data)
    finally:
        os.close(fd)


def checked_schema(identity: Identity, data: bytes, path: Path) -> str:
    """Return the schema text of a head.

    Raises:
        Corrupt: The text does not have the fingerprint that the head names.
    """
    text = data[SCHEMA_OFFSET : SCHEMA_OFFSET + identity.schema_size].decode("utf-8", "replace")
    if fingerprint(text) != identity.fingerprint:
        raise Corrupt(f"{path}: the schema text is not the one the head names; remove the file")
    return text


def open_regular(path: Path, flags: int) -> int:
    """Open a segment's file; never a link, never a pipe that would block.

    Raises:
        Corrupt: It is not a regular file.
        OSError: It cannot be opened.
    """
    fd = os.open(path, flags | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise Corrupt(f"{path}: is no regular file and so no segment; remove it")
    return fd


def problem_raiser(name: str, path: Path) -> Callable[[int], NoReturn]:
    """Return a function that raises the typed error for a code of the core (enum mesh_problem)."""
    errors: dict[int, tuple[type[MeshError], str]] = {
        1: (NotWritten, "nothing was written yet; wait_newer(0, timeout) waits for it"),
        2: (LeaseLost, "another writer took over, or this is a fork; open it again to write"),
        3: (Corrupt, "the bytes contradict themselves; remove the segment and restart its writer"),
        4: (SegmentMissing, "the segment was replaced or removed; attach again"),
        5: (LeaseLost, "this object was closed; open the segment again"),
        6: (MeshFull, "every row is taken; make the table with more rows"),
        7: (LeaseLost, "attached read-only; open it with create=True to be its writer"),
        9: (Corrupt, "the bytes are no value of its schema; restart the segment's writer"),
        8: (Corrupt, "a value does not match its checksum; restart the segment's writer"),
    }

    def raise_problem(code: int) -> NoReturn:
        kind, text = errors[code]
        raise kind(f"{name} ({path}): {text}")

    return raise_problem


def presence_check(name: str, path: Path, opened: os.stat_result) -> Callable[[], None]:
    """Return a function that raises SegmentMissing once `path` names another file or none."""

    def check() -> None:
        try:
            found = path.stat(follow_symlinks=False)
        except PermissionError:
            return  # who may not look any more reads on
        except OSError as error:
            raise refusal(error, path) from error
        if not os.path.samestat(found, opened):
            raise SegmentMissing(f"{name} ({path}): another generation lies there; attach again")

    return check


class SegmentFile:
    """An open segment: its head, its schema text and its mapping."""

    def __init__(self, name: str, path: Path, *, writable: bool, prefault: bool = True) -> None:
        """Attach to the segment in the file `path`.

        Without `prefault` the pages are mapped as they are touched, which suits a process that
        reads the head only.

        Raises:
            SegmentMissing: There is no such file.
            AccessDenied: This user may not open it.
            Corrupt: It is no segment, or its size or schema contradicts its head.
            LayoutMismatch: It has another layout version, or was made before the last boot.
        """
        self.name = name
        self.path = path
        fd, self.shared_page = self._open(writable)
        try:
            found = os.fstat(fd)
            self._check_path = presence_check(name, path, found)
            data = os.pread(fd, PAGE, 0)
            self.identity = i = Identity.unpack(data, path)
            if found.st_size != i.total_size:
                raise Corrupt(
                    f"{path}: {found.st_size} bytes, its head says {i.total_size}; remove the file"
                )
            if i.boot_id != boot_id():
                raise LayoutMismatch(f"{path}: made before the last boot; remove the file")
            if i.schema_size > PAGE - SCHEMA_OFFSET:
                data += os.pread(fd, i.schema_size, PAGE)
            self.schema = checked_schema(i, data, path)
            self.mapping = _native.Mapping(
                fd,
                i.total_size,
                i.readers_offset,
                writable,
                self.shared_page,
                problem_raiser(name, path),
                self._check_path,
                prefault,
            )
        except OSError as error:
            raise refusal(error, path) from error
        finally:
            os.close(fd)

    def _open(self, writable: bool) -> tuple[int, bool]:
        try:
            return open_regular(self.path, os.O_RDWR), True
        except FileNotFoundError as error:
            raise SegmentMissing(
                f"{self.name}: no segment at {self.path}; start the worker that writes it"
            ) from error
        except OSError as error:
            if not writable and error.errno in {errno.EACCES, errno.EROFS}:
                with contextlib.suppress(OSError):
                    return open_regular(self.path, os.O_RDONLY), False
            raise refusal(error, self.path) from error

    def expect(self, kind: int, schema: str | None) -> None:
        """Compare kind and schema with what the caller expects.

        Raises:
            SchemaMismatch: The segment has another kind or schema; the message names both.
        """
        found = KINDS.get(self.identity.kind, str(self.identity.kind))
        if self.identity.kind != kind:
            raise SchemaMismatch(
                f"{self.name}: a {found} at {self.path}, expected a {KINDS[kind]}; use another name"
            )
        if schema is not None and schema != self.schema:
            raise SchemaMismatch(
                f"{self.name} ({self.path}): holds {self.schema}, expected {schema}; attach with "
                f"its schema, or stop its writer and remove it: meshctl unlink {self.name}"
            )

    def expect_sizes(self, shape: Shape) -> None:
        """Compare the sizes with what a writer asks for.

        Raises:
            SchemaMismatch: The segment was made with other sizes; the message names both.
        """
        i = self.identity
        found = (i.capacity, i.record_size, i.aux_size, i.flags)
        wanted = (shape.capacity, shape.record_size, shape.aux_size, shape.flags)
        if found != wanted:
            raise SchemaMismatch(
                f"{self.name} ({self.path}): made with (capacity, record bytes, auxiliary size, "
                f"flags) {found}, asked for {wanted}; ask for its sizes, or stop its users and "
                f"remove it: meshctl unlink {self.name}"
            )

    def take_lease(self) -> None:
        """Become the writer.

        Raises:
            LeaseHeld: Another live process is the writer.
        """
        me = ProcessIdentity.current()
        with directory_lock(self.path.parent):
            owner = self.owner()
            if owner is not None and owner != me and owner.is_alive():
                raise LeaseHeld(
                    f"{self.name} ({self.path}): {owner} is its writer, this is {me}; "
                    "stop that process first"
                )
            self.mapping.lease_take(me.pid, me.start_time)

    def owner(self) -> ProcessIdentity | None:
        """Return the process that holds the lease, dead or alive; None when nobody does."""
        _, pid, start_time, _ = self.mapping.lease()
        return ProcessIdentity(pid, start_time) if pid else None

    def check_current(self) -> None:
        """Raise SegmentMissing if the path names this file no more."""
        self._check_path()

    def close(self) -> None:
        """Drop the lease if it is ours, and unmap once no view is left."""
        try:
            if self.mapping.is_writer:
                # without the directory nobody can take it over, and nothing is left to guard
                with contextlib.suppress(SegmentMissing), directory_lock(self.path.parent):
                    self.mapping.lease_drop(False)
        finally:
            self.mapping.close()

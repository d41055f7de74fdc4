"""A segment's file: made whole or not at all, attached only when every byte of its head agrees.

Serves I6 (readers map read-only), I7 (a stale segment is recognised) and I4 (one writer). Built
under a temporary name with its space reserved, so a full tmpfs is an error at creation and never
a SIGBUS later; then linked to its name, so nobody attaches to half a segment. Rejected:
`multiprocessing.shared_memory`, whose resource tracker unlinks what others still use.
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
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
from mesh.process_identity import ProcessIdentity
from mesh.schema import fingerprint

MAGIC = 0x314853454D534D54
LAYOUT_VERSION = 1
ENDIAN_MARK = 0x01020304
PAGE = 4096
LINE = 128
SCHEMA_OFFSET = 1024
IDENTITY = struct.Struct("<QIIIIQQQQQQQQQQQQII16s16s")
KINDS = {1: "cell", 2: "table", 3: "ring", 4: "tensors", 5: "lock", 6: "heartbeats"}
NUMPY, MSGPACK, ARRAYS = 0, 1, 2
NAME = re.compile(r"[A-Za-z0-9_.-]{1,64}(/[A-Za-z0-9_.-]{1,64})?")


def boot_id() -> bytes:
    """Give the 16 bytes that change with every boot."""
    text = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii")
    return bytes.fromhex(text.strip().replace("-", ""))


def file_name(name: str) -> str:
    """Give the file of a segment name. Raises InvalidName for one that could leave the mesh."""
    if not NAME.fullmatch(name) or any(part.startswith(".") for part in name.split("/")):
        raise InvalidName(
            f"segment name {name!r}: use letters, digits and -_. (64 at most, no leading dot), "
            "with one / at most as name space"
        )
    return name.replace("/", "+")


@dataclass(frozen=True, slots=True)
class Identity:
    """The constant head of a segment (mesh_identity in layout.h); sizes and offsets in bytes."""

    kind: int
    slots: int
    total_size: int
    record_size: int
    stride: int
    capacity: int
    data_offset: int
    readers_offset: int
    schema_size: int
    aux_offset: int
    aux_size: int
    generation: int
    creator: ProcessIdentity
    encoding: int
    fingerprint: bytes
    boot_id: bytes

    def pack(self) -> bytes:
        """Give the bytes of the head, with its check."""
        head = IDENTITY.pack(
            MAGIC,
            LAYOUT_VERSION,
            ENDIAN_MARK,
            self.kind,
            self.slots,
            self.total_size,
            self.record_size,
            self.stride,
            self.capacity,
            self.data_offset,
            self.readers_offset,
            SCHEMA_OFFSET,
            self.schema_size,
            self.aux_offset,
            self.aux_size,
            self.generation,
            self.creator.start_time,
            self.creator.pid,
            self.encoding,
            self.fingerprint,
            self.boot_id,
        )
        return head + struct.pack("<Q", _native.checksum(head))

    @classmethod
    def unpack(cls, data: bytes, where: Path) -> Identity:
        """Read a head. Raises Corrupt or LayoutMismatch naming `where` and both values."""
        size = IDENTITY.size
        if len(data) < size + 8:
            raise Corrupt(f"{where}: {len(data)} bytes are no segment; remove the file")
        f = IDENTITY.unpack_from(data)
        if f[0] != MAGIC:
            raise Corrupt(f"{where}: magic {f[0]:#x}, expected {MAGIC:#x}; remove the file")
        if (f[1], f[2]) != (LAYOUT_VERSION, ENDIAN_MARK):
            raise LayoutMismatch(
                f"{where}: layout version {f[1]} (endian mark {f[2]:#x}), this is version "
                f"{LAYOUT_VERSION} ({ENDIAN_MARK:#x}); stop its users and remove the file"
            )
        (check,) = struct.unpack_from("<Q", data, size)
        found = _native.checksum(data[:size])
        if check != found:
            raise Corrupt(f"{where}: head check {check:#x}, computed {found:#x}; remove the file")
        return cls(
            f[3], f[4], f[5], f[6], f[7], f[8], f[9], f[10], f[12], f[13], f[14], f[15],
            ProcessIdentity(f[17], f[16]), f[18], f[19], f[20],
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Shape:
    """What a new segment is to hold; sizes in bytes."""

    kind: int
    encoding: int
    schema: str
    slots: int
    record_size: int
    stride: int
    capacity: int
    data_size: int
    aux_total: int = 0
    aux_size: int = 0


def round_up(n: int, to: int) -> int:
    """Give the next multiple of `to` that is not below `n`."""
    return (n + to - 1) // to * to


def create(path: Path, shape: Shape, mode: int) -> None:
    """Make the segment file; FileExistsError if the name is taken, MeshFull, AccessDenied."""
    schema = shape.schema.encode()
    aux_offset = round_up(SCHEMA_OFFSET + len(schema), LINE)
    data_offset = round_up(aux_offset + shape.aux_total, LINE)
    readers_offset = round_up(data_offset + shape.data_size, PAGE)
    total = readers_offset + PAGE
    identity = Identity(
        shape.kind, shape.slots, total, shape.record_size, shape.stride, shape.capacity,
        data_offset, readers_offset, len(schema), aux_offset, shape.aux_size,
        time.time_ns(), ProcessIdentity.current(), shape.encoding, fingerprint(shape.schema),
        boot_id(),
    )  # fmt: skip
    temporary = path.with_name(f".new-{os.getpid()}-{time.monotonic_ns()}-{path.name}")
    try:
        fd = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    except PermissionError as error:
        raise AccessDenied(
            f"{path.parent}: may not be written by uid {os.getuid()}; change its owner or mode"
        ) from error
    try:
        os.posix_fallocate(fd, 0, total)
        os.pwrite(fd, identity.pack(), 0)
        os.pwrite(fd, schema, SCHEMA_OFFSET)
        os.link(temporary, path)
    except OSError as error:
        if error.errno not in {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}:
            raise
        free = os.statvfs(path.parent)
        raise MeshFull(
            f"{path}: needs {total} bytes, {free.f_bavail * free.f_frsize} are free in "
            f"{path.parent}; enlarge the tmpfs or make the segment smaller"
        ) from error
    finally:
        os.close(fd)
        temporary.unlink()


@contextmanager
def directory_lock(directory: Path) -> Iterator[None]:
    """Hold the lock under which leases change hands; the kernel frees it when its owner dies."""
    fd = os.open(directory / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)


def problem_raiser(name: str, path: Path) -> Callable[[int], NoReturn]:
    """Give what raises the typed error for a code of the core (enum mesh_problem)."""
    errors: dict[int, tuple[type[MeshError], str]] = {
        1: (NotWritten, "nothing was written yet; wait_newer(0, timeout) waits for it"),
        2: (LeaseLost, "another writer took over, or this is a fork; open it again to write"),
        3: (Corrupt, "the bytes contradict themselves; remove the segment and restart its writer"),
        4: (SegmentMissing, "the segment was replaced or removed; attach again"),
        5: (LeaseLost, "this object was closed; open the segment again"),
        6: (MeshFull, "every row is taken; make the table with more rows"),
        7: (LeaseLost, "attached read-only; open it with create=True to be its writer"),
        8: (Corrupt, "the arrays do not match their checksum; restart the segment's writer"),
    }

    def raise_problem(code: int) -> NoReturn:
        kind, text = errors[code]
        raise kind(f"{name} ({path}): {text}")

    return raise_problem


class SegmentFile:
    """An open segment: its head, its schema text and its mapping."""

    def __init__(self, name: str, path: Path, *, writable: bool) -> None:
        """Attach. Raises SegmentMissing, AccessDenied, Corrupt, LayoutMismatch."""
        self.name = name
        self.path = path
        fd, shared_page = self._open(writable)
        try:
            size = os.fstat(fd).st_size
            self.identity = Identity.unpack(os.pread(fd, PAGE, 0), path)
            i = self.identity
            if size != i.total_size:
                raise Corrupt(
                    f"{path}: {size} bytes, its head says {i.total_size}; remove the file"
                )
            if i.boot_id != boot_id():
                raise LayoutMismatch(f"{path}: made before the last boot; remove the file")
            text = os.pread(fd, i.schema_size, SCHEMA_OFFSET)
            self.schema = text.decode("utf-8", "replace")
            if fingerprint(self.schema) != i.fingerprint:
                raise Corrupt(f"{path}: the schema text is not the one the head names")
            self.mapping = _native.Mapping(
                fd, size, i.readers_offset, writable, shared_page, problem_raiser(name, path)
            )
        finally:
            os.close(fd)

    def _open(self, writable: bool) -> tuple[int, bool]:
        flags = os.O_CLOEXEC | os.O_NOFOLLOW
        try:
            return os.open(self.path, os.O_RDWR | flags), True
        except FileNotFoundError as error:
            raise SegmentMissing(
                f"{self.name}: no segment at {self.path}; start the worker that writes it"
            ) from error
        except PermissionError as error:
            if not writable and os.access(self.path, os.R_OK):
                return os.open(self.path, os.O_RDONLY | flags), False
            raise AccessDenied(
                f"{self.path}: uid {os.getuid()} may not open it; ask for the mesh's group"
            ) from error

    def expect(self, kind: int, schema: str | None) -> None:
        """Compare with what the caller wants. Raises SchemaMismatch naming both."""
        found = KINDS.get(self.identity.kind, str(self.identity.kind))
        if self.identity.kind != kind:
            raise SchemaMismatch(
                f"{self.name}: a {found} at {self.path}, expected a {KINDS[kind]}; use another name"
            )
        if schema is not None and schema != self.schema:
            raise SchemaMismatch(
                f"{self.name} ({self.path}): holds {self.schema}, expected {schema}; attach with "
                "its schema, or stop its writer and remove it"
            )

    def take_lease(self) -> None:
        """Become the writer. Raises LeaseHeld while another process is it."""
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
        """Give the process that holds the lease, dead or alive; None when nobody does."""
        _, pid, start_time, _ = self.mapping.lease()
        return ProcessIdentity(pid, start_time) if pid else None

    def close(self) -> None:
        """Give the lease back if it is ours, and unmap once no view is left."""
        try:
            writer = self.mapping.is_writer
            if writer:
                with directory_lock(self.path.parent):
                    self.mapping.lease_drop(False)
        finally:
            self.mapping.close()

"""The head of a segment as Python sees it; `_core/layout.h` is the one that counts.

Serves I7: a head is believed only when its magic, layout version, byte order, check and boot all
agree, so that a stale or foreign file is recognised and never half-believed.
"""

from __future__ import annotations

import struct
from _blake2 import blake2b  # hashlib loads all of OpenSSL for it
from pathlib import Path
from typing import NamedTuple

from mesh._core import _native
from mesh.errors import Corrupt, LayoutMismatch
from mesh.process_identity import ProcessIdentity

MAGIC = 0x314853454D534D54
LAYOUT_VERSION = 3
ENDIAN_MARK = 0x01020304
PAGE = 4096
LINE = 128
CONTROL_OFFSET = 512
SCHEMA_OFFSET = 1024
IDENTITY = struct.Struct("<QIIIIQQQQQQQQQQQQIIII16s16s")
#: published, lease, intent, rows, retired; behind them, on a line of its own: breaks, two owners
CONTROL = struct.Struct(f"<QQQQQ{LINE - 40}xQQIIQqQIIQqQ")
KINDS = {1: "cell", 2: "table", 3: "ring", 4: "tensors", 5: "lock", 6: "heartbeats"}
NUMPY, MSGPACK, ARRAYS = 0, 1, 2
CHECKED = 1


class _Head(NamedTuple):
    """The fields of IDENTITY, named as in layout.h."""

    magic: int
    layout_version: int
    endian_mark: int
    kind: int
    slots: int
    total_size: int
    record_size: int
    stride: int
    capacity: int
    data_offset: int
    readers_offset: int
    schema_offset: int
    schema_size: int
    aux_offset: int
    aux_size: int
    generation: int
    creator_start_time: int
    creator_pid: int
    encoding: int
    flags: int
    reserved: int
    fingerprint: bytes
    boot_id: bytes


class _ControlHead(NamedTuple):
    """The fields of CONTROL, with its two owner entries."""

    published: int
    lease: int
    intent: int
    rows: int
    retired: int
    breaks: int
    reserved: int
    pid_0: int
    padding_0: int
    start_time_0: int
    since_ns_0: int
    reserved_0: int
    pid_1: int
    padding_1: int
    start_time_1: int
    since_ns_1: int
    reserved_1: int


def fingerprint(schema: str) -> bytes:
    """Return the 16-byte fingerprint of a schema text (blake2b-128)."""
    return blake2b(schema.encode(), digest_size=16).digest()


def round_up(n: int, to: int) -> int:
    """Return the next multiple of `to` that is not below `n`."""
    return (n + to - 1) // to * to


class Identity(NamedTuple):
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
    flags: int
    fingerprint: bytes
    boot_id: bytes

    @property
    def checked(self) -> bool:
        """Whether every value carries a checksum."""
        return bool(self.flags & CHECKED)

    def pack(self) -> bytes:
        """Return the bytes of the head, with its check."""
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
            self.flags,
            0,
            self.fingerprint,
            self.boot_id,
        )
        return head + struct.pack("<Q", _native.checksum(head))

    @classmethod
    def unpack(cls, data: bytes, where: Path) -> Identity:
        """Read a head.

        Raises:
            Corrupt: `where` is not the head of a segment, or contradicts itself.
            LayoutMismatch: It has another layout version; the message names both.
        """
        size = IDENTITY.size
        if len(data) < size + 8:
            raise Corrupt(f"{where}: {len(data)} bytes are no segment; remove the file")
        head = _Head._make(IDENTITY.unpack_from(data))
        if head.magic != MAGIC:
            raise Corrupt(f"{where}: magic {head.magic:#x}, expected {MAGIC:#x}; remove the file")
        if (head.layout_version, head.endian_mark) != (LAYOUT_VERSION, ENDIAN_MARK):
            raise LayoutMismatch(
                f"{where}: layout version {head.layout_version} (endian mark "
                f"{head.endian_mark:#x}), this is version {LAYOUT_VERSION} ({ENDIAN_MARK:#x}); "
                "stop its users and remove the file"
            )
        (check,) = struct.unpack_from("<Q", data, size)
        found = _native.checksum(data[:size])
        if check != found:
            raise Corrupt(f"{where}: head check {check:#x}, computed {found:#x}; remove the file")
        return cls(
            kind=head.kind,
            slots=head.slots,
            total_size=head.total_size,
            record_size=head.record_size,
            stride=head.stride,
            capacity=head.capacity,
            data_offset=head.data_offset,
            readers_offset=head.readers_offset,
            schema_size=head.schema_size,
            aux_offset=head.aux_offset,
            aux_size=head.aux_size,
            generation=head.generation,
            creator=ProcessIdentity(head.creator_pid, head.creator_start_time),
            encoding=head.encoding,
            flags=head.flags,
            fingerprint=head.fingerprint,
            boot_id=head.boot_id,
        )


class Control(NamedTuple):
    """The changing head of a segment (mesh_control in layout.h) at one moment."""

    published: int
    retired: bool
    breaks: int
    owner: ProcessIdentity | None

    @classmethod
    def unpack(cls, data: bytes) -> Control:
        """Read the control of a head."""
        head = _ControlHead._make(CONTROL.unpack_from(data, CONTROL_OFFSET))
        odd = head.lease >> 1 & 1  # the epoch's lowest bit says which owner entry counts
        pid, start_time = (
            (head.pid_1, head.start_time_1) if odd else (head.pid_0, head.start_time_0)
        )
        owner = ProcessIdentity(pid, start_time) if pid else None
        return cls(head.published, head.retired != 0, head.breaks, owner)


class Shape(NamedTuple):
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
    flags: int = 0

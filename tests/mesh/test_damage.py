"""Damage: whatever byte of a head is flipped, a typed error or a value that was written.

Run in a child process: a crash or a hang of it is what these tests look for.
"""

from __future__ import annotations

import signal

import msgspec
import numpy as np
import pytest

from mesh import Mesh, MeshError
from mesh._core import _native
from mesh.header import IDENTITY, LINE, PAGE, SCHEMA_OFFSET
from mesh.segment_file import read_head
from tests.processes import child

RECORD = np.dtype([("n", "<i8"), ("x", "<f8", (3,))])
FLIPS = (0x01, 0x80, 0xFF)
LIKE = {"w": np.arange(40, dtype="<f4"), "b": np.arange(3, dtype="<f8")}


class Risk(msgspec.Struct):
    """A value for the tests."""

    limit: float
    names: list[str]


def records(first, count):
    """Records numbered from `first`."""
    array = np.zeros(count, RECORD)
    array["n"] = np.arange(first, first + count)
    array["x"] = array["n"][:, None] / 7
    return array


def numbered(array, first):
    """Whether these are the records from `first` on."""
    return array.tobytes() == records(first, array.size).tobytes()


def make_struct(mesh):
    """A cell of a Struct, written twice."""
    cell = mesh.cell("s", Risk, create=True, max_bytes=64)
    for n in (1, 2):
        cell.write(Risk(float(n), ["a", "b"]))
    return cell


def read_struct(mesh, create):
    """Read it."""
    version, value = mesh.cell("s", Risk, create=create, max_bytes=64).read()
    return value == Risk(float(version), ["a", "b"])


def make_cell(mesh):
    """A cell of a record, written twice."""
    cell = mesh.cell("s", RECORD, create=True)
    for n in (1, 2):
        cell.write(records(n, 1))
    return cell


def read_cell(mesh, create):
    """Read it, and go on as its writer."""
    cell = mesh.cell("s", RECORD, create=create)
    version, value = cell.read()
    if create:
        after = cell.write(records(version + 1, 1))
        return cell.read()[1]["n"] == after
    return numbered(np.array([value]), version)


def make_ring(mesh):
    """A ring that was gone round once, with two states."""
    ring = mesh.ring("s", RECORD, capacity=8, state_bytes=8, create=True)
    for n in range(0, 12, 3):
        ring.publish(records(n, 3), state=b"%8d" % (n + 3))
    return ring


def read_ring(mesh, create):
    """Read all of it, and go on as its writer."""
    if create:
        ring = mesh.ring("s", RECORD, capacity=8, state_bytes=8, create=True)
        last = ring.publish(records(ring.published, 1), state=b"next")
        reader = ring.reader(last)
        return numbered(reader.read(), last) and ring.state() == b"next"
    ring = mesh.ring("s", RECORD)
    reader = ring.reader("oldest")
    got = reader.read()
    state = ring.state()
    return numbered(got, reader.sequence - got.size) and state in {None, b"      12", b"       9"}


def make_table(mesh):
    """A table of three rows."""
    table = mesh.table("s", RECORD, rows=4, create=True)
    for n in (1, 2, 3):
        table.write(f"key-{n}", records(n, 1))
    return table


def read_table(mesh, create):
    """Read every row; a row whose key or index is gone may be missing."""
    table = mesh.table("s", RECORD, rows=4, create=create)
    rows = table.snapshot()
    fine = set(rows["n"].tolist()) <= {1, 2, 3}
    for n in (1, 2, 3):
        try:
            fine &= table.read(f"key-{n}")[1]["n"] == n
        except KeyError:
            continue
    if create:
        table.write("key-1", records(7, 1))
        fine &= table.read("key-1")[1]["n"] == 7
    return bool(fine)


def make_tensors(mesh):
    """Two versions of arrays."""
    tensors = mesh.tensors("s", like=LIKE, create=True)
    for n in (1, 2):
        tensors.publish({name: array + n for name, array in LIKE.items()})
    return tensors


def read_tensors(mesh, create):
    """Read them."""
    version, arrays = mesh.tensors("s", like=LIKE, create=create).read()
    return all((arrays[name] == array + version).all() for name, array in LIKE.items())


def make_lock(mesh):
    """A lock that was used."""
    lock = mesh.lock("s", create=True, owner_name="maker")
    with lock:
        return lock


def use_lock(mesh, create):
    """Take it, with a time limit."""
    lock = mesh.lock("s", create=create, owner_name="user" if create else "maker", timeout=0.01)
    with lock:
        return lock.owner() is not None


def make_heartbeats(mesh):
    """Two rows of this process."""
    heartbeats = mesh.heartbeats(create=True, rows=3)
    for name in ("one", "two"):
        heartbeats.claim(name).beat(progress=7)
    return heartbeats


def read_heartbeats(mesh, create):
    """Read the rows, or claim one; a row whose key is damaged has another name."""
    heartbeats = mesh.heartbeats()
    if create:
        heartbeats.claim("one").beat(progress=7)
    known = {"one": 7, "two": 7}
    return all(known.get(row.worker, 7) in {row.progress, 7} for row in heartbeats.rows())


KINDS = {
    "heartbeats": (make_heartbeats, read_heartbeats),
    "struct": (make_struct, read_struct),
    "cell": (make_cell, read_cell),
    "ring": (make_ring, read_ring),
    "table": (make_table, read_table),
    "tensors": (make_tensors, read_tensors),
    "lock": (make_lock, use_lock),
}


def head_bytes(path):
    """Where heads lie: identity, control, schema, journal or index, slot and row heads, lock."""
    i = read_head(path)[0]
    places = [*range(IDENTITY.size + 8), *range(512, 512 + 2 * LINE)]
    places += [SCHEMA_OFFSET, SCHEMA_OFFSET + i.schema_size - 1]
    slot_head = _native.layout()["sizeof.slot"]
    if i.kind in {1, 4}:
        for slot in range(i.slots):
            places += range(
                i.data_offset + slot * i.stride, i.data_offset + slot * i.stride + slot_head
            )
    if i.kind in {2, 6}:
        places += range(i.aux_offset, i.aux_offset + 4 * i.aux_size)  # heartbeats have none
        row = 64 + 2 * i.stride
        for n in range(i.capacity):
            at = i.data_offset + n * row
            places += [*range(at, at + 64), *range(at + 64, at + 64 + slot_head)]
            places += range(at + 64 + i.stride, at + 64 + i.stride + slot_head)
    if i.kind == 3:
        places += [*range(i.aux_offset, i.aux_offset + 32)]
        second = i.aux_offset + (i.data_offset - i.aux_offset) // 2
        places += range(second, second + 32)
    places += range(i.readers_offset, i.readers_offset + 64)
    if i.kind == 5:
        places += range(i.readers_offset + LINE, i.readers_offset + 2 * LINE + 64)
    return places


@pytest.mark.parametrize("kind", KINDS)
def test_i7_every_flipped_byte_of_a_head_is_an_error_or_harmless(mesh, kind):
    """Every byte of every head, three flips each, read and taken over: never a wrong value, never
    a crash, never a hang."""
    make, read = KINDS[kind]
    make(mesh).close()
    path = mesh.path / ("heartbeats" if kind == "heartbeats" else "s")
    whole = path.read_bytes()
    places = head_bytes(path)
    assert len(whole) >= 2 * PAGE

    def body(tell):
        signal.alarm(200)
        wrong, noticed = [], 0
        for at in places:
            for flip in FLIPS:
                damaged = bytearray(whole)
                damaged[at] ^= flip
                path.write_bytes(damaged)
                for create in (False, True):
                    try:
                        if not read(Mesh(mesh.path), create):
                            wrong.append((at, flip, create))
                    except MeshError:
                        noticed += 1
        assert not wrong
        tell(str(noticed))

    with child(body) as process:
        assert int(process.started(watchdog=240)) > 500
        assert process.wait() == 0


@pytest.mark.parametrize("kind", ["cell", "ring", "table"])
def test_flipped_payload_of_a_checked_segment_is_corrupt(mesh, kind):
    """With `checksum=True` every byte of the newest value is guarded."""
    opened = {
        "cell": lambda **o: mesh.cell("s", RECORD, checksum=True, **o),
        "ring": lambda **o: mesh.ring("s", RECORD, capacity=2, checksum=True, **o),
        "table": lambda **o: mesh.table("s", RECORD, rows=2, checksum=True, **o),
    }[kind]
    writer = opened(create=True)
    value = records(5, 1)
    {
        "cell": lambda: writer.write(value),
        "ring": lambda: writer.publish(value),
        "table": lambda: writer.write("k", value),
    }[kind]()
    path = mesh.path / "s"
    whole = path.read_bytes()
    at = whole.index(value.tobytes())
    reads = {
        "cell": lambda: mesh.attach("s").read(),
        "ring": lambda: mesh.attach("s").reader("oldest").read(),
        "table": lambda: mesh.attach("s").read("k"),
    }[kind]
    reads()
    for byte in range(at, at + RECORD.itemsize):
        damaged = bytearray(whole)
        damaged[byte] ^= 0x10
        path.write_bytes(damaged)
        with pytest.raises(MeshError, match="checksum"):
            reads()

"""The directory: the registry of its segments."""

from __future__ import annotations

import os
import signal

import numpy as np
import pytest

from mesh import LayoutMismatch, LeaseHeld, LeaseLost, ProcessIdentity, SegmentMissing
from mesh._core import _native
from mesh.header import IDENTITY
from mesh.segment_file import SegmentFile
from tests.processes import child


def test_segments_are_listed_from_their_heads(mesh):
    """Kind, size, capacity and owner are known without the code that wrote the segment."""
    mesh.ring("a/b", np.dtype("<f8"), capacity=4, create=True)
    (mesh.path / "foreign").write_text("no segment")
    (info,) = mesh.segments()
    assert (info.name, info.kind, info.capacity) == ("a/b", "ring", 4)
    assert info.owner == ProcessIdentity.current()


def test_removed_segment_says_so(mesh):
    """Those attached to a removed segment are told at their next call."""
    mesh.ring("r", np.dtype("<f8"), capacity=4, create=True)
    reader = mesh.ring("r", np.dtype("<f8"))
    mesh.unlink("r")
    with pytest.raises(SegmentMissing, match="attach again"):
        _ = reader.published


def test_i4_segment_in_use_is_not_removed(mesh):
    """Ring, lock and heartbeats that another live process uses stay, and the error names it."""

    def body(tell):
        held = mesh.ring("r", np.dtype("<f8"), capacity=4, create=True)
        mesh.lock("l", create=True).acquire(1.0)
        mesh.heartbeats(create=True).claim("w")
        tell()
        signal.pause()
        del held

    with child(body) as process:
        process.started()
        for name in ("r", "l", "heartbeats"):
            with pytest.raises(LeaseHeld, match=rf"{name}.*pid {process.pid}.*stop that process"):
                mesh.unlink(name)
        assert {info.name for info in mesh.segments()} == {"r", "l", "heartbeats"}
        process.kill()
    for name in ("r", "l", "heartbeats"):
        mesh.unlink(name)
    assert list(mesh.segments()) == []
    with pytest.raises(SegmentMissing):
        mesh.unlink("r")


def test_i3_leases_of_a_dead_process_are_broken_and_counted(mesh):
    """Every lease and lock of the dead one is freed, named and counted; others are left alone."""
    mine = mesh.ring("mine", np.dtype("<f8"), capacity=4, create=True)

    def body(tell):
        rings = [mesh.ring(f"r{i}", np.dtype("<f8"), capacity=4, create=True) for i in range(2)]
        mesh.lock("l", create=True).acquire(1.0)
        tell(str(len(rings)))
        signal.pause()

    with child(body) as process:
        process.started()
        dead = ProcessIdentity.of(process.pid)
        process.kill()
    assert sorted(mesh.break_leases(dead)) == ["l", "r0", "r1"]
    assert mesh.break_leases(dead) == []
    assert mesh.attach("r0").statistics().breaks == 1
    assert mesh.attach("r0").info.owner is None
    assert mine.publish(np.zeros(1)) == 0


def test_i3_writer_whose_lease_was_broken_publishes_nothing(mesh):
    """A fenced writer gets LeaseLost and what readers see stays as it was."""
    old = mesh.ring("r", np.dtype("<f8"), capacity=4, create=True)
    old.publish(np.ones(1))
    new = SegmentFile("r", mesh.path / "r", writable=True)
    new.mapping.lease_drop(True)
    with pytest.raises(LeaseLost):
        old.publish(np.ones(1))
    assert mesh.attach("r").published == 1


def test_leftovers_of_the_dead_are_swept(mesh):
    """Half-made files of processes that are gone are removed; segments stay."""
    mesh.ring("r", np.dtype("<f8"), capacity=4, create=True)
    (mesh.path / ".new-999999999-1-x").write_bytes(b"half")
    assert mesh.sweep() == [".new-999999999-1-x"]
    assert [info.name for info in mesh.segments()] == ["r"]


def test_i7_stale_mesh_of_another_boot_is_swept(mesh):
    """A segment made before the last boot is refused by name and removed by a sweep."""
    mesh.ring("r", np.dtype("<f8"), capacity=4, create=True).close()
    path = mesh.path / "r"
    data = bytearray(path.read_bytes())
    data[IDENTITY.size - 16 : IDENTITY.size] = b"another boot ..."
    data[IDENTITY.size : IDENTITY.size + 8] = _native.checksum(
        bytes(data[: IDENTITY.size])
    ).to_bytes(8, "little")
    path.write_bytes(data)
    with pytest.raises(LayoutMismatch, match="last boot"):
        mesh.attach("r")
    assert mesh.sweep() == ["r"]


def test_healing_goes_on_over_segments_that_vanish(mesh):
    """Segments removed while the leases of a dead process are broken: the others are freed."""
    names = [f"r{i}" for i in range(40)]

    def body(tell):
        held = [mesh.ring(name, np.dtype("<f8"), capacity=4, create=True) for name in names]
        tell()
        signal.pause()
        del held

    with child(body) as process:
        process.started()
        dead = ProcessIdentity.of(process.pid)
        process.kill()

    def remove(tell):
        tell()
        for name in names[::2]:
            (mesh.path / name).unlink()

    with child(remove) as process:
        process.started()
        broken = mesh.break_leases(dead)
        assert process.wait() == 0
    assert set(names[1::2]) <= set(broken)


def test_info_names_kind_and_owner_of_one_segment(mesh):
    """The head of one segment is read without mapping it; one that is missing is named."""
    ring = mesh.ring("name/r", np.dtype("<f8"), capacity=4, create=True)
    info = mesh.info("name/r")
    assert (info.name, info.kind, info.capacity) == ("name/r", "ring", 4)
    assert info.owner == ProcessIdentity.current()
    ring.close()
    assert mesh.info("name/r").owner is None
    with pytest.raises(SegmentMissing, match="missing"):
        mesh.info("missing")


def test_files_that_are_no_segments_hold_nobody_up(mesh):
    """Names no segment has, links, pipes, a damaged segment: passed over, the rest is freed."""

    def hold(tell):
        held = [mesh.cell(f"cell-{n}", np.dtype("<f8"), create=True) for n in range(3)]
        tell()
        signal.pause()
        del held

    with child(hold) as process:
        process.started()
        dead = ProcessIdentity.of(process.pid)
        process.kill()
    whole = (mesh.path / "cell-0").read_bytes()
    for name in (b"a+b+c", b"esc\x1b[31m", b"new\nline", b"not utf-8 \xff"):
        with open(os.fsencode(mesh.path) + b"/" + name, "wb") as file:  # noqa: PTH123 - bytes
            file.write(whole)
    os.mkfifo(mesh.path / "pipe")
    (mesh.path / "loop").symlink_to(mesh.path / "loop")
    (mesh.path / "gone").symlink_to(mesh.path / "nothing")
    with (mesh.path / "cell-1").open("r+b") as file:
        file.write(b"\xa5" * 8)
    assert [info.name for info in mesh.segments()] == ["cell-0", "cell-2"]
    assert mesh.break_leases(dead) == ["cell-0", "cell-2"]

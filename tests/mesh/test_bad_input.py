"""What goes wrong around a mesh: a typed error with a remedy each, and nothing half made."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import struct
from contextlib import ExitStack

import numpy as np
import pytest

from mesh import (
    AccessDenied,
    Corrupt,
    InvalidName,
    LayoutMismatch,
    LeaseHeld,
    Mesh,
    MeshError,
    MeshFull,
    SchemaMismatch,
    SegmentMissing,
)
from mesh._core import _native
from mesh.header import IDENTITY, LAYOUT_VERSION
from mesh.segment_file import SegmentFile
from tests.processes import child

DTYPE = np.dtype("<f8")
NOBODY = 65534
as_root = pytest.mark.skipif(os.getuid() != 0, reason="only root can become another user")


def leftovers(mesh):
    """Files of the directory that are neither segments nor the lock."""
    return [path.name for path in mesh.path.iterdir() if path.name.startswith(".new-")]


def become_nobody(*groups):
    """Drop root for good."""
    os.setgroups(list(groups))
    os.setgid(groups[0] if groups else NOBODY)
    os.setuid(NOBODY)


def listening(path):
    """Leave a socket behind."""
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))


NO_SEGMENTS = {
    "empty": lambda path: path.write_bytes(b""),
    "text": lambda path: path.write_text("not a segment" * 1000),
    "zeros": lambda path: path.write_bytes(bytes(10000)),
    "directory": lambda path: path.mkdir(),
    "pipe": os.mkfifo,
    "link": lambda path: path.symlink_to("/etc/passwd"),
    "socket": listening,
}


@pytest.mark.parametrize("what", NO_SEGMENTS)
def test_other_file_is_refused_and_left_alone(mesh, what):
    """Whatever lies where a segment should be: Corrupt with the remedy, for readers and writers."""
    NO_SEGMENTS[what](mesh.path / "r")
    before = os.lstat(mesh.path / "r")
    for open_it in (
        lambda: mesh.ring("r", DTYPE),
        lambda: mesh.ring("r", DTYPE, capacity=4, create=True),
        lambda: mesh.attach("r"),
        lambda: mesh.lock("r"),
    ):
        with pytest.raises(Corrupt, match="remove"):
            open_it()
    assert list(mesh.segments()) == []
    assert os.lstat(mesh.path / "r").st_ino == before.st_ino
    assert not leftovers(mesh)


@pytest.mark.parametrize(
    ("field", "value"), [(1, LAYOUT_VERSION - 1), (1, LAYOUT_VERSION + 1), (2, 0x04030201)]
)
def test_other_layout_or_byte_order_is_refused(mesh, field, value):
    """A head of another layout version or byte order names both; a sweep takes it away."""
    mesh.ring("r", DTYPE, capacity=4, create=True).close()
    path = mesh.path / "r"
    data = bytearray(path.read_bytes())
    fields = list(IDENTITY.unpack_from(data))
    fields[field] = value
    head = IDENTITY.pack(*fields)
    data[: len(head) + 8] = head + struct.pack("<Q", _native.checksum(head))
    path.write_bytes(data)
    with pytest.raises(LayoutMismatch, match=f"this is version {LAYOUT_VERSION}.*remove the file"):
        mesh.ring("r", DTYPE)
    assert mesh.sweep() == ["r"]


def test_other_sizes_are_refused_to_a_writer(mesh):
    """Who asks for another capacity, state or flag than the segment has learns both."""
    mesh.ring("r", DTYPE, capacity=4, state_bytes=8, create=True).close()
    mesh.table("t", DTYPE, rows=4, create=True).close()
    mesh.cell("c", DTYPE, create=True).close()
    for wrong in (
        lambda: mesh.ring("r", DTYPE, capacity=8, state_bytes=8, create=True),
        lambda: mesh.ring("r", DTYPE, capacity=4, state_bytes=16, create=True),
        lambda: mesh.ring("r", DTYPE, capacity=4, state_bytes=8, create=True, checksum=True),
        lambda: mesh.table("t", DTYPE, rows=8, create=True),
        lambda: mesh.cell("c", DTYPE, create=True, checksum=True),
    ):
        with pytest.raises(SchemaMismatch, match="asked for"):
            wrong()
    assert all(info.owner is None for info in mesh.segments())
    mesh.ring("r", DTYPE)  # a reader takes it as it is


def test_impossible_sizes_are_refused_before_anything_is_made(mesh):
    """No records, no rows, no bytes, Python objects, arrays without a field: nothing is left."""
    wrong = (
        (ValueError, lambda: mesh.ring("x", DTYPE, capacity=0, create=True)),
        (ValueError, lambda: mesh.ring("x", DTYPE, create=True)),
        (ValueError, lambda: mesh.ring("x", DTYPE, capacity=1, state_bytes=-1, create=True)),
        (ValueError, lambda: mesh.table("x", DTYPE, rows=0, create=True)),
        (ValueError, lambda: mesh.cell("x", np.dtype([]), create=True)),
        (ValueError, lambda: mesh.tensors("x", like={}, create=True)),
        (ValueError, lambda: mesh.tensors("x", create=True)),
        (TypeError, lambda: mesh.cell("x", np.dtype("O"), create=True)),
        (TypeError, lambda: mesh.cell("x", int, create=True)),
        (TypeError, lambda: mesh.tensors("x", like={"o": np.array([None])}, create=True)),
        (TypeError, lambda: mesh.ring("x", np.dtype(("<f8", 3)), capacity=4, create=True)),
        (MeshFull, lambda: mesh.ring("x", DTYPE, capacity=1 << 62, create=True)),
        (MeshFull, lambda: mesh.ring("x", DTYPE, capacity=1 << 70, create=True)),
    )
    for error, call in wrong:
        with pytest.raises(error):
            call()
    assert not [path for path in mesh.path.iterdir() if path.name != ".lock"]


@pytest.mark.parametrize("name", ["policy/td3-0", "a.b_c-D9", "x" * 64, "x" * 64 + "/" + "y" * 64])
def test_names_with_one_name_space_are_fine(mesh, name):
    """One `/`, letters, digits and -_. are what names are made of; the listing gives them back."""
    mesh.cell(name, DTYPE, create=True)
    assert [info.name for info in mesh.segments()] == [name]


@pytest.mark.parametrize("name", ["/etc/passwd", "..", "a\0b", "a/../b", "x" * 65, "a b", "a//b"])
def test_other_names_are_refused(mesh, name):
    """Absolute, leaving the directory, NUL, too long: refused, whatever is asked of them."""
    for call in (
        lambda: mesh.cell(name, DTYPE, create=True),
        lambda: mesh.cell(name, DTYPE),
        lambda: mesh.lock(name),
        lambda: mesh.attach(name),
        lambda: mesh.unlink(name),
    ):
        with pytest.raises(InvalidName, match="use letters"):
            call()
    assert not list(mesh.path.iterdir())


def test_i4_of_racing_creators_one_becomes_the_writer(mesh):
    """Eight processes create one segment at once: one is the writer, seven are told who is."""
    go, start = os.pipe()

    def body(tell):
        os.read(go, 1)
        try:
            ring = mesh.ring("r", DTYPE, capacity=1 << 12, create=True)
        except LeaseHeld:
            tell("held")
            return
        ring.publish(np.full(1, os.getpid(), DTYPE))
        tell("writer")
        signal.pause()

    with ExitStack() as racers:
        running = [racers.enter_context(child(body)) for _ in range(8)]
        os.write(start, b"x" * 8)
        said = [process.started() for process in running]
        assert sorted(said) == ["held"] * 7 + ["writer"]
        writer = running[said.index("writer")].pid
        assert mesh.ring("r", DTYPE).reader("oldest").read().tolist() == [writer]
    os.close(go)
    os.close(start)
    assert not leftovers(mesh)


def test_directory_removed_underneath(mesh):
    """Readers are told, close() is quiet, and the next writer makes a new mesh."""
    ring = mesh.ring("r", DTYPE, capacity=4, create=True)
    ring.publish(np.ones(1))
    reader = mesh.ring("r", DTYPE).reader("oldest")
    lock = mesh.lock("l", create=True)
    shutil.rmtree(mesh.path)
    assert reader.read().tolist() == [1.0]
    for call in (
        lambda: reader.wait_published(0.01),
        lambda: mesh.ring("r", DTYPE),
        lambda: lock.acquire(0.01),
        mesh.heartbeats,
        lambda: mesh.unlink("r"),
    ):
        with pytest.raises(SegmentMissing):
            call()
    assert list(mesh.segments()) == []
    ring.close()
    lock.close()
    assert mesh.ring("r", DTYPE, capacity=4, create=True).publish(np.ones(1)) == 0


def test_replaced_by_hand_says_so(mesh):
    """A file removed and made again: who sleeps on the old one is told to attach again."""
    old = mesh.ring("r", DTYPE, capacity=4, create=True)
    reader = mesh.ring("r", DTYPE).reader()
    (mesh.path / "r").unlink()
    old.close()
    new = mesh.ring("r", DTYPE, capacity=4, create=True)
    with pytest.raises(SegmentMissing, match="attach again"):
        reader.wait_published(0.01)
    assert new.info.generation != old._file.identity.generation


def test_removal_that_was_killed_halfway_is_finished(mesh):
    """Retired but still there: readers are told, the next writer makes a new one."""
    mesh.ring("r", DTYPE, capacity=4, create=True).close()
    reader = mesh.ring("r", DTYPE)
    SegmentFile("r", mesh.path / "r", writable=True).mapping.retire()
    with pytest.raises(SegmentMissing):
        _ = reader.published
    again = mesh.ring("r", DTYPE, capacity=4, create=True)
    assert again.publish(np.ones(1)) == 0
    assert mesh.ring("r", DTYPE).published == 1


def test_mesh_that_is_a_file(tmp_path):
    """A file where the directory should be: a typed error, and the file untouched."""
    (tmp_path / "mesh").write_text("mine")
    with pytest.raises(AccessDenied, match="choose another path"):
        Mesh(tmp_path / "mesh").cell("c", DTYPE, create=True)
    with pytest.raises(AccessDenied):
        Mesh(tmp_path / "mesh").cell("c", DTYPE)
    assert (tmp_path / "mesh").read_text() == "mine"


@as_root
def test_another_user_is_denied(mesh):
    """Who has no right to the directory gets AccessDenied naming path, user and remedy."""
    mesh.cell("c", DTYPE, create=True).write(np.ones(1))
    mesh.path.chmod(0o700)

    def body(tell):
        become_nobody()
        for call in (
            lambda: mesh.cell("c", DTYPE),
            lambda: mesh.cell("new", DTYPE, create=True),
            lambda: mesh.lock("l", create=True),
            lambda: mesh.heartbeats(create=True),
        ):
            with pytest.raises(AccessDenied, match=r"uid 65534"):
                call()
        tell()

    with child(body) as process:
        assert process.wait() == 0


@as_root
def test_permissions_taken_away_while_attached(mesh):
    """Who is attached reads on; a new attachment is denied with the remedy."""
    mesh.path.chmod(0o755)
    cell = Mesh(mesh.path, mode=0o755).cell("c", DTYPE, create=True)
    cell.write(np.ones(1))
    go, start = os.pipe()

    def body(tell):
        become_nobody()
        reader = mesh.cell("c", DTYPE)
        tell()
        os.read(go, 1)
        assert reader.read()[0] == 1
        with pytest.raises(AccessDenied, match="group"):
            mesh.cell("c", DTYPE)
        assert not reader.wait_newer(1, 0.01)

    with child(body) as process:
        process.started()
        (mesh.path / "c").chmod(0o600)
        os.write(start, b"x")
        assert process.wait() == 0
    os.close(go)
    os.close(start)


@as_root
def test_i6_group_reads_and_cannot_harm(mesh_directory):
    """Another user of the mesh's group reads everything, sleeps for news, and may write nothing."""
    mesh = Mesh(mesh_directory, mode=0o750)
    old_umask = os.umask(0o077)  # the mode asked for holds whatever the umask
    try:
        ring = mesh.ring("r", DTYPE, capacity=8, create=True)
        tensors = mesh.tensors("w", like={"a": np.zeros(4)}, create=True)
        mesh.lock("l", create=True)
        mesh.heartbeats(create=True).claim("me")
    finally:
        os.umask(old_umask)
    os.chown(mesh.path, 0, 1234)
    for path in mesh.path.iterdir():
        os.chown(path, 0, 1234)
    ring.publish(np.ones(3))
    tensors.publish({"a": np.ones(4)})

    def body(tell):
        become_nobody(1234)
        attached = mesh.attach("r")
        reader = attached.reader("oldest")
        assert reader.read().tolist() == [1.0] * 3
        assert mesh.tensors("w").read()[1]["a"].tolist() == [1.0] * 4
        assert mesh.heartbeats().rows()[0].worker == "me"
        assert {info.name for info in mesh.segments()} == {"r", "w", "l", "heartbeats"}
        assert mesh.lock("l", create=True).owner() is None
        for call in (
            lambda: mesh.ring("r", DTYPE, capacity=8, create=True),
            lambda: mesh.lock("l", create=True).acquire(0.01),
            lambda: mesh.heartbeats().claim("you"),
            lambda: mesh.unlink("r"),
        ):
            with pytest.raises(AccessDenied):
                call()
        view = memoryview(attached._file.mapping)
        assert view.readonly
        tell()
        assert reader.wait_published(30.0)
        assert reader.read().tolist() == [2.0]

    with child(body) as process:
        process.started()
        ring.publish(np.full(1, 2.0))
        assert process.wait() == 0
    assert mesh.attach("r").statistics().published == 4


def test_every_refusal_says_what_where_and_what_to_do(mesh):
    """Messages name the path, the values and a remedy."""
    mesh.ring("r", DTYPE, capacity=4, create=True)
    errors = []
    for call in (
        lambda: mesh.ring("missing", DTYPE),
        lambda: mesh.ring("r", np.dtype("<i8")),
        lambda: mesh.cell("r", DTYPE),
        lambda: mesh.ring("r", DTYPE, capacity=4, create=True, exclusive=True),
        lambda: mesh.ring("big", DTYPE, capacity=1 << 50, create=True),
        lambda: mesh.ring("r", DTYPE).publish(np.ones(1)),
    ):
        with pytest.raises(MeshError) as caught:
            call()
        errors.append(str(caught.value))
    assert all(str(mesh.path) in text for text in errors), errors
    assert all("; " in text for text in errors), errors

"""Files: attached only when every byte of the head agrees; made whole or not at all."""

from __future__ import annotations

import numpy as np
import pytest

from mesh import InvalidName, MeshError, MeshFull, SchemaMismatch, SegmentExists, SegmentMissing
from mesh.header import IDENTITY

DTYPE = np.dtype("<f8")


@pytest.mark.parametrize("name", ["", "../x", "/x", "a/b/c", "a\0b", ".x", "a/..", "x" * 80])
def test_names_cannot_leave_the_directory(mesh, name):
    """A name that is no plain name is refused before any file is touched."""
    with pytest.raises(InvalidName):
        mesh.ring(name, DTYPE, capacity=4, create=True)


def test_i7_every_flipped_byte_of_the_head_is_noticed(mesh):
    """A foreign or damaged head is a typed error, for each of its bytes."""
    mesh.ring("r", DTYPE, capacity=4, create=True).close()
    path = mesh.path / "r"
    whole = path.read_bytes()
    for at in range(IDENTITY.size + 8):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 0x41]) + whole[at + 1 :])
        with pytest.raises(MeshError):
            mesh.ring("r", DTYPE)


def test_truncated_file_is_refused(mesh):
    """A file shorter than its head says is never mapped."""
    mesh.ring("r", DTYPE, capacity=4, create=True).close()
    path = mesh.path / "r"
    path.write_bytes(path.read_bytes()[:4096])
    with pytest.raises(MeshError):
        mesh.ring("r", DTYPE)


def test_full_file_system_is_an_error_at_creation(mesh):
    """More than the file system holds: MeshFull with both numbers, and no file left."""
    with pytest.raises(MeshFull, match="are free"):
        mesh.ring("r", DTYPE, capacity=1 << 45, create=True)
    assert not list(mesh.path.iterdir())


def test_wrong_schema_names_both(mesh):
    """An attach with another schema is refused with the found and the expected one."""
    mesh.ring("r", DTYPE, capacity=4, create=True)
    with pytest.raises(SchemaMismatch, match=r"<f8.*<i8"):
        mesh.ring("r", np.dtype("<i8"))
    with pytest.raises(SegmentMissing):
        mesh.ring("other", DTYPE)
    with pytest.raises(SegmentExists):
        mesh.ring("r", DTYPE, capacity=4, create=True, exclusive=True)

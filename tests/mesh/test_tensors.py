"""Tensors: all arrays of one version, with a checksum."""

from __future__ import annotations

import numpy as np
import pytest

from mesh import NotWritten, Overtaken, SchemaMismatch

LIKE = {"w": np.zeros((40, 30), np.float32), "b": np.zeros(30, np.float32), "n": np.zeros((), "i8")}


def version_of(n):
    """Arrays filled with n."""
    return {name: np.full_like(array, n) for name, array in LIKE.items()}


def test_arrays_come_back_whole(mesh):
    """What was published is read, new or into arrays of the reader."""
    policy = mesh.tensors("policy/td3-0", like=LIKE, create=True)
    reader = mesh.tensors("policy/td3-0", like=LIKE)
    with pytest.raises(NotWritten):
        reader.read()
    assert policy.publish(version_of(3)) == 1
    version, arrays = reader.read()
    assert version == 1
    assert all((arrays[name] == 3).all() for name in LIKE)
    with pytest.raises(SchemaMismatch, match="arrays"):
        policy.publish({"w": LIKE["w"]})


def test_borrowed_views_are_validated(mesh):
    """A borrow is read-only and says so when its version was overwritten meanwhile."""
    policy = mesh.tensors("p", like=LIKE, create=True)
    reader = mesh.tensors("p", like=LIKE)
    policy.publish(version_of(1))
    with reader.borrow() as view:
        assert (view["w"] == 1).all()
        assert not view["w"].flags.writeable

    def overwrite():
        with reader.borrow():
            for n in range(2, 6):
                policy.publish(version_of(n))

    with pytest.raises(Overtaken, match="version 1"):
        overwrite()

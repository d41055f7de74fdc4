"""Errors: one tree."""

from __future__ import annotations

import mesh


def test_every_error_is_a_mesh_error_with_a_meaning():
    """Each public error has the one base and says what it means."""
    found = [t for t in vars(mesh).values() if isinstance(t, type) and issubclass(t, Exception)]
    assert len(found) == 14
    assert all(issubclass(t, mesh.MeshError) and t.__doc__ for t in found)

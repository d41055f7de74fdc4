"""Heads: Python's view agrees with the header that C programs include."""

from __future__ import annotations

import numpy as np
import pytest

from mesh import ProcessIdentity
from mesh._core import _native
from mesh.header import CONTROL, CONTROL_OFFSET, IDENTITY, SCHEMA_OFFSET
from mesh.segment_file import read_head


def test_layout_agrees_with_the_header():
    """Python's view of the head ends where C says its check lies; the control fits before it."""
    layout = _native.layout()
    assert layout["identity.identity_check"] == IDENTITY.size
    assert layout["sizeof.control"] <= SCHEMA_OFFSET - CONTROL_OFFSET
    assert CONTROL.size <= layout["sizeof.control"]


@pytest.mark.parametrize("fields", [1, 200])
def test_head_is_read_without_mapping(mesh, fields):
    """Schema, owner and counters are read from the file, however long the schema text is."""
    dtype = np.dtype([(f"field_{n}", "<f8") for n in range(fields)])
    ring = mesh.ring("r", dtype, capacity=4, create=True)
    ring.publish(np.zeros(3, dtype))
    _, schema, control = read_head(mesh.path / "r")
    assert schema == ring.info.schema
    assert (control.published, control.owner) == (3, ProcessIdentity.current())
    ring.close()
    assert read_head(mesh.path / "r")[2].owner is None

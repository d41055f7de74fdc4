"""The directory: the registry of its segments."""

from __future__ import annotations

import numpy as np
import pytest

from mesh import ProcessIdentity, SegmentMissing


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

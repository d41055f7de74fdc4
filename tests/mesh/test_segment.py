"""Segments: statistics and their end."""

from __future__ import annotations

import numpy as np
import pytest

from mesh import LeaseLost


def test_statistics_count_what_happened(mesh):
    """Publishes, laps and losses are counted where everybody can read them."""
    ring = mesh.ring("r", np.dtype("<f8"), capacity=4, create=True)
    reader = mesh.ring("r", np.dtype("<f8")).reader("oldest")
    for _ in range(3):
        ring.publish(np.zeros(3))
    reader.read()
    found = ring.statistics()
    assert (found.published, found.laps, found.lost) == (9, 1, 5)


def test_closed_segment_refuses(mesh):
    """After close() a call is a typed error, never a crash."""
    ring = mesh.ring("r", np.dtype("<f8"), capacity=4, create=True)
    ring.close()
    with pytest.raises(LeaseLost, match="closed"):
        ring.publish(np.zeros(1))
    again = mesh.ring("r", np.dtype("<f8"), capacity=4, create=True)
    assert again.publish(np.zeros(1)) == 0

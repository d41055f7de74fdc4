"""A ring with experience, as the feeder would have written it."""

from __future__ import annotations

import shutil
import tempfile
from itertools import count
from pathlib import Path

import pytest

from mesh import Mesh
from tests.workers.trainer.experience import steps
from workers.contract.dtypes import EXPERIENCE_DTYPE
from workers.trainer.replay.ring import RingReplay


@pytest.fixture
def mesh_ring():
    """Make replays over rings of so many steps and lanes."""
    path = Path(tempfile.mkdtemp(prefix="replay-test-", dir="/dev/shm"))
    mesh = Mesh(path)
    numbers = count()
    opened = []

    def make(length, lanes, *, capacity=1 << 13, **kwargs):
        name = f"experience{next(numbers)}"
        ring = mesh.ring(name, EXPERIENCE_DTYPE, capacity=capacity, create=True)
        ring.publish(steps(length, lanes))
        opened.append(ring)
        return RingReplay(ring, **kwargs), ring

    yield make
    shutil.rmtree(path)

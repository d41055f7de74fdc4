"""A mesh of its own for every test, on tmpfs, gone afterwards."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import pytest

from mesh import Mesh


@pytest.fixture
def mesh():
    """A fresh mesh directory on tmpfs."""
    path = Path(tempfile.mkdtemp(prefix="mesh-test-", dir="/dev/shm"))
    yield Mesh(path)
    shutil.rmtree(path)

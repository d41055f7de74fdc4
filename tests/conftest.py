"""What all tests share: a clean environment, and recorded data where it lies beside the project."""

from __future__ import annotations

import os
import uuid
from pathlib import Path

import pytest
from hypothesis import settings

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
for name in [name for name in os.environ if name.startswith("MESH__") or name == "ENVIRONMENT"]:
    del os.environ[name]

# Tests share the cores with the processes that they start: an example may take long.
settings.register_profile("project", deadline=None, print_blob=True)
settings.load_profile("project")

ROOT = Path(__file__).parent.parent
DATA = ROOT.parent / "shared" / "data"


@pytest.fixture
def data():
    """Directory of the recorded market data; the test is skipped where it is absent."""
    if not DATA.is_dir():
        pytest.skip("recorded market data is not beside the project (../shared/data)")
    return DATA


@pytest.fixture
def mesh_directory():
    """A path on tmpfs for one mesh; removed with its segments at the end."""
    path = Path("/dev/shm") / f"test-{os.getpid()}-{uuid.uuid4().hex[:8]}"
    yield path
    if path.is_dir():
        for below in sorted(path.rglob("*"), reverse=True):
            below.rmdir() if below.is_dir() else below.unlink()
        path.rmdir()

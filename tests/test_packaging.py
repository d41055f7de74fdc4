"""What a host without this or that is told, and what is imported under our names."""

from __future__ import annotations

import importlib
import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import mesh
import supervisor

ROOT = Path(__file__).parent.parent
PUBLIC = {
    "AccessDenied",
    "Cell",
    "Corrupt",
    "Heartbeat",
    "HeartbeatRow",
    "Heartbeats",
    "InvalidName",
    "LayoutMismatch",
    "LeaseHeld",
    "LeaseLost",
    "LockTimeout",
    "Mesh",
    "MeshError",
    "MeshFull",
    "NotWritten",
    "Overtaken",
    "Owner",
    "Phase",
    "ProcessIdentity",
    "Ring",
    "RingReader",
    "SchemaMismatch",
    "SegmentExists",
    "SegmentInfo",
    "SegmentMissing",
    "SegmentStatistics",
    "SpinLock",
    "Table",
    "Tensors",
    "TensorsView",
}
TOOLS = ("sh", "python3", "cc", "make", "env", "printf")


@pytest.fixture
def host(tmp_path):
    """A PATH with links to some tools only."""

    def without(*missing):
        directory = tmp_path / "bin"
        directory.mkdir()
        for tool in TOOLS:
            if tool not in missing:
                (directory / tool).symlink_to(
                    sys.executable if tool == "python3" else shutil.which(tool)
                )
        return {"PATH": str(directory), "HOME": str(tmp_path)}

    return without


def ended(command, environ):
    """Run `command` in the project with nothing but `environ`."""
    return subprocess.run(
        command, cwd=ROOT, env=environ, capture_output=True, text=True, timeout=60, check=False
    )


@pytest.mark.parametrize(
    ("missing", "said", "package"),
    [
        ("cc", "no C compiler", "gcc"),
        ("python3", "no python3 on PATH", "python3-venv"),
        ("make", "no make", "make"),
    ],
)
def test_preflight_names_what_is_missing_and_its_package(host, missing, said, package):
    """A bare Debian: one line a thing, and the apt-get line that brings it."""
    found = ended([shutil.which("sh"), ".ci/preflight"], host(missing))
    assert found.returncode == 1
    assert said in found.stderr
    (line,) = [line for line in found.stderr.splitlines() if "apt-get install" in line]
    assert package in line


def test_preflight_is_silent_where_nothing_is_missing(host):
    """A host with everything is not talked to."""
    found = ended([shutil.which("sh"), ".ci/preflight"], host())
    assert (found.returncode, found.stdout, found.stderr) == (0, "", "")


def test_installing_without_a_compiler_says_so(host):
    """`pip install` ends in this line, not in a compiler's traceback."""
    environ = host("cc")
    found = ended([sys.executable, "setup.py", "--name"], {**environ, "CC": "no-such-cc"})
    assert found.returncode == 1
    assert found.stderr.splitlines()[-1] == (
        "tradingmesh cannot be built: no C compiler ('no-such-cc' is not on PATH): "
        "apt-get install gcc libc6-dev"
    )


def test_the_imported_supervisor_is_ours():
    """A package of this name is on PyPI; ours must be the one that runs."""
    assert Path(supervisor.__file__) == ROOT / "supervisor.py"


def test_every_command_starts_something_that_is_there():
    """The console scripts name callables of this tree."""
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    assert "meshd" in scripts
    for where in scripts.values():
        module, _, function = where.partition(":")
        assert callable(getattr(importlib.import_module(module), function))


def test_public_names_of_the_mesh_are_these():
    """A name is added or taken away on purpose, with a changelog fragment."""
    assert set(mesh.__all__) == PUBLIC


def test_uses_of_the_public_api_are_well_typed():
    """mypy agrees with a file of uses, as a user's project would see them."""
    found = ended(
        [sys.executable, "-m", "mypy", "--strict", "tests/typing/api.py"],
        {"PATH": os.environ["PATH"], "HOME": os.environ.get("HOME", "/")},
    )
    assert found.returncode == 0, found.stdout

"""`meshctl unlink`: what is used stays, what is asked for is confirmed, what is removed is new."""

from __future__ import annotations

import contextlib
import os
import pty
import subprocess
import sys

import numpy as np
import pytest

from mesh import Mesh, SchemaMismatch, SegmentMissing
from tests.daemons import ROOT
from tests.processes import child

DTYPE = np.dtype([("x", "<f8")])


def left_behind(mesh, capacity=8):
    """A ring whose writer has died."""

    def body(tell):
        Mesh(mesh.path).ring("spare", DTYPE, capacity=capacity, create=True)
        tell()

    with child(body) as process:
        process.started()
        process.wait()


def test_a_changed_size_needs_it_and_gets_it(loop, meshctl):
    """The error for another size names the command; afterwards the ring is made with that size."""
    left_behind(loop.mesh)
    with pytest.raises(SchemaMismatch, match="meshctl unlink spare"):
        loop.mesh.ring("spare", DTYPE, capacity=16, create=True)
    code, out, err = meshctl("unlink", "spare", "--yes")
    assert (code, err) == (0, "")
    assert "removed spare (ring" in out
    with pytest.raises(SegmentMissing):
        loop.mesh.ring("spare", DTYPE)
    assert loop.mesh.ring("spare", DTYPE, capacity=16, create=True).capacity == 16


def test_what_a_live_process_uses_stays(loop, meshctl):
    """Its writer, the owner of a lock, a worker that beats: refused, naming what to stop first."""

    def body(tell):
        mine = Mesh(loop.mesh.path)
        mine.heartbeats().claim("holder")
        mine.ring("spare", DTYPE, capacity=8, create=True)
        mine.lock("journal", create=True, owner_name="keeper").acquire(1.0)
        tell()
        os.read(gate, 1)

    gate, go = os.pipe()
    with child(body) as process:
        process.started()
        code, _, err = meshctl("unlink", "spare", "--yes")
        assert code == 1
        assert f"pid {process.pid}" in err
        assert "first: meshctl stop holder" in err
        for name in ("journal", "heartbeats"):
            code, _, err = meshctl("unlink", name, "--yes")
            assert (code, f"pid {process.pid}" in err) == (1, True), err
        assert {info.name for info in loop.mesh.segments()} >= {"spare", "journal", "heartbeats"}
        os.write(go, b"x")
        process.wait()
    assert meshctl("unlink", "spare", "--yes")[0] == 0


def test_nobody_to_ask_and_nothing_there(loop, meshctl):
    """Without a terminal it needs --yes; an unknown segment is wrong usage that lists what is."""
    left_behind(loop.mesh)
    code, _, err = meshctl("unlink", "spare")
    assert (code, "--yes" in err) == (64, True)
    code, _, err = meshctl("unlink", "no-such", "--yes")
    assert (code, "spare" in err) == (64, True)
    assert "spare" in {info.name for info in loop.mesh.segments()}


@pytest.mark.parametrize(("answer", "code"), [(b"n\n", 1), (b"\n", 1), (b"y\n", 0)])
def test_on_a_terminal_it_asks(loop, answer, code):
    """Only a yes removes."""
    left_behind(loop.mesh)
    ours, theirs = pty.openpty()
    with subprocess.Popen(
        [sys.executable, "-m", "workers.ctl.cli", "--mesh", str(loop.mesh.path), "unlink", "spare"],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        cwd=ROOT,
    ) as process:
        os.close(theirs)
        output = b""
        while b"y/N" not in output:
            output += os.read(ours, 4096)
        os.write(ours, answer)
        with contextlib.suppress(OSError):  # EIO: the other end is closed
            while more := os.read(ours, 4096):
                output += more
        assert process.wait(60) == code
    os.close(ours)
    assert b"remove spare (ring" in output
    assert ("spare" in {info.name for info in loop.mesh.segments()}) == bool(code)

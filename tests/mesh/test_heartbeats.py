"""Heartbeats: a row a worker, written by that worker alone."""

from __future__ import annotations

import signal

import pytest

from mesh import InvalidName, LeaseHeld, LeaseLost, MeshFull, Phase, ProcessIdentity
from tests.processes import child


def test_rows_say_who_does_what(mesh):
    """Phase, progress, expectation and readiness are read as they were beaten."""
    hearts = mesh.heartbeats(create=True, rows=2)
    beat = hearts.claim("ingest")
    (row,) = mesh.heartbeats().rows()
    assert (row.worker, row.phase, row.ready) == ("ingest", Phase.STARTING, False)
    assert row.identity == ProcessIdentity.current()
    beat.ready()
    beat.beat(progress=7, expect=2.5)
    (row,) = mesh.heartbeats().rows()
    assert (row.phase, row.progress, row.expect_s) == (Phase.WORKING, 7, 2.5)
    assert row.ready
    assert row.beats == 2
    beat.describe("1,200/s, 7 behind")
    assert mesh.heartbeats().rows()[0].detail == ""
    beat.waiting()
    assert mesh.heartbeats().rows()[0].detail == "1,200/s, 7 behind"
    beat.describe("\N{GREEK SMALL LETTER DELTA}" * 40 + "x")
    beat.waiting()
    assert mesh.heartbeats().rows()[0].detail == "\N{GREEK SMALL LETTER DELTA}" * 32
    beat.describe("")
    beat.waiting()
    assert mesh.heartbeats().rows()[0].detail == ""
    assert mesh.heartbeats().rows()[0].phase_since_ns > row.phase_since_ns


def test_i4_row_of_a_live_worker_is_refused(mesh):
    """Two of one name: the second gets LeaseHeld while the first lives, and the row afterwards."""
    hearts = mesh.heartbeats(create=True, rows=1)

    def body(tell):
        hearts.claim("trainer").beat(progress=1)
        tell()
        signal.pause()

    with child(body) as worker:
        worker.started()
        with pytest.raises(LeaseHeld, match=f"pid {worker.pid}"):
            hearts.claim("trainer")
        worker.kill()
    assert hearts.rows()[0].progress == 1
    hearts.claim("trainer")
    with pytest.raises(MeshFull, match="more rows"):
        hearts.claim("feeder")
    with pytest.raises(InvalidName):
        hearts.claim("x" * 33)


def test_fork_does_not_beat_for_its_parent(mesh):
    """A forked child that beats through its parent's row gets LeaseLost."""
    beat = mesh.heartbeats(create=True).claim("feeder")

    def body(_tell):
        with pytest.raises(LeaseLost):
            beat.beat(progress=1)

    with child(body) as process:
        assert process.wait() == 0
    assert mesh.heartbeats().rows()[0].progress == 0

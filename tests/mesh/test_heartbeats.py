"""Heartbeats: a row a worker, written by that worker alone."""

from __future__ import annotations

import select
import signal

import pytest

from mesh import InvalidName, LeaseHeld, LeaseLost, MeshFull, Phase, ProcessIdentity
from mesh.segment_file import SegmentFile
from tests.processes import child


def test_rows_say_who_does_what(mesh):
    """Phase, progress, expectation and readiness are read as they were beaten."""
    heartbeats = mesh.heartbeats(create=True, rows=2)
    beat = heartbeats.claim("ingest")
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
    heartbeats = mesh.heartbeats(create=True, rows=1)

    def body(tell):
        heartbeats.claim("trainer").beat(progress=1)
        tell()
        signal.pause()

    with child(body) as worker:
        worker.started()
        with pytest.raises(LeaseHeld, match=f"pid {worker.pid}"):
            heartbeats.claim("trainer")
        worker.kill()
    assert heartbeats.rows()[0].progress == 1
    heartbeats.claim("trainer")
    with pytest.raises(MeshFull, match="more rows"):
        heartbeats.claim("feeder")
    with pytest.raises(InvalidName):
        heartbeats.claim("x" * 33)


def test_fork_does_not_beat_for_its_parent(mesh):
    """A forked child that beats through its parent's row gets LeaseLost."""
    beat = mesh.heartbeats(create=True).claim("feeder")

    def body(_report):
        with pytest.raises(LeaseLost):
            beat.beat(progress=1)

    with child(body) as process:
        assert process.wait() == 0
    assert mesh.heartbeats().rows()[0].progress == 0


def test_row_of_the_longest_dead_goes_to_a_newcomer(mesh):
    """Many processes of other names come and go: rows never run out, kept ones stay as they were,
    and a row that changes its name is never read with the one name and the other's values."""
    heartbeats = mesh.heartbeats(create=True, rows=3)
    mine = heartbeats.claim("mine")
    mine.beat(progress=1)

    def come_and_go(name, keep=("kept",)):
        def body(_report):
            heartbeats.claim(name, keep=keep).beat(progress=int(name[1:] or 0))

        with child(body) as process:
            assert process.wait() == 0

    def watch(tell):
        reading = mesh.heartbeats()
        tell()
        while True:
            for row in reading.rows():
                number = row.worker[1:]
                if number.isdigit() and row.progress not in {0, int(number)}:
                    tell(f"{row.worker} with {row.progress}")

    with child(lambda _: heartbeats.claim("kept").beat(progress=7)) as process:
        assert process.wait() == 0
    with child(watch) as reader:
        reader.started()
        for number in range(1, 60):
            come_and_go(f"n{number}")
        assert not select.select([reader._ready], [], [], 0)[0]
    rows = {row.worker: row.progress for row in heartbeats.rows()}
    assert rows == {"mine": 1, "kept": 7, "n59": 59}
    mine.beat(progress=2)
    with pytest.raises(MeshFull, match="0 of 3 rows are free"):
        heartbeats.claim("another", keep=("kept", "n59"))
    come_and_go("x8", keep=())
    assert {row.worker for row in heartbeats.rows()} == {"mine", "x8", "n59"}


def test_i2_row_that_a_killed_process_left_unnamed_is_taken(mesh):
    """A process killed between counting a row and beating in it: the row is nobody's, and goes to
    the next one, whatever is left of a name."""
    heartbeats = mesh.heartbeats(create=True, rows=1)
    file = SegmentFile("heartbeats", mesh.path / "heartbeats", writable=True)
    memory = memoryview(file.mapping)
    memory[512 + 24] = 1  # mesh_control.rows
    start = file.identity.data_offset
    memory[start + 16 : start + 19] = b"hal"  # mesh_row.key
    assert heartbeats.rows() == ()
    heartbeats.claim("whole").beat(progress=3)
    assert [(row.worker, row.progress) for row in heartbeats.rows()] == [("whole", 3)]

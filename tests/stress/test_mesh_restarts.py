"""Writers and readers killed and started again at random, under load: no gap, no repeat, nothing
torn, and state and records that agree."""

from __future__ import annotations

import os
import random
import select
import signal
import time
from itertools import count

import numpy as np
import pytest

from mesh import Mesh, NotWritten, SegmentMissing
from tests.processes import Child

RECORD = np.dtype([("n", "<i8"), ("x", "<f8", (9,))])
LIKE = {"w": np.zeros(3000, "<f8"), "b": np.zeros(77, "<f4")}
KEYS = [f"key-{n:02d}" for n in range(20)]
CAPACITY = 1 << 13


def records(first, number):
    """Records numbered from `first`, every word of them."""
    array = np.zeros(number, RECORD)
    array["n"] = np.arange(first, first + number)
    array["x"] = array["n"][:, None]
    return array


def whole(array):
    """Whether every word of each record carries its number."""
    return bool((array["x"] == array["n"][:, None]).all())


def write_ring(mesh, tell, checksum=False):
    """Publish numbered records with the number as state, from where the state says."""
    ring = mesh.ring(
        "checked" if checksum else "ring",
        RECORD,
        capacity=CAPACITY,
        state_bytes=8,
        create=True,
        checksum=checksum,
    )
    n = int.from_bytes(ring.state() or b"", "little")
    assert ring.published == n, "state and records disagree"
    tell()
    for turn in count():
        size = turn % 7 + 1
        ring.publish(records(n, size), state=(n + size).to_bytes(8, "little"))
        n += size


def write_checked(mesh, tell):
    """The same with checksums."""
    write_ring(mesh, tell, checksum=True)


def write_values(mesh, tell):
    """A cell and a table, each value its own version."""
    cell = mesh.cell("cell", RECORD, create=True)
    table = mesh.table("table", RECORD, rows=len(KEYS), create=True)
    tell()
    while True:
        cell.write(records(cell.version + 1, 1))
        for key in KEYS:
            try:
                version = table.read(key)[0]
            except KeyError:
                version = 0
            table.write(key, records(version + 1, 1))


def write_tensors(mesh, tell):
    """Arrays filled with their version."""
    tensors = mesh.tensors("tensors", like=LIKE, create=True)
    tell()
    while True:
        n = tensors.version + 1
        tensors.publish({name: np.full_like(array, n) for name, array in LIKE.items()})


WRITERS = [write_ring, write_checked, write_values, write_tensors]


def attached(open_it):
    """Attach, waiting for the writer to make it."""
    while True:
        try:
            return open_it()
        except SegmentMissing:
            select.select([], [], [], 0.001)


def check(mesh, tell):
    """Read everything for ever; any contradiction ends the process with an assertion."""
    readers = [
        attached(lambda name=name: mesh.ring(name, RECORD)).reader("latest")
        for name in ("ring", "checked")
    ]
    cell = attached(lambda: mesh.cell("cell", RECORD))
    table = attached(lambda: mesh.table("table", RECORD))
    tensors = attached(lambda: mesh.tensors("tensors", like=LIKE))
    places, last, last_tensors = [r.sequence for r in readers], 0, 0
    tell()
    for turn in count():
        for at, reader in enumerate(readers):
            lost = reader.lost
            got = reader.read()
            expected = places[at] + reader.lost - lost
            assert whole(got), "torn record"
            assert got["n"].tolist() == list(range(expected, expected + got.size)), "gap or repeat"
            places[at] = reader.sequence
            assert places[at] == expected + got.size, "the cursor is wrong"
        try:
            version, value = cell.read()
            assert value["n"] == version, "another version's value"
            assert (value["x"] == version).all(), "torn cell"
            assert version >= last, "the cell went back"
            last = version
        except NotWritten:
            pass
        assert whole(table.snapshot()), "torn row"
        if turn % 20 == 0 and tensors.version:
            version, arrays = tensors.read()
            assert all((array == version).all() for array in arrays.values()), "mix of tensors"
            assert version >= last_tensors, "the tensors went back"
            last_tensors = version


def started(mesh, body):
    """A child that runs `body` and has said so."""
    process = Child(lambda tell: body(Mesh(mesh.path), tell))
    process.started()
    return process


def run_restarts(mesh, seconds, rng, at_least):
    """Kill somebody every few milliseconds, for some time and some kills; the number of kills.

    Readers that found a contradiction end by themselves, which is what this looks for.
    """
    bodies = [*WRITERS, check, check]
    running = [started(mesh, body) for body in bodies]
    kills, until = 0, time.monotonic() + seconds
    try:
        while time.monotonic() < until or kills < at_least:
            select.select([], [], [], rng.uniform(0, 0.03))
            at = rng.choices(range(len(bodies)), weights=[6, 6, 6, 6, 1, 1])[0]
            running[at].kill()
            assert running[at].code == -signal.SIGKILL, f"{bodies[at].__name__} ended by itself"
            running[at] = started(mesh, bodies[at])
            kills += 1
        for process, body in zip(running, bodies, strict=True):
            assert os.waitpid(process.pid, os.WNOHANG)[0] == 0, f"{body.__name__} ended by itself"
    finally:
        for process in running:
            if process.code is None:
                process.kill()
    return kills


def totals(mesh):
    """How much came through: every ring's state names exactly what is published."""
    numbers = {}
    for name in ("ring", "checked"):
        ring = mesh.ring(name, RECORD)
        assert int.from_bytes(ring.state(), "little") == ring.published
        assert whole(ring.reader("oldest").read(max_records=CAPACITY))
        numbers[name] = ring.published
    return numbers


@pytest.fixture
def mesh(mesh_directory):
    """A mesh of its own."""
    return Mesh(mesh_directory)


def test_i5_restarts_lose_and_repeat_nothing(mesh):
    """Some seconds of random SIGKILLs of writers and readers: zero gaps, repeats, torn values."""
    run_restarts(mesh, 4.0, random.Random(5), at_least=25)
    assert min(totals(mesh).values()) > 100


@pytest.mark.stress
@pytest.mark.timeout(600)
def test_i5_minutes_of_restarts_lose_and_repeat_nothing(mesh, capsys):
    """The same for three minutes, and some hundred kills at least."""
    kills = run_restarts(mesh, 180.0, random.Random(6), at_least=500)
    with capsys.disabled():
        print(f"\n{kills} kills, records {totals(mesh)}: 0 gaps, 0 repeats, 0 torn")  # noqa: T201 - the figure of the run

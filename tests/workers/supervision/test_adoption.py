"""What an earlier daemon left: taken over, also from another version; never from a living one."""

from __future__ import annotations

import os

import msgspec
import numpy as np
import pytest
from setproctitle import setproctitle

from mesh import LayoutMismatch, LeaseHeld, Mesh, ProcessIdentity
from mesh._core._native import checksum, layout
from tests.processes import child
from workers.contract.dtypes import EVENT_DTYPE
from workers.contract.names import EVENTS, SUPERVISOR
from workers.contract.statuses import Incident, RecordedDeath, SupervisorStatus, WorkerStatus
from workers.supervision.adoption import live_process, open_pidfd
from workers.supervision.daemon_segments import (
    STATUS_BYTES,
    claim_events,
    claim_status,
    shortened,
)
from workers.supervision.managed_worker import MAX_PUBLISHED_DEATHS
from workers.supervision.spawn import title


class Older(msgspec.Struct):
    """The status of a daemon of an earlier version: fewer fields, and one that is gone."""

    pid: int
    start_time: int
    since: float
    version: str
    profile: str
    state: str
    workers: list[WorkerStatus] = []
    forgotten: int = 7


def older(state):
    """What it said."""
    return Older(
        pid=1,
        start_time=2,
        since=3.0,
        version="0.0",
        profile="p",
        state=state,
        workers=[WorkerStatus(name="w", class_path="a:B", pid=4, state="running", restarts=2)],
    )


@pytest.fixture
def mesh(mesh_directory):
    """A mesh of its own."""
    return Mesh(mesh_directory)


def test_first_daemon_finds_nothing(mesh):
    """An empty mesh: the status is ours, and nobody said anything."""
    cell, earlier = claim_status(mesh, [])
    assert earlier is None
    assert cell.info.owner == ProcessIdentity.current()


@pytest.mark.parametrize(("workers", "reason"), [(200, 400), (1024, 400)])
def test_status_of_very_many_workers_fits(mesh, workers, reason):
    """With every field at its longest: incidents go first, what adoption needs stays."""
    cell, _ = claim_status(mesh, [])
    deaths = [
        RecordedDeath(1e9 + n / 3, n / 3, hopeless=False) for n in range(MAX_PUBLISHED_DEATHS)
    ]
    rows = [
        WorkerStatus(
            name=f"{n:032}",
            class_path="a:" + "B" * 80,
            pid=2**22 - n,
            state="running",
            restarts=10**6,
            reason="é" * reason,
            since=1e9,
            required=True,
            group="g" * 32,
            start_time=2**40 + n,
            generation=10**6,
            memory_bytes=2**40,
            deaths=deaths,
        )
        for n in range(workers)
    ]
    incidents = [
        Incident(worker="w" * 32, kind="exited", at=1e9, evidence="é" * reason) for _ in range(2000)
    ]
    long = SupervisorStatus(
        pid=1,
        start_time=2,
        since=3.0,
        version="1",
        profile="p",
        state="healthy",
        workers=rows,
        incidents=incidents,
    )
    assert len(msgspec.msgpack.encode(long)) > STATUS_BYTES
    cell.write(shortened(long))
    said = cell.read()[1]
    assert said.incidents == []
    assert [(w.name, w.pid, w.start_time, w.state, w.restarts) for w in said.workers] == [
        (w.name, w.pid, w.start_time, w.state, w.restarts) for w in rows
    ]
    cell.close()


@pytest.mark.parametrize("state", ["healthy", "starting", "degraded", "down", "stopping"])
def test_status_of_another_version_is_understood(mesh, state):
    """New fields have their defaults, unknown ones are dropped; the segments are made anew."""

    def body(_report):
        theirs = Mesh(mesh.path)
        theirs.cell(SUPERVISOR, Older, create=True).write(older(state))
        theirs.ring(EVENTS, np.dtype("<i8"), capacity=16, create=True)

    with child(body) as process:
        assert process.wait() == 0
    cell, earlier = claim_status(mesh, [])
    if state in {"down", "stopping"}:
        assert earlier is None
    else:
        assert [(w.name, w.restarts, w.generation) for w in earlier.workers] == [("w", 2, 0)]
        assert earlier.rolling == {}
    cell.write(
        SupervisorStatus(pid=1, start_time=2, since=3.0, version="new", profile="", state="healthy")
    )
    assert claim_events(mesh, 16, []).dtype == EVENT_DTYPE
    claim_events(mesh, 16, []).close()
    assert claim_events(mesh, 32, []).info.capacity == 32


def test_mesh_of_another_boot_is_begun_anew(mesh):
    """The status was made before the last boot: nothing of it is believed, all of it is swept."""
    for name in (SUPERVISOR, "other"):
        mesh.cell(name, SupervisorStatus, create=True).close()
        data = bytearray((mesh.path / name).read_bytes())
        at = layout()["identity.boot_id"]
        data[at : at + 16] = b"another boot ..."
        data[at + 16 : at + 24] = checksum(bytes(data[: at + 16])).to_bytes(8, "little")
        (mesh.path / name).write_bytes(data)
    with pytest.raises(LayoutMismatch):
        mesh.cell(SUPERVISOR, SupervisorStatus, create=True)
    cell, earlier = claim_status(mesh, [])
    assert earlier is None
    assert cell.info.owner == ProcessIdentity.current()
    assert [info.name for info in mesh.segments()] == [SUPERVISOR]


@pytest.mark.parametrize("kind", [SupervisorStatus, Older])
def test_living_daemon_is_left_alone(mesh, kind):
    """Of this version or another one: LeaseHeld, and its status stays."""

    def body(tell):
        cell = Mesh(mesh.path).cell(SUPERVISOR, kind, create=True)
        if kind is Older:
            cell.write(older("healthy"))
        tell()
        os.read(os.pipe()[0], 1)

    with child(body) as process:
        process.started()
        with pytest.raises(LeaseHeld, match=str(process.pid)):
            claim_status(mesh, [])
        assert mesh.attach(SUPERVISOR).info.owner.pid == process.pid


def test_living_worker_is_known_by_identity_or_title(mesh):
    """By what the last daemon said, or by row and title; not by the name alone, not when dead."""

    def body(tell):
        mesh_ = Mesh(mesh.path)
        mesh_.heartbeats(create=True).claim("w").ready()
        tell("row")
        os.read(gate, 1)
        setproctitle(title("w"))
        tell("title")
        os.read(os.pipe()[0], 1)

    gate, opener = os.pipe()
    with child(body) as process:
        process.started()
        (row,) = mesh.heartbeats().rows()
        identity = ProcessIdentity.of(process.pid)
        said = WorkerStatus(
            name="w",
            class_path="a:B",
            pid=identity.pid,
            state="running",
            restarts=0,
            start_time=identity.start_time,
        )
        assert live_process("w", said, None) == identity
        assert live_process("w", None, row) is None
        os.write(opener, b"x")
        assert process.started() == "title"
        assert live_process("w", None, row) == identity
        os.close(open_pidfd(identity))
        process.kill()
        assert live_process("w", said, row) is None
        assert open_pidfd(identity) is None
    os.close(gate)
    os.close(opener)

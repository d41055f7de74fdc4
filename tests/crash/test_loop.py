"""The whole loop under attack: whatever is killed or stopped, it goes on, no gap and no leak."""

from __future__ import annotations

import os
import signal

import pytest

from tests.daemons import alive, daemon, until
from tests.flow import LOOP, SMALL, TRAINERS, Sequence, reconciles, status

pytestmark = [pytest.mark.crash, pytest.mark.broker]
SETTINGS = "[replayer]\nspeed = 300.0\n[ingest]\nring_capacity = 1048576\n" + SMALL
WORKERS = ("replayer", "ingest", "feeder", *TRAINERS)


def acts(one):
    """Whether the feeder acts with a policy that a trainer published."""
    return status(one, "feeder")["acting_version"] > 0


def pids(one):
    """Every worker's process."""
    return {worker["name"]: worker["pid"] for worker in one.status()["workers"]}


def progress(one):
    """What must grow while the loop lives."""
    return (
        status(one, "ingest")["published"],
        status(one, "feeder")["experience"],
        *(status(one, name)["updates"] for name in TRAINERS),
    )


def goes_on(one):
    """Wait until every part of the loop has made progress."""
    before = progress(one)
    until(
        "progress of the whole loop",
        lambda: all(now > was for now, was in zip(progress(one), before, strict=True)),
    )


def assert_consistent(one, ticks, experience):
    """Nothing is missing or there twice, in ticks and in experience."""
    ticks.read_ticks()
    assert reconciles(status(one, "ingest"))
    rows = experience.read()
    lanes = int(rows["lanes"][0])
    assert (rows["lane"] == [s % lanes for s in range(rows.size)]).all()


def test_i7_every_worker_killed_and_stopped_in_turn(tmp_path):
    """SIGKILL of each, SIGSTOP of one, SIGKILL of the daemon: each heals, the rest runs on."""
    with daemon(tmp_path, LOOP, SETTINGS) as one:
        until("a policy acts", lambda: acts(one), 120)
        ticks = Sequence(one.mesh.attach("ticks"))
        for name in WORKERS:
            before = pids(one)
            os.kill(before[name], signal.SIGKILL)
            one.running(name, other_than=before.pop(name))
            assert {n: p for n, p in pids(one).items() if n != name} == before
            goes_on(one)
            ticks.read_ticks()
        pid = pids(one)["feeder"]
        os.kill(pid, signal.SIGSTOP)
        one.running("feeder", other_than=pid)
        assert one.status()["incidents"][-1]["kind"] == "hung"
        goes_on(one)
        before = pids(one)
        one.process.kill()
        one.process.wait()
        goes_on(one)
        one.start()
        assert {name: one.running(name) for name in before} == before
        assert_consistent(one, ticks, Sequence(one.mesh.attach("experience")))
        assert all(status(one, name)["resumed_from"] == "shared memory" for name in TRAINERS)
        assert one.stop() == 0
        assert not [pid for pid in before.values() if alive(pid)]


def test_killed_broker_comes_back_and_the_loop_goes_on(tmp_path):
    """The embedded broker loses what it held: publisher and consumer follow the new one."""
    with daemon(tmp_path, LOOP, SETTINGS) as one:
        until("messages flow", lambda: status(one, "ingest")["published"] > 1000, 120)
        pid = one.running("broker")
        os.kill(pid, signal.SIGKILL)
        one.running("broker", other_than=pid)
        goes_on(one)
        found = status(one, "ingest")
        assert reconciles(found)
        assert found["incarnation"] == one.mesh.attach("broker").read()[1]["incarnation"]
        assert one.stop() == 0

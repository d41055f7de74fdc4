"""The watcher with rows and times given by the test: what it reports, and when it reads again."""

from __future__ import annotations

import os
import selectors

import pytest

from config.supervisor import SupervisorConfig
from config.worker_spec import WorkerSpec
from mesh import HeartbeatRow, Phase, ProcessIdentity
from workers.supervision.managed_worker import NEVER, ManagedWorker
from workers.supervision.state_machine import Event, State
from workers.supervision.watch import (
    MAX_CHECK_INTERVAL_S,
    MISSED_S,
    START_CHECK_INTERVAL_S,
    Timer,
    Watcher,
)

LIMITS = SupervisorConfig()
GONE = ProcessIdentity(2**22 - 1, 7)  # no process has this pid


class Rows:
    """Heartbeats that hold what the test puts there."""

    def __init__(self):
        self.now = []

    def rows(self):
        """Every row."""
        return tuple(self.now)


def row(identity=GONE, beats=1, beat_s=0.0, ready=True):
    """A heartbeat of the worker."""
    return HeartbeatRow(
        worker="w",
        pid=identity.pid,
        start_time=identity.start_time,
        phase=Phase.WORKING,
        beats=beats,
        progress=0,
        beat_ns=int(beat_s * 1e9),
        phase_since_ns=0,
        expect_s=0.0,
        ready=ready,
        detail="",
    )


@pytest.fixture
def heartbeats():
    """The rows."""
    return Rows()


@pytest.fixture
def watcher(heartbeats):
    """A watcher of these rows."""
    with selectors.DefaultSelector() as selector:
        yield Watcher(heartbeats, selector)


def worker(state=State.RUNNING, identity=GONE, **spec):
    """The one worker."""
    spec = WorkerSpec(name="w", worker="a:B", heartbeat_deadline_s=1.0, **spec)
    return ManagedWorker(spec, 0.0, state, identity)


def seen(watcher, one, now):
    """What is observed of the worker: its events."""
    return [observation.event for observation in watcher.observe([one], LIMITS, now)]


def test_readiness_is_observed_while_starting(watcher, heartbeats):
    """A ready row of that very process, and no other."""
    one = worker(State.STARTING)
    heartbeats.now = [row(ready=False)]
    assert seen(watcher, one, 0.1) == []
    heartbeats.now = [row(ProcessIdentity(GONE.pid, 8))]
    assert seen(watcher, one, 0.2) == []
    heartbeats.now = [row()]
    assert seen(watcher, one, 0.3) == [Event.READY]
    assert one.state is State.STARTING


def test_a_silence_is_a_hang_at_the_deadline_and_changes_no_worker(watcher, heartbeats):
    """Its process is gone from /proc: nothing excuses it. The worker itself is left as it was."""
    one, before = worker(), worker()
    heartbeats.now = [row()]
    assert seen(watcher, one, 0.1) == []
    assert seen(watcher, one, 0.8) == []
    assert seen(watcher, one, 0.99) == []
    (hung,) = watcher.observe([one], LIMITS, 1.01)
    assert (hung.event, hung.fault, hung.fault_at) == (Event.HUNG, "hung", 0.0)
    assert hung.reason == "hung: no beat for 1.01 s in phase working, gone"
    assert one == before


def test_a_beat_ends_a_suspicion(watcher, heartbeats):
    """A new beat begins a new silence; so does a new process of the same worker."""
    one = worker()
    heartbeats.now = [row()]
    for now in (0.1, 0.8):
        assert seen(watcher, one, now) == []
    heartbeats.now = [row(beats=2, beat_s=0.9)]
    assert seen(watcher, one, 1.2) == []
    one.identity = ProcessIdentity(GONE.pid, 9)
    heartbeats.now = [row(one.identity, beats=2, beat_s=0.9)]
    assert seen(watcher, one, 5.0) == []


def test_nothing_is_hung_twice(watcher, heartbeats):
    """A worker that is about to be killed is not judged again."""
    one = worker()
    heartbeats.now = [row()]
    for now in (0.1, 0.9):
        seen(watcher, one, now)
    one.kill_at = 1.1
    assert seen(watcher, one, 1.05) == []


def test_a_missing_row_means_a_restart(watcher, heartbeats):
    """After the deadline and some patience, once; a row that is back ends the wait."""
    one = worker()
    assert seen(watcher, one, 0.0) == []
    assert seen(watcher, one, 0.9 + MISSED_S) == []
    (lost,) = watcher.observe([one], LIMITS, 1.1 + MISSED_S)
    assert (lost.event, lost.notice, lost.severity) == (Event.RESTART, "heartbeat lost", "error")
    assert seen(watcher, one, 1.2 + MISSED_S) == []
    heartbeats.now = [row(beat_s=3.0)]
    assert seen(watcher, one, 3.1) == []
    heartbeats.now = []
    assert seen(watcher, one, 3.2) == []


@pytest.mark.parametrize(
    ("limit", "share", "expected"),
    [(1 << 24, 0.9, Event.OUTGROWN), (1 << 32, 0.0005, Event.RESTART), (1 << 40, 0.9, None)],
)
def test_memory_is_compared_with_the_limit(watcher, heartbeats, limit, share, expected):
    """Over the limit, over the share for an orderly restart, or only noted."""
    me = ProcessIdentity.current()
    heartbeats.now = [row(me, beat_s=1.0)]
    one = worker(identity=me, memory_limit_bytes=limit, memory_recycle_share=share)
    (observation,) = watcher.observe([one], LIMITS, 1.1)
    assert observation.memory_bytes > 0
    assert observation.memory_bytes % (1 << 20) == 0
    assert observation.event is expected
    assert watcher.observe([one], LIMITS, 1.15) == []


def test_timers_that_ran_out_are_returned():
    """Kills before deadlines; what lies ahead is not."""
    due, later = worker(), worker()
    due.kill_at, due.deadline = 1.0, 2.0
    later.deadline = 3.0
    assert Watcher.expired([due, later], 2.0) == [(due, Timer.KILL), (due, Timer.DEADLINE)]
    assert Watcher.expired([due, later], 0.5) == []


def test_the_next_check_is_in_time_for_each_state(watcher, heartbeats):
    """Often while one starts, in time for a timer and for a silence, else rarely."""
    assert watcher.next_check_s([], LIMITS, 0.0) == MAX_CHECK_INTERVAL_S
    starting = worker(State.STARTING)
    starting.spawned_at = 0.0
    assert watcher.next_check_s([starting], LIMITS, 0.1) == START_CHECK_INTERVAL_S
    waiting = worker(State.BACKOFF)
    waiting.deadline = 0.2
    assert watcher.next_check_s([waiting], LIMITS, 0.1) == pytest.approx(0.1)
    assert watcher.next_check_s([waiting], LIMITS, 0.5) == 0.0
    running = worker()
    heartbeats.now = [row()]
    for now in (0.1, 0.8):
        watcher.observe([running], LIMITS, now)
    assert watcher.next_check_s([running], LIMITS, 0.9) == pytest.approx(0.1)
    assert running.deadline == NEVER


def test_an_exit_is_reported_once():
    """The pidfd is watched until the process ends, then closed."""
    exits = []
    with selectors.DefaultSelector() as selector:
        watcher = Watcher(Rows(), selector)
        pid = os.fork()
        if pid == 0:
            os._exit(0)
        pidfd = os.pidfd_open(pid)
        watcher.watch_exit(pidfd, lambda: exits.append(pid))
        ((key, _),) = selector.select(30.0)
        key.data(key.fileobj)
        assert exits == [pid]
        assert not selector.get_map()
    os.waitpid(pid, 0)
    with pytest.raises(OSError, match="Bad file"):
        os.fstat(pidfd)

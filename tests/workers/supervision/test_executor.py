"""The executor on a real mesh with a clock of the test's: requests, observations, adoption."""

from __future__ import annotations

import selectors

import pytest

from config import load_settings
from mesh import Mesh, ProcessIdentity
from workers.contract.statuses import WorkerStatus
from workers.supervision.adoption import adopt_workers
from workers.supervision.config_diff import Changes
from workers.supervision.daemon_segments import claim_events, claim_status, open_heartbeats
from workers.supervision.event_log import EventLog
from workers.supervision.executor import WorkerExecutor
from workers.supervision.fork_server import ForkServers
from workers.supervision.log_rotation import LogFiles
from workers.supervision.post_mortem import CrashReports
from workers.supervision.rolling_restart import RollingRestart
from workers.supervision.state_machine import Event, State
from workers.supervision.watch import Observation, Timer, Watcher

GONE = ProcessIdentity(2**22 - 1, 7)  # no process has this pid
PROFILE = """
[workers.first]
worker = "tests.sample_workers:Counting"
[workers.second]
worker = "tests.sample_workers:Counting"
depends_on = ["first"]
"""


class Daemon:
    """The parts that an executor needs; nothing is started."""

    def __init__(self, directory, mesh_path):
        profile = directory / "profile.toml"
        profile.write_text(
            f'run_directory = "{directory}/run"\n[mesh]\npath = "{mesh_path}"\n{PROFILE}'
        )
        self.now = 100.0
        self.settings = load_settings(str(profile))
        mesh = Mesh(mesh_path)
        claim_status(mesh, [])
        self.selector = selectors.DefaultSelector()
        self.log = EventLog(claim_events(mesh, 64, []), 8, lambda: None)
        self.watcher = Watcher(open_heartbeats(mesh, 8, []), self.selector)
        emit = self.log.emit
        self.executor = WorkerExecutor(
            self.settings,
            mesh,
            self.log,
            self.watcher,
            CrashReports(self.settings, emit),
            LogFiles(directory, self.settings.logging),
            ForkServers(self.settings, self.selector, directory, self.clock, emit),
            self.clock,
            lambda: 0.0,
        )

    def clock(self):
        """The time that the test sets."""
        return self.now

    def adopt(self, *statuses):
        """Adopt what an earlier daemon published."""
        adopt_workers(self.executor, statuses, self.watcher.rows, {})


@pytest.fixture
def daemon(tmp_path, mesh_directory):
    """A daemon's parts."""
    one = Daemon(tmp_path, mesh_directory)
    yield one
    one.selector.close()


def status(name, state, pid=GONE.pid, class_path="a:B"):
    """A row that an earlier daemon published."""
    return WorkerStatus(
        name=name,
        class_path=class_path,
        pid=pid,
        state=state,
        restarts=3,
        start_time=GONE.start_time,
    )


def states(daemon):
    """The state of each worker."""
    return {name: worker.state for name, worker in daemon.executor.workers.items()}


def test_workers_cannot_be_replaced_from_outside(daemon):
    """The table of the workers is a view."""
    with pytest.raises(TypeError):
        daemon.executor.workers["third"] = None


def test_an_observation_that_came_too_late_changes_nothing(daemon):
    """A verdict on a worker that waits to be started: no reason, no fault, no event."""
    worker = daemon.executor.workers["first"]
    daemon.executor.observe(Observation(worker, Event.HUNG, "hung", "hung", 1.0, "notice"))
    assert (worker.state, worker.reason, worker.fault) == (State.WAITING, "", "")
    daemon.executor.observe(Observation(worker, memory_bytes=1 << 20))
    assert worker.memory_bytes == 1 << 20


def test_a_stop_ends_what_waits_and_a_start_begins_again(daemon):
    """Requests of an operator move the worker and say so."""
    executor = daemon.executor
    worker = executor.workers["first"]
    assert executor.take_changed()
    assert not executor.take_changed()
    executor.request(worker, Event.STOP)
    assert (worker.state, worker.reason) == (State.STOPPED, "stop was asked for")
    assert executor.take_changed()
    executor.request(worker, Event.START)
    assert worker.state is State.WAITING
    executor.stop_all()
    executor.start_ready()
    assert states(daemon) == {"first": State.STOPPED, "second": State.STOPPED}
    assert executor.ended()


def test_a_dead_process_of_an_earlier_daemon_is_healed(daemon):
    """It is counted as a death, and started again at once; a planned stop is ended."""
    daemon.adopt(status("first", "running"), status("second", "stopping"))
    first = daemon.executor.workers["first"]
    assert states(daemon) == {"first": State.BACKOFF, "second": State.STOPPED}
    assert (first.restarts, first.deadline, len(first.deaths)) == (4, daemon.now, 1)
    assert [incident.worker for incident in daemon.log.incidents] == ["first"]
    ((worker, timer),) = daemon.watcher.expired([first], daemon.now)
    daemon.executor.expire(worker, timer, daemon.now)
    assert first.state is State.WAITING


def test_a_timer_that_was_set_anew_runs_on(daemon):
    """What ran out before the worker moved on is not acted on."""
    worker = daemon.executor.workers["first"]
    worker.deadline = 200.0
    daemon.executor.expire(worker, Timer.DEADLINE, 150.0)
    assert worker.deadline == 200.0


def test_a_worker_that_is_configured_no_more_is_forgotten(daemon):
    """Its dead process is healed, then it leaves; one that is removed leaves once it stopped."""
    daemon.adopt(status("third", "stopped", pid=0))
    assert set(daemon.executor.workers) == {"first", "second", "third"}
    daemon.executor.reconfigure(daemon.settings, Changes((), ("second",), ()))
    daemon.executor.request(daemon.executor.workers["first"], Event.STOP)
    for _ in range(2):
        daemon.executor.start_ready()
    assert set(daemon.executor.workers) == {"first"}


def test_a_rolling_restart_ends_at_a_worker_that_does_not_run(daemon):
    """It says at which one, and nothing remains."""
    texts = []
    rolling = RollingRestart(
        daemon.executor, lambda _kind, _severity, text: texts.append(text), {"first": 1, "gone": 2}
    )
    assert not rolling.advance()
    daemon.executor.request(daemon.executor.workers["first"], Event.STOP)
    assert rolling.advance()
    assert rolling.remaining == {}
    assert texts == ["ended at first, which does not run"]

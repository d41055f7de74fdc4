"""The event log with a real ring and plain workers: events, log lines, incidents."""

from __future__ import annotations

import pytest

from config.worker_spec import WorkerSpec
from mesh import Mesh, ProcessIdentity
from workers.contract.dtypes import EVENT_DTYPE
from workers.contract.names import EVENTS
from workers.contract.statuses import Incident
from workers.supervision.event_log import EventLog
from workers.supervision.managed_worker import REASON_CHARACTERS, ManagedWorker


class Lines:
    """A logger that keeps what it is given."""

    def __init__(self):
        self.lines = []

    def log(self, level, kind, **context):
        """Keep a line."""
        self.lines.append((level, kind, context))


@pytest.fixture
def lines():
    """The logger."""
    return Lines()


@pytest.fixture
def ring(mesh_directory):
    """The ring of events."""
    return Mesh(mesh_directory).ring(EVENTS, EVENT_DTYPE, capacity=16, create=True)


@pytest.fixture
def log(ring, lines):
    """An event log that keeps three incidents."""
    return EventLog(ring, 3, lambda: lines)


def worker(name="w"):
    """A worker whose process has died."""
    spec = WorkerSpec(name=name, worker="a:B")
    return ManagedWorker(spec, 0.0, identity=ProcessIdentity(7, 1), reason="x" * 1000)


def test_events_go_into_the_ring_and_lines_wait_for_the_flush(log, ring, lines):
    """A record carries worker, pid, incident and text; the logger is asked at the flush."""
    one = worker()
    one.incident = Incident(worker="w", kind="exited", at=0.0, number=5)
    log.emit("started", "info", "hello")
    log.emit("died", "warning", "ä" * 1000, one)
    log.log_only("spawned", one)
    first, second = ring.reader("oldest").read(max_records=8)
    assert (first["kind"], first["text"], first["worker"]) == (b"started", b"hello", b"")
    assert (second["worker"], second["pid"], second["incident"]) == (b"w", 7, 5)
    assert set(second["text"].decode()) == {"ä"}
    assert lines.lines == []
    log.flush()
    log.flush()
    assert [(level, kind) for level, kind, _ in lines.lines] == [
        (20, "started"),
        (30, "died"),
        (20, "spawned"),
    ]
    assert lines.lines[2][2] == {"name": "w", "child": 7, "generation": 0, "incident": 5}


def test_incidents_are_numbered_bounded_and_closed(log):
    """The newest are kept, with the reason as evidence; closing says how long it took."""
    opened = [log.open_incident(worker(), "exited", 0.1, 10.0) for _ in range(5)]
    assert [incident.number for incident in opened] == [1, 2, 3, 4, 5]
    assert log.incidents == opened[2:]
    assert opened[0].evidence == "x" * REASON_CHARACTERS
    assert log.close_incident(opened[4], 12.5, 3) == "ready again after 2.500 s"
    assert (opened[4].running_s, opened[4].messages_replayed) == (2.5, 3)
    assert log.close_incident(None, 12.5, -1) == "ready"


def test_open_incidents_of_an_earlier_daemon_are_taken_over(log):
    """As copies, the newest of each worker counts: it is open, or there is none."""
    earlier = [
        Incident(worker="a", kind="exited", at=0.0, number=1),
        Incident(worker="a", kind="exited", at=0.0, running_s=0.5, number=2),
        Incident(worker="b", kind="hung", at=0.0, number=3),
    ]
    taken = log.take_over(earlier)
    assert taken == {"a": None, "b": earlier[2]}
    assert taken["b"] is log.incidents[2]
    assert taken["b"] is not earlier[2]
    assert log.open_incident(worker(), "exited", 0.0, 1.0).number == 4

"""What is told of a mesh when the daemon lives, is dead, or never was."""

from __future__ import annotations

import msgspec

from config.declaration import kind_of
from mesh import Mesh
from tests.processes import child
from tests.workers.ctl.conftest import DEAD
from workers.ctl.report import read_report


def test_the_flow_adds_up_the_workers(loop):
    """Messages, gates, experience and policies come from the workers' own cells."""
    flow = read_report(loop.mesh)["flow"]
    assert (flow["consumed"], flow["published"], flow["dead_lettered"]) == (11, 9, 1)
    assert flow["gates"] == {"wide": 3}
    assert flow["experience"] == 8
    policy = flow["policies"]["td3-0"]
    assert (policy["version"], policy["acting"], policy["acting_version"]) == (2, True, 2)


def test_a_dead_daemon_is_down_and_its_workers_are_looked_at(loop):
    """The last it said stays, `alive` comes from the processes themselves."""
    loop.status = msgspec.structs.replace(loop.status, pid=DEAD.pid, start_time=DEAD.start_time)
    loop.publish_status()
    report = read_report(loop.mesh)
    assert (report["state"], report["daemon"]["alive"], report["ready"]) == ("down", False, False)
    assert all(worker["state"] == "running" and worker["alive"] for worker in report["workers"])


def test_a_worker_of_another_process_has_no_heartbeat_of_this_one(loop):
    """A beat of an earlier process is not taken for the present one's."""
    loop.status.workers[0].pid = DEAD.pid
    loop.publish_status()
    worker = read_report(loop.mesh)["workers"][0]
    assert (worker["alive"], worker["beat_age_s"], worker["phase"]) == (False, None, "gone")


def test_acting_that_was_stopped_is_degraded(loop):
    """A safe state is not healthy, whatever runs."""
    loop.status.safe_state = "policy quarantined"
    loop.publish_status()
    report = read_report(loop.mesh)
    assert (report["state"], report["safe_state"]) == ("degraded", "policy quarantined")


def test_an_unmanaged_process_with_a_heartbeat_is_seen(loop):
    """A notebook's trainer that claimed a row is listed and marked."""

    def notebook(tell):
        heartbeat = Mesh(loop.mesh.path).heartbeats().claim("notebook")
        heartbeat.ready()
        tell()
        heartbeat.beat(progress=1)
        import signal  # noqa: PLC0415 - in the child

        signal.pause()

    with child(notebook) as process:
        process.started()
        found = read_report(loop.mesh)["workers"][-1]
        assert (found["name"], found["kind"], found["pid"]) == ("notebook", "foreign", process.pid)
    assert read_report(loop.mesh)["workers"][-1]["name"] != "notebook"


def test_a_held_lock_names_its_owner(loop):
    """Locks that are held are in the report, free ones are not."""
    assert read_report(loop.mesh)["locks"] == []
    with loop.lock:
        (lock,) = read_report(loop.mesh)["locks"]
    assert (lock["name"], lock["owner"], lock["alive"]) == ("journal", "keeper", True)


def test_rubbish_in_the_directory_is_passed_over(loop):
    """Files that are no segments change nothing."""
    (loop.mesh.path / "status+rubbish").write_bytes(b"no segment")
    (loop.mesh.path / "events").write_bytes(b"")
    assert read_report(loop.mesh)["state"] == "healthy"


def test_kinds_are_told_in_a_word():
    """Ours by their package, others by their class."""
    assert kind_of("workers.ingest.worker:IngestWorker") == "ingest"
    assert kind_of("mine.code:Special") == "Special"


def test_what_a_worker_says_in_its_heartbeat_is_told(loop):
    """Rate and lag come with the beat; without them the worker's own status speaks."""
    assert read_report(loop.mesh)["workers"][0]["doing"] == "running"
    loop.heartbeats[0].describe("running: 1,200/s, 7 behind, 0 dead")
    loop.heartbeats[0].beat(progress=6)
    texts = [worker["doing"] for worker in read_report(loop.mesh)["workers"]]
    assert texts[:2] == ["running: 1,200/s, 7 behind, 0 dead", "acting"]

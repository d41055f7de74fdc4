"""The daemon under attack: workers killed and stopped, the daemon killed, two of it."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys

import pytest

from mesh.control import ControlRequest, ask
from tests.daemons import ROOT, Daemon, alive, daemon, until

pytestmark = pytest.mark.crash

TWO = """
[workers.first]
worker = "tests.sample_workers:Counting"
heartbeat_deadline_s = 0.4
[workers.second]
worker = "tests.sample_workers:Counting"
depends_on = ["first"]
"""


def counts(one, name):
    """What the worker published, as far as the ring still holds it."""
    ring = one.mesh.attach(name)
    return ring.reader("oldest").read(max_records=1024).tolist(), ring.published


def assert_consecutive(one, name):
    """No number is missing or there twice (the worker goes on publishing meanwhile)."""
    got, published = counts(one, name)
    assert got == list(range(got[0], got[0] + len(got)))
    assert got[-1] < published


def test_killed_worker_is_back_and_others_undisturbed(tmp_path):
    """SIGKILL: another process goes on with the same ring; the other worker is not touched."""
    with daemon(tmp_path, TWO) as one:
        second = one.running("second")
        pid = one.running("first")
        for _ in range(3):
            os.kill(pid, signal.SIGKILL)
            pid = one.running("first", other_than=pid)
        before = counts(one, "first")[1]
        until("progress", lambda: counts(one, "first")[1] > before)
        assert_consecutive(one, "first")
        assert one.worker("second")["pid"] == second
        status = one.status()
        assert [i["evidence"] for i in status["incidents"]] == ["killed by SIGKILL"] * 3
        assert status["incidents"][0]["leases_broken"] == ["first"]
        assert all(i["running_s"] >= 0 for i in status["incidents"])
        assert one.stop() == 0


def test_stopped_worker_is_found_and_replaced(tmp_path):
    """SIGSTOP: no beat, so it is killed with a report, and a replacement goes on."""
    with daemon(tmp_path, TWO) as one:
        pid = one.running("first")
        os.kill(pid, signal.SIGSTOP)
        one.running("first", other_than=pid)
        assert_consecutive(one, "first")
        incident = one.status()["incidents"][0]
        assert incident["kind"] == "hung"
        assert incident["evidence"].startswith("hung: no beat for")
        (report,) = (tmp_path / "run" / "crashes").glob("first-*.json")
        assert json.loads(report.read_text())["kind"] == "killed"


def test_i7_killed_daemon_is_replaced_without_touching_a_worker(tmp_path):
    """SIGKILL of the daemon: workers run on; the next one adopts and still heals them."""
    with daemon(tmp_path, TWO) as one:
        pids = {name: one.running(name) for name in ("first", "second")}
        one.process.kill()
        one.process.wait()
        before = counts(one, "second")[1]
        until("workers run on", lambda: counts(one, "second")[1] > before)
        one.start()
        assert {name: one.running(name) for name in pids} == pids
        assert all(w["restarts"] == 0 for w in one.status()["workers"])
        os.kill(pids["first"], signal.SIGKILL)
        one.running("first", other_than=pids["first"])
        assert one.worker("second")["pid"] == pids["second"]
        assert_consecutive(one, "first")
        assert one.stop() == 0
        assert not any(alive(pid) for pid in pids.values())


def test_second_daemon_is_refused(tmp_path):
    """Two on one mesh: the second says who has it and leaves the first alone."""
    with daemon(tmp_path, TWO) as one:
        pid = one.running("first")
        second = subprocess.run(
            [sys.executable, "-m", "supervisor", "--profile", str(one.profile)],
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert second.returncode == 75
        assert f"pid {one.process.pid}" in second.stderr
        assert second.stderr.count("\n") == 1
        assert one.worker("first")["pid"] == pid


def test_crash_loop_ends_in_quarantine_until_reset(tmp_path):
    """A worker that always fails is quarantined with a reason and a report; a reset tries again."""
    workers = (
        TWO
        + """
[workers.bad]
worker = "tests.sample_workers:Crashing"
required = false
restart = { base_delay_s = 0.01, intensity = 3 }
"""
    )
    with daemon(tmp_path, workers) as one:
        until("quarantine", lambda: one.worker("bad")["state"] == "quarantined")
        assert one.worker("bad")["reason"] == (
            "exit code 70: ValueError: this worker always fails; 4 deaths in 60 s, 3 are allowed"
        )
        one.running("second")
        reports = sorted((tmp_path / "run" / "crashes").glob("bad-*.json"))
        report = json.loads(reports[0].read_text())
        assert report["error"] == "ValueError: this worker always fails"
        assert report["inputs"] == {"offset": 42}
        assert ask(one.mesh_path, ControlRequest("reset", "bad")).ok
        until("tried again", lambda: len(list((tmp_path / "run" / "crashes").glob("bad-*"))) > 4)


def test_what_failing_workers_leave_is_bounded(tmp_path):
    """Reports that workers write of themselves are pruned, and no stack file stays behind."""
    workers = """
[workers.bad]
worker = "tests.sample_workers:Crashing"
required = false
restart = { base_delay_s = 0.01, intensity = 5 }
"""
    environment = {"MESH__SUPERVISOR__CRASH_REPORTS": "2"}
    one = Daemon(tmp_path, workers, "", "")
    one.environment = {**one.environment, **environment}
    try:
        one.start()
        until("quarantine", lambda: one.worker("bad")["state"] == "quarantined")
        left = sorted(path.name for path in (tmp_path / "run" / "crashes").iterdir())
        assert len(left) == 2
        assert all(name.endswith(".json") for name in left)
    finally:
        one.clean()


def test_worker_that_dies_between_stack_dump_and_kill(tmp_path):
    """Found hung, and dead before the SIGKILL that was on its way: one death, no harm done."""
    with daemon(tmp_path, TWO) as one:
        pid = one.running("first")
        for _ in range(3):
            os.kill(pid, signal.SIGSTOP)
            until("found hung", lambda: one.worker("first")["reason"].startswith("hung"))
            with contextlib.suppress(ProcessLookupError):  # the daemon was faster
                os.kill(pid, signal.SIGKILL)
            pid = one.running("first", other_than=pid)
        assert one.process.poll() is None
        assert_consecutive(one, "first")


def test_never_ready_and_deaf_workers_are_killed_in_time(tmp_path):
    """Start deadline and stop grace end in SIGKILL; the daemon still stops with 0."""
    workers = """
[workers.slow]
worker = "tests.sample_workers:NeverReady"
start_deadline_s = 0.5
restart = { base_delay_s = 60.0, first_delay_s = 60.0 }
[workers.deaf]
worker = "tests.sample_workers:Stubborn"
stop_grace_s = 0.3
"""
    with daemon(tmp_path, workers) as one:
        one.running("deaf")
        until("backoff", lambda: one.worker("slow")["state"] == "backoff")
        assert one.worker("slow")["reason"] == "not ready within 0.5 s"
        assert one.stop() == 0


def test_requests_are_answered_and_garbage_does_no_harm(tmp_path):
    """Planned stop, start and restart by request; unknown workers and commands are answers."""
    with daemon(tmp_path, TWO) as one:
        pid = one.running("first")
        assert "no worker 'x'" in ask(one.mesh_path, ControlRequest("stop", "x")).text
        assert "no command" in ask(one.mesh_path, ControlRequest("fly", "first")).text
        assert ask(one.mesh_path, ControlRequest("restart", "first")).ok
        one.running("first", other_than=pid)
        assert one.status()["incidents"] == []
        assert ask(one.mesh_path, ControlRequest("stop", "second")).ok
        until("stopped", lambda: one.worker("second")["state"] == "stopped")
        assert ask(one.mesh_path, ControlRequest("start", "second")).ok
        one.running("second")


def test_removed_at_stop_when_configured(tmp_path):
    """With remove_at_stop nothing of the mesh is left: no segment, no socket, no process."""
    with daemon(tmp_path, TWO, "[supervisor]\nremove_at_stop = true") as one:
        pids = [one.running("first"), one.running("second")]
        assert one.stop() == 0
        assert not one.mesh_path.exists()
        assert not any(alive(pid) for pid in pids)


def test_daemon_whose_log_cannot_be_written_goes_on(tmp_path):
    """Its standard error is a pipe that nobody reads: the lines are lost, healing is not."""
    with daemon(tmp_path, TWO) as one:
        one.stop()
        reader, writer = os.pipe()
        one.process = subprocess.Popen(
            [sys.executable, "-m", "supervisor", "--profile", str(one.profile)],
            cwd=ROOT,
            stdout=writer,
            stderr=writer,
            start_new_session=True,
        )
        os.close(writer)
        os.close(reader)
        pid = one.running("first")
        os.kill(pid, signal.SIGKILL)
        one.running("first", other_than=pid)
        assert one.stop() == 0

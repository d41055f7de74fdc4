"""The mesh is damaged or taken away under a daemon: healed, or ended in order with the reason."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys

import pytest

from mesh.control import ControlRequest, ControlUnavailable, ask
from mesh.segment_file import read_head
from tests.daemons import ROOT, alive, daemon, until

pytestmark = pytest.mark.crash
KEY = 16  # bytes from the start of a row
ROW = 64 + 2 * 256
WORKERS = """
[workers.first]
worker = "tests.sample_workers:Counting"
heartbeat_deadline_s = 0.4
start_deadline_s = 2.0
[workers.second]
worker = "tests.sample_workers:Counting"
nursery = "plain"
start_deadline_s = 2.0
"""


def overwrite(one, name, offset, data):
    """Write bytes into a segment's file."""
    with (one.mesh_path / name).open("r+b") as file:
        file.seek(offset)
        file.write(data)


def rows_offset(one):
    """Where the rows of the heartbeats begin."""
    return read_head(one.mesh_path / "heartbeats")[0].data_offset


def events(one, kind):
    """The texts of all events of one kind."""
    records = one.mesh.attach("events").reader("oldest").read(max_records=4096)
    return [r["text"].decode() for r in records if r["kind"] == kind.encode()]


def ended(one):
    """Wait for the daemon's end and give its exit code."""
    return one.process.wait(60.0)


def test_damaged_heartbeats_of_running_workers_heal(tmp_path):
    """Bytes without a meaning in every row: the workers get rows again, and a hang is found."""
    with daemon(tmp_path, WORKERS) as one:
        pids = {name: one.running(name) for name in ("first", "second")}
        overwrite(one, "heartbeats", rows_offset(one), b"\xa5" * 2 * ROW)
        for name, pid in pids.items():
            pids[name] = one.running(name, other_than=pid)
        os.kill(pids["first"], signal.SIGSTOP)
        one.running("first", other_than=pids["first"])
        assert one.status()["incidents"][-1]["kind"] == "hung"
        assert one.worker("second")["pid"] == pids["second"]
        assert one.stop() == 0


def test_a_worker_whose_row_is_lost_is_restarted(tmp_path):
    """Its name is damaged: it beats on and nobody can tell that it does; restarted in order."""
    with daemon(tmp_path, WORKERS) as one:
        second = one.running("second")
        pid = one.running("first")
        names = [row.worker for row in one.mesh.heartbeats().rows()]
        overwrite(one, "heartbeats", rows_offset(one) + names.index("first") * ROW + KEY, b"\xff")
        one.running("first", other_than=pid)
        assert events(one, "heartbeat lost") == ["its heartbeat was damaged or taken away"]
        assert one.status()["incidents"] == []
        assert one.worker("second")["pid"] == second


@pytest.mark.parametrize("name", ["events", "supervisor", "heartbeats"])
def test_the_next_daemon_makes_damaged_segments_anew(tmp_path, name):
    """The head of a segment of the daemon's own is damaged: told, made anew, workers adopted."""
    with daemon(tmp_path, WORKERS) as one:
        pids = {worker: one.running(worker) for worker in ("first", "second")}
        one.process.kill()
        one.process.wait()
        overwrite(one, name, 0, b"\xa5" * 8)
        one.start()
        if name == "heartbeats":  # those who run beat where nobody sees it
            pids = {worker: one.running(worker, other_than=pids[worker]) for worker in pids}
        assert {worker: one.running(worker) for worker in pids} == pids
        assert any(text.startswith("made anew") for text in events(one, "fault"))
        os.kill(pids["first"], signal.SIGSTOP)
        one.running("first", other_than=pids["first"])
        assert one.stop() == 0


def test_a_mesh_that_is_taken_away_ends_the_daemon_in_order(tmp_path):
    """Nothing could be asked, seen or started any more: all is stopped, 73, and begins afresh."""
    with daemon(tmp_path, WORKERS) as one:
        pids = [one.running("first"), one.running("second")]
        shutil.rmtree(one.mesh_path)
        assert ended(one) == 73
        assert not any(alive(pid) for pid in pids)
        assert str(one.mesh_path) in one.log.read_text().splitlines()[-1]
        one.start()
        assert one.running("first") not in pids
        assert one.stop() == 0


def test_of_two_daemons_the_one_whose_status_was_taken_away_leaves(tmp_path):
    """Its segments were removed and another daemon took over: it goes (75), the workers run on."""
    with daemon(tmp_path, WORKERS) as one:
        pids = {name: one.running(name) for name in ("first", "second")}
        first = one.process
        os.kill(first.pid, signal.SIGSTOP)
        try:
            for name in ("supervisor", "events"):  # each of them says who the daemon is
                (one.mesh_path / name).unlink()
            one.start()
            assert {name: one.running(name) for name in pids} == pids
        finally:
            os.kill(first.pid, signal.SIGCONT)
        assert first.wait(60.0) == 75
        assert {name: one.running(name) for name in pids} == pids
        assert ask(one.mesh_path, ControlRequest("ping")).ok
        assert one.stop() == 0


def test_a_control_socket_that_is_removed_is_there_again(tmp_path):
    """Somebody cleared up: the daemon can be asked again a moment later."""
    with daemon(tmp_path, WORKERS) as one:
        pid = one.running("first")
        (one.mesh_path / ".control").unlink()

        def answers():
            try:
                return ask(one.mesh_path, ControlRequest("ping")).ok
            except ControlUnavailable:
                return False

        until("answers", answers)
        assert one.running("first") == pid
        assert one.stop() == 0


def test_unlink_of_a_damaged_segment_names_the_damage(tmp_path):
    """Whether somebody uses it cannot be known: the file is named, and is the operator's to go."""
    with daemon(tmp_path, WORKERS) as one:
        one.running("first")
        assert one.stop() == 0
        overwrite(one, "first", 0, b"\xa5" * 8)
        said = subprocess.run(
            [sys.executable, "-m", "workers.ctl.cli", "--mesh", one.mesh_path, "unlink", "first"],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
        )
        assert said.returncode == 1
        assert f"{one.mesh_path}/first" in said.stderr
        assert "remove the file" in said.stderr

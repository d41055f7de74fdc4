"""Changing the daemon under running workers: another program, another configuration."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from mesh.control import ControlRequest, ask
from tests.daemons import daemon, until

pytestmark = pytest.mark.crash

WORKERS = """
[workers.first]
worker = "tests.sample_workers:Counting"
[workers.second]
worker = "tests.sample_workers:Counting"
nursery = "plain"
"""


def events(one, kind):
    """The texts of all events of one kind."""
    ring = one.mesh.attach("events")
    records = ring.reader("oldest").read(max_records=4096)
    return [r["text"].decode() for r in records if r["kind"] == kind.encode()]


def test_upgrade_keeps_the_pid_and_every_worker(tmp_path):
    """The daemon becomes the new program: workers adopted, and their exit codes still known."""
    with daemon(tmp_path, WORKERS) as one:
        pids = {name: one.running(name) for name in ("first", "second")}
        os.kill(pids["first"], signal.SIGKILL)
        pids["first"] = one.running("first", other_than=pids["first"])
        for _ in range(2):
            before = len(events(one, "started"))
            assert ask(one.mesh_path, ControlRequest("upgrade")).ok
            until("new program", lambda before=before: len(events(one, "started")) > before)
            until("answers", lambda: ask(one.mesh_path, ControlRequest("ping")).ok)
            assert one.status()["pid"] == one.process.pid
            assert {name: one.running(name) for name in pids} == pids
        assert one.worker("first")["restarts"] == 1
        assert one.worker("second")["generation"] == 1
        assert len(one.status()["incidents"]) == 1
        os.kill(pids["second"], signal.SIGKILL)
        one.running("second", other_than=pids["second"])
        assert one.status()["incidents"][-1]["evidence"] == "killed by SIGKILL"
        assert one.stop() == 0


def test_upgrade_to_a_program_that_does_not_start_is_refused(tmp_path):
    """The new program fails its check: the old one goes on, and says why."""
    with daemon(tmp_path, WORKERS) as one:
        pid = one.running("first")
        one.profile.write_text(one.profile.read_text() + "[mesh.nonsense]\na = 1\n")
        assert ask(one.mesh_path, ControlRequest("upgrade")).ok
        until("refused", lambda: "exit code 78" in one.status()["reload_error"])
        assert events(one, "upgrading") == []
        assert one.running("first") == pid
        assert ask(one.mesh_path, ControlRequest("ping")).ok


def test_changed_configuration_restarts_what_changed_alone(tmp_path):
    """SIGHUP: a changed spec starts again, a new one starts, a removed one stops, the rest stay."""
    with daemon(tmp_path, WORKERS) as one:
        pids = {name: one.running(name) for name in ("first", "second")}
        text = one.profile.read_text()
        changed = text.replace("[workers.second]\n", "[workers.second]\nnice = 1\n")
        one.profile.write_text(
            changed + '[workers.third]\nworker = "tests.sample_workers:Counting"\n'
        )
        one.process.send_signal(signal.SIGHUP)
        second = one.running("second", other_than=pids["second"])
        assert os.getpriority(os.PRIO_PROCESS, second) == min(19, os.nice(0) + 1)
        third = one.running("third")
        assert one.running("first") == pids["first"]
        one.profile.write_text(changed)
        assert ask(one.mesh_path, ControlRequest("reload")).ok
        until("third gone", lambda: [w["name"] for w in one.status()["workers"]] == [*pids])
        assert one.running("first") == pids["first"]
        assert one.running("second") == second
        assert one.status()["incidents"] == []
        assert third not in {w["pid"] for w in one.status()["workers"]}


def test_removed_and_added_again_while_it_still_ends(tmp_path):
    """A deaf worker is removed and comes back before it has ended: ended once, started once."""
    workers = WORKERS + '[workers.deaf]\nworker = "tests.sample_workers:Stubborn"\n'
    workers += "stop_grace_s = 1.5\n"
    with daemon(tmp_path, workers) as one:
        pid = one.running("deaf")
        text = one.profile.read_text()
        one.profile.write_text(text.split("[workers.deaf]")[0])
        assert ask(one.mesh_path, ControlRequest("reload")).ok
        until("stopping", lambda: one.worker("deaf")["state"] == "stopping")
        one.profile.write_text(text)
        assert ask(one.mesh_path, ControlRequest("reload")).ok
        one.running("deaf", other_than=pid)
        assert one.worker("deaf")["generation"] == 2
        assert one.status()["incidents"] == []


def test_invalid_configuration_changes_nothing_and_is_reported(tmp_path):
    """SIGHUP with a mistake: refused with the list of problems; a mesh elsewhere is refused too."""
    with daemon(tmp_path, WORKERS) as one:
        pid = one.running("first")
        text = one.profile.read_text()
        one.profile.write_text(text.replace("[workers.second]\n", "[workers.second]\nnice = 99\n"))
        one.process.send_signal(signal.SIGHUP)
        until("refused", lambda: "workers.second.nice" in one.status()["reload_error"])
        one.profile.write_text(text.replace(str(one.mesh_path), f"{one.mesh_path}-other"))
        reply = ask(one.mesh_path, ControlRequest("reload"))
        assert not reply.ok
        assert "stop the daemon and start it again" in reply.text
        one.profile.write_text(text)
        assert ask(one.mesh_path, ControlRequest("reload")).ok
        assert one.status()["reload_error"] == ""
        assert one.running("first") == pid
        assert events(one, "reload refused")


def test_workers_no_longer_configured_are_stopped_by_the_next_daemon(tmp_path):
    """The profile lost a worker while the daemon was dead: it is stopped, not forgotten."""
    with daemon(tmp_path, WORKERS) as one:
        pids = {name: one.running(name) for name in ("first", "second")}
        one.process.kill()
        one.process.wait()
        one.profile.write_text(one.profile.read_text().split("[workers.second]")[0])
        one.start()
        until("one left", lambda: [w["name"] for w in one.status()["workers"]] == ["first"])
        assert one.running("first") == pids["first"]
        until("ended", lambda: not Path(f"/proc/{pids['second']}").exists())

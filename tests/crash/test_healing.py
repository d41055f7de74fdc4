"""Healing goes on whoever dies: worker and daemon together, in a back-off, in a restart."""

from __future__ import annotations

import os
import signal

import pytest

from mesh import Mesh, ProcessIdentity
from mesh.control import ControlRequest, ask
from tests.daemons import daemon, until
from tests.processes import child

pytestmark = pytest.mark.crash

TWO = """
[workers.first]
worker = "tests.sample_workers:Holding"
[workers.second]
worker = "tests.sample_workers:Counting"
depends_on = ["first"]
"""


def replace_daemon(one):
    """Kill the daemon and start the next one."""
    one.process.kill()
    one.process.wait()
    one.start()


def test_worker_that_died_while_no_daemon_watched_is_healed(tmp_path):
    """Worker and daemon die together: the next daemon breaks the locks and starts it, once."""
    with daemon(tmp_path, TWO) as one:
        pid, second = one.running("first"), one.running("second")
        one.process.send_signal(signal.SIGSTOP)
        os.kill(pid, signal.SIGKILL)
        replace_daemon(one)
        one.running("first", other_than=pid)
        (incident,) = one.status()["incidents"]
        assert incident["worker"] == "first"
        assert incident["locks_broken"] == ["wanted"]
        assert incident["leases_broken"] == ["first"]
        assert incident["evidence"].startswith("ended; an earlier daemon started it")
        assert one.worker("first")["restarts"] == 1
        assert one.worker("second")["pid"] == second
        assert one.stop() == 0


def test_backoff_and_quarantine_outlive_the_daemon(tmp_path):
    """The deaths are remembered: a crash loop ends in quarantine although the daemon died too."""
    workers = """
[workers.bad]
worker = "tests.sample_workers:Crashing"
restart = { first_delay_s = 0.3, base_delay_s = 0.3, intensity = 4, period_s = 600 }
"""
    with daemon(tmp_path, workers) as one:
        until("two deaths", lambda: len(one.worker("bad")["deaths"]) >= 2)
        replace_daemon(one)
        until("quarantine", lambda: one.worker("bad")["state"] == "quarantined")
        assert len(one.worker("bad")["deaths"]) == 5
        reason = one.worker("bad")["reason"]
        replace_daemon(one)
        assert one.worker("bad")["state"] == "quarantined"
        assert one.worker("bad")["reason"] == reason
        assert ask(one.mesh_path, ControlRequest("reset", "bad")).ok
        until("tried again", lambda: len(one.worker("bad")["deaths"]) == 1)


def test_an_asked_for_stop_outlives_the_daemon(tmp_path):
    """What an operator stopped stays stopped after a crash; after an orderly end all start."""
    with daemon(tmp_path, TWO) as one:
        one.running("second")
        assert ask(one.mesh_path, ControlRequest("stop", "second")).ok
        until("stopped", lambda: one.worker("second")["state"] == "stopped")
        replace_daemon(one)
        one.running("first")
        assert one.worker("second")["state"] == "stopped"
        assert one.stop() == 0
        one.start()
        one.running("second")


def test_a_restart_goes_on_after_the_daemon_died_in_it(tmp_path):
    """Killed while a deaf worker is being restarted: the next daemon ends and starts it."""
    workers = """
[workers.deaf]
worker = "tests.sample_workers:Stubborn"
stop_grace_s = 1.0
"""
    with daemon(tmp_path, workers) as one:
        pid = one.running("deaf")
        assert ask(one.mesh_path, ControlRequest("restart", "deaf")).ok
        until("restarting", lambda: one.worker("deaf")["state"] == "restarting")
        replace_daemon(one)
        one.running("deaf", other_than=pid)
        assert one.status()["incidents"] == []
        assert one.worker("deaf")["restarts"] == 0


def test_rest_for_one_follows_and_resync_does_not(tmp_path):
    """When a worker dies, who follows it is started again behind it, who resyncs goes on."""
    workers = (
        TWO
        + """
[workers.third]
worker = "tests.sample_workers:Counting"
depends_on = ["first"]
follow = "restart"
[workers.fourth]
worker = "tests.sample_workers:Counting"
depends_on = ["third"]
follow = "restart"
"""
    )
    with daemon(tmp_path, workers) as one:
        pids = {n: one.running(n) for n in ("first", "second", "third", "fourth")}
        os.kill(pids["first"], signal.SIGKILL)
        for name in ("first", "third", "fourth"):
            one.running(name, other_than=pids[name])
        assert one.worker("second")["pid"] == pids["second"]
        assert [i["worker"] for i in one.status()["incidents"]] == ["first"]
        assert one.worker("third")["restarts"] == 0


def test_rolling_restart_replaces_one_after_the_other(tmp_path):
    """A group is restarted by its name, each worker once the one before runs again."""
    workers = "".join(
        f'[workers.{name}]\nworker = "tests.sample_workers:Counting"\ngroup = "team"\n'
        for name in ("a", "b", "c")
    )
    with daemon(tmp_path, workers) as one:
        pids = {name: one.running(name) for name in ("a", "b", "c")}
        reply = ask(one.mesh_path, ControlRequest("restart", "team"))
        assert reply.text == "restarting one after the other: a, b, c"
        low = 3
        while one.status()["rolling"]:
            low = min(low, sum(w["state"] == "running" for w in one.status()["workers"]))
        assert low >= 2
        assert all(one.running(name, other_than=pid) for name, pid in pids.items())
        assert [one.worker(name)["generation"] for name in pids] == [2, 2, 2]
        assert one.status()["incidents"] == []


def test_unmanaged_process_is_seen_and_never_killed(tmp_path):
    """A process of somebody else: shown, silent when it hangs, freed of its lock when dead."""
    with daemon(tmp_path, TWO) as one:
        one.running("first")

        def body(tell):
            mesh = Mesh(one.mesh_path)
            heart = mesh.heartbeats(create=True).claim("notebook")
            heart.beat(progress=1, expect=0.2)
            mesh.lock("theirs", create=True).acquire(1.0)
            tell()
            while True:
                signal.pause()

        with child(body) as notebook:
            notebook.started()

            def shown():
                return next(f for f in one.status()["unmanaged"] if f["name"] == "notebook")

            until("silent", lambda: shown()["state"] == "silent" and shown()["holds"])
            assert shown()["pid"] == notebook.pid
            assert shown()["holds"] == ["theirs"]
            refused = ask(one.mesh_path, ControlRequest("break-lock", "theirs"))
            assert not refused.ok
            assert "which lives" in refused.text
            assert ProcessIdentity.of(notebook.pid).is_alive()
            notebook.kill()
        until("freed", lambda: one.mesh.lock("theirs").owner() is None)
        until("gone", lambda: not one.status()["unmanaged"])


def test_unmanaged_process_in_a_workers_place_is_left_alone(tmp_path):
    """Somebody runs a worker of ours by hand: not doubled, not killed, and the status says it."""
    with daemon(tmp_path, TWO) as one:
        pid = one.running("second")
        assert ask(one.mesh_path, ControlRequest("stop", "second")).ok
        until("stopped", lambda: one.worker("second")["state"] == "stopped")

        def body(tell):
            Mesh(one.mesh_path).heartbeats(create=True).claim("second").ready()
            tell()
            while True:
                signal.pause()

        with child(body) as hand:
            hand.started()
            assert ask(one.mesh_path, ControlRequest("start", "second")).ok
            until("reported", lambda: f"pid {hand.pid}" in one.worker("second")["reason"])
            assert one.worker("second")["state"] == "waiting"
            assert ProcessIdentity.of(hand.pid).is_alive()
        one.running("second", other_than=pid)


def test_safe_state_while_what_acts_is_not_trustworthy(tmp_path):
    """The acting policy's learner is quarantined, or the data source is gone: acting stops."""
    workers = """
[workers.source]
worker = "tests.sample_workers:Counting"
role = "data"
[workers.acting]
worker = "tests.sample_workers:ActingFeeder"
[workers.policy]
worker = "tests.sample_workers:Counting"
role = "policy"
restart = { base_delay_s = 0.01, intensity = 1 }
[workers.other]
worker = "tests.sample_workers:Crashing"
role = "policy"
required = false
restart = { base_delay_s = 0.01, intensity = 1 }
"""
    with daemon(tmp_path, workers, "[supervisor]\nstale_after_s = 0.2") as one:
        pid = one.running("policy")
        one.running("acting")
        until("other quarantined", lambda: one.worker("other")["state"] == "quarantined")
        until("safe to act", lambda: one.status()["safe_state"] == "")
        for _ in range(2):
            os.kill(pid, signal.SIGKILL)
            until("dead", lambda pid=pid: one.worker("policy")["pid"] != pid)
            pid = one.worker("policy")["pid"]
            if one.worker("policy")["state"] != "quarantined":
                pid = one.running("policy", other_than=0)
        until("safe state", lambda: "policy of policy: quarantined" in one.status()["safe_state"])
        assert ask(one.mesh_path, ControlRequest("reset", "policy")).ok
        until("acting again", lambda: one.status()["safe_state"] == "")
        assert ask(one.mesh_path, ControlRequest("stop", "source")).ok
        until("stale", lambda: "market data is stale" in one.status()["safe_state"])

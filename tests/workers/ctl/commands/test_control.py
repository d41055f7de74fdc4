"""The commands that ask a real daemon for something, and `status` beside it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys

import pytest

from tests.daemons import ROOT, daemon, until

pytestmark = pytest.mark.crash

WORKERS = """
[workers.one]
worker = "tests.sample_workers:Counting"
[workers.two]
worker = "tests.sample_workers:Counting"
depends_on = ["one"]
[workers.wrong]
worker = "tests.sample_workers:Misconfigured"
required = false
"""


@pytest.fixture
def ask(tmp_path):
    """A daemon with two healthy workers, and meshctl run against it."""
    with daemon(tmp_path, WORKERS) as one:

        def run(*words):
            return subprocess.run(
                [sys.executable, "-m", "workers.ctl.cli", "--mesh", str(one.mesh_path), *words],
                cwd=ROOT,
                capture_output=True,
                text=True,
                check=False,
                timeout=120,
            )

        assert run("status", "--wait-ready", "60").returncode == 0
        run.one = one
        yield run


def test_a_worker_is_stopped_started_and_restarted(ask):
    """Each is waited for; a restart is another process; others are left alone."""
    two = ask.one.worker("two")["pid"]
    assert ask("restart", "one", "--wait", "60").returncode == 0
    first = ask.one.worker("one")["pid"]
    assert ask("stop", "one", "--wait", "60").returncode == 0
    assert ask("status").returncode == 1
    assert ask("status", "one").returncode == 1
    started = ask("start", "one", "--wait", "60")
    assert (started.returncode, "running after" in started.stdout) == (0, True)
    assert ask.one.worker("one")["pid"] not in {0, first}
    assert ask.one.worker("two")["pid"] == two
    assert ask("status").returncode == 0


def test_a_quarantined_worker_is_told_with_its_reason(ask):
    """`reset --wait` of a worker that fails again gives its reason, not just a timeout."""
    until("quarantine", lambda: ask.one.worker("wrong")["state"] == "quarantined")
    ended = ask("reset", "wrong", "--wait", "60")
    assert ended.returncode == 1
    assert "wrong is quarantined: exit code 78" in ended.stderr
    assert ask("restart", "wrong").returncode == 1


def test_what_the_daemon_refuses_is_one_line(ask):
    """An unknown worker, a segment that is no lock."""
    for words in (["restart", "nobody"], ["break-lock", "one"], ["break-lock", "none"]):
        ended = ask(*words)
        assert (ended.returncode, ended.stdout, ended.stderr.count("\n")) == (1, "", 1)


def test_everything_but_asking_works_with_the_daemon_dead(ask):
    """After kill -9 the workers are seen alive, what needs the daemon says so, and it heals."""
    pids = [ask.one.worker(name)["pid"] for name in ("one", "two")]
    os.kill(ask.one.process.pid, signal.SIGKILL)
    ask.one.process.wait()
    ended = ask("status", "--format", "json")
    report = json.loads(ended.stdout)
    assert (ended.returncode, report["state"]) == (2, "down")
    alive = {worker["pid"] for worker in report["workers"] if worker["alive"]}
    assert set(pids) <= alive
    for words in (
        ["segments"],
        ["show", "one"],
        ["locks"],
        ["events"],
        ["logs", "one"],
        ["tail", "one", "--no-follow"],
    ):
        assert ask(*words).returncode == 0
    refused = ask("restart", "one")
    assert (refused.returncode, "the daemon that made the socket is dead" in refused.stderr) == (
        2,
        True,
    )
    ask.one.start()
    assert ask("status", "--wait-ready", "60").returncode == 0
    assert [ask.one.worker(name)["pid"] for name in ("one", "two")] == pids


def test_reload_upgrade_and_shutdown(ask):
    """The daemon is replaced without its workers, then stopped with them."""
    pids = [ask.one.worker(name)["pid"] for name in ("one", "two")]
    assert ask("reload").stdout == "reloaded\n"
    upgraded = ask("upgrade")
    assert (upgraded.returncode, "upgraded" in upgraded.stdout) == (0, True), upgraded.stderr
    assert [ask.one.worker(name)["pid"] for name in ("one", "two")] == pids
    assert "upgrad" in ask("events").stdout
    assert ask("shutdown").returncode == 0
    assert ask.one.process.wait(60) == 0
    assert ask("status").returncode == 2

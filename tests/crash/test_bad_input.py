"""What an operator gets wrong: one line with the remedy, a code that says so, nothing left."""

from __future__ import annotations

import subprocess
import sys

import psutil
import pytest

from mesh.control import ControlRequest, ask
from tests.daemons import ROOT, daemon, until

pytestmark = pytest.mark.crash


def meshd(*arguments):
    """Run the daemon to its end."""
    return subprocess.run(
        [sys.executable, "-m", "supervisor", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_mesh_that_is_no_directory(tmp_path):
    """A file where the mesh should be: exit 73 with one line, and the file untouched."""
    (tmp_path / "mesh").write_text("mine")
    ended = meshd("--set", f"mesh.path={tmp_path}/mesh", "--set", f"run_directory={tmp_path}/run")
    assert ended.returncode == 73
    assert ended.stderr.count("\n") == 1
    assert str(tmp_path / "mesh") in ended.stderr
    assert sorted(p.name for p in tmp_path.iterdir()) == ["mesh"]


def test_configuration_problems_are_listed_together(tmp_path):
    """Several wrong values: every one is named with its remedy, exit 78, nothing started."""
    ended = meshd("--set", "mesh.mode=9999", "--set", "supervisor.events=1", "--set", "no.such=1")
    assert ended.returncode == 78
    assert "3 problems" in ended.stderr
    for key in ("mesh.mode", "supervisor.events", "no.such"):
        assert key in ended.stderr
    assert not list(tmp_path.iterdir())


def test_wrong_usage_is_64(tmp_path):
    """An option that there is not, one without its value: EX_USAGE, and nothing is started."""
    for words in (["--no-such"], ["--set"], ["--profile"], ["stray"]):
        ended = meshd(*words)
        assert (ended.returncode, ended.stdout) == (64, "")
        assert "usage: meshd" in ended.stderr
    assert meshd("--help").returncode == 0
    assert not list(tmp_path.iterdir())


def test_dependencies_in_a_circle_are_refused(tmp_path):
    """Two workers that wait for each other are a configuration problem."""
    profile = tmp_path / "circle.toml"
    profile.write_text(
        '[workers.a]\nworker = "tests.sample_workers:Counting"\ndepends_on = ["b"]\n'
        '[workers.b]\nworker = "tests.sample_workers:Counting"\ndepends_on = ["a"]\n'
    )
    ended = meshd("--profile", str(profile), "--check")
    assert ended.returncode == 78
    assert "in a circle: a, b" in ended.stderr


def test_unknown_worker_class_is_readable_in_the_status(tmp_path):
    """A class that is not there: the worker is quarantined and its reason names the module."""
    workers = """
[workers.ghost]
worker = "tests.no_such_module:Ghost"
restart = { base_delay_s = 0.01, intensity = 2 }
"""
    with daemon(tmp_path, workers) as one:
        until("quarantine", lambda: one.worker("ghost")["state"] == "quarantined")
        assert "No module named 'tests.no_such_module'" in one.worker("ghost")["reason"]
        assert one.status()["state"] == "starting"
        assert one.stop() == 0


def one_worker(kind, *more):
    """A profile of one worker named `bad`."""
    return "\n".join([f'[workers.bad]\nworker = "tests.sample_workers:{kind}"', *more])


BRIEF = "restart = { base_delay_s = 0.01, intensity = 2 }"


def test_worker_that_exits_at_once_is_quarantined(tmp_path):
    """Exit code 0 without being asked is a death like any other, and the status says it."""
    with daemon(tmp_path, one_worker("Leaving", BRIEF)) as one:
        until("quarantine", lambda: one.worker("bad")["state"] == "quarantined")
        assert one.worker("bad")["reason"].startswith("exit code 0; 3 deaths in 60 s")
        assert one.stop() == 0


def test_worker_that_says_its_configuration_is_wrong_is_not_tried_again(tmp_path):
    """Exit code 78: quarantined after one death, for starting again does not help."""
    with daemon(tmp_path, one_worker("Misconfigured")) as one:
        until("quarantine", lambda: one.worker("bad")["state"] == "quarantined")
        assert "starting it again does not help" in one.worker("bad")["reason"]
        assert len(one.status()["incidents"]) == 1


def test_worker_that_forks_away_is_caught(tmp_path):
    """The parent's end is a death; the child that went away is found and ended."""
    with daemon(tmp_path, one_worker("Forking", BRIEF)) as one:
        until("quarantine", lambda: one.worker("bad")["state"] == "quarantined")
        assert one.worker("bad")["reason"].startswith("exit code 0")
        until("no child left", lambda: not psutil.Process(one.process.pid).children(recursive=True))
        ring = one.mesh.attach("events").reader("oldest").read(max_records=1000)
        assert b"strays" in set(ring["kind"].tolist())
        assert one.stop() == 0


def test_worker_that_closes_its_descriptors_works_on(tmp_path):
    """Mappings need no descriptor: it goes on, can be stopped, and harms nobody."""
    with daemon(tmp_path, one_worker("Closing")) as one:
        pid = one.running("bad")
        before = one.mesh.attach("bad").published
        until("progress", lambda: one.mesh.attach("bad").published > before)
        assert ask(one.mesh_path, ControlRequest("restart", "bad")).ok
        one.running("bad", other_than=pid)
        assert one.status()["incidents"] == []


@pytest.mark.parametrize("how", ["log", "print", "raw"])
def test_worker_that_fills_its_log_is_bounded(tmp_path, how):
    """Through the logger, print or the bare descriptor: small files, and the status says it."""
    limits = "[logging]\nmax_bytes = 65536\nkeep = 1\nmax_lines_per_s = 200"
    more = (f'settings = {{ how = "{how}" }}', "heartbeat_deadline_s = 5.0")
    with daemon(tmp_path, one_worker("Flooding", *more), limits) as one:
        pid = one.running("bad")
        until("reported", lambda: "writes too much" in one.worker("bad")["reason"])
        log = tmp_path / "run" / "logs" / "bad.log"
        until("kept", lambda: log.with_name("bad.log.1").stat().st_size <= 65536)
        if how != "raw":
            until("counted", lambda: "lines left out" in log.with_name("bad.log.1").read_text())
        assert sorted(p.name for p in log.parent.glob("bad*")) == ["bad.log", "bad.log.1"]
        assert one.running("bad") == pid


def test_worker_that_eats_memory_is_recycled_and_stopped_in_the_end(tmp_path):
    """At a share of its limit it is restarted in order; in the end it is quarantined."""
    more = (
        "memory_limit_bytes = 200_000_000",
        "settings = { bite = 1_000_000, pause_s = 0.02 }",
        BRIEF,
    )
    with daemon(tmp_path, one_worker("Leaking", *more)) as one:
        pid = one.running("bad")
        one.running("bad", other_than=pid)
        incident = one.status()["incidents"][0]
        assert incident["kind"] == "memory"
        assert "restarted in an orderly way" in incident["evidence"]
        until("quarantine", lambda: one.worker("bad")["state"] == "quarantined")
        assert "memory: " in one.worker("bad")["reason"]


def test_worker_that_eats_memory_too_fast_is_ended(tmp_path):
    """Far over the limit between two looks: killed with a report, or refused by the kernel."""
    more = ("memory_limit_bytes = 100_000_000", "settings = { bite = 150_000_000 }", BRIEF)
    with daemon(tmp_path, one_worker("Leaking", *more)) as one:
        until("quarantine", lambda: one.worker("bad")["state"] == "quarantined")
        reason = one.worker("bad")["reason"]
        assert "95 MiB are allowed" in reason or "MemoryError" in reason


def test_check_says_what_would_be_started(tmp_path):
    """--check starts nothing and lists the workers with their dependencies."""
    profile = tmp_path / "fine.toml"
    profile.write_text(
        '[workers.a]\nworker = "tests.sample_workers:Counting"\n'
        '[workers.b]\nworker = "tests.sample_workers:Counting"\ndepends_on = ["a"]\n'
    )
    ended = meshd("--profile", str(profile), "--check")
    assert ended.returncode == 0
    assert "b: tests.sample_workers:Counting after a" in ended.stdout


def test_system_that_does_not_get_ready_is_degraded(tmp_path):
    """A required worker never becomes ready: after a while the system is called degraded."""
    with daemon(tmp_path, one_worker("NeverReady"), "[supervisor]\nready_timeout_s = 0.3") as one:
        until("degraded", lambda: one.status()["state"] == "degraded")
        assert one.worker("bad")["state"] == "starting"
        assert one.status()["ready"] is False

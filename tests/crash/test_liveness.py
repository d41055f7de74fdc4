"""Hangs of every kind are found with evidence; a starved worker is left alone."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mesh import ProcessIdentity
from tests.daemons import daemon, until

HANGING = """
[workers.holder]
worker = "tests.sample_workers:Holding"
[workers.hanging]
worker = "tests.sample_workers:Hanging"
depends_on = ["holder"]
settings = {{ how = "{how}" }}
restart = {{ first_delay_s = 60.0 }}
"""
KINDS = {
    "loop": "running in a loop",
    "lock": "asleep",
    "read": "asleep",
    "stop": "stopped by a signal",
}


@pytest.mark.crash
@pytest.mark.parametrize("how", KINDS)
def test_every_kind_of_hang_is_found_with_evidence(tmp_path, how):
    """Endless loop, deadlock, system call, SIGSTOP: killed after a report of what it did."""
    with daemon(tmp_path, HANGING.format(how=how)) as one:
        until("incident", lambda: one.status()["incidents"])
        (incident,) = one.status()["incidents"]
        assert incident["kind"] == "hung"
        assert incident["evidence"].startswith("hung: no beat for")
        assert KINDS[how] in incident["evidence"]
        assert incident["detected_s"] >= 0.2
        assert incident["locks_broken"] == ["mine"]
        report = json.loads(Path(incident["report"]).read_text())
        assert report["locks"] == ["mine"]
        assert report["leases"] == ["hanging"]
        assert report["heartbeat"]["phase"] == "working"
        assert report["heartbeat"]["progress"] > 0
        assert "about to hang" in report["log"]
        if how != "stop":  # a stopped process cannot run its dump
            assert f"in {how}" in report["stacks"]
        assert ProcessIdentity.of(one.worker("holder")["pid"]).is_alive()


BUSY = "import os\nos.write(1, b'x')\nwhile True: pass"


def overload(one, name, beats):
    """Eight busy processes for as long as the worker needs for `beats` more numbers."""
    pid = one.running(name)
    busy = [
        subprocess.Popen([sys.executable, "-c", BUSY], stdout=subprocess.PIPE) for _ in range(8)
    ]
    try:
        for process in busy:
            assert process.stdout.read(1) == b"x"
        before = one.mesh.attach(name).published
        until(
            "progress under load", lambda: one.mesh.attach(name).published > before + beats, 900.0
        )
    finally:
        for process in busy:
            process.kill()
            process.wait()
            process.stdout.close()
    assert one.running(name) == pid
    assert one.status()["incidents"] == []


LIGHT = """
[workers.light]
worker = "tests.sample_workers:Counting"
nice = {nice}
"""


@pytest.mark.crash
def test_starved_worker_is_not_killed(tmp_path):
    """Eight busy processes, the worker with the lowest priority: slow, but left alone."""
    with daemon(tmp_path, LIGHT.format(nice=19)) as one:
        overload(one, "light", 40)


@pytest.mark.stress
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("nice", [0, 19])
def test_starved_worker_is_not_killed_for_long(tmp_path, nice):
    """The same for minutes, with the priority of the others and with the lowest one."""
    with daemon(tmp_path, LIGHT.format(nice=nice)) as one:
        overload(one, "light", 20_000 if nice == 0 else 1500)


@pytest.mark.crash
def test_worker_under_a_debugger_is_left_alone(tmp_path):
    """A traced and stopped worker is silent for a reason: the one who debugs it decides."""
    with daemon(tmp_path, LIGHT.format(nice=0)) as one:
        pid = one.running("light")
        tracer = subprocess.Popen(
            [sys.executable, "-c", TRACE, str(pid)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        try:
            assert tracer.stdout.read(1) == b"s"
            until("long past the deadline", lambda: silence(one, "light") > 3 * 0.2)
            assert ProcessIdentity.of(pid).is_alive()
        finally:
            tracer.stdin.close()
            tracer.wait()
            tracer.stdout.close()
        before = one.mesh.attach("light").published
        until("it goes on", lambda: one.mesh.attach("light").published > before)
        assert one.running("light") == pid


def silence(one, name):
    """Seconds since the last beat."""
    row = next(r for r in one.mesh.heartbeats().rows() if r.worker == name)
    return time.monotonic() - row.beat_ns / 1e9


TRACE = """
import ctypes, os, sys
libc = ctypes.CDLL(None, use_errno=True)
pid = int(sys.argv[1])
assert libc.ptrace(16, pid, 0, 0) == 0  # PTRACE_ATTACH: it stops
os.waitpid(pid, 0)
os.write(1, b"s")
sys.stdin.read()
libc.ptrace(17, pid, 0, 0)  # PTRACE_DETACH
"""

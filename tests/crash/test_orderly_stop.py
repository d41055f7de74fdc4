"""A stop at any instant of a worker's start or end is orderly: code 0, row given back, no stray."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import sys
import time

import pytest

from mesh import Phase
from mesh.control import ControlRequest, ask
from tests.daemons import ROOT, daemon, until

pytestmark = pytest.mark.crash

ROUNDS = 200
WORKERS = """
[workers.forked]
worker = "tests.sample_workers:Counting"
[workers.served]
worker = "tests.sample_workers:Counting"
nursery = "plain"
"""
#: In a process of its own, which has one thread and signal handlers like the daemon's.
PROGRAM = """
import os, random, select, signal, sys, time
import tests.sample_workers  # loaded once, not in each child
from config import load_settings
from mesh import Mesh, Phase
from workers.supervision.spawn import SpawnRequest, spawn

settings = load_settings(sys.argv[1])
log = sys.argv[2]
rng = random.Random(12)
wake, poke = os.pipe2(os.O_NONBLOCK)
signal.set_wakeup_fd(poke, warn_on_full_buffer=False)
for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
    signal.signal(number, lambda *_: None)
for generation in range(int(sys.argv[3])):
    pid = spawn(SpawnRequest("forked", log, generation), settings)
    number = signal.SIGTERM
    while True:
        due = time.monotonic() + rng.random() * rng.choice([0.0005, 0.005, 0.03])
        while time.monotonic() < due:
            pass  # a wait of the kernel's is too coarse
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            break
        if rng.random() < 0.4:
            break
        number = rng.choice([signal.SIGTERM, signal.SIGINT])
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    assert code == 0, f"round {generation}: {code}"
    row, = Mesh(settings.mesh.path).heartbeats().rows()
    assert (row.worker, row.pid, row.phase) == ("forked", pid, Phase.GONE), row
assert not select.select([wake], [], [], 0)[0], "a child's signal reached its parent's pipe"
print("all orderly")
"""


def pass_s(seconds):
    """Spend a fraction of a second on the processor; a wait of the kernel's is too coarse."""
    due = time.monotonic() + seconds
    while time.monotonic() < due:
        pass


def test_signals_at_random_instants_of_start_and_end(tmp_path, mesh_directory):
    """SIGTERM, and more of it, from right after the fork to the end: always exit code 0."""
    profile = tmp_path / "profile.toml"
    profile.write_text(
        f'run_directory = "{tmp_path}/run"\n[mesh]\npath = "{mesh_directory}"\n{WORKERS}'
    )
    log = tmp_path / "forked.log"
    finished = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(profile), str(log), str(ROUNDS)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=250,
        check=False,
    )
    assert finished.stdout == "all orderly\n", finished.stderr + log.read_text()[-2000:]
    assert not list((tmp_path / "run" / "crashes").iterdir())


def test_stops_and_starts_at_random_instants_under_a_daemon(tmp_path):
    """Requests that overtake each other, and signals from outside: each end has exit code 0."""
    rng = random.Random(34)
    with daemon(tmp_path, WORKERS) as one:
        for name in ("forked", "served"):
            one.running(name)
        for _ in range(ROUNDS):
            name = rng.choice(["forked", "served"])
            pid = one.worker(name)["pid"]
            if rng.random() < 0.1 and pid:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGTERM)
            else:
                command = rng.choice(["start", "stop", "restart", "reset"])
                ask(one.mesh_path, ControlRequest(command, name))
            pass_s(rng.random() * 0.02)
        for name in ("forked", "served"):
            ask(one.mesh_path, ControlRequest("reset", name))
            ask(one.mesh_path, ControlRequest("start", name))
        pids = {name: one.running(name) for name in ("forked", "served")}
        assert pids == {row.worker: row.pid for row in one.mesh.heartbeats().rows()}
        assert {incident["evidence"] for incident in one.status()["incidents"]} <= {"exit code 0"}
        reasons = [one.worker(name)["reason"] for name in pids]
        assert not any("did not stop" in reason for reason in reasons)
        assert one.stop() == 0
        until("every row is given back", lambda: all_gone(one))


def all_gone(one):
    """Whether every worker has given its heartbeat back."""
    return all(row.phase is Phase.GONE for row in one.mesh.heartbeats().rows())

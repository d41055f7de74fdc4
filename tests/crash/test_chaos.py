"""Anything may die at any moment, in any combination: nothing is lost, doubled or left over."""

from __future__ import annotations

import contextlib
import os
import random
import signal

import psutil
import pytest

from mesh.control import ControlRequest, ControlUnavailable, ask
from tests.daemons import daemon, until

pytestmark = pytest.mark.crash

WORKERS = """
[workers.one]
worker = "tests.sample_workers:Counting"
restart = { intensity = 1000, max_delay_s = 0.1 }
[workers.two]
worker = "tests.sample_workers:Holding"
depends_on = ["one"]
nursery = "plain"
follow = "restart"
restart = { intensity = 1000, max_delay_s = 0.1 }
[workers.three]
worker = "tests.sample_workers:Counting"
nursery = "plain"
restart = { intensity = 1000, max_delay_s = 0.1 }
"""
NAMES = ("one", "two", "three")


class Chaos:
    """What can go wrong, chosen by a seeded generator."""

    def __init__(self, one, seed):
        self.one = one
        self.rng = random.Random(seed)

    def step(self):
        """Do one to three things at once."""
        things = [self.kill_worker, self.stop_worker, self.kill_fork_server, self.ask_something]
        for thing in self.rng.choices(things, k=self.rng.randint(1, 3)):
            thing()
        if self.rng.random() < 0.5:
            self.kill_daemon()

    def kill_worker(self):
        """SIGKILL."""
        self.signal(signal.SIGKILL)

    def stop_worker(self):
        """SIGSTOP: it hangs."""
        self.signal(signal.SIGSTOP)

    def signal(self, number):
        """Send a signal to one of the workers."""
        pid = self.one.worker(self.rng.choice(NAMES))["pid"]
        if pid:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)

    def kill_fork_server(self):
        """Kill the fork server, or a child that waits in it."""
        for process in children(self.one.process.pid, "tradingmesh: fork server"):
            if self.rng.random() < 0.5:
                with contextlib.suppress(psutil.Error):
                    process.kill()

    def ask_something(self):
        """Restart, reload or upgrade."""
        command = self.rng.choice(["restart", "reload", "upgrade"])
        with contextlib.suppress(ControlUnavailable):
            ask(self.one.mesh_path, ControlRequest(command, self.rng.choice(NAMES)))

    def kill_daemon(self):
        """SIGKILL of the daemon, and the next one."""
        self.one.process.kill()
        self.one.process.wait()
        self.one.start()


def children(pid, title):
    """Processes below `pid` whose title begins so."""
    found = []
    with contextlib.suppress(psutil.Error):
        for process in psutil.Process(pid).children(recursive=True):
            with contextlib.suppress(psutil.Error, IndexError):
                if process.cmdline()[0].startswith(title):
                    found.append(process)
    return found


def processes_of(mesh_path):
    """Every worker process that has this mesh mapped, by name."""
    found = {}
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, IndexError, OSError):
            title = process.cmdline()[0]
            name = title.removeprefix("tradingmesh: ")
            if name in NAMES and any(str(mesh_path) in m.path for m in process.memory_maps()):
                found.setdefault(name, []).append(process.pid)
    return found


def settle_and_check(one):
    """All run, each once, and what they published is consecutive."""
    until("healthy", lambda: one.status()["state"] == "healthy" and not one.status()["rolling"])

    def each_once():
        running = {name: [one.running(name)] for name in NAMES}
        return running == processes_of(one.mesh_path)

    until("each once", each_once)
    for name in NAMES:
        ring = one.mesh.attach(name)
        got = ring.reader("oldest").read(max_records=1024).tolist()
        assert got == list(range(got[0], got[0] + len(got)))
        before = ring.published
        until("progress", lambda ring=ring, before=before: ring.published > before)
    assert one.mesh.lock("wanted").owner().identity.pid == one.worker("two")["pid"]


def play(tmp_path, seed, rounds):
    """So many rounds, with a check after each."""
    with daemon(tmp_path, WORKERS) as one:
        settle_and_check(one)
        chaos = Chaos(one, seed)
        for _ in range(rounds):
            chaos.step()
            settle_and_check(one)
        assert one.stop() == 0
        until("nothing left", lambda: not processes_of(one.mesh_path))


def test_a_little_chaos(tmp_path):
    """A few rounds of deaths, hangs, restarts, reloads, upgrades."""
    play(tmp_path, 1, 4)


@pytest.mark.stress
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("seed", range(2, 8))
def test_much_chaos(tmp_path, seed):
    """Many rounds, other seeds."""
    play(tmp_path, seed, 25)

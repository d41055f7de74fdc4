"""The nursery: what was imported before the fork works in every child of it."""

from __future__ import annotations

import os
import subprocess
import sys

import psutil
import pytest

from tests.daemons import ROOT, daemon, until

WORKERS = """
[workers.first]
worker = "tests.sample_workers:Counting"
nursery = "plain"
[workers.second]
worker = "tests.sample_workers:Counting"
nursery = "plain"
"""

FORK_SAFETY = """
import os, sys
from workers.nursery import _throw_away_learner, warm_up
import gc
warm_up("learner")
gc.freeze()
threads = len(os.listdir("/proc/self/task"))
assert threads == 1, f"{threads} threads before the fork"
import numpy as np, torch
for _ in range(int(sys.argv[1])):
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            a = np.random.default_rng(0).random((200, 200))
            np.linalg.solve(a, a @ a)
            torch.set_num_threads(2)
            torch.randn(400, 400) @ torch.randn(400, 400)
            torch.nn.Linear(64, 64)(torch.randn(2560, 64)).sum().backward()
            _throw_away_learner()
            code = 0
        finally:
            os._exit(code)
    assert os.waitpid(pid, 0)[1] == 0
print("all ended")
"""


def nursery_of(one):
    """The pid of the daemon's nursery (0 while it has no name yet)."""
    for process in psutil.Process(one.process.pid).children():
        if process.cmdline()[:1] == ["tradingmesh: nursery plain"]:
            return process.pid
    return 0


@pytest.mark.crash
def test_workers_of_a_nursery_belong_to_the_daemon_and_heal(tmp_path):
    """Born warm, a worker is the daemon's child: its exit status is known and it comes back."""
    with daemon(tmp_path, WORKERS) as one:
        pid = one.running("first")
        assert psutil.Process(pid).ppid() == one.process.pid
        for _ in range(4):  # more than there are spares
            os.kill(pid, 9)
            pid = one.running("first", other_than=pid)
        assert {i["evidence"] for i in one.status()["incidents"]} == {"killed by SIGKILL"}
        assert one.stop() == 0


@pytest.mark.crash
def test_broken_nursery_means_the_plain_way(tmp_path):
    """With its nursery killed a worker still comes back, and no process is left at the end."""
    with daemon(tmp_path, WORKERS) as one:
        pid = one.running("first")
        one.running("second")
        processes = psutil.Process(one.process.pid).children(recursive=True)
        nursery = until("nursery", lambda: nursery_of(one))
        os.kill(nursery, 9)
        os.kill(pid, 9)
        one.running("first", other_than=pid)
        assert one.stop() == 0
        assert not [process for process in processes if process.is_running()]


def test_fork_safety_of_the_learner_group():
    """One thread before the fork; numpy, threaded torch, autograd and TD3 work in the children."""
    finished = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", FORK_SAFETY, "4"],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert finished.stdout.endswith("all ended\n"), finished.stderr


@pytest.mark.stress
def test_fork_safety_over_many_rounds():
    """Twenty rounds of the same: none hangs."""
    finished = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", FORK_SAFETY, "20"],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert finished.stdout.endswith("all ended\n"), finished.stderr

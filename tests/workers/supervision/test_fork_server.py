"""The fork server: what was imported before the fork works in every child of it."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys

import psutil
import pytest

from config import one_thread
from mesh.control import ControlRequest, ask
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
import gc, os, sys
import config  # sets the environment that keeps libraries from starting threads
from config.declaration import fork_server_groups
from workers.supervision.fork_server_child import warm_up
groups = fork_server_groups()
warm_up(groups["learner"])
warm_up(groups["tracker"])
from workers.trainer.warm_up import warm_up as learn_briefly
from config.trainer import TrainerConfig
from workers.trainer.td3 import learner
own = TrainerConfig(device="cpu", batch=64)
learner.prepare(own)
gc.freeze()
threads = len(os.listdir("/proc/self/task"))
assert threads == 1, f"{threads} threads before the fork"
import mlflow, numpy as np, torch
for number in range(int(sys.argv[1])):
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            a = np.random.default_rng(0).random((200, 200))
            np.linalg.solve(a, a @ a)
            torch.set_num_threads(2)
            torch.randn(400, 400) @ torch.randn(400, 400)
            torch.nn.Linear(64, 64)(torch.randn(2560, 64)).sum().backward()
            learn_briefly()
            learner.rehearse(own)
            model, update = learner.make_or_take_prepared_learner(own)
            learner._learn(model, update, own.batch)
            assert update.updates == model.policy_delay and update.is_sound()
            if number % 4 == 0:  # a run is slow: its database is made anew
                mlflow.set_tracking_uri(f"sqlite:///{sys.argv[2]}/{number}.db")
                with mlflow.start_run():
                    mlflow.log_metric("loss", 0.5, step=1)
            code = 0
        finally:
            os._exit(code)
    assert os.waitpid(pid, 0)[1] == 0
print("all ended")
"""


def fork_safely(rounds, directory, watchdog):
    """Run the program above; nothing but this process may have set its environment."""
    finished = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", FORK_SAFETY, str(rounds), str(directory)],
        cwd=ROOT,
        env={k: v for k, v in os.environ.items() if k not in one_thread.ENVIRONMENT},
        capture_output=True,
        text=True,
        timeout=watchdog,
        check=False,
    )
    assert finished.stdout.endswith("all ended\n"), finished.stderr


def fork_server_of(one):
    """The pid of the daemon's fork server (0 while it has no name yet)."""
    for process in psutil.Process(one.process.pid).children():
        with contextlib.suppress(psutil.Error, ProcessLookupError):  # it ends
            leads = os.getpgid(process.pid) == process.pid  # and is none of the waiting children
            if leads and process.cmdline()[:1] == ["tradingmesh: fork server plain"]:
                return process.pid
    return 0


def waiting_in(one, server):
    """How many children of a fork server wait for their task."""
    children = psutil.Process(one.process.pid).children()
    return sum(os.getpgid(child.pid) == server for child in children) - 1


@pytest.mark.crash
def test_workers_of_a_fork_server_belong_to_the_daemon_and_heal(tmp_path):
    """Born warm, a worker is the daemon's child: its exit status is known and it comes back."""
    with daemon(tmp_path, WORKERS) as one:
        pid = one.running("first")
        assert psutil.Process(pid).ppid() == one.process.pid
        for _ in range(4):  # more than there are idle children
            os.kill(pid, 9)
            pid = one.running("first", other_than=pid)
        assert {i["evidence"] for i in one.status()["incidents"]} == {"killed by SIGKILL"}
        assert one.stop() == 0


@pytest.mark.crash
def test_broken_fork_server_means_the_plain_way(tmp_path):
    """With its fork server killed a worker still comes back, and no process is left at the end."""
    with daemon(tmp_path, WORKERS) as one:
        pid = one.running("first")
        one.running("second")
        processes = psutil.Process(one.process.pid).children(recursive=True)
        server = until("fork server", lambda: fork_server_of(one))
        os.kill(server, 9)
        os.kill(pid, 9)
        one.running("first", other_than=pid)
        assert one.stop() == 0
        assert not [process for process in processes if process.is_running()]


@pytest.mark.crash
def test_hung_fork_server_is_replaced(tmp_path):
    """A stopped fork server refills nothing: its idle children still serve, then it is replaced."""
    with daemon(tmp_path, WORKERS) as one:
        one.running("second")
        pid = one.running("first")
        server = until("fork server", lambda: fork_server_of(one))
        os.kill(server, signal.SIGSTOP)
        for _ in range(4):
            os.kill(pid, signal.SIGKILL)
            pid = one.running("first", other_than=pid)
        until("another fork server", lambda: fork_server_of(one) not in {0, server})
        assert not psutil.pid_exists(server)
        assert one.stop() == 0


def of_session(leader):
    """Processes of a daemon's session that still execute something (a zombie does not)."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, ProcessLookupError):
            living = process.status() not in {psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD}
            if os.getsid(process.pid) == leader and living:
                found.append((process.pid, process.cmdline()))
    return found


@pytest.mark.crash
@pytest.mark.parametrize("children", [0, 2])
def test_nothing_outlives_the_daemon(tmp_path, children):
    """Its fork server imports, or has children that wait and never listen: at the daemon's end no
    process of it is left."""
    deaf = WORKERS + (
        '[workers.deaf]\nworker = "tests.sample_workers:Deaf"\nnursery = "plain"\n'
        "stop_grace_s = 0.1\n"
    )
    with daemon(tmp_path, deaf) as one:
        if children:
            server = until("fork server", lambda: fork_server_of(one))
            until("children", lambda: waiting_in(one, server) >= children)
        assert one.stop() == 0
        assert of_session(one.process.pid) == []


@pytest.mark.crash
def test_fork_server_is_rebuilt_after_a_change(tmp_path):
    """A changed configuration, and changed code of a worker that it has imported: begun again."""
    package = tmp_path / "mine"
    package.mkdir()
    source = (ROOT / "tests" / "sample_workers.py").read_text()
    module = package / "my_worker.py"
    module.write_text(source)
    workers = WORKERS + '[workers.third]\nworker = "my_worker:Counting"\nnursery = "plain"\n'
    with daemon(tmp_path, workers, path=package) as one:
        one.running("third")
        first = until("fork server", lambda: fork_server_of(one))
        assert ask(one.mesh_path, ControlRequest("reload")).ok
        second = until(
            "after the reload",
            lambda: (found := fork_server_of(one)) not in {0, first} and found,
        )
        pid = one.running("third")
        until("warm again", lambda: waiting_in(one, second) == 2)
        line = "self.ring = self.context.mesh"
        new = 'self.context.mesh.ring("new", COUNTS, capacity=16, create=True)'
        module.write_text(source.replace(line, f"{new}\n        {line}", 1))
        until("after the change", lambda: fork_server_of(one) not in {0, second})
        assert one.running("third") == pid
        assert ask(one.mesh_path, ControlRequest("restart", "third")).ok
        one.running("third", other_than=pid)
        assert one.mesh.attach("new").info.capacity == 16  # the new code runs


def test_fork_safety_of_the_groups(tmp_path):
    """One thread before the fork; numpy, threaded torch, autograd, TD3, MLflow in the children."""
    fork_safely(2, tmp_path, 200)


@pytest.mark.stress
def test_fork_safety_over_many_rounds(tmp_path):
    """Twenty rounds of the same: none hangs."""
    fork_safely(20, tmp_path, 280)

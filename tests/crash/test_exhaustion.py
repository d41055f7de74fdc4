"""A host that has no descriptor, process or directory left: put off, told, and none is harmed."""

from __future__ import annotations

import contextlib
import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from mesh.control import ControlRequest, ask
from tests.daemons import ROOT, Daemon, daemon, until
from workers.supervision.fd_budget import CLIENTS, MOMENTARY

pytestmark = pytest.mark.crash
WORKERS = """
[workers.first]
worker = "tests.sample_workers:Counting"
restart = { base_delay_s = 0.01, intensity = 3 }
[workers.second]
worker = "tests.sample_workers:Counting"
nursery = "plain"
"""


def allow(pid, limit):
    """Allow the daemon so many descriptors, none or few of which may be free; gives what was."""
    _, hard = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    return resource.prlimit(pid, resource.RLIMIT_NOFILE, (limit, hard))


def descriptors(pid):
    """How many it has."""
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


def test_without_descriptors_a_start_is_put_off(tmp_path):
    """Too few are left for another worker: it waits with the reason, counts as no death, starts
    once there is room; the other worker and the requests of clients are untouched."""
    with daemon(tmp_path, WORKERS) as one:
        second = one.running("second")
        pid = one.running("first")
        usual = allow(one.process.pid, descriptors(one.process.pid) + MOMENTARY)
        os.kill(pid, signal.SIGKILL)
        until("put off", lambda: "cannot be started now" in one.worker("first")["reason"])
        row = one.worker("first")
        assert row["state"] == "backoff"
        assert "too few file descriptors are left" in row["reason"]
        assert "LimitNOFILE" in row["reason"]
        for _ in range(3):
            assert ask(one.mesh_path, ControlRequest("ping")).ok
        assert ask(one.mesh_path, ControlRequest("restart", "second")).ok
        until("second waits", lambda: "cannot be started now" in one.worker("second")["reason"])
        resource.prlimit(one.process.pid, resource.RLIMIT_NOFILE, usual)
        one.running("first", other_than=pid)
        one.running("second", other_than=second)
        assert [i["evidence"] for i in one.status()["incidents"]] == ["killed by SIGKILL"]
        events = one.mesh.attach("events").reader("oldest").read(max_records=1000)
        assert sorted(events["worker"][events["kind"] == b"put off"]) == [b"first", b"second"]
        assert one.stop() == 0


def test_the_soft_limit_is_no_limit(tmp_path):
    """A shell's small soft limit: the daemon takes what the hard one allows."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    few = CLIENTS + MOMENTARY
    assert hard > few
    resource.setrlimit(resource.RLIMIT_NOFILE, (few, hard))
    try:
        with daemon(tmp_path, WORKERS) as one:
            one.running("first")
            assert resource.prlimit(one.process.pid, resource.RLIMIT_NOFILE)[0] > few
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.parametrize("how", ["removed", "a file"])
def test_without_its_run_directory_the_daemon_heals_on(tmp_path, how):
    """No log and no report can be written, its place is gone or taken: workers come back."""
    with daemon(tmp_path, WORKERS) as one:
        pids = {name: one.running(name) for name in ("first", "second")}
        run = tmp_path / "run"
        shutil.rmtree(run)
        if how == "a file":
            run.write_text("in the way")
        for name in ("first", "second", "first"):
            os.kill(pids[name], signal.SIGKILL)
            pids[name] = one.running(name, other_than=pids[name])
        os.kill(pids["first"], signal.SIGKILL)
        one.running("first", other_than=pids["first"])
        assert {i["kind"] for i in one.status()["incidents"]} == {"exited"}
        assert one.stop() == 0
        assert run.is_file() == (how == "a file")


USER = 61_234  # whom nobody else runs as: limits of processes count all of a user
AS_USER = ["setpriv", "--reuid", str(USER), "--regid", str(USER), "--clear-groups"]


@contextlib.contextmanager
def daemon_of_a_user(*prefix):
    """A daemon without privileges, for root may do everything; skipped where that cannot be."""
    probe = [*AS_USER, sys.executable, "-c", "import numpy, supervisor"]
    if os.getuid() != 0 or not shutil.which("setpriv"):
        pytest.skip("needs root, to become another user")
    if subprocess.run(probe, cwd=ROOT, capture_output=True, check=False).returncode != 0:
        pytest.skip("another user cannot run this Python here")
    with tempfile.TemporaryDirectory() as directory:
        Path(directory).chmod(0o777)
        one = Daemon(directory, WORKERS)
        one.profile.chmod(0o644)
        one.prefix = [*prefix, *AS_USER]
        try:
            one.start()
            yield one
        finally:
            one.clean()


def test_without_processes_a_start_is_put_off():
    """The user may have no more processes: workers wait, with the reason, until there are."""
    with daemon_of_a_user("prlimit", "--nproc=16") as one:
        pids = {name: one.running(name) for name in ("first", "second")}
        others = [subprocess.Popen([*AS_USER, "sleep", "1000"]) for _ in range(16)]
        try:
            for pid in pids.values():
                os.kill(pid, signal.SIGKILL)
            reason = "cannot be started now: Resource temporarily unavailable"
            until("put off", lambda: one.worker("first")["reason"] == reason)
        finally:
            for other in others:
                other.kill()
                other.wait()
        for name, pid in pids.items():
            one.running(name, other_than=pid)
        assert {i["evidence"] for i in one.status()["incidents"]} == {"killed by SIGKILL"}
        assert one.stop() == 0


def test_a_mesh_that_may_not_be_opened_does_not_end_the_daemon():
    """Its mode is taken away and given back: no worker is touched, and one that died heals."""
    with daemon_of_a_user() as one:
        pids = {name: one.running(name) for name in ("first", "second")}
        status = one.mesh.attach("supervisor")
        one.mesh_path.chmod(0)
        os.kill(pids["first"], signal.SIGKILL)

        def refused():
            (row,) = (w for w in status.read()[1]["workers"] if w["name"] == "first")
            return "AccessDenied" in row["reason"]

        until("refused", refused)
        one.mesh_path.chmod(0o700)
        ask(one.mesh_path, ControlRequest("reset", "first"))
        one.running("first", other_than=pids["first"])
        assert one.running("second") == pids["second"]
        assert one.stop() == 0

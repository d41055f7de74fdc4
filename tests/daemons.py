"""A real daemon for a test: started on a mesh of its own, watched through shared memory."""

from __future__ import annotations

import contextlib
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil

from mesh import Mesh, MeshError, ProcessIdentity

ROOT = Path(__file__).parent.parent
WATCHDOG_S = 60.0


def until(what, condition, watchdog=WATCHDOG_S):
    """Return the first true value of `condition()`; fail naming `what` when the watchdog ends."""
    deadline = time.monotonic() + watchdog
    while time.monotonic() < deadline:
        with contextlib.suppress(MeshError, KeyError, StopIteration):
            if value := condition():
                return value
        select.select([], [], [], 0.01)
    raise AssertionError(f"never: {what}")


def alive(pid):
    """Whether a process runs under `pid`; one that nobody has reaped yet does not."""
    try:
        return ProcessIdentity.of(pid).is_alive()
    except ProcessLookupError:
        return False


class Daemon:
    """`meshd` with a profile of the test's own."""

    def __init__(self, directory, workers, extra="", path=""):
        self.directory = Path(directory)
        self.mesh_path = Path(tempfile.mkdtemp(prefix="meshd-test-", dir="/dev/shm"))
        self.mesh_path.rmdir()
        self.profile = self.directory / "profile.toml"
        self.profile.write_text(
            f'run_directory = "{self.directory}/run"\n'
            f'[mesh]\npath = "{self.mesh_path}"\n{extra}\n{workers}'
        )
        self.mesh = Mesh(self.mesh_path)
        self.log = self.directory / "meshd.log"
        self.process = None
        self.prefix = []  # words before the command line
        self.sessions = set()  # each started daemon leads a session that its workers belong to
        self.environment = {**os.environ, "PYTHONPATH": str(path)}

    def start(self):
        """Start the daemon (again) and wait until it shows itself in the mesh."""
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [*self.prefix, sys.executable, "-m", "supervisor", "--profile", str(self.profile)],
                cwd=ROOT,
                env=self.environment,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self.sessions.add(self.process.pid)
        until("daemon in the mesh", self._shows_itself)

    def _shows_itself(self):
        assert self.process.poll() is None, f"the daemon ended with {self.process.returncode}"
        return self.status()["pid"] == self.process.pid

    def status(self):
        """SupervisorStatus as meshctl reads it."""
        return self.mesh.attach("supervisor").read()[1]

    def worker(self, name):
        """The status row of one worker."""
        return next(w for w in self.status()["workers"] if w["name"] == name)

    def running(self, name, *, other_than=0):
        """Wait until the worker runs, as another process than `other_than`; return its pid."""

        def pid():
            row = self.worker(name)  # one read: state and pid of the same moment
            fresh = row["pid"] not in {0, other_than}
            return row["pid"] if row["state"] == "running" and fresh else 0

        return until(f"{name} running", pid)

    def stop(self):
        """Stop in an orderly way; return the exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(WATCHDOG_S)

    def _survivors(self):
        """Processes of the daemons started here that still run."""
        found = []
        for pid in psutil.pids():
            with contextlib.suppress(ProcessLookupError, PermissionError):
                if os.getsid(pid) in self.sessions and alive(pid):
                    found.append(pid)
        return found

    def clean(self):
        """Kill every process that is left; remove the mesh."""
        pids = []
        with contextlib.suppress(MeshError):
            pids = [row.pid for row in self.mesh.heartbeats().rows() if row.identity.is_alive()]
        if self.process is not None and self.process.poll() is None:
            # a child that was just forked has no heartbeat yet and would create the mesh again
            children = psutil.Process(self.process.pid).children(recursive=True)
            pids += [child.pid for child in children]
            self.process.kill()
            self.process.wait()
        pids += self._survivors()
        while pids:
            for pid in pids:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            pids = (
                self._survivors()
            )  # a worker of a daemon that was killed may have no heartbeat yet
        shutil.rmtree(self.mesh_path, ignore_errors=True)


@contextlib.contextmanager
def daemon(directory, workers, extra="", path=""):
    """A started daemon that leaves nothing behind."""
    one = Daemon(directory, workers, extra, path)
    try:
        one.start()
        yield one
    except AssertionError:
        sys.stderr.write(one.log.read_text())
        raise
    finally:
        one.clean()

"""A real feeder process on a mesh whose ticks the test publishes."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from mesh import Mesh
from tests.daemons import ROOT, WATCHDOG_S, until
from workers.contract.dtypes import EXPERIENCE_DTYPE, MARKET_DTYPE, TICK_DTYPE
from workers.contract.statuses import SupervisorStatus
from workers.trading_env.policy.numpy_policy import like
from workers.trading_env.providers.synthetic import SyntheticChain

PROFILE = """
run_directory = "{run}"
[mesh]
path = "{mesh}"
[workers.feeder]
worker = "workers.feeder.worker:FeederWorker"
[feeder]
lanes = 4
interval_s = 60.0
max_wait_s = 3600.0
greedy_share = 0.5
{extra}
"""


class Feeder:
    """The process, its mesh, and a market of calm quotes, one batch a minute."""

    def __init__(self, directory, extra=""):
        self.path = Path(tempfile.mkdtemp(prefix="feeder-test-", dir="/dev/shm"))
        self.path.rmdir()
        self.mesh = Mesh(self.path)
        self.ticks = self.mesh.ring("ticks", TICK_DTYPE, capacity=1 << 15, create=True)
        self.quotes = self.mesh.table("quotes", TICK_DTYPE, rows=1024, create=True)
        self.directory = Path(directory)
        self.profile = self.directory / "feeder.toml"
        self.profile.write_text(PROFILE.format(run=directory, mesh=self.path, extra=extra))
        chain = SyntheticChain(absent=0.0, crossed=0.0, silent=0.0)
        self.batches = list(chain.ticks(600, seed=1))
        self.at = 0
        self.process = None

    def start(self):
        """Start (again) and wait until it listens."""
        with (self.directory / "feeder.log").open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "workers.feeder", "--profile", str(self.profile)],
                cwd=ROOT,
                stdout=log,
                stderr=log,
            )
        states, turn = self.states, [0]

        def shows_itself():
            # its reader begins at the newest tick: publish until one has made a state due
            assert self.process.poll() is None, (self.directory / "feeder.log").read_text()
            turn[0] += 1
            if turn[0] % 10 == 0:
                self.minute()
            return self.states > states

        until("first state", shows_itself)

    def minute(self):
        """Publish a minute of quotes; the state of the minute before is due with its first."""
        batch = self.batches[self.at]
        self.at += 1
        self.ticks.publish(batch)
        self.quotes.write_batch(batch["symbol"], batch)

    def minutes(self, count):
        """Publish minutes one by one, each after the state that the one before made due."""
        for _ in range(count):
            before = self.states
            self.minute()
            until("a state", lambda before=before: self.states > before)

    @property
    def states(self):
        """Market states published so far."""
        with contextlib.suppress(Exception):
            return self.mesh.ring("market", MARKET_DTYPE).published
        return 0

    @property
    def status(self):
        """FeederStatus."""
        return self.mesh.attach("status/feeder").read()[1]

    def market(self):
        """Every market state."""
        ring = self.mesh.ring("market", MARKET_DTYPE)
        return ring.reader("oldest").read(max_records=ring.capacity)

    def experience(self):
        """Records as (steps, 4)."""
        ring = self.mesh.ring("experience", EXPERIENCE_DTYPE)
        records = ring.reader("oldest").read(max_records=ring.capacity)
        return records[: records.size // 4 * 4].reshape(-1, 4)

    def policy(self, action, version=1):
        """Publish a policy that always wants `action`."""
        arrays = like([4])
        arrays["b1"][:] = np.arctanh(action)
        arrays["created_ns"] = np.array(2**62)
        segment = self.mesh.tensors("policy/td3-0", like=arrays, create=True)
        for _ in range(version):
            segment.publish(arrays)
        return segment

    def safety(self, reason):
        """Say what the daemon would say about acting."""
        status = SupervisorStatus(
            pid=os.getpid(),
            start_time=0,
            since=0.0,
            version="test",
            profile="test",
            state="healthy",
            safe_state=reason,
        )
        self.mesh.cell("supervisor", SupervisorStatus, create=True, max_bytes=4096).write(status)

    def kill(self):
        """SIGKILL, and the lease of the dead is given up."""
        self.process.kill()
        self.process.wait(WATCHDOG_S)


@contextlib.contextmanager
def feeder(directory, extra=""):
    """A started feeder that leaves nothing behind."""
    one = Feeder(directory, extra)
    try:
        one.start()
        yield one
    finally:
        if one.process is not None and one.process.poll() is None:
            one.process.send_signal(signal.SIGTERM)
            one.process.wait(WATCHDOG_S)
        shutil.rmtree(one.path, ignore_errors=True)

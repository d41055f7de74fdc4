"""A mesh with every kind of segment that meshctl shows, written by the real contract."""

from __future__ import annotations

import shutil
import tempfile
import time
from pathlib import Path

import numpy as np
import pytest

from mesh import Mesh, ProcessIdentity
from workers.contract.dtypes import EVENT_DTYPE, EXPERIENCE_DTYPE, TICK_DTYPE
from workers.contract.names import (
    EVENTS,
    EXPERIENCE,
    QUOTES,
    SUPERVISOR,
    TICKS,
    policy_segment,
    status_segment,
)
from workers.contract.statuses import (
    FeederStatus,
    Incident,
    IngestStatus,
    ReplayerStatus,
    SupervisorStatus,
    TrainerStatus,
    UnmanagedProcess,
    WorkerStatus,
)
from workers.ctl.cli import main

DEAD = ProcessIdentity(2**22 + 7, 1)  # above pid_max: nobody


class Loop:
    """A whole loop at one moment, this process being all of its writers."""

    def __init__(self, path, *, records=64, rows=16):
        self.mesh = mesh = Mesh(path)
        self.logs = path / ".logs"
        self.status = self._daemon_status()
        self._cell = mesh.cell(SUPERVISOR, SupervisorStatus, create=True, max_bytes=65536)
        self.publish_status()
        segment = mesh.heartbeats(create=True)
        self.heartbeats = [segment.claim(worker.name) for worker in self.status.workers]
        for heartbeat in self.heartbeats:
            heartbeat.ready()
            heartbeat.beat(progress=5)
        self._cells = [
            self._write(
                "ingest",
                IngestStatus(
                    consumed=11,
                    published=9,
                    dead_lettered=1,
                    dropped=1,
                    state="running",
                    gates={"wide": 3},
                ),
            ),
            self._write(
                "feeder",
                FeederStatus(
                    state="acting", market_steps=4, acting_trainer="td3-0", acting_version=2
                ),
            ),
            self._write(
                "td3-0", TrainerStatus(state="training", updates=40, version=2, updates_per_s=9.0)
            ),
            self._write(
                "replayer", ReplayerStatus(produced=11, speed=60.0, source="synthetic seed 7")
            ),
        ]
        self.ticks = mesh.ring(TICKS, TICK_DTYPE, capacity=records, create=True)
        self.publish(5)
        self.experience = mesh.ring(EXPERIENCE, EXPERIENCE_DTYPE, capacity=records, create=True)
        self.experience.publish(np.zeros(8, EXPERIENCE_DTYPE))
        self.quotes = mesh.table(QUOTES, TICK_DTYPE, rows=rows, create=True)
        self.quotes.write("SYNX", self.tick(100.0))
        self.quotes.write("OTHER", self.tick(1.0))
        like = {"w0": np.arange(40.0).reshape(4, 10), "updates": np.array(40)}
        self.policy = mesh.tensors(policy_segment("td3-0"), like=like, create=True)
        self.policy.publish(like)
        self.events = mesh.ring(EVENTS, EVENT_DTYPE, capacity=64, create=True)
        self.event("started", "info", "", "daemon")
        self.event("died", "warning", "td3-0", "killed by SIGKILL")
        self.lock = mesh.lock("journal", create=True, owner_name="keeper")

    def _daemon_status(self):
        """What a daemon that is this process would publish."""
        me = ProcessIdentity.current()
        return SupervisorStatus(
            pid=me.pid,
            start_time=me.start_time,
            since=time.time() - 90.0,
            version="1.2.3",
            profile="demo",
            state="healthy",
            ready=True,
            workers=[
                self.worker("ingest", "workers.ingest.worker:IngestWorker"),
                self.worker("feeder", "workers.feeder.worker:FeederWorker"),
                self.worker("td3-0", "workers.trainer.worker:TrainerWorker", restarts=1),
                self.worker("replayer", "workers.replayer.worker:ReplayerWorker"),
            ],
            incidents=[
                Incident(
                    worker="td3-0",
                    kind="exited",
                    at=time.time(),
                    running_s=0.05,
                    evidence="SIGKILL",
                )
            ],
            logs=str(self.logs),
            unmanaged=[
                UnmanagedProcess(
                    name="notebook", pid=DEAD.pid, start_time=1, state="dead", holds=["policy/mine"]
                )
            ],
        )

    @staticmethod
    def worker(name, where, **more):
        """A running worker that is this process."""
        me = ProcessIdentity.current()
        more = {"restarts": 0, "start_time": me.start_time, **more}
        return WorkerStatus(name=name, class_path=where, pid=me.pid, state="running", **more)

    @staticmethod
    def tick(bid):
        """One tick."""
        row = np.zeros(1, TICK_DTYPE)
        row["symbol"], row["bid"], row["ask"], row["ts_event"] = (
            b"SYNX",
            bid,
            np.nan,
            1_766_000_000_000_000_000,
        )
        return row[0]

    def publish(self, count):
        """Publish ticks whose bid is their sequence."""
        first = self.ticks.published
        self.ticks.publish(np.array([self.tick(first + i) for i in range(count)], TICK_DTYPE))

    def event(self, kind, severity, worker, text):
        """Publish one event."""
        record = np.zeros(1, EVENT_DTYPE)
        record["ts"], record["kind"], record["severity"] = time.time_ns(), kind, severity
        record["worker"], record["text"] = worker, text
        self.events.publish(record)

    def publish_status(self):
        """Write the daemon's status as it is now."""
        self._cell.write(self.status)

    def _write(self, worker, value):
        cell = self.mesh.cell(status_segment(worker), type(value), create=True)
        cell.write(value)
        return cell


@pytest.fixture
def loop():
    """The loop, on a mesh of its own that is gone afterwards."""
    path = Path(tempfile.mkdtemp(prefix="ctl-test-", dir="/dev/shm"))
    yield Loop(path)
    shutil.rmtree(path)


@pytest.fixture
def meshctl(loop, capsys):
    """Run a command on the loop's mesh: (exit code, stdout, stderr)."""

    def run(*words):
        try:
            code = main(["--mesh", str(loop.mesh.path), *words])
        except SystemExit as ended:
            code = ended.code
        captured = capsys.readouterr()
        return int(code), captured.out, captured.err

    return run

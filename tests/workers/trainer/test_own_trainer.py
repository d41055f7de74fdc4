"""Trainers that are not ours: the examples of the documentation, run as they are."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np

from mesh import Mesh
from mesh.ctl.report import read_report
from tests.daemons import until
from tests.workers.trainer.experience import steps
from workers.feeder.policies import Policies
from workers.records import EXPERIENCE, EXPERIENCE_DTYPE

ROOT = Path(__file__).parents[3]


def started(example, mesh_directory, count):
    """An example as a process of its own."""
    command = [sys.executable, f"docs/examples/{example}.py", str(mesh_directory), "mine", count]
    environment = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, cwd=ROOT, env=environment, text=True, stderr=subprocess.PIPE)


def test_own_trainer_is_seen_and_acted_with(mesh_directory):
    """It waits for experience, learns from the ring, shows in the status; its policy acts."""
    mesh = Mesh(mesh_directory)
    ring = mesh.ring(EXPERIENCE, EXPERIENCE_DTYPE, capacity=4096, create=True)
    process = started("own_trainer", mesh_directory, "60")
    try:

        def row():
            rows = {w["name"]: w for w in read_report(mesh)["workers"]}
            return rows["mine"] if rows["mine"]["phase"] == "waiting" else None

        found = until("waiting", row)
        assert found["kind"] == "foreign"
        assert found["pid"] == process.pid
        ring.publish(steps(200, 4))
        assert process.wait(60) == 0, process.stderr.read()
    finally:
        process.kill()
        process.communicate()
    policy = Policies(mesh, ["mine"], 3600.0).best()
    assert policy.trainer == "mine"
    assert policy.version == 3
    assert np.abs(policy.act(np.zeros((2, 16, 100), np.float32))).max() <= 1.0
    shown = read_report(mesh)["flow"]["policies"]["mine"]
    assert (shown["version"], shown["state"], shown["acting"]) == (3, "foreign", False)
    ring.close()


def test_own_trainer_that_is_killed_hurts_nobody(mesh_directory):
    """kill -9 while it samples and publishes: its last policy is whole and may act, the ring goes
    on, and the next process of its name goes on with the segment."""
    mesh = Mesh(mesh_directory)
    ring = mesh.ring(EXPERIENCE, EXPERIENCE_DTYPE, capacity=4096, create=True)
    ring.publish(steps(200, 4))
    process = started("own_trainer", mesh_directory, "1000000")
    try:
        until("published", lambda: mesh.attach("policy/mine").version >= 2)
    finally:
        process.kill()
        process.communicate()
    last = mesh.attach("policy/mine").version
    assert Policies(mesh, ["mine"], 3600.0).best().version == last
    ring.publish(steps(10, 4, start=200))
    assert "mine" not in {worker["name"] for worker in read_report(mesh)["workers"]}
    process = started("own_trainer", mesh_directory, "20")
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors
    assert Policies(mesh, ["mine"], 3600.0).best().version == last + 1
    ring.close()


def test_plain_sb3_publishes_with_our_callback(mesh_directory):
    """The fifteen lines: stock TD3, its newest policy is there for the feeder at the end."""
    process = started("plain_sb3", mesh_directory, "170")
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    mesh = Mesh(mesh_directory)
    policy = Policies(mesh, ["mine"], 3600.0).best()
    assert policy.version == 2  # after 50 updates, and at the end
    assert not read_report(mesh)["workers"]  # its process has ended

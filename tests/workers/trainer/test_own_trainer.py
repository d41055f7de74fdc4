"""Trainers that are not ours: the examples of the documentation, run as they are."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from stable_baselines3 import TD3 as StockTD3  # noqa: N811 - two classes of one name meet here
from stable_baselines3.common.logger import configure

from mesh import Mesh
from tests.daemons import until
from tests.workers.trainer.experience import steps
from workers.contract.dtypes import EXPERIENCE_DTYPE
from workers.contract.names import EXPERIENCE
from workers.ctl.report import read_report
from workers.feeder.policies import Policies
from workers.trainer.replay.priorities import Priorities
from workers.trainer.replay.ring import ACTIONS, OBSERVATIONS, RingReplay
from workers.trainer.td3.algorithm import TD3

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning")

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


def test_our_learner_on_the_stream_as_the_page_says(mesh_directory, tmp_path):
    """The block of docs/own-trainer.md as it is, but for the path: a model that stock
    stable-baselines3 loads."""
    mesh = Mesh(mesh_directory)
    ring = mesh.ring(EXPERIENCE, EXPERIENCE_DTYPE, capacity=4096, create=True)
    ring.publish(steps(200, 4))
    page = (ROOT / "docs" / "own-trainer.md").read_text()
    (block,) = (part.partition("```")[0] for part in page.split("```python\n")[1:])
    assert "/dev/shm/tradingmesh" in block
    script = block.replace("/dev/shm/tradingmesh", str(mesh_directory)).replace("1000", "30")
    environment = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    subprocess.run([sys.executable, "-c", script], cwd=tmp_path, env=environment, check=True)
    model = StockTD3.load(tmp_path / "mine.zip", device="cpu")
    assert model.actor.mu[0].weight.shape == (64, 1600)
    ring.close()


@pytest.mark.parametrize("prioritised", [False, True])
def test_learner_without_an_environment(mesh_ring, tmp_path, prioritised):
    """`train` samples the ring; `predict`, `save` and `load` are as always, and what was loaded
    goes on with a ring that it is given."""
    replay, ring = mesh_ring(200, 4)
    if prioritised:
        replay = RingReplay(ring, priorities=Priorities(ring.capacity, 0.6, 0.4))
    small = {"policy_kwargs": {"net_arch": [16, 8]}, "seed": 1, "device": "cpu"}
    model = TD3.without_environment(OBSERVATIONS, ACTIONS, replay, **small)
    model.set_logger(configure(None, []))
    before = model.actor.mu[0].weight.detach().clone()
    model.train(20, 32)
    assert model._n_updates == 20
    assert not torch.equal(model.actor.mu[0].weight, before)
    model.save(tmp_path / "m.zip")
    window = np.ones((3, 16, 100), np.float32)
    for kind in (TD3, StockTD3):
        loaded = kind.load(tmp_path / "m.zip", device="cpu")
        assert np.allclose(loaded.predict(window)[0], model.predict(window)[0], atol=1e-6)
        loaded.replay_buffer = RingReplay(ring)
        loaded.set_logger(configure(None, []))
        loaded.train(5, 32)
        assert loaded._n_updates == 25

"""Callbacks on stock stable-baselines3: weights out when due, withheld when they must not act."""

from __future__ import annotations

import io
import json
import threading

import gymnasium
import numpy as np
import pytest
import torch
from rich.console import Console
from stable_baselines3 import TD3 as StockTD3  # noqa: N811 - two classes of one name meet here
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from mesh import Mesh, Phase
from workers.trading_env.errors import InvalidPolicy
from workers.trainer.callbacks import (
    EveryUpdates,
    HeartbeatCallback,
    MLflowCallback,
    ProgressCallback,
    SHMWeightSyncCallback,
)
from workers.trainer.publish.publisher import policy_arrays
from workers.trainer.spool import Spool

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning")


def model(env="Pendulum-v1"):
    """Stock TD3 on Pendulum: not the shape of the mesh, published all the same."""
    return StockTD3(
        "MlpPolicy",
        env,
        learning_starts=20,
        batch_size=8,
        buffer_size=500,
        policy_kwargs={"net_arch": [8, 8]},
        seed=0,
        device="cpu",
    )


def test_weights_go_out_when_due(mesh_directory):
    """Every 25 updates and at the end: the arrays are the actor's, with updates and score."""
    learner = model()
    mesh = Mesh(mesh_directory)
    segment = mesh.tensors("policy/p", like=policy_arrays(learner.policy), create=True)
    callback = SHMWeightSyncCallback(segment, every_updates=25)
    callback.score = -7.0
    learner.learn(100, callback=callback)
    version, arrays = segment.read()
    assert version == callback.version == 79 // 25 + 1
    assert arrays["updates"] == learner._n_updates
    assert arrays["score"] == -7.0
    weight = learner.actor.mu[0].weight.detach().numpy()
    assert (arrays["w0"] == weight).all()
    segment.close()


def test_policy_that_is_no_number_is_withheld(mesh_directory):
    """NaN in the weights while stock SB3 goes on: readers keep the last good policy."""

    class PlantNaN(BaseCallback):
        def _on_step(self):
            if self.num_timesteps == 60:
                with torch.no_grad():
                    self.model.actor.mu[0].weight[0, 0] = float("nan")
            return True

    learner = model()
    segment = Mesh(mesh_directory).tensors(
        "policy/p", like=policy_arrays(learner.policy), create=True
    )
    callback = SHMWeightSyncCallback(segment, every_updates=10)
    learner.learn(100, callback=[PlantNaN(), callback])
    version, arrays = segment.read()
    assert callback.withheld > 2
    assert version == callback.version
    assert all(np.isfinite(a).all() for n, a in arrays.items() if n != "score")
    assert arrays["updates"] <= 40
    segment.close()


def test_gate_keeps_the_last_good_policy(mesh_directory):
    """Scored before each publish: only policies that are not worse go out."""
    scores = iter([-5.0, -9.0, -4.0, -4.1, -8.0])
    learner = model()
    segment = Mesh(mesh_directory).tensors(
        "policy/p", like=policy_arrays(learner.policy), create=True
    )
    callback = SHMWeightSyncCallback(
        segment, every_updates=20, evaluate=lambda _: next(scores), tolerance=0.05
    )
    learner.learn(101, callback=callback)
    version, arrays = segment.read()
    assert (version, callback.withheld) == (3, 2)
    assert arrays["score"] == -4.1
    assert arrays["updates"] == 80
    segment.close()


def test_observations_that_readers_do_not_see_are_refused(mesh_directory):
    """VecNormalize of observations: said before the training; of rewards alone it is no matter."""
    for normalises in (True, False):
        inner = DummyVecEnv([lambda: gymnasium.make("Pendulum-v1")])
        env = VecNormalize(inner, norm_obs=normalises)
        learner = model(env)
        mesh = Mesh(mesh_directory)
        segment = mesh.tensors("policy/p", like=policy_arrays(learner.policy), create=True)
        callback = SHMWeightSyncCallback(segment, every_updates=10)
        if normalises:
            with pytest.raises(InvalidPolicy, match="norm_obs=False"):
                learner.learn(40, callback=callback)
        else:
            learner.learn(40, callback=callback)
        assert (segment.version == 0) is normalises
        segment.close()


def test_heartbeat_and_tracking(mesh_directory, tmp_path):
    """A row that works while it learns and waits after; points with what the learner logged."""
    mesh = Mesh(mesh_directory)
    heartbeats = mesh.heartbeats(create=True)
    spool = Spool(tmp_path, "p", "run", 1 << 20)
    learner = model()
    beat, track = HeartbeatCallback(heartbeats.claim("p")), MLflowCallback(spool, every_updates=30)
    learner.learn(90, callback=[beat, track])
    spool.close()
    (row,) = heartbeats.rows()
    assert (row.worker, row.phase, row.progress, row.ready) == ("p", Phase.WAITING, 90, True)
    entries = [json.loads(line) for line in spool.path.read_text().splitlines()]
    assert [entry["step"] for entry in entries if "metrics" in entry] == [30, 60]
    assert "train/critic_loss" in entries[2]["metrics"]
    heartbeats.close()


def test_bar_shows_steps_and_updates():
    """On a terminal: what was done of what is to do, and nothing stays open."""
    console = Console(file=io.StringIO(), force_terminal=True, width=100)
    threads = set(threading.enumerate())
    model().learn(60, callback=ProgressCallback(console))
    text = console.file.getvalue()
    assert "60/60" in text
    assert "40 updates" in text
    assert set(threading.enumerate()) <= threads


def test_every_updates_must_be_a_number_of_updates():
    """Zero is refused by value."""
    with pytest.raises(ValueError, match="every_updates is 0"):
        EveryUpdates(0)

"""Policies over frames: they learn, and who acts without torch computes the same."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from config.trainer import TrainerConfig
from mesh import Mesh
from workers.contract.names import policy_segment
from workers.feeder.policies import Policies
from workers.trading_env.errors import InvalidPolicy
from workers.trading_env.policy.numpy_policy import PublishedPolicy
from workers.trainer.publish.publisher import Publisher, policy_arrays
from workers.trainer.state import learner_state
from workers.trainer.td3.learner import make_learner

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")
SMALL = {"hidden": (12, 8), "batch": 16, "device": "cpu", "learning_rate": 1e-2}
KINDS = [
    {"policy": "mlp"},
    {"policy": "frames", "frame_width": 3},
    {"policy": "transformer", "d_model": 8, "heads": 2, "layers": 2, "features": 6},
]


@pytest.mark.parametrize("kind", KINDS)
def test_published_policy_acts_as_the_torch_one(kind, mesh_ring):
    """After some learning: the feeder's NumPy actions are those of `predict`."""
    replay, _ = mesh_ring(200, 4)
    model, update = make_learner(TrainerConfig(**SMALL, **kind))
    for _ in range(12):
        update.update(replay.sample(16), model.hyperparameters())
    windows = np.random.default_rng(1).standard_normal((5, 16, 100)).astype(np.float32)
    wanted, _ = model.predict(windows, deterministic=True)
    arrays = policy_arrays(model.policy)
    assert PublishedPolicy(arrays)(windows) == pytest.approx(wanted, abs=2e-5)


@pytest.mark.parametrize("kind", KINDS[1:])
def test_policy_over_frames_learns_and_is_restored(kind, mesh_ring):
    """Its losses fall on a simple stream, and its state goes on bit for bit."""
    replay, _ = mesh_ring(200, 4)
    config = TrainerConfig(**SMALL, gamma=0.0, reward_scale=1.0, **kind)
    model, update = make_learner(config)
    losses = []
    for _ in range(150):
        update.update(replay.sample(64), model.hyperparameters())
        losses.append(float(update.losses[0]))
    assert np.mean(losses[-20:]) < 0.5 * np.mean(losses[:5])
    saved = {n: a.copy() for n, a in learner_state.capture(update, replay).items()}
    other, again = make_learner(config)
    other_replay, _ = mesh_ring(200, 4)
    learner_state.restore(again, other_replay, saved)
    for one, source in ((update, replay), (again, other_replay)):
        one.update(source.sample(16), model.hyperparameters())
    assert torch.equal(update.actor.values, again.actor.values)
    assert torch.equal(update.critics.values, again.critics.values)
    assert other.update_kind.startswith("autograd")


def test_transformer_goes_through_shared_memory_to_the_feeder(mesh_directory):
    """Publisher and feeder agree on every array of it."""
    mesh = Mesh(mesh_directory)
    model, _ = make_learner(TrainerConfig(**SMALL, **KINDS[2]))
    like = policy_arrays(model.policy)
    segment = mesh.tensors(policy_segment("td3-0"), like=like, create=True)
    assert Publisher(segment, model.policy).publish(7) == 1
    found = Policies(mesh, ["td3-0"], 60.0).best()
    windows = np.zeros((3, 16, 100), np.float32)
    assert found.act(windows) == pytest.approx(model.predict(windows)[0], abs=2e-5)
    for wrong in ("heads", "query", "layer1_up_w", "features_b"):
        broken = {n: a.copy() for n, a in like.items() if n != wrong}
        with pytest.raises(InvalidPolicy):
            PublishedPolicy(broken)

"""The update: autograd's gradients, stable-baselines3's weights, and state that goes on."""

from __future__ import annotations

import gymnasium
import numpy as np
import pytest
import torch
from stable_baselines3 import TD3
from stable_baselines3.common.logger import configure
from stable_baselines3.common.type_aliases import ReplayBufferSamples

from config.trainer import TrainerConfig
from workers.trainer import learner_state
from workers.trainer.update import Batch, Learner

D, A, B, H = 24, 3, 64, (32, 16)


def batch(seed):
    """Random transitions."""
    g = torch.Generator().manual_seed(seed)

    def draw(*shape):
        return torch.randn(*shape, generator=g)

    return Batch(draw(B, D), draw(B, D), draw(B, A).tanh(), draw(B), (draw(B) > 1.0).float())


class Frame(gymnasium.Env):
    """Only its spaces matter."""

    observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (D,), np.float32)
    action_space = gymnasium.spaces.Box(-1, 1, (A,), np.float32)


def copy_to_sb3(learner, model):
    """Give stable-baselines3's networks the learner's weights, targets included."""
    for source, network in (("parameters", model.actor), ("targets", model.actor_target)):
        values = getattr(learner.actor, source)
        for parameter, value in zip(network.mu.parameters(), values, strict=True):
            parameter.data.copy_(value)
    for source, network in (("parameters", model.critic), ("targets", model.critic_target)):
        w1, w1a, b1, w2, b2, w3, b3 = getattr(learner.critics, source)
        for k, q in enumerate(network.q_networks):
            half = slice(k * H[0], (k + 1) * H[0])
            values = [torch.cat([w1[half], w1a[half]], 1), b1[half], w2[k], b2[k], w3[k][None],
                      b3[k][None]]  # fmt: skip
            for parameter, value in zip(q.parameters(), values, strict=True):
                parameter.data.copy_(value)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_weights_are_those_of_stable_baselines3():
    """Ten updates on the same batches, without target noise: the same weights within rounding."""
    config = TrainerConfig(
        hidden=H, batch=B, learning_rate=1e-3, policy_noise=0.0, seed=3, reward_scale=1.0
    )
    learner = Learner(D, A, config)
    model = TD3(
        "MlpPolicy", Frame(), learning_rate=1e-3, batch_size=B, target_policy_noise=0.0,
        policy_kwargs={"net_arch": list(H)}, device="cpu",
    )  # fmt: skip
    model.set_logger(configure(None, []))
    copy_to_sb3(learner, model)

    class Samples:
        """A replay buffer that hands out the test's batches in order."""

        def __init__(self):
            self.next = 0

        def sample(self, _size, env=None):
            del env
            b = batch(self.next)
            self.next += 1
            return ReplayBufferSamples(
                b.observations, b.actions, b.following, b.dones[:, None], b.rewards[:, None]
            )

    model.replay_buffer = Samples()
    model.train(gradient_steps=10, batch_size=B)
    for number in range(10):
        learner.update(batch(number))
    mirror = TD3("MlpPolicy", Frame(), policy_kwargs={"net_arch": list(H)}, device="cpu")
    copy_to_sb3(learner, mirror)
    for name in ("actor", "critic", "actor_target", "critic_target"):
        ours, theirs = getattr(mirror, name).state_dict(), getattr(model, name).state_dict()
        for key, value in theirs.items():
            assert torch.allclose(ours[key], value, rtol=1e-4, atol=2e-5), (name, key)


def test_gradients_are_those_of_autograd():
    """The written-out backward pass agrees with autograd's on both losses."""
    learner = Learner(D, A, TrainerConfig(hidden=H, batch=B))
    b = batch(0)
    noise = torch.zeros(B, A)
    leaves = [p.clone().requires_grad_() for p in learner.critics.parameters]
    w1, w1a, b1, w2, b2, w3, b3 = leaves
    target = learner.targets(b, noise)
    loss = torch.zeros(())
    for k in range(2):
        half = slice(k * H[0], (k + 1) * H[0])
        z = torch.relu(b.observations @ w1[half].T + b.actions @ w1a[half].T + b1[half])
        q = torch.relu(z @ w2[k].T + b2[k]) @ w3[k] + b3[k]
        loss = loss + ((q - target) ** 2).mean()
    loss.backward()
    learner._critic_gradients(b, noise)
    assert learner.critic_loss == pytest.approx(float(loss.detach()), rel=1e-5)
    for leaf, found in zip(leaves, learner.critics.gradients, strict=True):
        assert torch.allclose(leaf.grad, found, rtol=1e-4, atol=1e-6)
    leaves = [p.clone().requires_grad_() for p in learner.actor.parameters]
    a1, c1, a2, c2, a3, c3 = leaves
    action = torch.relu(torch.relu(b.observations @ a1.T + c1) @ a2.T + c2) @ a3.T + c3
    w1, w1a, b1, w2, b2, w3, b3 = learner.critics.parameters
    z = torch.relu(b.observations @ w1[: H[0]].T + torch.tanh(action) @ w1a[: H[0]].T + b1[: H[0]])
    loss = -(torch.relu(z @ w2[0].T + b2[0]) @ w3[0] + b3[0]).mean()
    loss.backward()
    learner._actor_gradients(b.observations)
    for leaf, found in zip(leaves, learner.actor.gradients, strict=True):
        assert torch.allclose(leaf.grad, found, rtol=1e-4, atol=1e-6)


def test_restored_learner_goes_on_bit_for_bit(mesh_ring):
    """Twenty updates in one go, or ten, a copy through arrays, and ten more: the same bytes."""
    replay, _ = mesh_ring(400, 4)
    config = TrainerConfig(hidden=H, batch=8)
    one = Learner(1600, 10, config)
    for _ in range(10):
        one.update(replay.sample())
    saved = learner_state.take(one, replay)
    for _ in range(10):
        one.update(replay.sample())
    whole = learner_state.take(one, replay)
    again, _ = mesh_ring(400, 4)
    two = Learner(1600, 10, TrainerConfig(hidden=H, batch=8, seed=9))
    learner_state.put(two, again, saved)
    for _ in range(10):
        two.update(again.sample())
    found = learner_state.take(two, again)
    assert {n: a.tobytes() for n, a in found.items()} == {n: a.tobytes() for n, a in whole.items()}


def test_lost_numbers_are_noticed():
    """NaN in a batch reaches losses and weights, and is_finite says so."""
    learner = Learner(D, A, TrainerConfig(hidden=H, batch=B))
    learner.update(batch(0))
    assert learner.is_finite()
    poisoned = batch(1)
    poisoned.rewards[3] = float("nan")
    learner.update(poisoned)
    assert not learner.is_finite()

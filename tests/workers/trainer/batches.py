"""Small networks and batches for the tests of the updates."""

from __future__ import annotations

import gymnasium
import numpy as np
import torch
from stable_baselines3 import TD3 as StockTD3  # noqa: N811 - two classes of one name meet here
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.logger import configure
from stable_baselines3.common.type_aliases import ReplayBufferSamples

from workers.trainer.td3.algorithm import TD3

WINDOW, FEATURES, A, B, H = 4, 6, 3, 64, [32, 16]
OBSERVATIONS = gymnasium.spaces.Box(-np.inf, np.inf, (WINDOW, FEATURES), np.float32)
ACTIONS = gymnasium.spaces.Box(-1, 1, (A,), np.float32)
FEW = gymnasium.spaces.Box(-np.inf, np.inf, (5,), np.float32)  # inputs that come in one piece


def batch(seed, discounts=None, observations=OBSERVATIONS):
    """Random transitions."""
    shape = observations.shape
    g = torch.Generator().manual_seed(seed)

    def draw(*shape):
        return torch.randn(*shape, generator=g)

    return ReplayBufferSamples(
        draw(B, *shape),
        draw(B, A).tanh(),
        draw(B, *shape),
        (draw(B, 1) > 1.0).float(),
        draw(B, 1),
        None if discounts is None else torch.full((B, 1), discounts),
    )


class Samples(ReplayBuffer):
    """A replay buffer that hands out the test's batches in order."""

    def __init__(self, observations):
        super().__init__(1, observations, ACTIONS, device="cpu")
        self.next = 0

    def sample(self, batch_size, env=None):
        del batch_size, env
        self.next += 1
        return batch(self.next - 1, observations=self.observation_space)


class Spaces(gymnasium.Env):
    """Only its spaces matter."""

    def __init__(self, observations):
        self.observation_space, self.action_space = observations, ACTIONS


def learners(seed=0, observations=OBSERVATIONS, **kwargs):
    """Ours and stock, with the same weights, fed from the same batches."""
    kwargs.setdefault("policy_kwargs", {"net_arch": H})
    made = []
    for kind in (TD3, StockTD3):
        model = kind(
            "MlpPolicy", Spaces(observations), buffer_size=1, seed=seed, device="cpu", **kwargs
        )
        model.set_logger(configure(None, []))
        model.replay_buffer = Samples(observations)
        made.append(model)
    return made


def largest_difference(one, other):
    """The largest difference between two policies' parameters, targets and statistics included."""
    theirs = other.policy.state_dict()
    return max(
        float((value - theirs[name]).abs().max())
        for name, value in one.policy.state_dict().items()
        if value.is_floating_point()
    )

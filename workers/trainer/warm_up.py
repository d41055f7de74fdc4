"""Pays for the lazy imports of a learner, in the fork server and before the first fork."""

from __future__ import annotations

import stable_baselines3
import torch
from stable_baselines3.common.logger import Logger


def warm_up() -> None:
    """Train a throw-away learner for a few steps on one thread."""
    torch.set_num_threads(1)
    learner = stable_baselines3.TD3(
        "MlpPolicy", "Pendulum-v1", buffer_size=64, learning_starts=16, batch_size=8, device="cpu"
    )
    # without a logger of its own it makes a directory for logs at every start
    learner.set_logger(Logger(folder=None, output_formats=[]))
    learner.learn(24)

"""A learner made from the configuration, for the worker and the `train` command alike."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from stable_baselines3.common.utils import get_device

from workers.trainer.algorithm import TD3
from workers.trainer.replay import ACTIONS, OBSERVATIONS

if TYPE_CHECKING:
    from config.trainer import TrainerConfig
    from workers.trainer.update import Update


def make_learner(config: TrainerConfig) -> tuple[TD3, Update]:
    """Give a TD3 over windows of frames and its update, with a generator of its own."""
    device = get_device(config.device)
    generator = torch.Generator(device).manual_seed(config.seed)
    model = TD3.without_environment(
        OBSERVATIONS,
        ACTIONS,
        None,
        policy_kwargs={"net_arch": list(config.hidden)},
        learning_rate=config.learning_rate,
        gamma=config.gamma,
        tau=config.tau,
        policy_delay=config.policy_delay,
        target_policy_noise=config.policy_noise,
        target_noise_clip=config.noise_clip,
        precision=config.precision,
        generator=generator,
        seed=config.seed,
        device=device,
    )
    update = model.update
    if update is None:  # a shipped policy is bindable: a defect of this program
        raise RuntimeError(model.update_kind)
    return model, update

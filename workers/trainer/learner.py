"""A learner made from the configuration, for the worker and the `train` command alike."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from stable_baselines3.common.type_aliases import ReplayBufferSamples
from stable_baselines3.common.utils import get_device

from config.trainer import TrainerConfig
from workers.trainer.algorithm import TD3
from workers.trainer.policies import FrameEncoder, FrameTransformer
from workers.trainer.priorities import Priorities
from workers.trainer.replay import ACTIONS, OBSERVATIONS

if TYPE_CHECKING:
    from mesh import Ring
    from workers.trainer.update import Update


def make_learner(config: TrainerConfig) -> tuple[TD3, Update]:
    """Give a TD3 over windows of frames and its update, with a generator of its own."""
    device = get_device(config.device)
    generator = torch.Generator(device).manual_seed(config.seed)
    model = TD3.without_environment(
        OBSERVATIONS,
        ACTIONS,
        None,
        policy_kwargs=policy_kwargs(config),
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


def policy_kwargs(config: TrainerConfig) -> dict[str, Any]:
    """Give hidden layers and what stands in front of them, as stable-baselines3 is told."""
    found: dict[str, Any] = {"net_arch": list(config.hidden)}
    if config.policy == "frames":
        kwargs = {"width": config.frame_width}
        found |= {"features_extractor_class": FrameEncoder, "features_extractor_kwargs": kwargs}
    if config.policy == "transformer":
        names = ("d_model", "heads", "layers", "features")
        kwargs = {name: getattr(config, name) for name in names}
        found |= {"features_extractor_class": FrameTransformer, "features_extractor_kwargs": kwargs}
    return found


def make_priorities(config: TrainerConfig, ring: Ring) -> Priorities | None:
    """Give the priorities of the ring's records, where the configuration wants them."""
    if not config.prioritised:
        return None
    return Priorities(ring.capacity, config.priority_alpha, config.priority_beta)


def warm_up() -> None:
    """Learn once from a tiny network: a nursery does so before it forks, on one thread."""
    model, update = make_learner(TrainerConfig(hidden=(8, 8), device="cpu"))
    observations, actions = (torch.zeros(2, *(s.shape or ())) for s in (OBSERVATIONS, ACTIONS))
    column = torch.zeros(2, 1)
    batch = ReplayBufferSamples(observations, actions, observations, column, column)
    for _ in range(model.policy_delay):
        update.update(batch, model.rule())

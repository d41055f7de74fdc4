"""A learner made from the configuration, for the worker and the `train` command alike."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from stable_baselines3.common.type_aliases import ReplayBufferSamples
from stable_baselines3.common.utils import get_device

from workers.trainer.replay.priorities import Priorities
from workers.trainer.replay.ring import ACTIONS, OBSERVATIONS
from workers.trainer.td3.algorithm import TD3
from workers.trainer.td3.networks import FrameEncoder, FrameTransformer

if TYPE_CHECKING:
    from config.trainer import TrainerConfig
    from mesh import Ring
    from workers.trainer.td3.update import Update

MAX_PREPARED = 4  # learners that a fork server keeps, some tens of MB each
_prepared: dict[str, tuple[TD3, Update]] = {}


def make_learner(config: TrainerConfig) -> tuple[TD3, Update]:
    """Return a TD3 over windows of frames and its update, with a generator of its own.

    Raises:
        RuntimeError: the policy cannot be bound: a defect, because shipped ones can.
    """
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
        compile_networks=config.compile_networks,
        kernel=config.kernel,
        generator=generator,
        seed=config.seed,
        device=device,
    )
    update = model.update
    if update is None:
        raise RuntimeError(model.update_kind)
    return model, update


def policy_kwargs(config: TrainerConfig) -> dict[str, Any]:
    """Return hidden layers and features extractor as arguments of stable-baselines3."""
    policy: dict[str, Any] = {"net_arch": list(config.hidden)}
    if config.policy == "frames":
        kwargs = {"width": config.frame_width}
        policy |= {"features_extractor_class": FrameEncoder, "features_extractor_kwargs": kwargs}
    if config.policy == "transformer":
        names = ("d_model", "heads", "layers", "features")
        kwargs = {name: getattr(config, name) for name in names}
        policy |= {
            "features_extractor_class": FrameTransformer,
            "features_extractor_kwargs": kwargs,
        }
    return policy


def make_priorities(config: TrainerConfig, ring: Ring) -> Priorities | None:
    """Return the priorities of the ring's records, where the configuration wants them."""
    if not config.prioritised:
        return None
    return Priorities(ring.capacity, config.priority_alpha, config.priority_beta)


def prepare(config: TrainerConfig) -> None:
    """Make a learner ahead, in a fork server: a child spawned with this configuration takes it.

    No learner is made for a device, threads or a compiler that cannot be used on both sides of a
    fork, and no more than `MAX_PREPARED`. A first one learns and is thrown away, because torch's
    library makes kernels for each shape at first use.
    """
    key = config.model_dump_json()
    if config.threads > 1 or config.compile_networks:
        return
    if config.device != "cpu" and (config.device != "auto" or torch.version.cuda is not None):
        return
    if key not in _prepared and len(_prepared) < MAX_PREPARED:
        _learn(*make_learner(config), config.batch)
        _prepared[key] = make_learner(config)


def rehearse(config: TrainerConfig) -> None:
    """Learn once with a prepared learner and reset it; called in an idle child.

    The first write to a page that a fork shares is a fault: 16 ms for a learner of 23 MB.
    """
    prepared = _prepared.get(config.model_dump_json())
    if prepared is None:
        return
    model, update = prepared
    before = {name: tensor.clone() for name, tensor in update.state().items()}
    _learn(model, update, config.batch)
    model.set_random_seed(config.seed)
    update.set_state(before)
    update.updates = 0


def make_or_take_prepared_learner(config: TrainerConfig) -> tuple[TD3, Update]:
    """Return the learner that was prepared for this configuration, or make it."""
    prepared = _prepared.pop(config.model_dump_json(), None)
    _prepared.clear()  # what was prepared for others
    if prepared is None:
        return make_learner(config)
    model, update = prepared
    model.set_random_seed(config.seed)
    return model, update


def _learn(model: TD3, update: Update, size: int) -> None:
    shapes = (OBSERVATIONS.shape or (), ACTIONS.shape or ())
    observations, actions = (torch.zeros(size, *shape) for shape in shapes)
    column = torch.zeros(size, 1)
    batch = ReplayBufferSamples(observations, actions, observations, column, column)
    for _ in range(model.policy_delay):
        update.update(batch, model.hyperparameters())

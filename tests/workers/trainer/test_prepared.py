"""A learner that the fork server made ahead is the one that the worker would have made."""

from __future__ import annotations

import pytest
import torch

from config.trainer import TrainerConfig
from workers.trainer.td3 import learner

SMALL = {"hidden": (16, 8), "batch": 4, "device": "cpu"}
OTHERS = {"mlp": {}, "frames": {"frame_width": 4}, "transformer": {"d_model": 8, "features": 8}}


@pytest.fixture(autouse=True)
def _nothing_prepared():
    """Each test begins with nothing prepared."""
    learner._prepared.clear()


def bits(update):
    """Everything that an update changes, as bytes."""
    return {name: tensor.numpy().tobytes() for name, tensor in update.state().items()}


@pytest.mark.parametrize("policy", OTHERS)
def test_prepared_and_rehearsed_learner_goes_on_as_a_new_one(policy):
    """After learning in its rehearsal it has the bits of one just made, also after updates."""
    config = TrainerConfig(policy=policy, seed=3, **SMALL, **OTHERS[policy])
    learner.prepare(config)
    learner.rehearse(config)
    prepared = learner.make_or_take_prepared_learner(config)
    made = learner.make_learner(config)
    assert prepared[1].updates == 0
    assert bits(prepared[1]) == bits(made[1])
    for model, update in (prepared, made):
        torch.manual_seed(1)
        learner._learn(model, update, config.batch)
    assert bits(prepared[1]) == bits(made[1])


def test_another_configuration_gets_a_learner_of_its_own():
    """Prepared is found by the whole configuration, seed included; taken once; bounded."""
    for seed in range(learner.MAX_PREPARED + 2):
        learner.prepare(TrainerConfig(seed=seed, **SMALL))
    assert len(learner._prepared) == learner.MAX_PREPARED
    kept = learner._prepared[TrainerConfig(seed=1, **SMALL).model_dump_json()]
    wide = TrainerConfig(seed=1, **{**SMALL, "hidden": (32, 8)})
    assert learner.make_or_take_prepared_learner(wide)[1].actor.shapes[0] == (32, 1600)
    learner.prepare(TrainerConfig(seed=1, **SMALL))
    assert learner.make_or_take_prepared_learner(TrainerConfig(seed=1, **SMALL)) is not kept
    assert learner._prepared == {}


def test_nothing_is_prepared_for_a_device_that_does_not_survive_a_fork():
    """CUDA is begun in the worker, never before a fork."""
    learner.prepare(TrainerConfig(**{**SMALL, "device": "cuda"}))
    assert learner._prepared == {}

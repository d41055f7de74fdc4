"""A learner as arrays: it goes on bit for bit, or the arrays are refused."""

from __future__ import annotations

import numpy as np
import pytest

from config.trainer import TrainerConfig
from workers.trainer.state import learner_state
from workers.trainer.td3.learner import make_learner
from workers.trainer.td3.update import UpdateHyperparameters

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


def made(mesh_ring, seed=0):
    """A learner over a ring, and its replay."""
    replay, _ = mesh_ring(400, 4)
    _, update = make_learner(TrainerConfig(hidden=(32, 16), batch=8, seed=seed, device="cpu"))
    return update, replay


def copied(update, replay):
    """The state as bytes of its own."""
    found = {name: array.copy() for name, array in learner_state.capture(update, replay).items()}
    del found["origin"]  # of the ring
    return found


def test_restored_learner_goes_on_bit_for_bit(mesh_ring):
    """Twenty updates in one go, or ten, a copy through arrays, and ten more: the same bytes."""
    one, replay = made(mesh_ring)
    for _ in range(10):
        one.update(replay.sample(8), UpdateHyperparameters())
    saved = {**copied(one, replay), "origin": np.zeros(3, np.int64)}
    for _ in range(10):
        one.update(replay.sample(8), UpdateHyperparameters())
    whole = copied(one, replay)
    two, again = made(mesh_ring, seed=9)
    learner_state.restore(two, again, saved)
    for _ in range(10):
        two.update(again.sample(8), UpdateHyperparameters())
    found = copied(two, again)
    assert {n: a.tobytes() for n, a in found.items()} == {n: a.tobytes() for n, a in whole.items()}


def test_state_of_another_network_is_refused(mesh_ring):
    """Nothing is changed by arrays of another shape; the error names the array."""
    one, replay = made(mesh_ring)
    before = copied(one, replay)
    wrong = {**before, "origin": np.zeros(3), "critics_values": np.zeros(7, np.float32)}
    with pytest.raises(learner_state.StateMismatch, match="critics_values"):
        learner_state.restore(one, replay, wrong)
    after = copied(one, replay)
    assert {n: a.tobytes() for n, a in after.items()} == {n: a.tobytes() for n, a in before.items()}

"""What watches a learner's numbers: what is seen, how often is too often, how slowly it goes on."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from tests.workers.trainer.batches import batch, learners
from workers.trainer.state.divergence_guard import RECOVERY, SLOWEST, DivergenceGuard, NumbersLost
from workers.trainer.td3.update import UpdateHyperparameters


def lost_batch():
    """A batch with a reward that is no number."""
    found = batch(0)
    found.rewards[3] = float("nan")
    return found


@pytest.mark.parametrize("activation", [nn.ReLU, nn.Tanh], ids=["mlp", "autograd"])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_every_vector_of_a_learner_is_looked_at(activation, value):
    """One element of weights, targets or moments, of actor or critics: the learner is not sound;
    in the first moment, after the next step at the latest."""
    ours, _ = learners(policy_kwargs={"net_arch": [16, 8], "activation_fn": activation})
    update = ours.update
    for number in range(2):
        update.update(batch(number), UpdateHyperparameters())
    for network in (update.actor, update.critics):
        for name in ("values", "target", "second", "first"):
            before = {key: tensor.clone() for key, tensor in update.state().items()}
            network.state()[name][-1] = value
            if name == "first":
                update.update(batch(2), UpdateHyperparameters(policy_delay=1))
            assert not update.is_sound(), name
            update.set_state(before)
            assert update.is_sound()


def test_updates_lost_in_a_row_are_too_many(tmp_path):
    """One is none; three in a row are reported, each batch is kept, the newest three stay."""
    ours, _ = learners()
    update = ours.update
    guard = DivergenceGuard(update, tmp_path, "p", 3)

    def lost(transitions):
        update.update(transitions, UpdateHyperparameters())
        return guard.lost(transitions)

    found = [lost(b) for b in (lost_batch(), batch(1), lost_batch(), lost_batch(), batch(2))]
    assert not any(found)
    assert [lost(lost_batch()) for _ in range(3)] == [False, False, True]
    kept = sorted(tmp_path.glob("p-batch-*.npz"))
    assert len(kept) == 3
    assert guard.batch == str(kept[-1])
    with np.load(kept[-1]) as arrays:
        assert np.isnan(arrays["rewards"][3])


def test_learning_goes_on_more_slowly_and_recovers(tmp_path):
    """Each roll-back in a row halves the rate, stored states raise it again, and the steps are as
    much smaller; as many roll-backs as allowed end it."""
    ours, _ = learners()
    update = ours.update
    guard = DivergenceGuard(update, tmp_path, "p", 3)
    for wanted in (0.5, 0.25):
        guard.rolled_back(0.5)
        assert update.lr_factor == wanted
    with pytest.raises(NumbersLost, match="3 roll-backs in a row"):
        guard.rolled_back(0.5)
    guard.stored()
    assert update.lr_factor == 0.25 * RECOVERY
    guard.rolled_back(0.001)
    assert update.lr_factor == SLOWEST
    for _ in range(200):
        guard.stored()
    assert update.lr_factor == 1.0


def test_the_slower_rate_is_that_of_the_steps():
    """Adam's first step is as long as the rate: a quarter of it at a quarter of the rate."""
    steps = []
    for lr_factor in (1.0, 0.25):
        ours, _ = learners()
        update = ours.update
        update.lr_factor = lr_factor
        before = update.critics.values.clone()
        torch.manual_seed(0)
        update.update(batch(0), UpdateHyperparameters(learning_rate=1e-2))
        steps.append(float((update.critics.values - before).abs().max()))
    assert steps[1] == pytest.approx(0.25 * steps[0], rel=1e-3)

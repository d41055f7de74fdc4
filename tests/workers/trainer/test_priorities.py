"""Prioritised sampling: by error, with weights that undo the bias, and part of the state."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from config.trainer import TrainerConfig
from workers.trainer.replay.priorities import Priorities
from workers.trainer.state import learner_state
from workers.trainer.td3.learner import make_learner

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


def test_draws_follow_the_errors_and_weights_undo_them():
    """Frequencies are as the priorities; weighted means are those of uniform draws at beta 1."""
    priorities = Priorities(64, alpha=1.0, beta=1.0)
    rng = np.random.default_rng(0)
    priorities.draw(rng, 100, 150, 4)  # all get their first priority
    errors = np.linspace(0.1, 5.0, 50)
    priorities.learned(np.arange(100, 150), errors)
    sequences, weights = priorities.draw(rng, 100, 150, 200_000)
    counts = np.bincount(sequences - 100, minlength=50) / sequences.size
    assert counts == pytest.approx((errors + 1e-3) / (errors + 1e-3).sum(), abs=3e-3)
    mean = np.average(sequences, weights=weights)
    assert mean == pytest.approx(124.5, abs=0.3)


def test_new_records_are_drawn_soon_and_lost_errors_change_nothing():
    """A new record has the largest priority; NaN leaves priorities as they were."""
    priorities = Priorities(64, alpha=1.0, beta=0.0)
    rng = np.random.default_rng(0)
    priorities.draw(rng, 0, 10, 4)
    priorities.learned(np.arange(10), np.array([1e-3] * 9 + [9.0]))
    before = priorities.values.copy()
    priorities.learned(np.arange(2), np.array([np.nan, np.inf]))
    assert (priorities.values == before).all()
    sequences, _ = priorities.draw(rng, 0, 11, 1000)
    assert abs((sequences == 10).mean() - (sequences == 9).mean()) < 0.1
    assert (sequences >= 9).mean() > 0.9


def test_prioritised_learner_learns_and_is_restored(mesh_ring):
    """Its loss falls, its batches are whole, and its state goes on bit for bit."""
    config = TrainerConfig(
        hidden=(16, 8), batch=32, device="cpu", learning_rate=1e-2, gamma=0.0, prioritised=True
    )

    def made():
        replay, _ = mesh_ring(200, 4, priorities=Priorities(1 << 13, 0.6, 0.4))
        model, update = make_learner(config)
        return replay, model, update

    replay, model, update = made()
    losses = []

    def learn(replay, update, count):
        for _ in range(count):
            update.update(replay.sample(32), model.hyperparameters(), replay.weights)
            replay.learned(update.errors)
            losses.append(float(update.losses[0]))

    learn(replay, update, 100)
    assert np.mean(losses[-20:]) < 0.7 * np.mean(losses[:5])
    saved = {n: a.copy() for n, a in learner_state.capture(update, replay).items()}
    again, _, other = made()
    saved["origin"] = np.array(again.origin)
    learner_state.restore(other, again, saved)
    learn(replay, update, 5)
    learn(again, other, 5)
    assert torch.equal(update.critics.values, other.critics.values)
    assert (replay.priorities.values == again.priorities.values).all()

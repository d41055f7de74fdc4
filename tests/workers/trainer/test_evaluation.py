"""Scores of policies: the same policy the same score, the better one the higher."""

from __future__ import annotations

import math

import numpy as np
import pytest

from config.trading import TradingConfig
from workers.trading_env.providers.known_optimum import KnownOptimum
from workers.trainer.evaluation.evaluation import Evaluation
from workers.trainer.publish.gate import is_worse


def test_best_policy_scores_best():
    """On the market whose optimum is known it beats half of itself, and that beats nothing."""
    evaluation = Evaluation("known_optimum", TradingConfig(), lanes=32, steps=128)
    best = KnownOptimum()

    def share(factor):
        return evaluation.score(lambda observations: factor * best.act(observations))

    whole, half, nothing = share(1.0), share(0.5), share(0.0)
    assert whole.mean_reward > half.mean_reward > nothing.mean_reward == 0.0
    assert share(1.0) == whole
    assert whole.mean_reward == pytest.approx(best.average_reward(), rel=0.3)


def test_synthetic_market_punishes_churning():
    """Doing nothing costs nothing; trading at random pays the spread."""
    evaluation = Evaluation("synthetic", TradingConfig(), lanes=4, steps=40)
    rng = np.random.default_rng(0)
    idle = evaluation.score(lambda observations: np.zeros((len(observations), 10), np.float32))
    churning = evaluation.score(
        lambda observations: rng.uniform(-1, 1, (len(observations), 10)).astype(np.float32)
    )
    assert idle.mean_return == 0.0
    assert churning.mean_return < 0.0
    assert churning.mean_reward < idle.mean_reward
    assert churning.worst_drawdown > 0.0


def test_a_worse_policy_replaces_nobody():
    """The gate lets through what is not worse than the tolerance allows."""
    nan = math.nan
    assert not is_worse(1.0, nan, 0.0)
    assert not is_worse(nan, nan, 0.0)
    assert is_worse(nan, 1.0, 0.0)
    assert is_worse(0.9, 1.0, 0.05)
    assert not is_worse(0.96, 1.0, 0.05)
    assert not is_worse(-1.04, -1.0, 0.05)
    assert not is_worse(1.0, 1.0, 0.0)

"""The market whose best policy is known: the formula is the optimum, in theory and when played."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from workers.contract.dtypes import SLOTS
from workers.trading_env.env.vector import TradingVectorEnv
from workers.trading_env.errors import BadMarketData
from workers.trading_env.providers.known_optimum import (
    KnownOptimum,
    known_optimum_config,
    known_optimum_provider,
)


@settings(max_examples=200)
@given(
    st.builds(
        KnownOptimum,
        risk=st.floats(0.1, 5.0),
        cost=st.floats(0.0, 5.0),
        persistence=st.floats(0.0, 0.95),
        shock=st.floats(0.01, 1.0),
        discount=st.floats(0.0, 0.999),
    ),
    st.floats(-1, 1),
    st.floats(-1, 1),
)
def test_the_value_solves_the_bellman_equation(model, x, s):
    """V(x, s) is the reward of the best action plus the discounted value after it, no other is."""

    def continued(y):
        _, _, d, _ = model.coefficients
        ahead = model.value(y, model.persistence * s) + 0.5 * d * model.shock**2
        paid = 0.5 * model.risk * y * y + 0.5 * model.cost * (y - x) ** 2
        return y * s - paid + model.discount * ahead

    best = float(model.action(x, s))
    assert float(model.value(x, s)) == pytest.approx(continued(best), rel=1e-9, abs=1e-9)
    for other in (best - 0.05, best + 0.05):
        assert continued(other) < continued(best)


def average_reward(act, assets=1, seed=7, count=200, steps=150):
    """Mean reward a step of a policy over many episodes."""
    provider = known_optimum_provider(seed, episodes=count, steps=steps, assets=assets)
    env = TradingVectorEnv(provider, count, known_optimum_config())
    observation, _ = env.reset(seed=seed)
    total = 0.0
    for _ in range(steps - 1):
        observation, reward, _, _, _ = env.step(act(observation))
        total += reward.mean()
    return total / (steps - 1)


def test_the_best_policy_earns_what_the_formula_says():
    """Played in the environment: the closed form's average, for one asset and for three."""
    model = KnownOptimum(discount=1.0)
    for assets in (1, 3):
        earned = average_reward(model.act, assets)
        assert earned == pytest.approx(assets * model.average_reward(), rel=0.07)


def test_every_other_policy_earns_less():
    """Flat earns nothing, myopic and scaled policies less than the best one."""
    model = KnownOptimum(discount=1.0)
    best = average_reward(model.act)

    def scaled(factor):
        return lambda observation: np.clip(factor * model.act(observation), -1, 1)

    assert average_reward(lambda o: np.zeros((len(o), SLOTS))) == 0.0
    for factor in (0.6, 1.4):
        assert average_reward(scaled(factor)) < best
    greedy = dataclasses.replace(model, discount=0.0)
    assert average_reward(greedy.act) < best


def test_without_a_future_the_next_reward_alone_counts():
    """Discount 0: the action is the greatest of y s - risk/2 y^2 - cost/2 (y - x)^2."""
    model = KnownOptimum(risk=2.0, cost=3.0, discount=0.0)
    assert float(model.action(0.4, 0.5)) == pytest.approx((3.0 * 0.4 + 0.5) / 5.0)
    near = dataclasses.replace(model, discount=1e-9)
    assert model.coefficients == pytest.approx(near.coefficients, abs=1e-7)


@pytest.mark.parametrize(
    "wrong",
    [
        {"risk": 0.0},
        {"cost": -1.0},
        {"persistence": 1.0},
        {"shock": float("nan")},
        {"discount": 1.01},
        {"discount": -0.1},
    ],
)
def test_numbers_without_an_optimum_are_refused(wrong):
    """By name and value."""
    ((name, value),) = wrong.items()
    with pytest.raises(ValueError, match=f"{name} is {value}"):
        KnownOptimum(**wrong)


def test_impossible_markets_are_refused():
    """Sizes out of range, and prices that would not stay positive."""
    with pytest.raises(ValueError, match="assets"):
        known_optimum_provider(assets=11)
    with pytest.raises(BadMarketData, match="fewer steps"):
        known_optimum_provider(episodes=4, steps=2000, noise=100.0)

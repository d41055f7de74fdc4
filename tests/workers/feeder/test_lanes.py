"""Lanes: what they commit fits its place, whatever is configured."""

from __future__ import annotations

import numpy as np
import pytest

from config.feeder import FeederConfig
from config.trading import TradingConfig
from tests.workers.trading_env.markets import market
from workers.feeder.lanes import Lanes
from workers.feeder.worker import _state_bytes


@pytest.mark.parametrize("lanes", [1, 64, 300])
@pytest.mark.parametrize("latency", [0, 1, 64])
def test_what_is_committed_fits(lanes, latency):
    """Accounts with many orders under way and large numbers stay within the bytes set aside."""
    states = market(0, 6)
    one = Lanes(FeederConfig(lanes=lanes), TradingConfig(latency_states=latency))
    for state in states:
        one.step(state, None)
    one.simulation.steps[:] = one._episodes[:] = one._limits[:] = 2**62
    assert len(one.save()) <= _state_bytes(lanes, latency)


def test_a_resumed_lane_does_what_the_other_would_have():
    """Saved and taken up by another object: the same records from the same actions, bit for bit."""
    states = market(1, 30)
    config, rules = FeederConfig(lanes=3, episode_steps=1000), TradingConfig(latency_states=2)
    one, two = Lanes(config, rules), Lanes(config, rules)
    records = np.concatenate([one.step(state, None) for state in states[:20]])
    assert two.resume(one.save(), states[:20], records)
    for state in states[20:]:
        mine, theirs = one.step(state, None, flatten=True), two.step(state, None, flatten=True)
        for name in ("frame", "reward", "equity", "episode", "step", "first", "truncated"):
            assert mine[name].tobytes() == theirs[name].tobytes(), name


@pytest.mark.parametrize("damage", ["cut", "text", "nan", "other market"])
def test_a_state_that_does_not_fit_is_not_half_believed(damage):
    """A cut, foreign or poisoned commit, or a market that moved on: a new episode, no exception."""
    states = market(1, 20)
    config, rules = FeederConfig(lanes=2), TradingConfig()
    one = Lanes(config, rules)
    records = np.concatenate([one.step(state, None) for state in states])
    saved = one.save()
    if damage == "nan":
        one.simulation.accounts.memory[0, 0] = np.nan
        saved = one.save()
    broken = {"cut": saved[:40], "text": b"no state at all"}.get(damage, saved)
    history = market(2, 5) if damage == "other market" else states
    two = Lanes(config, rules)
    history["step"] += 100 if damage == "other market" else 0
    assert not two.resume(broken, history, records)
    first = two.step(states[-1], None)
    assert first["first"].all()
    assert (first["equity"] == rules.initial_balance).all()
